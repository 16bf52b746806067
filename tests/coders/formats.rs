//! Coders in the formats of other libraries, checked with the libraries: what they load of ours, what we read of theirs, and
//! training that goes on from it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use harvestd::compute::cpu::Cpu;
use harvestd::corpus::cursor::SourceCursor;
use harvestd::hooks::{HookPoint, Site};
use harvestd::runtime::rng::Seed;
use harvestd::sae::codes::Codes;
use harvestd::sae::export::{Architecture, ExportMetadata, ExportedCoder};
use harvestd::sae::formats::{self, Format};
use harvestd::trainer::{Trainer, TrainerSettings};

use crate::{WIDTH, assert_close, floats, rows, support, trained, types};

/// Latents and reconstructions of raw rows.
pub fn computed(coder: &ExportedCoder, rows: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let backend = Cpu::new(1).unwrap();
    let params = coder.upload(&backend);
    let inference = coder.inference(&backend, &params);
    let (mut out, mut codes) = (Vec::new(), Codes::default());
    inference.code(&backend, &coder.scales(), rows, &mut out, &mut codes);
    (codes.dense(coder.dims.f), out)
}

pub fn script(python: &str, name: &str) -> Command {
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name)).env("OMP_NUM_THREADS", "1");
    command
}

pub fn succeed(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn sparsify_and_dictionary_learning_load_exported_coders_and_compute_the_same() {
    let Some(python) = support::python("sparsify and dictionary_learning on exported coders") else { return };
    let (n, folder) = (64, tempfile::tempdir().unwrap());
    let rows = rows(n, "test");
    let rows_path = folder.path().join("rows");
    std::fs::write(&rows_path, bytes(&rows)).unwrap();
    let mut command = script(&python, "load_other_formats.py");
    command.args([&rows_path, Path::new(&n.to_string())]);
    let mut written = Vec::new();
    for (i, (json, normalize, _)) in types().into_iter().enumerate() {
        let trainer = trained(&json, normalize);
        let coder = trainer.exported(ExportMetadata::default()).unwrap();
        for format in [Format::Sparsify, Format::DictionaryLearning] {
            let Some(files) = format.write(&coder).unwrap() else { continue };
            let place = folder.path().join(format!("{i}-{}", format.name()));
            std::fs::create_dir(&place).unwrap();
            for (name, bytes) in files {
                std::fs::write(place.join(name), bytes).unwrap();
            }
            command.args([&place, Path::new(format.name())]);
            written.push((format!("{json} for {}", format.name()), coder.clone(), format, place));
        }
    }
    let of = |format| written.iter().filter(|(_, _, f, _)| *f == format).count();
    assert!(of(Format::Sparsify) >= 2 && of(Format::DictionaryLearning) >= 9, "{}", written.len());
    succeed(command);
    for (what, coder, format, place) in &written {
        let (mut latents, out) = computed(coder, &rows);
        if *format == Format::DictionaryLearning {
            let norms = coder.decoder_norms();
            let longest = norms.iter().copied().fold(0.0, f64::max);
            let equal = norms.iter().all(|norm| longest - norm < 1e-3 * longest);
            // where latents compete by size and rows differ, they stay as they are
            let norms = if matches!(coder.architecture, Architecture::Topk { .. }) && !equal {
                vec![1.0; norms.len()]
            } else {
                norms
            };
            latents.chunks_mut(norms.len()).for_each(|row| {
                row.iter_mut().zip(&norms).for_each(|(value, norm)| *value = (f64::from(*value) * norm) as f32);
            });
        }
        let found = floats(&place.join("out"));
        let (found_latents, found_rows) = found.split_at(latents.len());
        assert_close(found_rows, &out, &format!("{what}: reconstructions"));
        assert_close(found_latents, &latents, &format!("{what}: latents"));
    }
}

#[test]
fn coders_that_saelens_and_sparsify_trained_compute_the_same_and_training_goes_on_from_them() {
    let Some(python) = support::python("coders of SAELens and sparsify") else { return };
    let (n, folder) = (64, tempfile::tempdir().unwrap());
    let rows = rows(n, "test");
    let rows_path = folder.path().join("rows");
    std::fs::write(&rows_path, bytes(&rows)).unwrap();
    let mut command = script(&python, "make_coders.py");
    command.args([&rows_path, Path::new(&n.to_string()), Path::new(&WIDTH.to_string()), folder.path()]);
    succeed(command);
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()) {
        let name = entry.file_name().unwrap().to_string_lossy().into_owned();
        let file = |file: &str| Some((file.to_owned(), std::fs::read(entry.join(file)).ok()?));
        let files: Vec<_> = formats::READ_FILES.iter().filter_map(|name| file(name)).collect();
        let coder = ExportedCoder::read(&files).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (latents, out) = computed(&coder, &rows);
        let found = floats(&entry.join("out"));
        assert!(latents.iter().filter(|x| **x > 0.0).count() > n, "{name}: hardly anything is active");
        let (their_latents, their_rows) = found.split_at(n * coder.dims.f);
        assert_close(&out, their_rows, &format!("{name}: reconstructions"));
        // in training SAELens multiplies latents by decoder norms where the loss does; it saves them so too
        assert_close(&latents, their_latents, &format!("{name}: latents"));
        goes_on(&name, &coder, &out);
        seen.push(name);
    }
    assert!(seen.len() >= 31, "{seen:?}");
}

