//! Coders that reconstruct something else than one row, and those that read several.

use super::*;

/// Coders of 4 values that reconstruct others, or have parts.
pub(super) fn other_targets() -> Vec<(&'static str, CoderSettings)> {
    let topk =
        |d: usize| configured(serde_json::json!({"type": "topk", "width": 7, "k": 3, "aux": {"coefficient": 0}}), d);
    let standard = |d| configured(serde_json::json!({"type": "standard", "width": 7, "l1_coefficient": 0.3}), d);
    let ranked = serde_json::json!({
        "type": "batch_topk", "width": 7, "k": 2.5, "decoder": "ranked", "aux": {"coefficient": 0}
    });
    let tanh = serde_json::json!({
        "type": "jumprelu", "width": 7, "l0_coefficient": 0.2, "sparsity": "tanh", "decoder": "free",
        "pre_act_coefficient": 0.05, "pre_act_all_latents": true
    });
    let gated = serde_json::json!({"type": "gated", "width": 7, "l1_coefficient": 0.3, "decoder": "free"});
    let nested = serde_json::json!({
        "type": "matryoshka", "width": 7, "k": 3, "widths": [2, 4], "aux": {"coefficient": 0}
    });
    let multi = serde_json::json!({
        "type": "topk", "width": 7, "k": 2, "multi_coefficient": 0.5, "multi_k": 4, "aux": {"coefficient": 0}
    });
    vec![
        ("topk transcoder", topk(3).reading(4)),
        ("wide topk transcoder", topk(5).reading(2)),
        ("standard transcoder", standard(3).reading(4)),
        ("jumprelu transcoder", configured(tanh.clone(), 3).reading(4)),
        ("gated transcoder", configured(gated.clone(), 3).reading(4)),
        ("nested transcoder", configured(nested.clone(), 5).reading(4)),
        ("standard crosscoder", standard(4).of_parts(vec![1, 3])),
        ("batch_topk crosscoder", configured(ranked, 4).of_parts(vec![2, 2])),
        ("jumprelu crosscoder", configured(tanh.clone(), 4).of_parts(vec![3, 1])),
        (
            "feature_choice transcoder",
            configured(serde_json::json!({"type": "feature_choice", "width": 7, "k": 3, "aux": {"coefficient": 0}}), 3)
                .reading(4),
        ),
        (
            "top_afa transcoder",
            configured(serde_json::json!({"type": "top_afa", "width": 7, "aux": {"coefficient": 0}}), 3).reading(4),
        ),
        (
            "group_max crosscoder",
            configured(serde_json::json!({"type": "group_max", "width": 6, "k": 3, "aux": {"coefficient": 0}}), 4)
                .of_parts(vec![1, 3]),
        ),
        (
            "nested_topk transcoder",
            configured(
                serde_json::json!({"type": "nested_topk", "width": 7, "ks": [1, 3], "aux": {"coefficient": 0}}),
                5,
            )
            .reading(4),
        ),
        ("topk transcoder with a skip connection", topk(3).reading(4).with_skip()),
        ("jumprelu transcoder with a skip connection", configured(tanh.clone(), 3).reading(4).with_skip()),
        ("gated transcoder with a skip connection", configured(gated.clone(), 3).reading(4).with_skip()),
        ("nested transcoder with a skip connection", configured(nested.clone(), 5).reading(4).with_skip()),
        ("multi-topk transcoder with a skip connection", configured(multi, 3).reading(4).with_skip()),
        ("boosting", topk(4).boosting()),
        ("standard across layers", standard(6).across_layers(4, 2)),
        ("jumprelu across layers", configured(tanh, 6).across_layers(4, 3)),
    ]
}

fn random_target(n: usize, out: usize) -> Vec<f32> {
    random_rows(n, out, "another target")
}

