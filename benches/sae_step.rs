//! Rows a second of a whole training step (forward, backward, clip, Adam, renormalise), and where the time goes.
//!
//! `cargo bench --bench sae_step`; the CPU and its load belong to the figure.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use harvestd::compute::coder_ops::{AdamStep, ByLatent, Code, CoderDims, GradientTerm, LatentGradients};
use harvestd::compute::cpu::Cpu;
use harvestd::compute::{Backend, CoderOps};
use harvestd::runtime::rng::Seed;
use harvestd::sae::optim::{Adam, clip};
use harvestd::sae::settings::{AuxSettings, SelectionSettings};
use harvestd::sae::{Batch, Coder, CoderSettings, constraint, init};

const BATCH: usize = 4096;
const K: usize = 32;

fn rows(n: usize, d: usize) -> Vec<f32> {
    let mut rng = Seed(1).stream("rows");
    (0..n * d).map(|_| rng.normal() as f32).collect()
}

fn whole_step(c: &mut Criterion) {
    let cpu = Cpu::new(0).expect("a thread pool");
    let mut group = c.benchmark_group("sae_step");
    group.sample_size(10).measurement_time(Duration::from_secs(5)).throughput(Throughput::Elements(BATCH as u64));
    for (d, f, dead) in [(576, 4608, 0), (576, 4608, 400), (768, 16_384, 0)] {
        let dims = CoderDims::square(d, f);
        let plain = CoderSettings::plain(dims, SelectionSettings::TopK { k: K }, 1 << 40);
        let aux = Some(AuxSettings::gao(d / 2, 1.0 / 32.0));
        let settings = CoderSettings { aux, ..plain };
        let params = init::start(&cpu, &settings, &mut Seed(1).stream("init"), cpu.zeros(d));
        let mut coder = Coder::new(&cpu, settings.clone(), params, BATCH);
        let mut adam = Adam::new(&cpu, &settings, [0.9, 0.999], 1e-8);
        let x = cpu.upload(&rows(BATCH, d));
        let dead_latents: Vec<u32> = (0..dead).map(|i| i * 3).collect();
        group.bench_function(format!("{d}x{f} b{BATCH} k{K}, {dead} dead"), |bencher| {
            bencher.iter(|| {
                coder.loss_and_gradients(
                    &cpu,
                    &Batch { x: &x, target: None, n: BATCH, scale: 1.0, dead: &dead_latents, step: 0 },
                );
                constraint::project(&cpu, &settings, &coder.params, &mut coder.gradients);
                let factor = clip::factor(clip::norm(&cpu, &coder.gradients), 1.0);
                adam.update(&cpu, &mut coder.params, &coder.gradients, 1e-4, factor);
                constraint::restore(&cpu, &settings, &mut coder.params);
            });
        });
    }
    group.finish();
}

fn parts(c: &mut Criterion) {
    let cpu = Cpu::new(0).expect("a thread pool");
    let (d, f) = (576, 4608);
    let dims = CoderDims::square(d, f);
    let x = cpu.upload(&rows(BATCH, d));
    let settings = CoderSettings::plain(dims, SelectionSettings::TopK { k: K }, 0);
    let params = init::start(&cpu, &settings, &mut Seed(1).stream("init"), cpu.zeros(d));
    let mut code = Code::new(&cpu, BATCH, K);
    let mut by_latent = ByLatent::new(&cpu, BATCH, K, f);
    let (mut r, mut g_pre) = (cpu.zeros(BATCH * d), cpu.zeros(BATCH * K));
    let (mut g_enc, mut g_b, mut g_dec) = (cpu.zeros(f * d), cpu.zeros(f), cpu.zeros(f * d));
    let (mut w, mut m, mut v) = (cpu.zeros(f * d), cpu.zeros(f * d), cpu.zeros(f * d));

    let mut group = c.benchmark_group("sae_step_parts");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("encode_topk", |b| {
        b.iter(|| cpu.encode_topk(&x, &params.w_enc, &params.b_enc, dims, None, &mut code));
    });
    group.bench_function("residual", |b| b.iter(|| cpu.residual(&code, 0..u32::MAX, &params.w_dec, &x, &mut r, d)));
    group.bench_function("entry_dots", |b| {
        b.iter(|| cpu.entry_dots(&code, 0..u32::MAX, &params.w_dec, &r, 0.1, &mut g_pre, d));
    });
    group.bench_function("group_by_latent", |b| b.iter(|| cpu.group_by_latent(&code, f, &mut by_latent)));
    group.bench_function("latent_gradients", |b| {
        b.iter(|| {
            let (residual, g_pre) = (&r, &g_pre);
            let term = GradientTerm {
                code: &code,
                by_latent: &by_latent,
                g_pre,
                residual,
                residual_scale: 0.1,
                latents: 0..u32::MAX,
            };
            let out = LatentGradients { w_enc: &mut g_enc, b_enc: &mut g_b, w_dec: &mut g_dec };
            cpu.latent_gradients(&[term], &x, dims, out);
        });
    });
    group.bench_function("square_sums", |b| b.iter(|| cpu.square_sums(&x, BATCH, d)));
    group.bench_function("project, norm, adam, normalize", |b| {
        let step = AdamStep {
            learning_rate: 1e-4,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            weight_decay: 0.0,
            t: 3,
            gradient_scale: 0.5,
        };
        b.iter(|| {
            cpu.project_rows(&mut g_dec, &params.w_dec, f, d);
            cpu.sum_squares(&g_dec, f * d);
            cpu.adam(&mut w, &g_dec, &mut m, &mut v, f * d, &step);
            cpu.normalize_rows(&mut w, f, d);
        });
    });
    group.finish();
}

criterion_group!(benches, whole_step, parts);
criterion_main!(benches);
