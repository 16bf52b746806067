//! A coder trained from a dataset is the one that was trained while the dataset was stored.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::*;

/// A run that stores float32 and trains; its folder.
fn stored(scratch: &Path) -> PathBuf {
    let corpus = scratch.join("corpus");
    write_corpus(&corpus, 24, 4);
    let out = scratch.join("online");
    let pipeline = write_pipeline(&corpus, &out);
    let log = out.join("log");
    let status = start(&pipeline, &log, &["--set", "dataset.dtype=float32"]).wait().unwrap();
    assert!(status.success(), "{}", std::fs::read_to_string(&log).unwrap());
    out
}

/// The pipeline that trains the same coder from what `online` stored.
fn write_replay(online: &Path, out: &Path, replay: &str) -> PathBuf {
    let text = format!(
        r#"version: 1
name: again
seed: 3
replay: {{url: "{online}/acts"{replay}}}
trainers:
  - name: one
    input: blocks.1.hook_resid_post
    buffer: {{rows: 8192, reuse: 2}}
    coder: {{type: topk, width: 384, k: 8, dead_after_tokens: 20k}}
    optimizer: {{type: adam, learning_rate: 1.0e-3, warmup_steps: 5}}
    batch_rows: 1024
    rows: 60k
    checkpoint: {{url: "{out}/coder", every: 100ms, keep: 2}}
evaluate: {{tokens: 1024}}
"#,
        online = online.display(),
        out = out.display()
    );
    std::fs::create_dir_all(out).unwrap();
    let path = out.join("pipeline.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

/// Run `pipeline`, killed at random moments, until it ends.
fn run_killed(pipeline: &Path, out: &Path, whole: Duration, seed: &mut u64) -> usize {
    let log = out.join("log");
    let (kills, output) = killed_until_done(whole.mul_f64(0.9), seed, 5, || start(pipeline, &log, &[]));
    assert!(output.status.success(), "{}", std::fs::read_to_string(&log).unwrap());
    kills
}

#[test]
fn a_replayed_coder_is_the_one_trained_online_also_after_kills() {
    let scratch = tempfile::tempdir().unwrap();
    let online = stored(scratch.path());
    let coder = coder_bytes(&online);

    let out = scratch.path().join("replay");
    let pipeline = write_replay(&online, &out, "");
    let watch = Instant::now();
    let output = harvestd(&["run", pipeline.to_str().unwrap(), "--json"]);
    let whole = watch.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary = summary(&output);
    assert!(coder == coder_bytes(&out), "the replayed coder differs from the one trained online");
    assert!(summary["rows"].as_u64().unwrap() > 20_000, "{summary}");
    assert!(summary["trainers"][0]["evaluation"].is_null(), "nothing is held out: {summary}");
    // running it again finds everything done
    assert!(harvestd(&["run", pipeline.to_str().unwrap()]).status.success());
    assert!(coder == coder_bytes(&out));

    let rounds = if std::env::var_os("HARVESTD_LONG_TESTS").is_some() { 20 } else { 3 };
    let (mut seed, mut kills) = (7, 0);
    for round in 0..rounds {
        let out = scratch.path().join(format!("killed-{round}"));
        let pipeline = write_replay(&online, &out, "");
        kills += run_killed(&pipeline, &out, whole, &mut seed);
        assert!(coder == coder_bytes(&out), "round {round}: the coder differs");
    }
    assert!(kills > 0, "nothing was killed");

    let shuffled = ", order: shuffled, epochs: 3, holdout: 20%, shuffle_rows: 3000, open_shards: 4";
    let out = scratch.path().join("shuffled");
    let pipeline = write_replay(&online, &out, shuffled);
    let output = harvestd(&["run", pipeline.to_str().unwrap(), "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary = self::summary(&output);
    let evaluation = &summary["trainers"][0]["evaluation"];
    assert!(evaluation["rows"].as_u64().unwrap() >= 1024 && evaluation["fvu"].as_f64().unwrap() < 1.0, "{summary}");
    assert!(evaluation.get("language_model").is_none());
    assert!(summary["dropped"]["held_out_row"].as_u64().unwrap() > 0, "{summary}");
    let reference = coder_bytes(&out);
    assert!(reference != coder);
    let out = scratch.path().join("shuffled-killed");
    let pipeline = write_replay(&online, &out, shuffled);
    run_killed(&pipeline, &out, whole, &mut seed);
    assert!(reference == coder_bytes(&out), "the shuffled coder differs after kills");
}

#[test]
fn wrong_replays_are_refused_with_what_is_there() {
    let scratch = tempfile::tempdir().unwrap();
    let online = stored(scratch.path());
    let out = scratch.path().join("replay");
    let pipeline = write_replay(&online, &out, "");
    let pipeline = pipeline.to_str().unwrap();
    let run = |verb: &str, sets: &[&str]| {
        let mut args = vec![verb, pipeline];
        sets.iter().for_each(|set| args.extend(["--set", set]));
        let output = harvestd(&args);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), text)
    };
    assert_eq!(run("validate", &[]).0, 0);
    let (code, plan) = run("plan", &[]);
    assert!(code == 0 && plan.contains("rows in"), "{plan}");
    let (code, text) = run("validate", &["trainers.0.input=blocks.1.hook_mlp_out"]);
    assert!(code == 78 && text.contains("it has blocks.1.hook_resid_post, blocks.2.hook_mlp_out"), "{text}");
    let (code, text) = run("run", &["trainers.0.input=blocks.1.hook_mlp_out"]);
    assert!(code == 78 && text.contains("has no site `blocks.1.hook_mlp_out`"), "{text}");
    let (code, text) = run("validate", &["limits.memory=1MiB"]);
    assert!(code == 78 && text.contains("the trainers need"), "{text}");
    let (code, text) = run("validate", &["replay.url=/nowhere/acts"]);
    assert!(code == 0 && text.contains("there is no dataset here yet"), "{text}");
    assert_eq!(run("run", &["replay.url=/nowhere/acts"]).0, 65);
    let (code, text) = run("selftest", &[]);
    assert!(code == 78 && text.contains("it has no model and no corpus"), "{text}");

    // a checkpoint goes on only with the rows and the order that it was made with
    assert_eq!(run("run", &["trainers.0.rows=20k"]).0, 0);
    let (code, text) = run("run", &["replay.epochs=2"]);
    assert!(code == 78 && text.contains("stream"), "{text}");
}
