//! Gradients in f64 against central differences of the loss.

use super::*;

/// The TopK loss as the module comment states it, densely, sharing nothing with the coder but the formula. The auxiliary
/// term takes its target and its scale from `frozen`: no gradient flows through them.
fn dense_loss(params: &Params<Reference>, k: [usize; 2], x: &[f64], n: usize, dead: &[u32], frozen: &[f64]) -> f64 {
    let (d, f) = (params.b_dec.len(), params.b_enc.len());
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
        let main = reconstruct(&all, k[0]);
        loss += (0..d).map(|p| (y[p] - params.b_dec[p] - main[p]).powi(2)).sum::<f64>() / n as f64;
        let from_dead = reconstruct(dead, k[1]);
        aux += (0..d).map(|p| (frozen[b * d + p] - from_dead[p]).powi(2)).sum::<f64>();
    }
    loss + if dead.is_empty() { 0.0 } else { aux / spread / 32.0 }
}

/// The largest difference between `gradients` and those of `loss`, as a share of each parameter's largest.
fn compare(
    what: &str,
    params: &Params<Reference>,
    gradients: &Gradients<Reference>,
    skip: &[&str],
    loss: impl Fn(&Params<Reference>) -> f64,
) {
    for (which, (gradient, name)) in gradients.each().into_iter().zip(params.names()).enumerate() {
        if skip.contains(&name) {
            continue;
        }
        let largest = gradient.iter().fold(0f64, |a, g| a.max(g.abs()));
        assert!(largest > 0.0, "{what}: no gradient for {name}");
        for (i, &g) in gradient.iter().enumerate() {
            let h = 1e-6;
            let moved = |by: f64| {
                let mut params = params.clone();
                params.each_mut()[which][i] += by;
                loss(&params)
            };
            let numeric = (moved(h) - moved(-h)) / (2.0 * h);
            let error = (g - numeric).abs() / largest;
            assert!(error < 1e-6, "{what}: {name}[{i}]: {g} instead of {numeric}");
        }
    }
}

#[test]
fn topk_and_auxk() {
    let (n, d, f) = (5, 4, 7);
    for (dead, scale) in [(vec![], 1.0), (vec![1, 2, 5, 6], 1.0), (vec![0, 4], 1.7)] {
        let s = topk(d, f, 3, 2);
        let params = random_params(&Reference, &s, "finite differences");
        let rows = Reference.upload(&random_rows(n, d, "finite differences"));
        let mut coder = Coder::new(&Reference, s, params, n);
        let report = coder.loss_and_gradients(&Reference, &Batch { scale, ..batch(&rows, n, &dead) });
        let frozen = coder.residual().clone();
        let scaled: Vec<f64> = rows.iter().map(|x| x * scale).collect();
        let loss = |params: &Params<Reference>| dense_loss(params, [3, 2], &scaled, n, &dead, &frozen);
        let total = report.loss();
        assert!((loss(&coder.params) / total - 1.0).abs() < 1e-12, "loss {total}");
        assert_eq!(report.auxiliary_loss > 0.0, !dead.is_empty());
        compare("topk", &coder.params, &coder.gradients, &[], loss);
    }
}

/// Differences of the coder's own loss; what it takes as constant there is left out, and is in the reference cases.
#[test]
fn every_kind_of_coder() {
    let n = 5;
    for (name, settings) in every_kind().into_iter().chain(targets::other_targets()) {
        let rows = Reference.upload(&random_rows(n * settings.dims.groups, settings.dims.d, "finite differences"));
        let target = Reference.upload(&random_rows(n, settings.dims.out, "another target"));
        let target = (!settings.target.is_input).then_some(&target);
        let mut params = random_params(&Reference, &settings, "every kind");
        if !settings.target.bias {
            params.b_dec.fill(0.0);
        }
        let loss = |params: &Params<Reference>| {
            let mut coder = Coder::new(&Reference, settings.clone(), params.clone(), n);
            coder.loss_and_gradients(&Reference, &Batch { target, ..batch(&rows, n, &[]) }).loss()
        };
        let mut coder = Coder::new(&Reference, settings.clone(), params, n);
        coder.loss_and_gradients(&Reference, &Batch { target, ..batch(&rows, n, &[]) });
        let skip: &[&str] = match settings.selection {
            SelectionSettings::JumpRelu(_) => &["threshold"],
            SelectionSettings::Gated { trains_decoder: false } => &["w_dec", "b_dec"],
            _ if !settings.target.bias => &["b_dec"],
            _ => &[],
        };
        assert!(settings.target.bias || coder.gradients.b_dec.iter().all(|g| *g == 0.0), "{name}");
        compare(name, &coder.params, &coder.gradients, skip, loss);
    }
}

/// The straight-through estimate against the derivative that it estimates: one latent, rows so that `u` is uniform. With
/// `f = u 1[u > t]`, `L = E (x - f w)^2 + c E 1[u > t]` the derivative in `t` is known.
#[test]
fn thresholds_follow_the_expected_loss() {
    let n = 40_000;
    let settings = configured(
        serde_json::json!({
            "type": "jumprelu", "width": 1, "l0_coefficient": 0.05, "bandwidth": 0.02, "l0_warmup_steps": 0
        }),
        1,
    );
    // u = x is uniform on [0, 1); the decoder gives 0.9 of it
    let x: Vec<f64> = (0..n).map(|i| (f64::from(i) + 0.5) / f64::from(n)).collect();
    for t in [0.3, 0.5] {
        let params = PerParam {
            w_enc: vec![1.0],
            b_enc: vec![0.0],
            w_dec: vec![0.9],
            b_dec: vec![0.0],
            extra: vec![("threshold", vec![t])],
        };
        let n = n as usize;
        let mut coder = Coder::new(&Reference, settings.clone(), params, n);
        coder.loss_and_gradients(&Reference, &batch(&x, n, &[]));
        // d/dt [ int_0^t x^2 + int_t^1 (0.1 x)^2 + 0.05 (1 - t) ] = t^2 - 0.01 t^2 - 0.05
        let expected = 0.99 * t * t - 0.05;
        let found = coder.gradients.extra("threshold")[0];
        assert!((found - expected).abs() < 0.005, "t = {t}: {found} instead of {expected}");
    }
}
