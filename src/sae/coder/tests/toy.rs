//! Training on synthetic rows whose directions are known.

use super::*;
use crate::sae::dead::DeadTracker;
use crate::sae::optim::{Adam, clip};
use crate::sae::scales::Scales;
use crate::sae::settings::NestedBy;
use crate::sae::{constraint, init};

/// TOY-A: `n` unit directions in `d` dimensions; each is present with probability `4 / n`, with a size from U(0, 1).
struct Toy {
    d: usize,
    directions: Vec<f32>,
    rng: crate::runtime::rng::Rng,
}

impl Toy {
    fn new(d: usize, n: usize) -> Self {
        let mut rng = Seed(5).stream("toy");
        let mut directions: Vec<f32> = (0..n * d).map(|_| rng.normal() as f32).collect();
        for row in directions.chunks_mut(d) {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter_mut().for_each(|x| *x /= norm);
        }
        Self { d, directions, rng }
    }

    fn rows(&mut self, n: usize) -> Vec<f32> {
        let (d, features) = (self.d, self.directions.len() / self.d);
        let mut rows = vec![0f32; n * d];
        for row in rows.chunks_mut(d) {
            let mut any = false;
            for i in 0..features {
                if self.rng.uniform() < 4.0 / features as f64 {
                    let size = self.rng.uniform() as f32;
                    row.iter_mut().zip(&self.directions[i * d..][..d]).for_each(|(x, v)| *x += size * v);
                    any = true;
                }
            }
            if !any {
                let i = self.rng.below(features as u64) as usize;
                row.copy_from_slice(&self.directions[i * d..][..d]);
            }
        }
        rows
    }

    /// Mean over the true directions of the largest cosine with a learned one.
    fn mean_max_cosine(&self, w_dec: &[f32]) -> f64 {
        let cosines = self.directions.chunks(self.d).map(|v| {
            let dots = w_dec.chunks(self.d).map(|w| {
                let norm = w.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-8);
                w.iter().zip(v).map(|(a, b)| a * b).sum::<f32>() / norm
            });
            f64::from(dots.fold(f32::MIN, f32::max))
        });
        cosines.sum::<f64>() * self.d as f64 / self.directions.len() as f64
    }
}

#[derive(Debug)]
struct Outcome {
    fvu: f64,
    l0: f64,
    /// At inference, on rows that it was not trained on.
    fresh_l0: f64,
    mmcs: f64,
    dead: f64,
    /// On other rows, with each of these k as a TopK coder.
    fvu_of_k: Vec<f64>,
}

