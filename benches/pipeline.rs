//! The whole job through the real binary: corpus to committed shards and a trained coder, on the shipped model.
//!
//! `cargo bench --bench pipeline`. Throughput is in tokens through the forward pass; preparation (about half a second)
//! is included, evaluation is not.

use std::process::Command;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Run the quickstart into `out` with more `--set` arguments, and give the tokens it computed.
fn run(out: &std::path::Path, sets: &[&str]) -> u64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harvestd"));
    command.args(["run", "pipelines/quickstart.yaml", "--json", "--log-level", "error"]);
    command.args(["--set", "corpus.paths=[pipelines/quickstart/corpus/moby-dick.jsonl.gz]"]);
    command.args(["--set", "evaluate.tokens=0"]);
    command.arg("--set").arg(format!("dataset.url={}", out.join("acts").display()));
    for set in sets {
        command.args(["--set", set]);
    }
    let output = command.output().expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a summary");
    summary["tokens"].as_u64().expect("tokens")
}

fn whole_pipeline(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    group.sample_size(10).measurement_time(Duration::from_secs(60));
    for (name, with_trainer) in [("store", false), ("store and train", true)] {
        let once = |out: &std::path::Path| {
            let checkpoint = format!("trainers.0.checkpoint.url={}", out.join("coder").display());
            let sets: Vec<&str> = if with_trainer { vec![&checkpoint] } else { vec!["trainers=[]"] };
            run(out, &sets)
        };
        let scratch = tempfile::tempdir().expect("a folder");
        group.throughput(Throughput::Elements(once(scratch.path())));
        group.bench_function(name, |b| {
            b.iter_batched(
                || tempfile::tempdir().expect("a folder"),
                |out| once(out.path()),
                criterion::BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, whole_pipeline);
criterion_main!(benches);
