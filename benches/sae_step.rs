//! Rows a second of a whole training step of every coder (batch from the buffer, forward, backward, clip, Adam, unit rows), and
//! where the time of a TopK step goes.
//!
//! `cargo bench --bench sae_step`; `-- topk` for those with that in their name. The CPU and its load belong to the figure. Rows
//! are random: coders that become sparse by training stay as dense as they begin.

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use harvestd::compute::coder_ops::{AdamStep, ByLatent, Code, CoderDims, GradientTerm, LatentGradients};
use harvestd::compute::cpu::Cpu;
use harvestd::compute::{Backend, CoderOps};
use harvestd::corpus::cursor::SourceCursor;
use harvestd::hooks::{HookPoint, Site};
use harvestd::runtime::rng::Seed;
use harvestd::sae::settings::SelectionSettings;
use harvestd::sae::{CoderSettings, init};
use harvestd::trainer::{Trainer, TrainerSettings};
use serde_json::{Value, json};

const BATCH: usize = 4096;
const K: usize = 32;

fn rows(n: usize, d: usize) -> Vec<f32> {
    let mut rng = Seed(1).stream("rows");
    (0..n * d).map(|_| rng.normal() as f32).collect()
}

/// One of each type, and what else takes another path.
fn coders() -> Vec<(&'static str, Value)> {
    let of = |name: &'static str, kind: &str, more: Value| {
        let mut coder = json!({"type": kind});
        let both = coder.as_object_mut().zip(more.as_object());
        both.expect("two maps").0.extend(more.as_object().expect("a map").clone());
        (name, coder)
    };
    vec![
        of("topk", "topk", json!({"k": K})),
        of("batch_topk", "batch_topk", json!({"k": K})),
        of("matryoshka", "matryoshka", json!({"k": K, "widths": [288, 1152]})),
        of("nested_topk", "nested_topk", json!({"ks": [8, K]})),
        of("k_sparse", "k_sparse", json!({"k": K})),
        of("group_max", "group_max", json!({"k": K})),
        of("switch", "switch", json!({"k": K, "experts": 8})),
        of("kron", "kron", json!({"k": K})),
        of("feature_choice", "feature_choice", json!({"k": K})),
        of("top_afa", "top_afa", json!({"afa_coefficient": 0.1})),
        of("jumprelu", "jumprelu", json!({"l0_coefficient": 1.0})),
        of("standard", "standard", json!({"l1_coefficient": 5.0})),
        of("gated", "gated", json!({"l1_coefficient": 4.79})),
        of(
            "p_anneal",
            "p_anneal",
            json!({"sparsity_coefficient": 0.5, "anneal_start_step": 8, "anneal_end_step": 4000}),
        ),
        of("gba", "gba", json!({"groups": 4})),
        of("archetypal", "archetypal", json!({"k": K, "points": 1024})),
    ]
}

fn whole_step(c: &mut Criterion) {
    let cpu = Arc::new(Cpu::new(0).expect("a thread pool"));
    let mut group = c.benchmark_group("sae_step");
    group.sample_size(10).measurement_time(Duration::from_secs(5)).throughput(Throughput::Elements(BATCH as u64));
    let wide = [("topk", json!({"type": "topk", "k": K}))].map(|coder| (coder, 768, 16_384));
    for ((name, mut coder), d, f) in coders().into_iter().map(|coder| (coder, 576, 4608)).chain(wide) {
        coder["width"] = f.into();
        let config = json!({
            "name": "bench", "input": "blocks.0.hook_resid_post", "normalize": "none", "coder": coder,
            "buffer": {"rows": BATCH}, "batch_rows": BATCH, "rows": 1_000_000_000_000u64,
            "optimizer": {"type": "adam", "learning_rate": 3e-4}, "checkpoint": {"url": "none"},
        });
        let config = serde_json::from_value(config).expect("a trainer");
        let sites = vec![(HookPoint::block(0, Site::ResidPost), d)];
        let settings = TrainerSettings { config, sites, seed: Seed(1), stream: Value::Null };
        let mut trainer = Trainer::new(Arc::clone(&cpu), settings).expect("a coder");
        let (rows, documents, cursor) = (rows(BATCH, d), vec![0; BATCH], SourceCursor::default());
        group.bench_function(format!("{name}, {d}x{f} b{BATCH}"), |bencher| {
            bencher.iter(|| trainer.offer(&rows, &documents, &cursor).expect("finite gradients"));
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
    group.bench_function("residual_and_dots", |b| {
        b.iter(|| {
            cpu.residual_and_dots(&code, 0..u32::MAX, &params.w_dec, &x, &mut r, (0.1, &mut g_pre), d);
        });
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
            cpu.project_and_sum(&mut g_dec, &params.w_dec, f, d);
            cpu.adam_unit_rows(&mut w, &g_dec, (&mut m, &mut v), (f, d), &step);
        });
    });
    group.finish();
}

criterion_group!(benches, whole_step, parts);
criterion_main!(benches);
