//! Trained coders as other tools see them: SAELens loads the exported folders and computes the same, and its own training
//! makes the same steps.
//!
//! Needs a Python with `sae-lens`, named by `HARVESTD_PYTHON`.

#[path = "coders/formats.rs"]
mod formats;
mod support;
#[path = "coders/transcoders.rs"]
mod transcoders;

use std::path::Path;
use std::sync::Arc;

use harvestd::compute::Backend;
use harvestd::compute::cpu::Cpu;
use harvestd::compute::reference::Reference;
use harvestd::corpus::cursor::SourceCursor;
use harvestd::hooks::{HookPoint, Site};
use harvestd::runtime::rng::Seed;
use harvestd::sae::config::CoderConfig;
use harvestd::sae::export::{ExportMetadata, ExportedCoder};
use harvestd::sae::optim::{Adam, clip};
use harvestd::sae::params::PerParam;
use harvestd::sae::{Batch, Coder, CoderSettings, Params, constraint};
use harvestd::trainer::{Trainer, TrainerSettings};

const WIDTH: usize = 48;
const LATENTS: usize = 160;

/// Every type of coder, how its rows are normalised, and its architecture there.
fn types() -> Vec<(serde_json::Value, &'static str, &'static str)> {
    let json = |extra: serde_json::Value| {
        let mut coder = extra;
        coder["width"] = LATENTS.into();
        coder
    };
    vec![
        (json(serde_json::json!({"type": "topk", "k": 6})), "sqrt_d", "topk"),
        (json(serde_json::json!({"type": "topk", "k": 6})), "layer_norm", "topk"),
        (json(serde_json::json!({"type": "topk", "k": 6, "decoder": "ranked"})), "unit_norm", "topk"),
        (json(serde_json::json!({"type": "topk", "k": 6, "decoder": "normalized"})), "sqrt_d", "topk"),
        (json(serde_json::json!({"type": "archetypal", "k": 6, "points": 40})), "sqrt_d", "topk"),
        (json(serde_json::json!({"type": "batch_topk", "k": 6})), "sqrt_d", "jumprelu"),
        (json(serde_json::json!({"type": "batch_topk", "k": 6, "decoder": "ranked"})), "sqrt_d", "jumprelu"),
        (json(serde_json::json!({"type": "matryoshka", "k": 6, "widths": [20, 60]})), "row_norm", "jumprelu"),
        (json(serde_json::json!({"type": "standard", "l1_coefficient": 1})), "sqrt_d", "standard"),
        (json(serde_json::json!({"type": "standard", "l1_coefficient": 1, "form": "bricken"})), "unit_rms", "standard"),
        (json(serde_json::json!({"type": "jumprelu", "l0_coefficient": 0.1})), "sqrt_d", "jumprelu"),
        (json(serde_json::json!({"type": "gated", "l1_coefficient": 1})), "none", "gated"),
        (
            json(serde_json::json!({
                "type": "p_anneal", "base": "gated", "sparsity_coefficient": 1, "anneal_end_step": 20000
            })),
            "sqrt_d",
            "gated",
        ),
        (json(serde_json::json!({"type": "gba", "adapt_every": 2})), "sqrt_d", "standard"),
        (json(serde_json::json!({"type": "feature_choice", "k": 6})), "sqrt_d", "jumprelu"),
        (json(serde_json::json!({"type": "top_afa"})), "sqrt_d", "jumprelu"),
        (json(serde_json::json!({"type": "nested_topk", "ks": [3, 6]})), "sqrt_d", "topk"),
        (
            json(serde_json::json!({"type": "p_anneal", "sparsity_coefficient": 1, "anneal_end_step": 20000})),
            "sqrt_d",
            "standard",
        ),
    ]
}

/// Rows far from the origin and from unit scale, as residual streams are.
fn rows(n: usize, purpose: &str) -> Vec<f32> {
    let mut rng = Seed(4).stream(purpose);
    (0..n * WIDTH).map(|i| (rng.normal() * 3.0 + (i % WIDTH) as f64 * 0.2 - 4.0) as f32).collect()
}