/// Train on TOY-A with batches of 512; `damage` changes the start.
fn train_toy(s: &CoderSettings, steps: u64, rate: f64, damage: impl Fn(&mut Params<Cpu>)) -> Outcome {
    let cpu = Cpu::new(1).unwrap();
    let (n, dims) = (512, s.dims);
    let mut toy = Toy::new(dims.d, 128);
    let b_dec = cpu.zeros(dims.d);
    let params = init::start(&cpu, s, &mut Seed(1).stream("init"), b_dec);
    let mut coder = Coder::new(&cpu, s.clone(), params, n);
    damage(&mut coder.params);
    let mut adam = Adam::new(&cpu, s, [0.9, 0.999], 1e-8);
    let mut dead = DeadTracker::new(dims.f, s.dead_after);
    let schedule = crate::sae::optim::Schedule {
        peak: rate,
        warmup_steps: steps / 25,
        total_steps: steps,
        decay_share: 0.2,
        decay_shape: Default::default(),
    };
    let (mut fvu, mut l0) = (0.0, 0.0);
    for step in 0..steps {
        let x = cpu.upload(&toy.rows(n));
        let set = dead.dead();
        let report = coder.loss_and_gradients(&cpu, &Batch { step, ..batch(&x, n, &set) });
        constraint::project(&cpu, s, &coder.params, &mut coder.gradients);
        let factor = clip::factor(clip::norm(&cpu, &coder.gradients), 1.0);
        adam.update(&cpu, &mut coder.params, &coder.gradients, schedule.rate(step), factor);
        constraint::restore(&cpu, s, &mut coder.params);
        dead.update(&report.fired, n as u64);
        coder.updated(&cpu, &report, step + 1);
        (fvu, l0) = (report.fvu, report.l0);
    }
    for row in coder.params.w_dec.chunks(dims.d).filter(|_| s.decoder == DecoderNorm::Unit) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((norm - 1.0).abs() < 1e-5, "a decoder row of norm {norm}");
    }
    let rows = toy.rows(2000);
    let (mut out, mut counts, mut fired) = (Vec::new(), Vec::new(), vec![0; dims.f]);
    coder.inference(&cpu, &coder.params).reconstruct(
        &cpu,
        &Scales::one(dims.d, 1.0),
        &rows,
        &mut out,
        &mut counts,
        &mut fired,
    );
    let fresh_l0 = f64::from(counts.iter().sum::<u32>()) / 2000.0;
    let fvu_of = |prefix: &Prefix| {
        let topk = topk(dims.d, dims.f, prefix.width, 0);
        let mut coder = Coder::new(&cpu, topk, coder.params.clone(), 2000);
        coder.loss_and_gradients(&cpu, &batch(&rows, 2000, &[])).fvu
    };
    let fvu_of_k = s.prefixes.iter().filter(|_| s.nested_by == NestedBy::Rank).map(fvu_of).collect();
    let (mmcs, dead) = (toy.mean_max_cosine(&coder.effective(&cpu, &coder.params).w_dec), dead.dead_fraction());
    Outcome { fvu, l0, fresh_l0, mmcs, dead, fvu_of_k }
}

#[test]
fn superposed_features_are_recovered() {
    let s = CoderSettings { dead_after: 50 * 512, ..topk(64, 128, 4, 32) };
    let found = train_toy(&s, 1000, 1e-2, |_| {});
    assert!(found.fvu < 0.2, "FVU {}", found.fvu);
    assert!(found.mmcs > 0.99, "MMCS {}", found.mmcs);
}

/// More latents a row always reconstruct better; the directions are best found with about as many as there are (4).
#[test]
fn more_latents_reconstruct_better_and_the_true_number_finds_the_directions() {
    let trained =
        |k: usize| train_toy(&CoderSettings { dead_after: 50 * 512, ..topk(64, 128, k, 32) }, 600, 1e-2, |_| {});
    let found: Vec<Outcome> = [1, 4, 32].map(trained).into();
    assert!(found.windows(2).all(|pair| pair[1].fvu < pair[0].fvu), "{found:?}");
    assert!(found[1].mmcs > 0.98 && found[1].mmcs > found[0].mmcs && found[1].mmcs > found[2].mmcs + 0.05, "{found:?}");
}

/// Coders with other maps than linear ones.
fn of_maps() -> [(Value, f64, f64); 5] {
    [
        (serde_json::json!({"type": "matching_pursuit", "width": 128, "k": 4}), 1e-2, 0.95),
        (
            serde_json::json!({
                "type": "kron", "width": 128, "k": 4, "first": 1, "second": 2, "dead_after_tokens": 25600
            }),
            1e-2,
            0.7,
        ),
        (serde_json::json!({"type": "switch", "width": 256, "experts": 2, "k": 4}), 1e-2, 0.8),
        (
            serde_json::json!({"type": "topk", "width": 128, "k": 4, "decoder": "normalized", "dead_after_tokens": 25600}),
            1e-2,
            0.95,
        ),
        (
            serde_json::json!({
                "type": "gba", "width": 128, "highest_density": 0.05, "lowest_density": 0.03, "adapt_every": 10
            }),
            1e-2,
            0.95,
        ),
    ]
}

