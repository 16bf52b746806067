use serde_json::Value;

use super::*;
use crate::compute::cpu::Cpu;
use crate::compute::reference::Reference;
use crate::compute::{Backend, CoderOps};
use crate::runtime::rng::Seed;
use crate::sae::dead::DeadTracker;
use crate::sae::optim::{Adam, clip};
use crate::sae::params::PerParam;
use crate::sae::{constraint, init};
use crate::trainer::metrics::ReconstructionSums;

/// A case of `tests/fixtures/coders.json`: f64, made by an independent implementation.
fn golden(name: &str) -> Value {
    let text = include_str!("../../../tests/fixtures/coders.json");
    serde_json::from_str::<Value>(text).unwrap()[name].clone()
}

/// All numbers in a nested array, row by row.
fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn turned(values: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * e.abs().max(1.0), "{what}[{i}]: {f} instead of {e}");
    }
}

fn settings(d: usize, f: usize, k: usize, aux_k: usize) -> TopkSettings {
    let aux_coefficient = if aux_k > 0 { 1.0 / 32.0 } else { 0.0 };
    TopkSettings { dims: CoderDims { d, f }, k, aux_k, aux_coefficient, dead_after: 100 }
}

/// Parameters without structure, from a named stream.
fn random_params<B: CoderOps>(backend: &B, dims: CoderDims, purpose: &str) -> Params<B> {
    let mut rng = Seed(11).stream(purpose);
    let [w_enc, b_enc, w_dec, b_dec] = params::lengths(dims).map(|len| {
        let values: Vec<f32> = (0..len).map(|_| 0.7 * rng.normal() as f32).collect();
        backend.upload(&values)
    });
    PerParam { w_enc, b_enc, w_dec, b_dec }
}

fn random_rows(n: usize, d: usize, purpose: &str) -> Vec<f32> {
    let mut rng = Seed(12).stream(purpose);
    (0..n * d).map(|_| rng.normal() as f32).collect()
}

#[test]
fn golden_topk_with_auxk() {
    let case = golden("topk_auxk");
    let (inputs, expected) = (&case["inputs"], &case["expected"]);
    let (d, f, n) = (3, 6, 4);
    let params = PerParam {
        w_enc: turned(&numbers(&inputs["W_enc"]), d, f),
        b_enc: numbers(&inputs["b_enc"]),
        w_dec: numbers(&inputs["W_dec"]),
        b_dec: numbers(&inputs["b_dec"]),
    };
    let mut coder = TopkCoder::new(&Reference, settings(d, f, 2, 2), params, n);
    let x = numbers(&inputs["x"]);
    let report = coder.loss_and_gradients(&Reference, &Batch { x: &x, n, scale: 1.0, dead: &[0, 3, 5] });
    assert_close(&[report.reconstruction_loss], &numbers(&expected["loss_recon"]), 1e-8, "reconstruction loss");
    assert_close(&[report.auxiliary_loss], &numbers(&expected["loss_aux"]), 1e-8, "auxiliary loss");
    assert_close(&coder.gradients.w_enc, &turned(&numbers(&expected["g_W_enc"]), d, f), 1e-8, "g_W_enc");
    assert_close(&coder.gradients.b_enc, &numbers(&expected["g_b_enc"]), 1e-8, "g_b_enc");
    assert_close(&coder.gradients.w_dec, &numbers(&expected["g_W_dec"]), 1e-8, "g_W_dec");
    assert_close(&coder.gradients.b_dec, &numbers(&expected["g_b_dec"]), 1e-8, "g_b_dec");
    let mut x_hat = vec![0.0; n * d];
    Reference.decode(coder.code(), &coder.params.w_dec, &coder.params.b_dec, &mut x_hat, d);
    assert_close(&x_hat, &numbers(&expected["x_hat"]), 1e-8, "x_hat");
    let code = coder.code();
    let mut dense = vec![0.0; n * f];
    for place in (0..n * 2).filter(|&place| code.values[place] > 0.0) {
        dense[place / 2 * f + code.latents[place] as usize] = code.values[place];
    }
    assert_close(&dense, &numbers(&expected["f"]), 1e-8, "code");
}

