//! The binary on a GPU that is the emulator: a whole run beside the CPU's, and what is refused before a run.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::harness::built;
use super::support::{BINARY, summary, write_pipeline};

/// The beginnings of some documents.
fn write_corpus(folder: &Path) {
    let words = "call me ishmael some years ago never mind how long precisely having little money in my purse ";
    let document = |i: usize| serde_json::json!({ "text": words.repeat(4)[i..i + 300] }).to_string();
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("a.jsonl"), (0..12).map(|i| document(i) + "\n").collect::<String>()).unwrap();
}

/// `harvestd run` of the small pipeline in `out`, small enough for the emulator.
fn run(folder: &Path, out: &Path, corpus: &Path, sets: &[&str]) -> Output {
    let pipeline = write_pipeline(corpus, out);
    let mut command = Command::new(BINARY);
    command.args(["run", pipeline.to_str().unwrap(), "--json", "--set", "model.dtype=bfloat16"]);
    let small = [
        "capture=[blocks.0.hook_resid_post]",
        "trainers.0.input=blocks.0.hook_resid_post",
        "trainers.0.rows=512",
        "trainers.0.buffer={rows: 256}",
        "trainers.0.batch_rows=128",
        "trainers.0.coder.width=96",
        "trainers.0.coder.k=4",
        "tokens.context_length=32",
        "tokens.batch_tokens=128",
        "tokens.exclude={positions: [0]}",
        "dataset.rows_per_shard=256",
        "dataset.rows_per_group=128",
        "evaluate.tokens=64",
    ];
    for set in small.iter().chain(sets) {
        command.args(["--set", set]);
    }
    command.env("LD_LIBRARY_PATH", folder).env("HARVESTD_CUDA_LIBRARIES", folder);
    command.env("HARVESTD_KERNEL_CACHE", folder.join("cubins"));
    command.output().unwrap()
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_run_on_a_gpu_is_that_of_the_cpu() {
    let Some(folder) = built() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus);
    let on = |device: &str| {
        let out = scratch.path().join(device);
        let output = run(folder, &out, &corpus, &[&format!("model.device={device}")]);
        assert!(output.status.success(), "{}", error(&output));
        (out, summary(&output))
    };
    let (cpu_out, cpu) = on("cpu");
    let (out, gpu) = on("cuda");
    for key in ["documents", "tokens", "rows", "shards", "dropped"] {
        assert_eq!(gpu[key], cpu[key], "{key}");
    }
    let near = |path: &str, bound: f64| {
        let [a, b] = [&cpu, &gpu].map(|s| s.pointer(path).and_then(Value::as_f64).unwrap());
        assert!((a - b).abs() <= bound * a.abs(), "{path}: {a} on the CPU, {b}");
    };
    near("/trainers/0/loss", 0.05);
    near("/trainers/0/fvu", 0.05);
    assert_eq!(gpu["trainers"][0]["rows"], cpu["trainers"][0]["rows"]);
    // what SAELens reads is there
    assert!(out.join("coder/saelens/cfg.json").is_file() && cpu_out.join("coder/saelens/cfg.json").is_file());
}

#[test]
fn what_a_gpu_does_not_compute_is_refused_before_a_run() {
    let Some(folder) = built() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus);
    let refused = |sets: &[&str], what: &str| {
        let sets = [&["model.device=cuda"], sets].concat();
        let output = run(folder, &scratch.path().join("out"), &corpus, &sets);
        assert_eq!(output.status.code(), Some(78), "{sets:?}: {}", error(&output));
        assert!(error(&output).contains(what), "{sets:?}: {}", error(&output));
    };
    refused(&["model.dtype=float32"], "must be bfloat16 with `device: cuda`");
    refused(&["model.device=cuda:3"], "the driver sees 1 devices");
    refused(&["trainers.0.coder.decoder=ranked"], "is not trained on a GPU: ranking by decoder norms");
    refused(&["trainers.0.optimizer={type: muon, learning_rate: 0.001}"], "is not trained on a GPU: its optimizer");
}