fn trained(coder: &serde_json::Value, normalize: &str) -> Trainer<Cpu> {
    let config = serde_json::json!({
        "name": "small",
        "input": "blocks.3.attn.hook_z[2]",
        "buffer": {"rows": 1024},
        "normalize": normalize,
        "coder": coder,
        "optimizer": {"type": "adam", "learning_rate": 0.01},
        "batch_rows": 256,
        "rows": 10_000,
        "checkpoint": {"url": "unused"},
    });
    let settings = TrainerSettings {
        config: serde_json::from_value(config).unwrap(),
        sites: vec![(HookPoint::block(3, Site::Z).at_head(2), WIDTH)],
        seed: Seed(4),
        stream: serde_json::Value::Null,
    };
    let mut trainer = Trainer::new(Arc::new(Cpu::new(2).unwrap()), settings).unwrap();
    trainer.offer(&rows(10_000, "train"), &vec![0; 10_000], &SourceCursor::default()).unwrap();
    trainer.finish().unwrap();
    assert!(trainer.report().step > 30);
    trainer
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1f32, |a, x| a.max(x.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= 1e-5 * largest, "{what}[{i}]: found {f}, expected {e}");
    }
}

#[test]
fn saelens_loads_exported_coders_and_computes_the_same() {
    let Some(python) = support::python("SAELens on exported coders") else { return };
    let about = ExportMetadata {
        model_name: "test/model".to_owned(),
        dataset_path: "test/corpus".to_owned(),
        context_size: 128,
        prepend_bos: true,
        separator: Some("eos".to_owned()),
        ..ExportMetadata::default()
    };
    let n = 64;
    let rows = rows(n, "test");
    let folder = tempfile::tempdir().unwrap();
    let rows_path = folder.path().join("rows");
    std::fs::write(&rows_path, rows.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    let mut command = std::process::Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/load_coder.py"));
    command.args([&rows_path, Path::new(&n.to_string())]).env("OMP_NUM_THREADS", "1");
    let mut trainers = Vec::new();
    for (i, (coder, normalize, architecture)) in types().into_iter().enumerate() {
        let place = folder.path().join(i.to_string());
        std::fs::create_dir(&place).unwrap();
        let trainer = trained(&coder, normalize);
        let files = trainer.export(about.clone()).unwrap();
        for (name, bytes) in &files {
            std::fs::write(place.join(name), bytes).unwrap();
        }
        assert_eq!(ExportedCoder::read(&files).unwrap().architecture.name(), architecture);
        command.args([&place, Path::new(architecture)]);
        trainers.push((coder, trainer, place));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    for (coder, trainer, place) in trainers {
        let found = floats(&place.join("out"));
        let (found_latents, found_rows) = found.split_at(n * LATENTS);
        let (mut ours, mut l0, mut fired) = (Vec::new(), Vec::new(), vec![0; LATENTS]);
        trainer.reconstruct(&rows, &mut ours, &mut l0, &mut fired).unwrap();
        assert_close(found_rows, &ours, &format!("{coder}: reconstructions"));
        let (latents, _) = formats::computed(&trainer.exported(ExportMetadata::default()).unwrap(), &rows);
        assert_close(found_latents, &latents, &format!("{coder}: latents"));
        let theirs: Vec<u64> = (0..LATENTS)
            .map(|i| found_latents.iter().skip(i).step_by(LATENTS).filter(|f| **f > 0.0).count() as u64)
            .collect();
        assert_eq!(theirs, fired, "{coder}: rows on which each latent is active");
        assert!(l0.iter().sum::<u32>() > n as u32, "{coder}: hardly anything is active");
    }
}

/// A coder that SAELens trains too: our section, its class, its configuration and its coefficients (with `dead` latents).
fn trained_by_both() -> Vec<(serde_json::Value, &'static str, serde_json::Value, serde_json::Value)> {
    let auxk = serde_json::json!({"form": "saelens"});
    let topk = serde_json::json!({"k": 4, "rescale_acts_by_decoder_norm": true});
    let nested = serde_json::json!({"k": 4, "rescale_acts_by_decoder_norm": true, "matryoshka_widths": [8, 20, 48]});
    let none = || serde_json::json!({});
    vec![
        (
            serde_json::json!({
                "type": "standard", "width": 48, "l1_coefficient": 0.4, "l1_warmup_steps": 0, "apply_b_dec_to_input": true
            }),
            "StandardTrainingSAE",
            none(),
            serde_json::json!({"l1": 0.4}),
        ),
        (
            serde_json::json!({"type": "topk", "width": 48, "k": 4, "decoder": "ranked", "aux": auxk}),
            "TopKTrainingSAE",
            topk.clone(),
            none(),
        ),
        (
            serde_json::json!({"type": "topk", "width": 48, "k": 4, "aux": auxk, "decoder": "ranked"}),
            "TopKTrainingSAE",
            topk.clone(),
            serde_json::json!({"dead": DEAD}),
        ),
        (
            serde_json::json!({"type": "batch_topk", "width": 48, "k": 4, "decoder": "ranked", "aux": auxk}),
            "BatchTopKTrainingSAE",
            topk,
            serde_json::json!({"dead": [5, 6, 7]}),
        ),
        (
            serde_json::json!({
                "type": "jumprelu", "width": 48, "l0_coefficient": 0.3, "l0_warmup_steps": 0, "bandwidth": 0.3,
                "decoder": "free"
            }),
            "JumpReLUTrainingSAE",
            serde_json::json!({"jumprelu_bandwidth": 0.3}),
            serde_json::json!({"l0": 0.3}),
        ),
        (
            serde_json::json!({
                "type": "jumprelu", "width": 48, "l0_coefficient": 0.3, "l0_warmup_steps": 0, "bandwidth": 0.3,
                "decoder": "free", "sparsity": "tanh"
            }),
            "JumpReLUTrainingSAE",
            serde_json::json!({"jumprelu_bandwidth": 0.3, "jumprelu_sparsity_loss_mode": "tanh"}),
            serde_json::json!({"l0": 0.3}),
        ),
        (
            serde_json::json!({
                "type": "gated", "width": 48, "l1_coefficient": 0.4, "l1_warmup_steps": 0, "decoder": "free"
            }),
            "GatedTrainingSAE",
            none(),
            serde_json::json!({"l1": 0.4}),
        ),
        (
            serde_json::json!({"type": "matryoshka", "width": 48, "k": 4, "widths": [8, 20], "decoder": "ranked"}),
            "MatryoshkaBatchTopKTrainingSAE",
            nested,
            none(),
        ),
    ]
}

/// More latents than the auxiliary loss uses a row.
const DEAD: [u32; 12] = [0, 3, 4, 9, 11, 17, 20, 21, 30, 41, 46, 47];
const STEPS: usize = 20;
const BATCH: usize = 64;
const RATE: f64 = 3e-3;

/// Losses and parameters after [`STEPS`] steps of ours, in f64.
fn our_steps(
    settings: &CoderSettings,
    params: Params<Reference>,
    rows: &[f32],
    dead: &[u32],
) -> (Vec<f64>, Params<Reference>) {
    let d = settings.dims.d;
    let mut coder = Coder::new(&Reference, settings.clone(), params, BATCH);
    let mut adam = Adam::new(&Reference, settings, [0.9, 0.999], 1e-8);
    let steps = rows.chunks(BATCH * d).enumerate().map(|(step, rows)| {
        let x = Reference.upload(rows);
        let batch = Batch { x: &x, target: None, n: BATCH, scale: 1.0, dead, step: step as u64 };
        let report = coder.loss_and_gradients(&Reference, &batch);
        constraint::project(&Reference, settings, &coder.params, &mut coder.gradients);
        let factor = clip::factor(clip::norm(&Reference, &coder.gradients), 1.0);
        adam.update(&Reference, &mut coder.params, &coder.gradients, RATE, factor);
        constraint::restore(&Reference, settings, &mut coder.params);
        report.loss()
    });
    let losses = steps.collect();
    (losses, coder.params)
}

/// Parameters without structure; latents' norms differ, so that ranking by them matters.
fn start_for_both(settings: &CoderSettings) -> PerParam<Vec<f32>> {
    let mut rng = Seed(9).stream("start");
    let shapes = settings.params();
    let made: Result<_, std::convert::Infallible> = PerParam::build(&settings.extra_params(), |i| {
        let (name, shape) = &shapes[i];
        let value = |x: f64| if *name == "threshold" { 0.1 + 0.1 * x.abs() } else { 0.3 * x };
        Ok((0..shape.iter().product()).map(|_| value(rng.normal()) as f32).collect())
    });
    made.unwrap()
}

fn doubles(path: &Path) -> Vec<f64> {
    let bytes = std::fs::read(path).unwrap();
    bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn twenty_steps_are_those_of_saelens() {
    let Some(python) = support::python("SAELens' training steps") else { return };
    let d = 16;
    let mut rng = Seed(8).stream("steps");
    let rows: Vec<f32> = (0..STEPS * BATCH * d).map(|_| rng.normal() as f32).collect();
    let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/train_saelens_steps.py"));
    let mut runs = Vec::new();
    for (i, (coder, class, mut config, coefficients)) in trained_by_both().into_iter().enumerate() {
        let dead: Vec<u32> = serde_json::from_value(coefficients["dead"].clone()).unwrap_or_default();
        let place = folder.path().join(i.to_string());
        std::fs::create_dir(&place).unwrap();
        let settings = serde_json::from_value::<CoderConfig>(coder.clone()).unwrap().settings(d).unwrap();
        config["d_in"] = d.into();
        config["d_sae"] = settings.dims.f.into();
        let start = start_for_both(&settings);
        let theirs = |ours: &'static str| match ours {
            "w_enc" => "W_enc",
            "w_dec" => "W_dec",
            "b_enc" if class.starts_with("Gated") => "b_gate",
            other => other,
        };
        let names: serde_json::Map<_, _> =
            start.names().into_iter().map(|name| (name.to_owned(), theirs(name).into())).collect();
        let spec = serde_json::json!({
            "class": class, "config": config, "coefficients": coefficients, "steps": STEPS, "batch": BATCH,
            "learning_rate": RATE, "params": names,
        });
        std::fs::write(place.join("spec.json"), spec.to_string()).unwrap();
        std::fs::write(place.join("rows"), bytes(&rows)).unwrap();
        for (name, values) in start.names().into_iter().zip(start.each()) {
            std::fs::write(place.join(name), bytes(values)).unwrap();
        }
        command.arg(&place);
        runs.push((coder, settings, start, place, dead));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    for (coder, settings, start, place, dead) in runs {
        let params: Result<_, std::convert::Infallible> =
            PerParam::build(&settings.extra_params(), |i| Ok(Reference.upload(start.each()[i])));
        let (losses, after) = our_steps(&settings, params.unwrap(), &rows, &dead);
        let expected = doubles(&place.join("losses"));
        for (step, (ours, theirs)) in losses.iter().zip(&expected).enumerate() {
            assert!((ours - theirs).abs() <= 1e-5 * theirs.abs(), "{coder}: loss of step {step}: {ours}, not {theirs}");
        }
        assert!(losses[STEPS - 1] < 0.95 * losses[0], "{coder}: nothing was learnt: {losses:?}");
        for (name, values) in after.names().into_iter().zip(after.each()) {
            let expected = doubles(&place.join(format!("{name}.out")));
            let off = values.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(off <= 1e-4, "{coder}: {name} is off by {off}");
        }
    }
}
