//! The forward pass against transformers, site by site, and the promises that do not depend on values.

mod counting;
mod fidelity;
mod fixture;
mod heads;
mod paths;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;

use harvestd::compute::ModelOps;
use harvestd::compute::backend::MatrixFormat;
use harvestd::compute::cpu::Cpu;
use harvestd::compute::reference::Reference;
use harvestd::error::ErrorKind;
use harvestd::hooks::{HookPoint, PointShape, Site};
use harvestd::model::{self, BatchShape, Model};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use counting::Counting;
use fixture::*;

/// Norm-wise, of the worst token.
const TOLERANCE: f64 = 2e-5;

/// Where only the order of additions may differ: a product's blocking depends on its shape.
const ROUNDING: f64 = 5e-6;

fn cpu() -> Arc<Cpu> {
    Arc::new(Cpu::new(2).unwrap())
}

fn load<B: ModelOps>(backend: Arc<B>, name: &str) -> Box<dyn Model<B>> {
    model::load(backend, &source(name), shape(name), MatrixFormat::F32).unwrap()
}

fn everywhere(_: HookPoint) -> bool {
    true
}

// === values ===

/// How far each point, the logits (`logits`) and the losses (`loss`) are from transformers, norm-wise.
fn errors<B: ModelOps>(
    backend: Arc<B>,
    name: &str,
    format: MatrixFormat,
) -> Vec<(Option<HookPoint>, &'static str, f64)> {
    let golden = Tensors::golden(name);
    let weights = Tensors::read(&folder(name).join("model.safetensors"));
    let mut model = model::load(backend, &source(name), shape(name), format).unwrap();
    let ids = golden.ids();
    let seen = record(model.as_mut(), &batch(&[&ids[..T], &ids[T..]]), &everywhere);
    let spec = model.spec().clone();
    let points = model.points().to_vec();
    assert_eq!(seen.len(), points.len(), "every declared point is visited");
    let mut errors = Vec::new();
    for PointShape { point, width, .. } in points {
        let expected = golden_value(&golden, &weights, point, &spec, shape(name).context_length).unwrap();
        errors.push((Some(point), point.site.suffix(), worst_row_error(&seen[&point], &expected, width)));
    }
    let mut logits = Vec::new();
    model.unembed(&seen[&HookPoint::outside(Site::LnFinalOut)], &mut logits).unwrap();
    let vocab_size = spec.vocab_size;
    errors.push((None, "logits", worst_row_error(&logits, golden.get("logits"), vocab_size)));
    let losses: Vec<f32> = (0..B)
        .flat_map(|sequence| (sequence * T..sequence * T + T - 1).map(|row| (row, ids[row + 1])))
        .map(|(row, next)| cross_entropy(&logits[row * vocab_size..][..vocab_size], next))
        .collect();
    errors.push((None, "loss", worst_row_error(&losses, golden.get("loss_per_token"), B * (T - 1))));
    errors
}

/// What differs from transformers by more than the tolerance.
fn differences<B: ModelOps>(backend: Arc<B>, name: &str) -> Vec<String> {
    let errors = errors(backend, name, MatrixFormat::F32);
    let wrong = errors.into_iter().filter(|(_, _, error)| *error > TOLERANCE);
    wrong
        .map(|(point, what, error)| format!("{name} {} {error:.1e}", point.map_or(what.to_owned(), |p| p.to_string())))
        .collect()
}

fn cross_entropy(logits: &[f32], target: u32) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
    (sum.ln() - f64::from(logits[target as usize] - max)) as f32
}

