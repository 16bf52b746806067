//! Latents that are products, and what is reconstructed from them.

use super::*;
use crate::sae::optim::Adam;
use crate::sae::scales::Scales;
use crate::sae::{constraint, init};

fn bilinear(d: usize, f: usize, density: f64) -> CoderSettings {
    let coder = serde_json::json!({
        "type": "bilinear", "width": f, "density_coefficient": density, "density_warmup_steps": 0
    });
    configured(coder, d)
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

/// The numbers of an independent implementation.
#[test]
fn the_reference_case() {
    let text = include_str!("../../../../tests/fixtures/coders.json");
    let case = serde_json::from_str::<Value>(text).unwrap()["bilinear"].clone();
    let (inputs, expected) = (&case["inputs"], &case["expected"]);
    let alpha = case["config"]["alpha"].as_f64().unwrap();
    let settings = bilinear(3, 6, alpha);
    let mut params = params::zeros(&Reference, &settings);
    (params.w_enc, params.w_dec) = (numbers(&inputs["L"]), numbers(&inputs["R"]));
    let rows = numbers(&inputs["x_unit"]);
    let mut coder = Coder::new(&Reference, settings, params, 4);
    let report = coder.loss_and_gradients(&Reference, &batch(&rows, 4, &[]));
    let hoyer = numbers(&expected["hoyer"]);
    let density = alpha * hoyer.iter().sum::<f64>() / hoyer.len() as f64;
    assert_close(&[report.sparsity_loss], &[density], 1e-8, "density");
    assert_close(&[report.reconstruction_loss], &numbers(&expected["loss"]), 1e-8, "loss");
    assert_close(&coder.gradients.w_enc, &numbers(&expected["g_L"]), 1e-8, "g_L");
    assert_close(&coder.gradients.w_dec, &numbers(&expected["g_R"]), 1e-8, "g_R");
    let mut codes = crate::sae::codes::Codes::default();
    let single: Vec<f32> = rows.iter().map(|x| *x as f32).collect();
    let mut out = Vec::new();
    let inference = coder.inference(&Reference, &coder.params);
    inference.code(&Reference, &Scales::one(3, 2.5), &single, &mut out, &mut codes);
    let found: Vec<f64> = codes.dense(6).iter().map(|x| f64::from(*x)).collect();
    assert_close(&found, &numbers(&expected["f"]), 1e-6, "f");
    assert!(out.iter().all(|x| *x == 0.0));
}

/// The loss with every product of a row's values written out, of rows that are not of norm 1.
#[test]
fn gradients_are_those_of_the_loss_written_out() {
    let (n, d, f) = (5, 4, 7);
    let settings = bilinear(d, f, 0.3);
    let params = random_params(&Reference, &settings, "bilinear");
    let rows = Reference.upload(&random_rows(n, d, "bilinear"));
    let unit: Vec<f64> = rows
        .chunks(d)
        .flat_map(|row| {
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.iter().map(move |x| x / norm)
        })
        .collect();
    let loss = |l: &[f64], r: &[f64]| {
        let dot = |w: &[f64], b: usize, i: usize| (0..d).map(|p| w[i * d + p] * unit[b * d + p]).sum::<f64>();
        let value = |b: usize, i: usize| dot(l, b, i) * dot(r, b, i);
        let mut loss = 0.0;
        for b in 0..n {
            for (p, q) in (0..d).flat_map(|p| (0..d).map(move |q| (p, q))) {
                let made: f64 = (0..f).map(|i| value(b, i) * l[i * d + p] * r[i * d + q]).sum();
                loss += (unit[b * d + p] * unit[b * d + q] - made).powi(2) / n as f64;
            }
        }
        let density = |i: usize| {
            let size: f64 = (0..n).map(|b| value(b, i).abs()).sum();
            let norm = (0..n).map(|b| value(b, i).powi(2)).sum::<f64>().sqrt();
            (size / norm - 1.0) / ((n as f64).sqrt() - 1.0)
        };
        loss + 0.3 * (0..f).map(density).sum::<f64>() / f as f64
    };
    let mut coder = Coder::new(&Reference, settings, params, n);
    let report = coder.loss_and_gradients(&Reference, &batch(&rows, n, &[]));
    let (l, r) = (coder.params.w_enc.clone(), coder.params.w_dec.clone());
    assert_close(&[report.loss()], &[loss(&l, &r)], 1e-12, "loss");
    for i in 0..f * d {
        let moved = |w: &[f64], by: f64| {
            let mut w = w.to_vec();
            w[i] += by;
            w
        };
        let of_l = (loss(&moved(&l, 1e-6), &r) - loss(&moved(&l, -1e-6), &r)) / 2e-6;
        let of_r = (loss(&l, &moved(&r, 1e-6)) - loss(&l, &moved(&r, -1e-6))) / 2e-6;
        assert_close(&[coder.gradients.w_enc[i], coder.gradients.w_dec[i]], &[of_l, of_r], 1e-6, "gradient");
    }
}

#[test]
fn the_cpu_agrees_with_the_reference_on_products() {
    let (n, d, f) = (300, 20, 90);
    let settings = bilinear(d, f, 0.3);
    let rows = random_rows(n, d, "agree");
    let mut exact = Coder::new(&Reference, settings.clone(), random_params(&Reference, &settings, "agree"), n);
    let expected = exact.loss_and_gradients(&Reference, &batch(&Reference.upload(&rows), n, &[]));
    let mut last: Option<Vec<f32>> = None;
    for threads in [1, 3] {
        let cpu = Cpu::new(threads).unwrap();
        let mut coder = Coder::new(&cpu, settings.clone(), random_params(&cpu, &settings, "agree"), n);
        let found = coder.loss_and_gradients(&cpu, &batch(&rows, n, &[]));
        assert!((found.loss() / expected.loss() - 1.0).abs() < 1e-5, "{} {}", found.loss(), expected.loss());
        assert!((found.fvu / expected.fvu - 1.0).abs() < 1e-5);
        for (found, expected) in coder.gradients.each().into_iter().zip(exact.gradients.each()) {
            let largest = expected.iter().fold(0f64, |a, x| a.max(x.abs()));
            let far = found.iter().zip(expected).any(|(x, e)| (f64::from(*x) - e).abs() > 2e-5 * largest);
            assert!(!far);
        }
        if let Some(last) = &last {
            assert!(*last == coder.gradients.w_enc, "the threads change the result");
        }
        last = Some(coder.gradients.w_enc.clone());
    }
}

/// Rows that are one of 8 directions, of either sign: `x x^T` is one of 8 matrices of rank 1, and as many latents find them.
/// (More latents share them out among each other.)
#[test]
fn planted_squares_are_recovered() {
    let (n, d, f) = (128, 16, 8);
    let cpu = Cpu::new(1).unwrap();
    let mut directions = random_rows(f, d, "planted");
    cpu.normalize_rows(&mut directions, f, d);
    let settings = bilinear(d, f, 0.1);
    let params = init::start(&cpu, &settings, &mut Seed(1).stream("init"), cpu.zeros(d));
    let mut coder = Coder::new(&cpu, settings.clone(), params, n);
    let mut adam = Adam::new(&cpu, &settings, [0.9, 0.999], 1e-8);
    let mut rng = Seed(3).stream("planted rows");
    let mut fvu = 1.0;
    for step in 0..1200 {
        let mut rows = Vec::new();
        for _ in 0..n {
            let (i, sign) = (rng.below(f as u64) as usize, if rng.uniform() < 0.5 { 3.0 } else { -3.0 });
            rows.extend(directions[i * d..][..d].iter().map(|x| sign * x));
        }
        fvu = coder.loss_and_gradients(&cpu, &Batch { step, ..batch(&rows, n, &[]) }).fvu;
        constraint::project(&cpu, &settings, &coder.params, &mut coder.gradients);
        let rate = 0.01 * (1.0 - step as f64 / 1200.0);
        adam.update(&cpu, &mut coder.params, &coder.gradients, rate, 1.0);
    }

    let cosine = |a: &[f32], b: &[f32]| {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).abs()
    };
    let (l, r) = (&coder.params.w_enc, &coder.params.w_dec);
    let found = directions.chunks(d).filter(|direction| {
        (0..settings.dims.f)
            .any(|i| cosine(&l[i * d..][..d], direction) > 0.95 && cosine(&r[i * d..][..d], direction) > 0.95)
    });
    let found = found.count();
    assert!(fvu < 0.05, "FVU {fvu}");
    assert!(found >= 6, "{found} of {f}");
}
