//! What holds for every coder, whatever its parameters.

use super::*;
use crate::compute::coder_ops::NO_LATENT;
use crate::sae::export::ExportedCoder;
use crate::sae::scales::Scales;
use crate::sae::selection::feature_choice;

#[test]
fn a_batch_given_twice_has_the_same_gradient() {
    let n = 6;
    let mut kinds = every_kind();
    kinds.push(("topk, aux", topk(4, 7, 3, 2)));
    // budgets by rank are rounded: twice the rows are not twice the places of each latent
    for (name, settings) in kinds.into_iter().filter(|(name, _)| !name.contains("zipf")) {
        let rows = random_rows(n, 4, "twice");
        let twice = [rows.clone(), rows.clone()].concat();
        let gradients = |rows: &[f32]| {
            let params = random_params(&Reference, &settings, "twice");
            let n = rows.len() / 4;
            let mut coder = Coder::new(&Reference, settings.clone(), params, n);
            coder.loss_and_gradients(&Reference, &batch(&Reference.upload(rows), n, &[2, 3]));
            coder.gradients
        };
        for (once, twice) in gradients(&rows).each().into_iter().zip(gradients(&twice).each()) {
            assert_close(twice, once, 1e-12, name);
        }
    }
}

#[test]
fn the_cpu_agrees_with_the_reference() {
    let cpu = Cpu::new(2).unwrap();
    let (n, d, f) = (300, 20, 90);
    let wide: Vec<Value> = vec![
        serde_json::json!({"type": "topk", "width": f, "k": 6, "decoder": "ranked"}),
        serde_json::json!({"type": "batch_topk", "width": f, "k": 6.5}),
        serde_json::json!({"type": "standard", "width": f, "l1_coefficient": 0.3, "lp_norm": 1.5}),
        serde_json::json!({"type": "jumprelu", "width": f, "l0_coefficient": 0.2, "pre_act_coefficient": 0.1}),
        serde_json::json!({"type": "jumprelu", "width": f, "l0_coefficient": 0.2, "sparsity": "quadratic"}),
        serde_json::json!({"type": "jumprelu", "width": f, "l0_coefficient": 0.2, "sparsity": "target", "target_l0": 9}),
        serde_json::json!({"type": "gated", "width": f, "l1_coefficient": 0.3, "decoder": "free"}),
        serde_json::json!({"type": "matryoshka", "width": f, "k": 6, "widths": [11, 40]}),
        serde_json::json!({"type": "topk", "width": f, "k": 6, "decoder": "ranked", "aux": {"form": "saelens", "k": 3}}),
        serde_json::json!({"type": "topk", "width": f, "k": 6, "aux": {"form": "bussmann", "relu": false, "k": 3}}),
        serde_json::json!({"type": "feature_choice", "width": f, "k": 6, "budget": "zipf", "aux": {"form": "sparsify"}}),
        serde_json::json!({"type": "top_afa", "width": f, "afa_coefficient": 0.2}),
        serde_json::json!({"type": "group_max", "width": f, "k": 6}),
        serde_json::json!({"type": "nested_topk", "width": f, "ks": [3, 6, 12]}),
    ];
    let dead = [3, 17, 50, 51, 80];
    for json in wide {
        let settings = configured(json.clone(), d);
        let rows = random_rows(n, d, "agree");
        let mut exact = Coder::new(&Reference, settings.clone(), random_params(&Reference, &settings, "agree"), n);
        let mut fast = Coder::new(&cpu, settings.clone(), random_params(&cpu, &settings, "agree"), n);
        let expected = exact.loss_and_gradients(&Reference, &batch(&Reference.upload(&rows), n, &dead));
        let found = fast.loss_and_gradients(&cpu, &batch(&rows, n, &dead));
        assert_close(&[found.loss(), found.l0], &[expected.loss(), expected.l0], 1e-4, &json.to_string());
        let pairs = fast.gradients.each().into_iter().zip(exact.gradients.each());
        for ((found, expected), name) in pairs.zip(exact.gradients.names()) {
            let largest = expected.iter().fold(0f64, |a, g| a.max(g.abs()));
            let off = found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max);
            // an entry at the border of a window, or a near-tie, may fall on the other side in f32
            assert!(off <= 0.02 * largest, "{json}: {name} is off by {off} of {largest}");
        }
    }
}