#[test]
fn the_cpu_agrees_with_the_reference() {
    let cpu = Cpu::new(2).unwrap();
    let (n, d, f) = (200, 24, 90);
    let coder = |json: Value, out| configured(json, out);
    let topk = serde_json::json!({"type": "topk", "width": f, "k": 6, "aux": {"k": 9}});
    let standard = serde_json::json!({"type": "standard", "width": f, "l1_coefficient": 0.3});
    for settings in [
        coder(topk.clone(), 10).reading(d),
        coder(topk.clone(), 31).reading(d),
        coder(topk, 31).reading(d).with_skip(),
        coder(standard.clone(), 17).reading(d),
        coder(standard, d).of_parts(vec![8, 16]),
    ] {
        let (rows, target) = (random_rows(n, d, "agree"), random_target(n, settings.dims.out));
        let dead = [3, 17, 50, 51, 80];
        let mut exact = Coder::new(&Reference, settings.clone(), random_params(&Reference, &settings, "agree"), n);
        let mut fast = Coder::new(&cpu, settings.clone(), random_params(&cpu, &settings, "agree"), n);
        let (exact_rows, exact_target) = (Reference.upload(&rows), Reference.upload(&target));
        let other = !settings.target.is_input;
        let exact_batch = Batch { target: other.then_some(&exact_target), ..batch(&exact_rows, n, &dead) };
        let expected = exact.loss_and_gradients(&Reference, &exact_batch);
        let found =
            fast.loss_and_gradients(&cpu, &Batch { target: other.then_some(&target), ..batch(&rows, n, &dead) });
        let shape = format!("{:?}", settings.dims);
        assert_close(&[found.loss(), found.fvu], &[expected.loss(), expected.fvu], 1e-4, &shape);
        let pairs = fast.gradients.each().into_iter().zip(exact.gradients.each());
        for ((found, expected), name) in pairs.zip(exact.gradients.names()) {
            let largest = expected.iter().fold(0f64, |a, g| a.max(g.abs()));
            let off = found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max);
            assert!(off <= 1e-3 * largest, "{shape}: {name} is off by {off} of {largest}");
        }
    }
}

/// A transcoder whose target is its input is an autoencoder whose bias is not subtracted.
#[test]
fn the_input_as_another_target_is_an_autoencoder() {
    let n = 9;
    let json = serde_json::json!({"type": "topk", "width": 7, "k": 3, "aux": {"k": 2}});
    let settings = configured(json, 4);
    let rows = Reference.upload(&random_rows(n, 4, "same"));
    let run = |settings: CoderSettings, target: Option<&Vec<f64>>| {
        let params = random_params(&Reference, &settings, "same");
        let mut coder = Coder::new(&Reference, settings, params, n);
        let report = coder.loss_and_gradients(&Reference, &Batch { target, ..batch(&rows, n, &[1, 5]) });
        (report, coder.gradients)
    };
    let plain = CoderSettings { subtract_bias: false, ..settings.clone() };
    let (expected, gradients) = run(plain, None);
    let (found, others) = run(settings.reading(4), Some(&rows));
    assert_eq!(found, expected);
    assert_eq!(gradients.each(), others.each());
}

/// What is penalised and ranked by in a crosscoder is the sum of the norms of the parts.
#[test]
fn norms_of_parts_are_added() {
    let json = serde_json::json!({"type": "standard", "width": 2, "l1_coefficient": 1.0});
    let settings = configured(json, 3).of_parts(vec![2, 1]);
    let w_dec = vec![3.0, 4.0, -2.0, 0.0, 0.0, 0.5];
    let mut norms = vec![0.0; 2];
    decoder_norms(&Reference, &settings, &w_dec, &mut norms);
    assert_close(&norms, &[7.0, 0.5], 1e-15, "norms");
}

/// What a skip connection adds is a part of the target that latents need not reconstruct.
#[test]
fn a_skip_connection_is_the_same_as_less_to_reconstruct() {
    let (n, d, out) = (9, 4, 3);
    let settings = configured(serde_json::json!({"type": "topk", "width": 7, "k": 3, "aux": {"k": 2}}), out).reading(d);
    let skips = settings.clone().with_skip();
    let (x, y) = (Reference.upload(&random_rows(n, d, "skip")), Reference.upload(&random_target(n, out)));
    let params = random_params(&Reference, &skips, "skip");
    let w_skip = params.extra(W_SKIP).clone();
    let less: Vec<f64> = (0..n * out)
        .map(|i| y[i] - (0..d).map(|p| x[i / out * d + p] * w_skip[i % out * d + p]).sum::<f64>())
        .collect();
    let bare = PerParam { extra: Vec::new(), ..params.clone() };
    let run = |settings: CoderSettings, params, target| {
        let mut coder = Coder::new(&Reference, settings, params, n);
        let report = coder.loss_and_gradients(&Reference, &Batch { target: Some(target), ..batch(&x, n, &[1, 5]) });
        (report.loss(), coder.gradients)
    };
    let (loss, gradients) = run(skips, params, &y);
    let (expected, others) = run(settings, bare, &less);
    assert!((loss - expected).abs() < 1e-9 * expected, "{loss} instead of {expected}");
    for (found, expected) in gradients.each().into_iter().zip(others.each()) {
        assert_close(found, expected, 1e-9, "gradients");
    }
    assert!(gradients.extra(W_SKIP).iter().any(|g| g.abs() > 1e-3));
}