/// Thresholds of the mean largest cosine for each coder; nested prefixes merge features of flat data.
#[test]
fn every_coder_recovers_superposed_features() {
    let cases = [
        (serde_json::json!({"type": "batch_topk", "width": 128, "k": 4, "dead_after_tokens": 25600}), 1e-2, 0.95),
        (
            serde_json::json!({"type": "standard", "width": 128, "l1_coefficient": 0.1, "l1_warmup_steps": 50}),
            1e-2,
            0.95,
        ),
        (
            serde_json::json!({
                "type": "jumprelu", "width": 128, "l0_coefficient": 0.02, "l0_warmup_steps": 50, "bandwidth": 0.1,
                "start_threshold": 0.1
            }),
            1e-2,
            0.9,
        ),
        (serde_json::json!({"type": "gated", "width": 128, "l1_coefficient": 0.2, "l1_warmup_steps": 50}), 1e-2, 0.95),
        (
            serde_json::json!({
                "type": "matryoshka", "width": 128, "k": 4, "widths": [16, 32, 64], "dead_after_tokens": 25600
            }),
            1e-2,
            0.75,
        ),
        (serde_json::json!({"type": "feature_choice", "width": 128, "k": 4, "dead_after_tokens": 25600}), 1e-2, 0.95),
    ];
    for (json, rate, least) in cases.into_iter().chain(of_maps()) {
        let s = configured(json.clone(), 64);
        let found = train_toy(&s, 1000, rate, |_| {});
        assert!(found.mmcs > least, "{json}: {found:?}");
        assert!(found.fvu_of_k.windows(2).all(|pair| pair[0] > pair[1]), "{json}: {found:?}");
        assert!(found.l0 > 1.0 && found.l0 < 20.0, "{json}: {found:?}");
        // a latent's threshold is the least of 16 values: they scatter
        let scatter = if json["type"] == "feature_choice" { 0.15 } else { 0.1 };
        assert!((found.fresh_l0 / found.l0 - 1.0).abs() < scatter, "{json}: {found:?}");
    }
}

/// The share of dead latents in the end, where 38 of 128 are killed at the start.
fn dead_at_the_end(aux: Value, kill: impl Fn(&mut Params<Cpu>)) -> f64 {
    let coder = serde_json::json!({"type": "topk", "width": 128, "k": 4, "dead_after_tokens": 25600, "aux": aux});
    train_toy(&configured(coder, 64), 2000, 3e-3, kill).dead
}

#[test]
fn latents_that_lose_every_ranking_are_revived() {
    // 0.02 of their pre-activations, which are positive as often as others'
    let kill = |params: &mut Params<Cpu>| params.w_enc[..38 * 64].iter_mut().for_each(|w| *w *= 0.02);
    let without = dead_at_the_end(serde_json::json!({"coefficient": 0}), kill);
    assert!(without > 0.15, "dead without the auxiliary loss: {without}");
    let with = dead_at_the_end(serde_json::json!({}), kill);
    assert!(with < 0.03, "dead with it: {with}");
    let any_sign = dead_at_the_end(serde_json::json!({"relu": false}), kill);
    assert!(any_sign < 0.02, "dead with pre-activations of any sign: {any_sign}");
}

#[test]
fn latents_that_are_never_positive_are_revived_only_without_relu() {
    let kill = |params: &mut Params<Cpu>| params.b_enc[..38].iter_mut().for_each(|b| *b = -1.0);
    let without = dead_at_the_end(serde_json::json!({"coefficient": 0}), kill);
    assert!(without > 0.2, "dead without the auxiliary loss: {without}");
    let with = dead_at_the_end(serde_json::json!({}), kill);
    assert!(with > 0.08, "dead with positive pre-activations only: {with}");
    let any_sign = dead_at_the_end(serde_json::json!({"relu": false}), kill);
    assert!(any_sign < 0.05, "dead with pre-activations of any sign: {any_sign}");
}