#[test]
fn golden_adam_on_unit_rows() {
    let case = golden("adam_unitnorm");
    let dims = CoderDims { d: 3, f: 6 };
    let mut params = random_params(&Reference, dims, "unused");
    let mut gradients = params::zeros(&Reference, dims);
    params.w_dec = numbers(&case["inputs"]["W0"]);
    let mut adam = Adam::new(&Reference, dims, [0.9, 0.999], 1e-8);
    for step in ["W_after_1", "W_after_2"] {
        gradients.w_dec = numbers(&case["inputs"]["g"]);
        constraint::project(&Reference, dims, &params, &mut gradients);
        adam.update(&Reference, dims, &mut params, &gradients, 0.01, 1.0);
        constraint::renormalize(&Reference, dims, &mut params);
        assert_close(&params.w_dec, &numbers(&case["expected"][step]), 1e-6, step);
    }
}

#[test]
fn golden_geometric_median() {
    let case = golden("geometric_median");
    let x = numbers(&case["inputs"]["x"]);
    let median = init::geometric_median(&Reference, &x, 4, 3);
    assert_close(&median, &numbers(&case["expected"]["median"]), 1e-6, "median");
}

#[test]
fn golden_metrics() {
    let case = golden("metrics");
    let as_f32 = |value: &Value| numbers(value).into_iter().map(|x| x as f32).collect::<Vec<_>>();
    let (x, y) = (as_f32(&case["inputs"]["x"]), as_f32(&case["inputs"]["x_hat"]));
    let l0: Vec<u32> =
        numbers(&case["inputs"]["f"]).chunks(6).map(|row| row.iter().filter(|f| **f > 0.0).count() as u32).collect();
    let mut sums = ReconstructionSums::new(3, 6);
    sums.add(&x, &y, &l0);
    let found = sums.finish().unwrap();
    let expected = &case["expected"];
    let pairs = [
        (found.l0, "L0"),
        (found.mse, "S"),
        (found.explained_variance, "EV_a"),
        (found.cosine, "cos"),
        (found.relative_bias, "rel_recon_bias"),
    ];
    for (value, name) in pairs {
        assert_close(&[value], &numbers(&expected[name]), 1e-6, name);
    }
}