#[test]
fn codes_are_sparse_positive_and_in_order() {
    let cpu = Cpu::new(2).unwrap();
    let n = 300;
    for json in [
        serde_json::json!({"type": "topk", "width": 100, "k": 7, "aux": {"coefficient": 0}}),
        serde_json::json!({"type": "topk", "width": 100, "k": 7, "aux": {"coefficient": 0}, "decoder": "ranked"}),
        serde_json::json!({"type": "batch_topk", "width": 100, "k": 7.5, "aux": {"coefficient": 0}}),
        serde_json::json!({"type": "standard", "width": 100, "l1_coefficient": 0.3}),
        serde_json::json!({"type": "jumprelu", "width": 100, "l0_coefficient": 0.3}),
        serde_json::json!({"type": "gated", "width": 100, "l1_coefficient": 0.3}),
        serde_json::json!({"type": "group_max", "width": 100, "k": 10}),
        serde_json::json!({"type": "feature_choice", "width": 100, "k": 7.5}),
        serde_json::json!({"type": "feature_choice", "width": 100, "k": 7.5, "budget": "zipf"}),
        serde_json::json!({"type": "top_afa", "width": 100}),
    ] {
        let s = configured(json.clone(), 24);
        let mut coder = Coder::new(&cpu, s.clone(), random_params(&cpu, &s, "codes"), n);
        let x = cpu.upload(&random_rows(n, 24, "codes"));
        let report = coder.loss_and_gradients(&cpu, &batch(&x, n, &[]));
        let k = coder.code().k;
        let (mut entries, mut longest) = (0, 0);
        let places = coder.code().places();
        for (latents, values) in coder.code().latents[..places].chunks(k).zip(coder.code().values.chunks(k)) {
            let active = values.iter().take_while(|v| **v > 0.0).count();
            assert!(values[active..].iter().all(|v| *v == 0.0));
            assert!(latents[active..].iter().all(|&i| i == NO_LATENT));
            assert!(latents[..active].windows(2).all(|pair| pair[0] < pair[1]));
            entries += active;
            longest = longest.max(active);
        }
        assert_eq!(report.l0, entries as f64 / n as f64, "{json}");
        match s.selection {
            SelectionSettings::TopK { k } => assert!(longest <= k && report.l0 > k as f64 - 0.1, "{json}: {longest}"),
            SelectionSettings::BatchTopK { k, .. } => {
                assert_eq!(entries, (k * n as f64) as usize, "the whole budget is used");
                assert!(longest > 8, "rows differ");
                let least = coder.code().values[..places].iter().copied().filter(|v| *v > 0.0).fold(f32::MAX, f32::min);
                assert_eq!(report.least, f64::from(least));
            }
            SelectionSettings::GroupMax { groups } => {
                let latents = &coder.code().latents[..places];
                let mut of_rows = latents.chunks(k).map(|row| row.iter().take_while(|i| **i != NO_LATENT));
                assert!(of_rows.all(|row| row.map(|i| i / 10).collect::<Vec<_>>().windows(2).all(|g| g[0] < g[1])));
                assert!(longest <= groups && report.l0 > groups as f64 - 0.1, "{json}: {}", report.l0);
            }
            SelectionSettings::FeatureChoice(own) => {
                let budgets = feature_choice::budgets(&own, n, 100);
                let found: Vec<u32> = report.fired.windows(2).map(|ends| ends[1] - ends[0]).collect();
                assert!(found.iter().zip(&budgets).all(|(found, budget)| found <= budget), "{json}");
                assert!(entries as f64 > 0.95 * 7.5 * n as f64, "{json}: {entries} places are used");
                assert!(report.least_of_each.iter().all(|least| *least > 0.0));
            }
            SelectionSettings::TopAfa { .. } => assert!(report.l0 >= 1.0, "{json}: {}", report.l0),
            _ => assert!(longest > 8),
        }
    }
}