/// Train on from `coder`: the first loss is that of its reconstruction, and it falls.
fn goes_on(name: &str, coder: &ExportedCoder, expected: &[f32]) {
    let f = coder.dims.f;
    let of = |mut json: serde_json::Value| {
        json["width"] = f.into();
        json
    };
    let json = match name.split('-').next().unwrap() {
        "standard" => of(serde_json::json!({"type": "standard", "l1_coefficient": 0.001})),
        "sparsify" if coder.transcodes => of(serde_json::json!({"type": "topk", "k": 6, "decoder": "free"})),
        "topk" | "sparsify" => of(serde_json::json!({"type": "topk", "k": 6})),
        "batchtopk" => of(serde_json::json!({"type": "batch_topk", "k": 6, "threshold_rate": 1e-6})),
        "matryoshka" => {
            of(serde_json::json!({"type": "matryoshka", "k": 6, "widths": [16, 40], "threshold_rate": 1e-6}))
        }
        "jumprelu" => of(serde_json::json!({"type": "jumprelu", "l0_coefficient": 0.0001})),
        "transcoder" if name.contains("jumprelu") => {
            of(serde_json::json!({"type": "jumprelu", "l0_coefficient": 0.0001, "decoder": "free"}))
        }
        "transcoder" => of(serde_json::json!({"type": "standard", "l1_coefficient": 0.001})),
        _ => of(serde_json::json!({"type": "gated", "l1_coefficient": 0.001})),
    };
    let normalize = match coder.rows.name() {
        "none" => "sqrt_d",
        "layer_norm" => "layer_norm",
        _ => "row_norm",
    };
    let target = match coder.transcodes {
        true => {
            serde_json::json!({"type": "transcoder", "output": "blocks.0.hook_mlp_out", "skip": name.ends_with("skip")})
        }
        false => serde_json::json!({"type": "autoencoder"}),
    };
    let config = serde_json::json!({
        "name": "on", "input": "blocks.0.hook_resid_post", "target": target, "buffer": {"rows": 64}, "normalize": normalize, "coder": json,
        "start_from": "a folder", "optimizer": {"type": "adam", "learning_rate": 1e-9}, "batch_rows": 64, "rows": 64,
        "checkpoint": {"url": "unused"},
    });
    let settings = TrainerSettings {
        config: serde_json::from_value(config).unwrap(),
        sites: vec![(HookPoint::block(0, Site::ResidPost), WIDTH), (HookPoint::block(0, Site::MlpOut), coder.dims.out)],
        seed: Seed(4),
        stream: serde_json::Value::Null,
    };
    let settings = TrainerSettings { sites: settings.sites[..1 + usize::from(coder.transcodes)].to_vec(), ..settings };
    let mut trainer = Trainer::new(Arc::new(Cpu::new(1).unwrap()), settings).unwrap();
    assert_eq!(trainer.wants_coder(), Some("a folder"));
    let fits = trainer.start_from(coder.clone());
    if ["topk-by-value", "batchtopk-by-value", "sparsify-free"].iter().any(|unequal| name.starts_with(unequal)) {
        // ranked by values, and decoder rows of different norms: no coder of ours ranks so
        let message = fits.expect_err(name).to_string();
        assert!(message.contains("decoder rows of norms") || message.contains("norms from"), "{name}: {message}");
        return;
    }
    fits.unwrap_or_else(|e| panic!("{name}: {e}"));
    let rows = rows(64, "test");
    // what a transcoder reconstructs beside what it reads, at another scale
    let beside = |(i, row): (usize, &[f32])| {
        let target = &expected[i * coder.dims.out..][..coder.dims.out];
        row.iter().copied().chain(target.iter().map(|y| 0.9 * y)).collect::<Vec<_>>()
    };
    let given = match coder.transcodes {
        true => rows.chunks(WIDTH).enumerate().flat_map(beside).collect(),
        false => rows.clone(),
    };
    trainer.offer(&given, &vec![0; 64], &SourceCursor::default()).unwrap();
    assert!(trainer.report().step == 1 && trainer.wants_coder().is_none());
    let (mut out, mut l0) = (Vec::new(), Vec::new());
    trainer.reconstruct(&rows, &mut out, &mut l0, &mut vec![0; f]).unwrap();
    let largest = expected.iter().fold(1f32, |a, x| a.max(x.abs()));
    let far = out.iter().zip(expected).filter(|(a, b)| (**a - **b).abs() > 1e-3 * largest).count();
    // one step with next to no rate
    assert!(far <= out.len() / 50, "{name}: {far} of {} values are others", out.len());
}