/// The loss as the module comment states it, densely, sharing nothing with the coder but the formula. The auxiliary
/// term takes its target and its scale from `frozen`: no gradient flows through them.
fn dense_loss(params: &Params<Reference>, s: &TopkSettings, x: &[f64], n: usize, dead: &[u32], frozen: &[f64]) -> f64 {
    let CoderDims { d, f } = s.dims;
    let all: Vec<u32> = (0..f as u32).collect();
    let (mut loss, mut aux) = (0.0, 0.0);
    let spread: f64 = (0..d)
        .map(|p| {
            let mean = (0..n).map(|b| frozen[b * d + p]).sum::<f64>() / n as f64;
            (0..n).map(|b| (frozen[b * d + p] - mean).powi(2)).sum::<f64>()
        })
        .sum();
    for b in 0..n {
        let y = &x[b * d..][..d];
        let reconstruct = |among: &[u32], k: usize| -> Vec<f64> {
            let mut u: Vec<(f64, usize)> = among
                .iter()
                .map(|&i| i as usize)
                .map(|i| {
                    let dot: f64 = (0..d).map(|p| (y[p] - params.b_dec[p]) * params.w_enc[i * d + p]).sum();
                    (dot + params.b_enc[i], i)
                })
                .collect();
            u.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut out = vec![0.0; d];
            for &(u, i) in u.iter().take(k).filter(|u| u.0 > 0.0) {
                (0..d).for_each(|p| out[p] += u * params.w_dec[i * d + p]);
            }
            out
        };
        let main = reconstruct(&all, s.k);
        loss += (0..d).map(|p| (y[p] - params.b_dec[p] - main[p]).powi(2)).sum::<f64>() / n as f64;
        let from_dead = reconstruct(dead, s.aux_k);
        aux += (0..d).map(|p| (frozen[b * d + p] - from_dead[p]).powi(2)).sum::<f64>();
    }
    loss + if dead.is_empty() { 0.0 } else { s.aux_coefficient * aux / spread }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let (n, d, f) = (5, 4, 7);
    for (dead, scale) in [(vec![], 1.0), (vec![1, 2, 5, 6], 1.0), (vec![0, 4], 1.7)] {
        let s = settings(d, f, 3, 2);
        let params = random_params(&Reference, s.dims, "finite differences");
        let rows = Reference.upload(&random_rows(n, d, "finite differences"));
        let mut coder = TopkCoder::new(&Reference, s, params, n);
        let report = coder.loss_and_gradients(&Reference, &Batch { x: &rows, n, scale, dead: &dead });
        let frozen = coder.main.residual().clone();
        let scaled: Vec<f64> = rows.iter().map(|x| x * scale).collect();
        let loss = |params: &Params<Reference>| dense_loss(params, &s, &scaled, n, &dead, &frozen);
        let total = report.reconstruction_loss + report.auxiliary_loss;
        assert!((loss(&coder.params) / total - 1.0).abs() < 1e-12, "loss {total}");
        assert_eq!(report.auxiliary_loss > 0.0, !dead.is_empty());

        let gradients = coder.gradients.clone();
        for (which, gradient) in gradients.each().into_iter().enumerate() {
            let largest = gradient.iter().fold(0f64, |a, g| a.max(g.abs()));
            assert!(largest > 0.0, "no gradient for parameter {which}");
            for (i, &g) in gradient.iter().enumerate() {
                let h = 1e-5;
                let moved = |by: f64| {
                    let mut params = coder.params.clone();
                    params.each_mut()[which][i] += by;
                    loss(&params)
                };
                let numeric = (moved(h) - moved(-h)) / (2.0 * h);
                let error = (g - numeric).abs() / largest;
                assert!(error < 1e-6, "parameter {which}[{i}]: {g} instead of {numeric}");
            }
        }
    }
}

#[test]
fn a_batch_given_twice_has_the_same_gradient() {
    let (n, s) = (6, settings(5, 9, 3, 2));
    let rows = random_rows(n, 5, "twice");
    let twice = [rows.clone(), rows.clone()].concat();
    let gradients = |rows: &[f32]| {
        let params = random_params(&Reference, s.dims, "twice");
        let n = rows.len() / 5;
        let mut coder = TopkCoder::new(&Reference, s, params, n);
        coder.loss_and_gradients(&Reference, &Batch { x: &Reference.upload(rows), n, scale: 1.0, dead: &[2, 3, 8] });
        coder.gradients
    };
    for (once, twice) in gradients(&rows).each().into_iter().zip(gradients(&twice).each()) {
        assert_close(twice, once, 1e-12, "gradient");
    }
}

#[test]
fn codes_are_sparse_positive_and_in_order() {
    let cpu = Cpu::new(2).unwrap();
    let (n, s) = (300, settings(24, 100, 7, 0));
    let mut coder = TopkCoder::new(&cpu, s, random_params(&cpu, s.dims, "codes"), n);
    let x = cpu.upload(&random_rows(n, 24, "codes"));
    let report = coder.loss_and_gradients(&cpu, &Batch { x: &x, n, scale: 1.0, dead: &[] });
    for (latents, values) in coder.code().latents.chunks(7).zip(coder.code().values.chunks(7)) {
        let active = values.iter().take_while(|v| **v > 0.0).count();
        assert!(values[active..].iter().all(|v| *v == 0.0));
        assert!(latents[active..].iter().all(|&i| i == crate::compute::coder_ops::NO_LATENT));
        assert!(latents[..active].windows(2).all(|pair| pair[0] < pair[1]));
    }
    assert!(report.l0 > 6.9 && report.l0 <= 7.0, "l0 {}", report.l0);
}