/// Folding the norms and the scale on export leaves code (times what folds say) and reconstruction as they were.
#[test]
fn exported_coders_compute_the_same() {
    let cpu = Cpu::new(1).unwrap();
    for (name, settings) in every_kind() {
        let mut coder = Coder::new(&cpu, settings.clone(), random_params(&cpu, &settings, "export"), 50);
        let rows = random_rows(50, 4, "export");
        let report = coder.loss_and_gradients(&cpu, &Batch { scale: 1.7, ..batch(&rows, 50, &[]) });
        coder.state.update(&settings, &report, 1);
        let (mut ours, mut l0, mut fired) = (Vec::new(), Vec::new(), vec![0; settings.dims.f]);
        coder.inference(&cpu, &coder.params).reconstruct(
            &cpu,
            &Scales::one(4, 1.7),
            &rows,
            &mut ours,
            &mut l0,
            &mut fired,
        );
        let files = ExportedCoder::new(&cpu, &coder, &coder.params, &Scales::one(4, 1.7), serde_json::Map::new())
            .write()
            .unwrap();
        let exported = ExportedCoder::read(&files).unwrap();
        let params = exported.upload(&cpu);
        let (mut theirs, mut their_l0) = (Vec::new(), Vec::new());
        let mut their_fired = vec![0; settings.dims.f];
        exported.inference(&cpu, &params).reconstruct(
            &cpu,
            &Scales::one(4, 1.0),
            &rows,
            &mut theirs,
            &mut their_l0,
            &mut their_fired,
        );
        let as_f64 = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        // an entry that is a threshold itself may be on either side
        let differ = l0.iter().zip(&their_l0).filter(|(a, b)| a != b).count();
        let thresholds = if matches!(settings.selection, SelectionSettings::FeatureChoice(_)) { 7 } else { 1 };
        assert!(differ <= thresholds, "{name}: {l0:?} and {their_l0:?}");
        if differ == 0 {
            assert_close(&as_f64(&theirs), &as_f64(&ours), 1e-4, name);
        }
        assert!(l0.iter().sum::<u32>() > 0, "{name}: nothing is active");
    }
}

/// Orthonormal directions, a sparse row: as many latents are kept as it has parts.
#[test]
fn the_norm_of_a_row_says_how_many_latents_it_has() {
    let f = 12;
    let settings = configured(serde_json::json!({"type": "top_afa", "width": f}), f);
    let identity: Vec<f64> = (0..f * f).map(|at| f64::from(u8::from(at / f == at % f))).collect();
    let params = PerParam {
        w_enc: identity.clone(),
        b_enc: vec![0.0; f],
        w_dec: identity,
        b_dec: vec![0.0; f],
        extra: Vec::new(),
    };
    // row b has b + 1 parts, of different sizes
    let x: Vec<f64> = (0..8 * f)
        .map(|at| (at / f, at % f))
        .map(|(b, i)| if (i * 5 + b) % f <= b { 0.3 + 0.1 * i as f64 } else { 0.0 })
        .collect();
    let mut coder = Coder::new(&Reference, settings, params, 8);
    let report = coder.loss_and_gradients(&Reference, &batch(&x, 8, &[]));
    assert_close(&dense(coder.code(), f), &x, 1e-12, "code");
    assert_eq!(report.l0, 4.5);
    assert!(report.fvu < 1e-20);
}

/// Nested reconstructions by rank are those of TopK coders with the same parameters, weighted.
#[test]
fn nested_k_is_a_sum_of_topk_coders() {
    let (n, d, f) = (40, 6, 30);
    let json = serde_json::json!({
        "type": "nested_topk", "width": f, "ks": [2, 5, 11], "weights": "reversed", "aux": {"coefficient": 0}
    });
    let settings = configured(json, d);
    let rows = Reference.upload(&random_rows(n, d, "nested"));
    let params = random_params(&Reference, &settings, "nested");
    let mut nested = Coder::new(&Reference, settings.clone(), params.clone(), n);
    let found = nested.loss_and_gradients(&Reference, &batch(&rows, n, &[]));
    let mut loss = 0.0;
    let mut gradients = params::zeros(&Reference, settings.dims, &[]);
    for (k, weight) in [(2, 0.5), (5, 1.0 / 3.0), (11, 1.0 / 6.0)] {
        let mut plain = Coder::new(&Reference, topk(d, f, k, 0), params.clone(), n);
        loss += weight * plain.loss_and_gradients(&Reference, &batch(&rows, n, &[])).loss();
        for (sum, own) in gradients.each_mut().into_iter().zip(plain.gradients.each()) {
            sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += weight * own);
        }
    }
    assert_close(&[found.loss()], &[loss], 1e-12, "loss");
    for ((found, expected), name) in nested.gradients.each().into_iter().zip(gradients.each()).zip(gradients.names()) {
        assert_close(found, expected, 1e-12, name);
    }
}
