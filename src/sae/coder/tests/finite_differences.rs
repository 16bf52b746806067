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

/// AuxK as its forms state it, densely, of one set of dead latents; the residual is that of `frozen`, or of the parameters.
fn dense_aux_loss(
    params: &Params<Reference>,
    aux: &AuxSettings,
    y: &[f64],
    n: usize,
    dead: &[u32],
    frozen: Option<&[f64]>,
) -> f64 {
    let (d, f) = (params.b_dec.len(), params.b_enc.len());
    let around_mean = |rows: &[f64]| -> f64 {
        let mean = |p: usize| (0..n).map(|b| rows[b * d + p]).sum::<f64>() / n as f64;
        (0..d).map(|p| (0..n).map(|b| (rows[b * d + p] - mean(p)).powi(2)).sum::<f64>()).sum()
    };
    let u = |b: usize, i: usize| {
        params.b_enc[i] + (0..d).map(|p| (y[b * d + p] - params.b_dec[p]) * params.w_enc[i * d + p]).sum::<f64>()
    };
    let mut of_row = Vec::new();
    let mut residual = Vec::new();
    for b in 0..n {
        // the main code keeps the three largest positive
        let mut kept: Vec<usize> = (0..f).filter(|&i| u(b, i) > 0.0).collect();
        kept.sort_by(|&i, &j| u(b, j).total_cmp(&u(b, i)));
        kept.truncate(3);
        residual.extend((0..d).map(|p| {
            y[b * d + p] - params.b_dec[p] - kept.iter().map(|&i| u(b, i) * params.w_dec[i * d + p]).sum::<f64>()
        }));
        let mut from: Vec<usize> = dead.iter().map(|&i| i as usize).filter(|&i| !aux.relu || u(b, i) > 0.0).collect();
        from.sort_by(|&i, &j| u(b, j).total_cmp(&u(b, i)));
        from.truncate(aux.k);
        of_row.extend((0..d).map(|p| from.iter().map(|&i| u(b, i) * params.w_dec[i * d + p]).sum::<f64>()));
    }
    let left = frozen.unwrap_or(&residual);
    let divisor = match aux.per {
        AuxDivisor::Residual => around_mean(left),
        AuxDivisor::Rows => n as f64,
    };
    let share = aux.full_at.map_or(1.0, |full| (dead.len() as f64 / full).min(1.0));
    let error: f64 = left.iter().zip(&of_row).map(|(r, e)| (r - e).powi(2)).sum();
    residual.iter().map(|r| r * r).sum::<f64>() / n as f64 + aux.coefficient * share / divisor * error
}

#[test]
fn every_form_of_auxk() {
    let (n, d) = (5, 4);
    let mut negative = 0;
    for form in ["gao", "saelens", "sparsify", "bussmann"] {
        for (relu, dead) in [(true, vec![1, 2, 5, 6]), (false, vec![1, 2, 5, 6]), (false, vec![4])] {
            let settings = configured(
                serde_json::json!({
                    "type": "topk", "width": 7, "k": 3, "aux": {"form": form, "relu": relu, "k": 2, "coefficient": 0.3}
                }),
                d,
            );
            let aux = settings.aux.unwrap();
            let rows = Reference.upload(&random_rows(n, d, "finite differences"));
            let mut coder = Coder::new(&Reference, settings.clone(), random_params(&Reference, &settings, "aux"), n);
            let report = coder.loss_and_gradients(&Reference, &batch(&rows, n, &dead));
            let frozen = aux.detached.then(|| coder.residual().clone());
            let loss = |params: &Params<Reference>| dense_aux_loss(params, &aux, &rows, n, &dead, frozen.as_deref());
            assert!((loss(&coder.params) / report.loss() - 1.0).abs() < 1e-12, "{form}: loss {}", report.loss());
            assert!(report.auxiliary_loss > 0.0);
            compare(form, &coder.params, &coder.gradients, &[], loss);
            let values = |i: u32| {
                let at = i as usize * d;
                (0..n)
                    .map(|b| {
                        (0..d).map(|p| (rows[b * d + p] - coder.params.b_dec[p]) * coder.params.w_enc[at + p]).sum()
                    })
                    .map(|dot: f64| dot + coder.params.b_enc[i as usize])
                    .filter(|u| *u < 0.0)
                    .count()
            };
            negative += if relu { 0 } else { dead.iter().map(|&i| values(i)).sum() };
        }
    }
    assert!(negative > 0, "no dead latent had a negative pre-activation");
}