#[test]
fn every_site_logits_and_losses_equal_transformers_on_the_cpu() {
    let wrong: Vec<String> = MODELS.into_iter().flat_map(|name| differences(cpu(), name)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_site_logits_and_losses_equal_transformers_on_the_reference() {
    let wrong: Vec<String> = MODELS.into_iter().flat_map(|name| differences(Arc::new(Reference), name)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_selftest_finds_the_cpu_within_tolerance_everywhere() {
    for name in MODELS {
        let ids = Tensors::golden(name).ids();
        let report = model::selftest::compare(
            cpu(),
            &source(name),
            shape(name),
            MatrixFormat::F32,
            &[batch(&[&ids[..T], &ids[T..]])],
        )
        .unwrap();
        assert_eq!(report.last().unwrap().name, "logits");
        for site in &report {
            assert_eq!(site.n_tokens, B * T);
            assert!(site.median <= site.worst && site.worst < 1e-5, "{name}: {site:?}");
        }
        assert!(report.iter().any(|site| site.worst > 0.0));
    }
}

#[test]
fn old_spellings_of_a_configuration_mean_the_same() {
    let mut compared = 0;
    for name in MODELS {
        let read = |file: &str| std::fs::read_to_string(folder(name).join(file)).ok();
        let Some(old) = read("config.old.json") else { continue };
        let spec = |text: &str| model::ModelSpec::parse(&serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!(spec(&old), spec(&read("config.json").unwrap()), "{name}");
        compared += 1;
    }
    assert!(compared >= 19, "{compared}");
}

#[test]
fn bfloat16_matrices_are_within_their_promise() {
    for name in MODELS {
        let (ours, theirs) = fidelity::bfloat16_errors(name);
        eprintln!("{name}: {ours:.1e}, transformers in bfloat16 {theirs:.1e}");
        assert!(ours > 1e-5, "{name}: the matrices are not rounded");
        assert!(ours <= 2e-2 && ours < theirs, "{name}: {ours:e}, transformers in bfloat16 {theirs:e}");
    }
}

// === batching ===

/// The rows of `part` in `whole`, at every point.
fn assert_rows_equal(whole: &Recording, first_row: usize, part: &Recording, points: &[PointShape]) {
    for PointShape { point, width, .. } in points {
        let expected = &part[point];
        let actual = &whole[point][first_row * width..][..expected.len()];
        let error = worst_row_error(actual, expected, *width);
        assert!(error <= ROUNDING, "{point}: {error:e}");
    }
}

#[test]
fn a_sequence_does_not_depend_on_its_batch() {
    for name in MODELS {
        let ids = Tensors::golden(name).ids();
        let mut model = load(cpu(), name);
        let points = model.points().to_vec();
        let (a, b) = (&ids[..T], &ids[T..T + 17]);
        let both = record(model.as_mut(), &batch(&[a, b]), &everywhere);
        assert_rows_equal(&both, 0, &record(model.as_mut(), &batch(&[a]), &everywhere), &points);
        assert_rows_equal(&both, T, &record(model.as_mut(), &batch(&[b]), &everywhere), &points);
    }
}

#[test]
fn documents_of_a_sequence_do_not_see_each_other() {
    for name in MODELS {
        let ids = Tensors::golden(name).ids();
        let mut model = load(cpu(), name);
        let mut points = model.points().to_vec();
        let (a, b, c) = (&ids[..9], &ids[9..10], &ids[10..T]);
        let packed = record(model.as_mut(), &documents(&[vec![a, b, c]]), &everywhere);
        let alone = record(model.as_mut(), &batch(&[c]), &everywhere);
        // a pattern's columns are positions in the sequence, which differ
        let t = shape(name).context_length;
        let heads = model.spec().n_heads;
        let sides = [Site::Pattern, Site::AttnScores].map(|site| HookPoint::block(1, site));
        for (side, row) in sides.into_iter().flat_map(|side| (0..c.len()).map(move |row| (side, row))) {
            let heads_of = |seen: &Recording, row: usize| seen[&side][row * heads * t..][..heads * t].to_vec();
            let (packed, alone) = (heads_of(&packed, 10 + row), heads_of(&alone, row));
            let columns = |values: &[f32], from: usize, to: usize| -> Vec<f32> {
                values.chunks_exact(t).flat_map(|head| &head[from..to]).copied().collect()
            };
            let (actual, expected) = (columns(&packed, 10, t), columns(&alone, 0, t - 10));
            let error = worst_row_error(&actual, &expected, expected.len());
            assert!(error <= ROUNDING, "{name} {side} row {row}: {error:e}");
            assert!(columns(&packed, 0, 10).iter().all(|p| *p == 0.0));
        }
        points.retain(|shape| !matches!(shape.point.site, Site::Pattern | Site::AttnScores));
        assert_rows_equal(&packed, 0, &record(model.as_mut(), &batch(&[a]), &everywhere), &points);
        assert_rows_equal(&packed, 9, &record(model.as_mut(), &batch(&[b]), &everywhere), &points);
        assert_rows_equal(&packed, 10, &alone, &points);
        let blended = record(model.as_mut(), &batch(&[&ids[..T]]), &everywhere);
        let last = HookPoint::outside(Site::LnFinalOut);
        assert!(worst_row_error(&packed[&last], &blended[&last], model.spec().d_model) > 0.01, "it would matter");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for name in MODELS {
        let ids = Tensors::golden(name).ids();
        let run = |threads| {
            let mut model = load(Arc::new(Cpu::new(threads).unwrap()), name);
            record(model.as_mut(), &batch(&[&ids[..T], &ids[T..]]), &everywhere)
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3), "{name}");
    }
}

// === what is computed ===

#[test]
fn the_pass_stops_after_the_last_wanted_point() {
    let backend = Arc::new(Counting::new());
    let ids = Tensors::golden("llama").ids();
    let mut model = load(backend.clone(), "llama");
    let tokens = batch(&[&ids[..T]]);
    let mut work = |wanted: Option<HookPoint>| {
        let wants = |point| Some(point) == wanted;
        let mut taps = Recorder { wants: &wants, edit: None, seen: Recording::new(), visits: Vec::new() };
        model.forward(&tokens, &mut taps).unwrap();
        assert_eq!(taps.visits, Vec::from_iter(wanted), "only what is wanted is visited");
        backend.take()
    };
    assert_eq!(work(None), (0, 0, 0));
    assert_eq!(work(Some(HookPoint::outside(Site::Embed))), (0, 0, 0));
    assert_eq!(work(Some(HookPoint::block(0, Site::Ln1Out))), (0, 0, 1));
    assert_eq!(work(Some(HookPoint::block(0, Site::Ln1Normalized))), (0, 0, 1), "only the copy on the side");
    assert_eq!(work(Some(HookPoint::block(0, Site::Q))), (1, 0, 1));
    assert_eq!(work(Some(HookPoint::block(0, Site::Pattern))), (3, 1, 1));
    assert_eq!(work(Some(HookPoint::block(0, Site::ResidPost))), (7, 1, 2));
    assert_eq!(work(Some(HookPoint::block(1, Site::ResidPre))), (7, 1, 2));
    assert_eq!(work(Some(HookPoint::block(1, Site::ResidPost))), (14, 2, 4));
    assert_eq!(work(Some(HookPoint::outside(Site::LnFinalOut))), (14, 2, 5));
}

#[test]
fn an_empty_batch_visits_nothing() {
    let mut model = load(cpu(), "gpt2");
    assert!(record(model.as_mut(), &batch(&[]), &everywhere).is_empty());
}

// === edits ===

#[test]
fn edits_reach_everything_later_as_they_do_in_the_reference() {
    let change = |i: usize, x: f32| x * 0.5 + (i % 7) as f32 * 0.1;
    for name in MODELS {
        let ids = Tensors::golden(name).ids();
        let tokens = batch(&[&ids[..T]]);
        let mut fast = load(cpu(), name);
        let mut exact = load(Arc::new(Reference), name);
        let last = HookPoint::outside(Site::LnFinalOut);
        let clean = record(fast.as_mut(), &tokens, &|p| p == last).remove(&last).unwrap();
        let d = fast.spec().d_model;
        for PointShape { point, .. } in fast.points().to_vec() {
            if !point.site.edits_propagate() || point == last {
                continue;
            }
            let edited = final_after_edit(fast.as_mut(), &tokens, point, &change);
            let expected = final_after_edit(exact.as_mut(), &tokens, point, &change);
            let error = worst_row_error(&edited, &expected, d);
            assert!(error <= TOLERANCE, "{name} {point}: {error:e}");
            assert!(worst_row_error(&edited, &clean, d) > 1e-3, "{name} {point}: the edit is lost");
        }
    }
}

#[test]
fn splicing_in_another_sequences_stream_gives_that_sequences_output() {
    for name in MODELS {
        let ids = Tensors::golden(name).ids();
        let (a, b) = (batch(&[&ids[..T]]), batch(&[&ids[T..]]));
        let mut model = load(cpu(), name);
        let other = record(model.as_mut(), &b, &everywhere);
        let expected = &other[&HookPoint::outside(Site::LnFinalOut)];
        for point in [HookPoint::block(0, Site::ResidPost), HookPoint::block(1, Site::ResidPre)] {
            let spliced = final_after_edit(model.as_mut(), &a, point, &|i, _| other[&point][i]);
            assert!(&spliced == expected, "{name} {point}");
        }
    }
}

#[test]
fn an_edit_that_would_be_lost_is_refused() {
    let mut model = load(cpu(), "llama");
    let point = HookPoint::block(0, Site::Pattern);
    let nothing = |_| false;
    let mut taps =
        Recorder { wants: &nothing, edit: Some((point, &|_, x| x)), seen: Recording::new(), visits: Vec::new() };
    let e = model.forward(&batch(&[&[3, 4]]), &mut taps).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Config);
    assert!(e.to_string().contains("blocks.0.attn.hook_pattern"), "{e}");
}

// === files ===

/// A copy of `name` whose tensors went through `rewrite`, in one file or in two.
fn rewritten(name: &str, n_files: usize, dtype: Dtype, rewrite: &dyn Fn(f32) -> Vec<u8>) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(folder(name).join("config.json"), copy.path().join("config.json")).unwrap();
    let bytes = std::fs::read(folder(name).join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, view) in file.iter() {
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        tensors.push((name.to_owned(), view.shape().to_vec(), values.flat_map(rewrite).collect()));
    }
    tensors.sort();
    let mut map = serde_json::Map::new();
    for (i, part) in tensors.chunks(tensors.len().div_ceil(n_files)).enumerate() {
        let file = if n_files == 1 {
            "model.safetensors".to_owned()
        } else {
            format!("model-{:05}-of-{n_files:05}.safetensors", i + 1)
        };
        let views =
            part.iter().map(|(name, shape, bytes)| (name, TensorView::new(dtype, shape.clone(), bytes).unwrap()));
        safetensors::serialize_to_file(views, None, &copy.path().join(&file)).unwrap();
        map.extend(part.iter().map(|(name, ..)| (name.clone(), file.clone().into())));
    }
    if n_files > 1 {
        let index = serde_json::json!({"metadata": {}, "weight_map": map});
        std::fs::write(copy.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
    copy
}

fn final_hidden(folder: &Path, ids: &[u32]) -> Vec<f32> {
    let last = HookPoint::outside(Site::LnFinalOut);
    record(
        model::load(cpu(), &open(folder), shape("llama"), MatrixFormat::F32).unwrap().as_mut(),
        &batch(&[ids]),
        &|p| p == last,
    )
    .remove(&last)
    .unwrap()
}

#[test]
fn sharded_weights_are_the_same_model() {
    for name in MODELS {
        let ids = &Tensors::golden(name).ids()[..T];
        let sharded = rewritten(name, 3, Dtype::F32, &|x| x.to_le_bytes().to_vec());
        assert_eq!(open(sharded.path()).weight_files().len(), 3);
        assert!(final_hidden(sharded.path(), ids) == final_hidden(&folder(name), ids), "{name}");
    }
}

/// transformers loads both and ties them only if they are equal.
#[test]
fn a_head_of_its_own_counts_even_where_the_configuration_says_tied() {
    let copy = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(folder("llama").join("config.json")).unwrap();
    let tied = config.replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    assert!(tied != config);
    std::fs::write(copy.path().join("config.json"), tied).unwrap();
    std::fs::copy(folder("llama").join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
    let golden = Tensors::golden("llama");
    let mut model = model::load(cpu(), &open(copy.path()), shape("llama"), MatrixFormat::F32).unwrap();
    let mut logits = Vec::new();
    model.unembed(golden.get("final_norm_out"), &mut logits).unwrap();
    let error = worst_row_error(&logits, golden.get("logits"), model.spec().vocab_size);
    assert!(error <= TOLERANCE, "{error:e}");
}

#[test]
fn half_precision_weights_are_widened_exactly() {
    type Encode = (Dtype, fn(f32) -> Vec<u8>, fn(f32) -> f32);
    let f16: Encode =
        (Dtype::F16, |x| half::f16::from_f32(x).to_le_bytes().to_vec(), |x| half::f16::from_f32(x).to_f32());
    let bf16: Encode =
        (Dtype::BF16, |x| half::bf16::from_f32(x).to_le_bytes().to_vec(), |x| half::bf16::from_f32(x).to_f32());
    for name in ["gpt2", "llama"] {
        let ids = &Tensors::golden(name).ids()[..T];
        let full = final_hidden(&folder(name), ids);
        for (dtype, encode, round) in [f16, bf16] {
            let half = rewritten(name, 1, dtype, &encode);
            let rounded = rewritten(name, 1, Dtype::F32, &|x| round(x).to_le_bytes().to_vec());
            let hidden = final_hidden(half.path(), ids);
            assert!(hidden == final_hidden(rounded.path(), ids), "{name} {dtype}");
            assert!(hidden != full, "the rounding is real");
        }
    }
}

#[test]
fn weights_that_do_not_fit_the_configuration_are_refused() {
    let copy = rewritten("llama", 1, Dtype::F32, &|x| x.to_le_bytes().to_vec());
    let config = std::fs::read_to_string(copy.path().join("config.json")).unwrap();
    let refusal = |from: &str, to: &str| {
        assert!(config.contains(from));
        std::fs::write(copy.path().join("config.json"), config.replace(from, to)).unwrap();
        let e = model::load(cpu(), &open(copy.path()), shape("llama"), MatrixFormat::F32).err().expect("is refused");
        assert_eq!(e.kind(), ErrorKind::Data);
        e.to_string()
    };
    let fewer = refusal("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    assert!(fewer.contains("`layers.1.") && fewer.contains("not part of this architecture"), "{fewer}");
    let more = refusal("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    assert!(more.contains("`layers.2.") && more.contains("is missing"), "{more}");
    let wider = refusal("\"intermediate_size\": 80", "\"intermediate_size\": 81");
    assert!(wider.contains("[80, 32] where the configuration says [81, 32]"), "{wider}");
}

#[test]
fn contexts_beyond_learned_positions_are_refused_at_load() {
    let shape = |context_length| BatchShape { max_tokens: 8, context_length };
    assert!(model::load(cpu(), &source("gpt2"), shape(64), MatrixFormat::F32).is_ok());
    let e = model::load(cpu(), &source("gpt2"), shape(65), MatrixFormat::F32).err().expect("is refused");
    assert_eq!(e.kind(), ErrorKind::Config);
    assert!(e.to_string().contains("64 positions"), "{e}");
    assert!(
        model::load(cpu(), &source("llama"), shape(256), MatrixFormat::F32).is_ok(),
        "rotary positions have no end"
    );
}

/// Two models run side by side show what each shows alone, to the bit, and end with the first's logits.
#[test]
fn a_second_model_runs_on_the_same_tokens() {
    for (first, second) in [("llama", "gpt2"), ("gpt2", "gpt_neox")] {
        let golden = Tensors::golden(first);
        let ids = golden.ids();
        let tokens = batch(&[&ids[..T], &ids[T..]]);
        let alone = |name: &str| record(load(cpu(), name).as_mut(), &tokens, &everywhere);
        let both = source(first).with_second(source(second)).unwrap();
        let declared = both.points(shape(first).context_length);
        let mut model = model::load(cpu(), &both, shape(first), MatrixFormat::F32).unwrap();
        assert_eq!(declared, model.points());
        let seen = record(model.as_mut(), &tokens, &everywhere);
        assert_eq!(seen.len(), declared.len());
        let (of_first, of_second) = (alone(first), alone(second));
        for (point, values) in &seen {
            let own = if point.second { &of_second } else { &of_first };
            assert!(own[&point.of_first()] == *values, "{point}");
        }
        let only = record(model.as_mut(), &tokens, &|point| point.second && point.site == Site::Embed);
        assert_eq!(only.len(), 1, "the first model may have nothing that is wanted");
        assert_eq!(model.spec().d_model, source(first).spec().d_model);
    }
}

#[test]
fn a_second_model_must_know_every_token() {
    let copy = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(folder("llama").join(name), copy.path().join(name)).unwrap();
    }
    let config = std::fs::read_to_string(copy.path().join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["vocab_size"] = 100.into();
    std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
    let e = source("llama").with_second(open(copy.path())).unwrap_err().to_string();
    assert!(e.contains("100 embeddings") && e.contains("160"), "{e}");
}