// === training on synthetic data ===

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
            let dots = w_dec.chunks(self.d).map(|w| w.iter().zip(v).map(|(a, b)| a * b).sum::<f32>());
            f64::from(dots.fold(f32::MIN, f32::max))
        });
        cosines.sum::<f64>() * self.d as f64 / self.directions.len() as f64
    }
}

struct Outcome {
    fvu: f64,
    mmcs: f64,
    dead: f64,
}

/// Train on TOY-A with batches of 512; `damage` changes the start.
fn train_toy(s: TopkSettings, steps: u64, rate: f64, damage: impl Fn(&mut Params<Cpu>)) -> Outcome {
    let cpu = Cpu::new(1).unwrap();
    let (n, dims) = (512, s.dims);
    let mut toy = Toy::new(dims.d, 128);
    let b_dec = cpu.zeros(dims.d);
    let mut coder = TopkCoder::new(&cpu, s, init::start(&cpu, dims, &mut Seed(1).stream("init"), b_dec), n);
    damage(&mut coder.params);
    let mut adam = Adam::new(&cpu, dims, [0.9, 0.999], 1e-8);
    let mut dead = DeadTracker::new(dims.f, s.dead_after);
    let schedule =
        crate::sae::optim::Schedule { peak: rate, warmup_steps: steps / 25, total_steps: steps, decay_share: 0.2 };
    let mut fvu = 0.0;
    for step in 0..steps {
        let x = cpu.upload(&toy.rows(n));
        let set = dead.dead();
        let report = coder.loss_and_gradients(&cpu, &Batch { x: &x, n, scale: 1.0, dead: &set });
        constraint::project(&cpu, dims, &coder.params, &mut coder.gradients);
        let factor = clip::factor(clip::norm(&cpu, dims, &coder.gradients), 1.0);
        adam.update(&cpu, dims, &mut coder.params, &coder.gradients, schedule.rate(step), factor);
        constraint::renormalize(&cpu, dims, &mut coder.params);
        dead.update(&report.fired, n as u64);
        fvu = report.fvu;
    }
    for row in coder.params.w_dec.chunks(dims.d) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((norm - 1.0).abs() < 1e-5, "a decoder row of norm {norm}");
    }
    Outcome { fvu, mmcs: toy.mean_max_cosine(&coder.params.w_dec), dead: dead.dead_fraction() }
}

#[test]
fn superposed_features_are_recovered() {
    let s = TopkSettings { dead_after: 50 * 512, ..settings(64, 128, 4, 32) };
    let found = train_toy(s, 1000, 1e-2, |_| {});
    assert!(found.fvu < 0.2, "FVU {}", found.fvu);
    assert!(found.mmcs > 0.99, "MMCS {}", found.mmcs);
}

#[test]
fn the_auxiliary_loss_revives_dead_latents() {
    let kill = |params: &mut Params<Cpu>| {
        // these lose every ranking: .02 of their pre-activations
        params.w_enc[..38 * 64].iter_mut().for_each(|w| *w *= 0.02);
    };
    let with = TopkSettings { dead_after: 50 * 512, ..settings(64, 128, 4, 32) };
    let without = TopkSettings { aux_coefficient: 0.0, ..with };
    let (with, without) = (train_toy(with, 1500, 3e-3, kill), train_toy(without, 1500, 3e-3, kill));
    assert!(without.dead > 0.15, "dead without the auxiliary loss: {}", without.dead);
    assert!(with.dead < 0.03, "dead with it: {}", with.dead);
}