/// The loss of ghost gradients as the code of Dunefsky et al. states it, of dead latents 1 and 4; what is constant there is
/// taken from `frozen`.
fn dense_ghost_loss(params: &Params<Reference>, y: &[f64], n: usize, frozen: &Params<Reference>) -> f64 {
    let (d, f, dead) = (params.b_dec.len(), params.b_enc.len(), [1, 4]);
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let u = |p: &Params<Reference>, b: usize, i: usize| {
        p.b_enc[i] + (0..d).map(|j| (y[b * d + j] - p.b_dec[j]) * p.w_enc[i * d + j]).sum::<f64>()
    };
    let from = |p: &Params<Reference>, latents: &[usize], b: usize, act: fn(f64) -> f64| -> Vec<f64> {
        (0..d).map(|j| latents.iter().map(|&i| act(u(p, b, i)) * p.w_dec[i * d + j]).sum()).collect()
    };
    let all: Vec<usize> = (0..f).collect();
    let left = |p: &Params<Reference>, b: usize| -> Vec<f64> {
        let made = from(p, &all, b, |u| u.max(0.0));
        (0..d).map(|j| y[b * d + j] - p.b_dec[j] - made[j]).collect()
    };
    let mut loss = 0.0;
    for b in 0..n {
        loss += left(params, b).iter().map(|r| r * r).sum::<f64>();
        let r = left(frozen, b);
        let was = from(frozen, &dead, b, f64::exp);
        let scale = norm(&r) / (1e-6 + 2.0 * norm(&was));
        let now = from(params, &dead, b, f64::exp);
        for j in 0..d {
            let error = |o: &[f64]| (o[j] * scale - r[j]).powi(2) / norm(&r);
            loss += error(&now) * (r[j] * r[j] / (error(&was) + 1e-6));
        }
    }
    loss / n as f64
}

#[test]
fn ghost_gradients() {
    let (n, d) = (5, 4);
    let coder = serde_json::json!({
        "type": "standard", "form": "bricken", "width": 7, "l1_coefficient": 0, "ghost_gradients": true
    });
    let settings = configured(coder, d);
    let params = random_params(&Reference, &settings, "ghost");
    let rows = Reference.upload(&random_rows(n, d, "finite differences"));
    let mut coder = Coder::new(&Reference, settings, params, n);
    let report = coder.loss_and_gradients(&Reference, &batch(&rows, n, &[1, 4]));
    let loss = |params: &Params<Reference>| dense_ghost_loss(params, &rows, n, &coder.params);
    assert!((loss(&coder.params) / report.loss() - 1.0).abs() < 1e-12, "loss {}", report.loss());
    assert!((report.auxiliary_loss / report.reconstruction_loss - 1.0).abs() < 1e-3, "{report:?}");
    compare("ghost", &coder.params, &coder.gradients, &[], loss);
    assert_eq!(coder.loss_and_gradients(&Reference, &batch(&rows, n, &[])).auxiliary_loss, 0.0);
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
        if skip.contains(&name) || gradient.is_empty() {
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
        let mut coder = made(&Reference, s, params, n);
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
            let mut coder = made(&Reference, settings.clone(), params.clone(), n);
            coder.loss_and_gradients(&Reference, &Batch { target, ..batch(&rows, n, &[]) }).loss()
        };
        let mut coder = made(&Reference, settings.clone(), params, n);
        coder.loss_and_gradients(&Reference, &Batch { target, ..batch(&rows, n, &[]) });
        let skip: &[&str] = match settings.selection {
            SelectionSettings::JumpRelu(_) => &["threshold"],
            SelectionSettings::TopAfa { .. } => &["b_enc"],
            SelectionSettings::Gated { trains_decoder: false } => &["w_dec", "b_dec"],
            _ if settings.bias_control.is_some() => &["b_enc", "b_dec"],
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
        let mut coder = made(&Reference, settings.clone(), params, n);
        coder.loss_and_gradients(&Reference, &batch(&x, n, &[]));
        // d/dt [ int_0^t x^2 + int_t^1 (0.1 x)^2 + 0.05 (1 - t) ] = t^2 - 0.01 t^2 - 0.05
        let expected = 0.99 * t * t - 0.05;
        let found = coder.gradients.extra("threshold")[0];
        assert!((found - expected).abs() < 0.005, "t = {t}: {found} instead of {expected}");
    }
}

/// As above, of the encoder's bias: with the window's gradient it is the derivative of the expected loss, without it lacks
/// what moves over the threshold.
#[test]
fn the_window_s_gradient_in_the_encoder_follows_the_expected_loss() {
    let n = 40_000;
    let x: Vec<f64> = (0..n).map(|i| (f64::from(i) + 0.5) / f64::from(n)).collect();
    for (passes, t) in [(true, 0.3), (true, 0.5), (false, 0.3)] {
        let settings = configured(
            serde_json::json!({
                "type": "jumprelu", "width": 1, "l0_coefficient": 0.05, "bandwidth": 0.02, "l0_warmup_steps": 0,
                "encoder_gradient": passes
            }),
            1,
        );
        let params = PerParam {
            w_enc: vec![1.0],
            b_enc: vec![0.0],
            w_dec: vec![0.9],
            b_dec: vec![0.0],
            extra: vec![("threshold", vec![t])],
        };
        let mut coder = Coder::new(&Reference, settings, params, n as usize);
        coder.loss_and_gradients(&Reference, &batch(&x, n as usize, &[]));
        // d/db of int_t^1 (x - 0.9 (x + b))^2 dx, and of the border at x = t - b
        let smooth = -0.09 * (1.0 - t * t);
        let border = 0.05 - 0.99 * t * t;
        let expected = if passes { smooth + border } else { smooth };
        let found = coder.gradients.b_enc[0];
        assert!((found - expected).abs() < 0.005, "t = {t}, {passes}: {found} instead of {expected}");
    }
}
