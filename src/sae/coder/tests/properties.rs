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
            let mut coder = made(&Reference, settings.clone(), params, n);
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
        serde_json::json!({"type": "topk", "width": f, "k": 6, "decoder": "ranked", "aux": {"form": "saelens", "k": 3}}),
        serde_json::json!({"type": "topk", "width": f, "k": 6, "aux": {"form": "bussmann", "relu": false, "k": 3}}),
        serde_json::json!({"type": "feature_choice", "width": f, "k": 6, "budget": "zipf", "aux": {"form": "sparsify"}}),
        serde_json::json!({"type": "top_afa", "width": f, "afa_coefficient": 0.2}),
        serde_json::json!({"type": "group_max", "width": f, "k": 6}),
        serde_json::json!({"type": "nested_topk", "width": f, "ks": [3, 6, 12]}),
        serde_json::json!({"type": "matryoshka", "width": f, "k": 6, "widths": [11, 40], "decoder": "normalized"}),
        serde_json::json!({"type": "k_sparse", "width": f, "k": 6}),
        serde_json::json!({"type": "matching_pursuit", "width": f, "k": 3}),
        serde_json::json!({"type": "kron", "width": 96, "k": 6}),
        serde_json::json!({"type": "switch", "width": f, "experts": 5, "k": 6}),
        serde_json::json!({"type": "archetypal", "width": f, "k": 6, "points": 40}),
    ];
    let dead = [3, 17, 50, 51, 80];
    for json in wide {
        let settings = configured(json.clone(), d);
        let rows = random_rows(n, d, "agree");
        let mut exact = made(&Reference, settings.clone(), random_params(&Reference, &settings, "agree"), n);
        let mut fast = made(&cpu, settings.clone(), random_params(&cpu, &settings, "agree"), n);
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
        let mut coder = made(&cpu, s.clone(), random_params(&cpu, &s, "codes"), n);
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
        let mut coder = made(&cpu, settings.clone(), random_params(&cpu, &settings, "export"), 50);
        let rows = random_rows(50, 4, "export");
        let report = coder.loss_and_gradients(&cpu, &Batch { scale: 1.7, ..batch(&rows, 50, &[]) });
        coder.state.update(&settings, &report, 1);
        let (mut ours, mut l0, mut fired) = (Vec::new(), Vec::new(), vec![0; settings.dims.f]);
        let scales = Scales::one(4, 1.7);
        coder.inference(&cpu, &coder.params).reconstruct(&cpu, &scales, &rows, &mut ours, &mut l0, &mut fired);
        let exported = ExportedCoder::new(&cpu, &coder, &coder.params, &scales, serde_json::Map::new());
        if settings.not_in_saelens().is_some() {
            assert!(exported.unwrap_err().to_string().contains("its checkpoint is the coder"), "{name}");
            continue;
        }
        let files = exported.unwrap().write().unwrap();
        let exported = ExportedCoder::read(&files).unwrap();
        let params = exported.upload(&cpu);
        let (mut theirs, mut their_l0, mut their_fired) = (Vec::new(), Vec::new(), vec![0; settings.dims.f]);
        let one = Scales::one(4, 1.0);
        exported.inference(&cpu, &params).reconstruct(&cpu, &one, &rows, &mut theirs, &mut their_l0, &mut their_fired);
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
    let mut gradients = params::zeros(&Reference, &settings);
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

#[test]
fn k_sparse_codes_have_exactly_k_entries_of_either_sign_and_inference_may_have_more() {
    let s = configured(serde_json::json!({"type": "k_sparse", "width": 30, "k": 20, "inference_k": 25}), 6);
    let mut coder = made(&Reference, s.clone(), random_params(&Reference, &s, "signed"), 40);
    let rows = random_rows(40, 6, "signed");
    coder.loss_and_gradients(&Reference, &batch(&Reference.upload(&rows), 40, &[]));
    let code = coder.code();
    assert!(code.latents[..code.places()].iter().all(|&i| i != NO_LATENT) && code.k == 20);
    assert!(code.values[..code.places()].iter().any(|v| *v < 0.0));
    let (mut out, mut l0, mut fired) = (Vec::new(), Vec::new(), vec![0; 30]);
    let one = Scales::one(6, 1.0);
    coder.inference(&Reference, &coder.params).reconstruct(&Reference, &one, &rows, &mut out, &mut l0, &mut fired);
    assert_eq!(l0, [25; 40]);
}

/// The decoder that is used has rows of norm 1, and gradients never point along a row.
#[test]
fn normalized_decoders_ignore_the_norms_of_their_parameters() {
    let s = configured(serde_json::json!({"type": "topk", "width": 30, "k": 4, "decoder": "normalized"}), 6);
    let rows = Reference.upload(&random_rows(40, 6, "normalized"));
    let mut params = random_params(&Reference, &s, "normalized");
    let loss_of = |params: &Params<Reference>| {
        let mut coder = made(&Reference, s.clone(), params.clone(), 40);
        let loss = coder.loss_and_gradients(&Reference, &batch(&rows, 40, &[])).loss();
        let dots = coder.gradients.w_dec.chunks(6).zip(params.w_dec.chunks(6));
        let along = dots.map(|(g, w)| g.iter().zip(w).map(|(g, w)| g * w).sum::<f64>().abs()).fold(0.0, f64::max);
        assert!(along < 1e-12, "{along}");
        assert_eq!(coder.params.w_dec, params.w_dec, "the parameter is in its place again");
        let used = coder.effective(&Reference, &coder.params).w_dec.clone();
        assert!(used.chunks(6).all(|row| (row.iter().map(|w| w * w).sum::<f64>() - 1.0).abs() < 1e-12));
        loss
    };
    let before = loss_of(&params);
    params.w_dec.iter_mut().for_each(|w| *w *= 3.0);
    assert!((loss_of(&params) - before).abs() < 1e-12);
}

/// With orthonormal rows, pursuit finds the largest projections; with any unit rows what is left never grows, and a latent
/// that is chosen twice is one entry.
#[test]
fn pursuit_takes_the_largest_projections_and_never_leaves_more() {
    let s = configured(serde_json::json!({"type": "matching_pursuit", "width": 5, "k": 3}), 5);
    let mut params = params::zeros(&Reference, &s);
    (0..5).for_each(|i| params.w_dec[i * 6] = 1.0);
    let rows = random_rows(30, 5, "pursuit");
    let mut coder = made(&Reference, s, params, 30);
    coder.loss_and_gradients(&Reference, &batch(&Reference.upload(&rows), 30, &[]));
    let code = dense(coder.code(), 5);
    for (row, code) in rows.chunks(5).zip(code.chunks(5)) {
        let mut positive: Vec<f64> = row.iter().map(|&x| f64::from(x)).filter(|x| *x > 0.0).collect();
        positive.sort_by(|a, b| b.total_cmp(a));
        let least = positive.get(2).copied().unwrap_or(0.0);
        let expected: Vec<f64> =
            row.iter().map(|&x| f64::from(x)).map(|x| if x > 0.0 && x >= least { x } else { 0.0 }).collect();
        assert_close(code, &expected, 1e-12, "projections");
    }
    let mut left = f64::INFINITY;
    for k in 1..12 {
        let s = configured(serde_json::json!({"type": "matching_pursuit", "width": 12, "k": k}), 5);
        let mut params = random_params(&Reference, &s, "pursuit");
        Reference.normalize_rows(&mut params.w_dec, 12, 5);
        let mut coder = made(&Reference, s, params, 30);
        let report = coder.loss_and_gradients(&Reference, &batch(&Reference.upload(&rows), 30, &[]));
        assert!(report.reconstruction_loss < left, "{k} steps leave {}", report.reconstruction_loss);
        assert!(report.l0 <= f64::from(k));
        left = report.reconstruction_loss;
    }
}

/// A latent is active only where both of its parts are; the encoder is as small as its parts.
#[test]
fn pairs_are_active_where_both_parts_are() {
    let s = configured(serde_json::json!({"type": "kron", "width": 24, "k": 24, "first": 2, "second": 3}), 5);
    let SelectionSettings::Pairs { shape, .. } = s.selection else { panic!("{s:?}") };
    let params = random_params(&Reference, &s, "pairs");
    let sizes: Vec<usize> = ["w_parts", "b_parts"].map(|name| params.extra(name).len()).to_vec();
    assert_eq!((sizes, params.w_enc.len()), (vec![4 * 5 * 5, 4 * 5], 0));
    let rows = random_rows(30, 5, "pairs");
    let mut coder = made(&Reference, s, params, 30);
    coder.loss_and_gradients(&Reference, &batch(&Reference.upload(&rows), 30, &[]));
    let code = dense(coder.code(), 24);
    let part = |b: usize, a: usize| {
        let w = &coder.params.extra("w_parts")[a * 5..][..5];
        let c = (0..5).map(|p| (f64::from(rows[b * 5 + p]) - coder.params.b_dec[p]) * w[p]);
        c.sum::<f64>() + coder.params.extra("b_parts")[a]
    };
    let mut active = 0;
    for (b, i) in (0..30).flat_map(|b| (0..24).map(move |i| (b, i))) {
        let (p, q) = (part(b, shape.of(i).0), part(b, shape.of(i).1));
        let expected = if p > 0.0 && q > 0.0 { (p * q + 1e-5).sqrt() } else { 0.0 };
        assert!((code[b * 24 + i] - expected).abs() < 1e-12);
        active += usize::from(expected > 0.0);
    }
    assert!(active > 50 && active < 30 * 24 / 2, "{active}");
}

/// The auxiliary branch of pairs uses dead latents only, and trains parts.
#[test]
fn dead_pairs_reconstruct_the_residual() {
    let s = configured(serde_json::json!({"type": "kron", "width": 24, "k": 1, "first": 2, "second": 3}), 5);
    let rows = Reference.upload(&random_rows(30, 5, "dead pairs"));
    let report = |dead: &[u32]| {
        let mut coder = made(&Reference, s.clone(), random_params(&Reference, &s, "dead pairs"), 30);
        let report = coder.loss_and_gradients(&Reference, &batch(&rows, 30, dead));
        (report.auxiliary_loss, coder.gradients.extra("w_parts").clone(), coder.gradients.w_dec.clone())
    };
    let (none, without, decoder) = report(&[]);
    let (some, with, with_decoder) = report(&[3, 9, 20]);
    assert!(none == 0.0 && some > 0.0 && without != with);
    for i in 0..24 {
        let changed = decoder[i * 5..][..5] != with_decoder[i * 5..][..5];
        assert!(!changed || [3, 9, 20].contains(&i), "latent {i} is not dead");
    }
}

/// One expert is TopK; the loss that spreads rows is least, `balance * d`, where all have as many and as much.
#[test]
fn one_expert_is_topk() {
    let switch = configured(serde_json::json!({"type": "switch", "width": 9, "experts": 1, "k": 3}), 5);
    let rows = Reference.upload(&random_rows(30, 5, "experts"));
    let mut params = random_params(&Reference, &switch, "experts");
    let mut coder = made(&Reference, switch, params.clone(), 30);
    let found = coder.loss_and_gradients(&Reference, &batch(&rows, 30, &[]));
    params.extra.clear();
    let mut plain = made(&Reference, topk(5, 9, 3, 0), params, 30);
    let expected = plain.loss_and_gradients(&Reference, &batch(&rows, 30, &[]));
    assert_close(&[found.reconstruction_loss], &[expected.reconstruction_loss], 1e-12, "loss");
    assert_close(&[found.auxiliary_loss], &[15.0], 1e-12, "balance");
    for (found, expected) in coder.gradients.each().into_iter().zip(plain.gradients.each()) {
        assert_close(found, expected, 1e-12, "gradient");
    }
}

/// Inference codes rows as training does, where the method has no threshold of its own.
#[test]
fn inference_is_the_forward_pass_of_training() {
    for (name, settings) in every_kind() {
        if matches!(
            settings.selection,
            SelectionSettings::BatchTopK { .. }
                | SelectionSettings::TopAfa { .. }
                | SelectionSettings::FeatureChoice(_)
        ) {
            continue;
        }
        let rows = random_rows(20, 4, "inference");
        let mut coder = made(&Reference, settings.clone(), random_params(&Reference, &settings, "inference"), 20);
        coder.loss_and_gradients(&Reference, &batch(&Reference.upload(&rows), 20, &[]));
        let (mut out, mut l0, mut fired) = (Vec::new(), Vec::new(), vec![0; settings.dims.f]);
        let inference = coder.inference(&Reference, &coder.params);
        inference.reconstruct(&Reference, &Scales::one(4, 1.0), &rows, &mut out, &mut l0, &mut fired);
        let left: Vec<f64> = rows.iter().zip(&out).map(|(x, y)| f64::from(*x) - f64::from(*y)).collect();
        let residual: Vec<f64> = coder.residual()[..20 * 4].to_vec();
        assert_close(&left, &residual, 1e-5, name);
    }
}
