//! `harvestd run` from outside: the summary, resume, signals, the HTTP endpoint, isolation of trainers.

mod support;

use std::time::{Duration, Instant};

use support::*;

#[test]
fn a_run_ends_with_a_summary_and_running_it_again_does_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let (corpus, out) = (scratch.path().join("corpus"), scratch.path().join("out"));
    write_corpus(&corpus, 24, 4);
    let pipeline = write_pipeline(&corpus, &out);
    let first = harvestd(&["run", pipeline.to_str().unwrap(), "--json"]);
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let s = summary(&first);
    for key in ["documents", "tokens", "rows", "shards", "bytes", "seconds", "tokens_per_second", "dropped"] {
        assert!(!s[key].is_null(), "{key} is missing: {s}");
    }
    let trainer = &s["trainers"][0];
    assert_eq!(trainer["name"], "one");
    // rows are counted in whole steps: 59 steps of 1,024
    assert_eq!(trainer["rows"], 60_416);
    assert!(trainer["fvu"].as_f64().unwrap() < 0.5, "{trainer}");
    assert!(trainer["l0"].as_f64().unwrap() <= 8.0);
    let evaluation = &trainer["evaluation"];
    let (clean, spliced, zero) = (
        evaluation["language_model"]["ce_clean"].as_f64().unwrap(),
        evaluation["language_model"]["ce_spliced"].as_f64().unwrap(),
        evaluation["language_model"]["ce_zero_ablated"].as_f64().unwrap(),
    );
    assert!(clean < spliced && spliced < zero, "{evaluation}");
    assert!(s["dropped"]["special_token"].as_u64().unwrap() > 0);
    assert!(s["dropped"]["holdout"].as_u64().unwrap() > 0);
    // what went through equals what is stored and what was dropped
    let rows = s["rows"].as_u64().unwrap();
    assert_eq!(rows, s["dataset"]["rows"].as_u64().unwrap());
    let lost: u64 = ["special_token", "excluded_position", "outlier_norm", "non_finite"]
        .iter()
        .map(|reason| s["dropped"][reason].as_u64().unwrap_or(0))
        .sum();
    assert_eq!(rows + lost, s["tokens"].as_u64().unwrap());

    let before = (dataset_bytes(&out), coder_bytes(&out));
    let again = harvestd(&["run", pipeline.to_str().unwrap(), "--json"]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    let s = summary(&again);
    assert_eq!(s["tokens"], 0, "a finished run has nothing left to compute: {s}");
    assert!(before == (dataset_bytes(&out), coder_bytes(&out)), "a finished run was changed");
}

#[test]
fn one_head_is_stored_trained_on_evaluated_and_exported() {
    let scratch = tempfile::tempdir().unwrap();
    let (corpus, out) = (scratch.path().join("corpus"), scratch.path().join("out"));
    write_corpus(&corpus, 24, 4);
    let pipeline = write_pipeline(&corpus, &out);
    let sets = [
        "capture=['blocks.0.attn.hook_z', 'model.layers.0.self_attn.o_proj.input[2]', 'blocks.0.attn.hook_pattern[1]']",
        "trainers.0.input=blocks.0.attn.hook_z[2]",
        "trainers.0.coder.width=64",
    ];
    let sets = sets.map(|set| ["--set", set]).concat();
    let run = || {
        let output = harvestd(&[&["run", pipeline.to_str().unwrap(), "--json"], &sets[..]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        summary(&output)
    };
    let trainer = &run()["trainers"][0];
    assert_eq!(trainer["site"], "blocks.0.attn.hook_z[2]");
    let model = &trainer["evaluation"]["language_model"];
    let (clean, zero) = (model["ce_clean"].as_f64().unwrap(), model["ce_zero_ablated"].as_f64().unwrap());
    assert!(clean != zero && (zero - clean).abs() < 1.0, "one head of one block is not much: {model}");

    let read =
        |path: &str| -> serde_json::Value { serde_json::from_slice(&std::fs::read(out.join(path)).unwrap()).unwrap() };
    let metadata = &read("coder/saelens/cfg.json")["metadata"];
    assert_eq!((&metadata["hook_name"], &metadata["hook_head_index"]), (&"blocks.0.attn.hook_z".into(), &2.into()));
    let header = read("acts/dataset.json");
    let sites: Vec<_> = header["sites"].as_array().unwrap().iter().map(|s| (&s["name"], &s["width"])).collect();
    let names: Vec<_> = sites.iter().map(|(name, _)| name.as_str().unwrap()).collect();
    assert_eq!(names, ["blocks.0.attn.hook_pattern[1]", "blocks.0.attn.hook_z", "blocks.0.attn.hook_z[2]"]);
    assert_eq!(sites[0].1, 128, "a pattern of one head is as wide as the context");
    assert!(header["sites"][2]["definition"].as_str().unwrap().contains("head 2"), "{header}");
    assert!(header["norm_limits"]["blocks.0.attn.hook_z[2]"].as_f64().unwrap() > 0.0);
    assert!(header["norm_limits"]["blocks.0.attn.hook_pattern[1]"].is_null());
    assert_eq!(run()["tokens"], 0, "the checkpoint and the dataset are found again");
}

#[test]
fn a_dataset_of_another_pipeline_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let (corpus, out) = (scratch.path().join("corpus"), scratch.path().join("out"));
    write_corpus(&corpus, 4, 4);
    let pipeline = write_pipeline(&corpus, &out);
    let args = ["run", pipeline.to_str().unwrap(), "--set", "trainers=[]"];
    assert!(harvestd(&args).status.success());
    let other = harvestd(&[&args[..], &["--set", "tokens.context_length=64"]].concat());
    assert_eq!(other.status.code(), Some(78), "{}", String::from_utf8_lossy(&other.stderr));
    assert!(String::from_utf8_lossy(&other.stderr).contains("context_length"));
}

#[test]
fn a_trainer_that_cannot_be_saved_fails_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let (corpus, out) = (scratch.path().join("corpus"), scratch.path().join("out"));
    write_corpus(&corpus, 24, 4);
    let pipeline = write_pipeline(&corpus, &out);
    // the checkpoint folder is a file, so saving fails; the dataset is complete all the same
    std::fs::write(out.join("blocked"), "not a folder").unwrap();
    let place = format!("trainers.0.checkpoint.url={}", out.join("blocked").display());
    let output = harvestd(&["run", pipeline.to_str().unwrap(), "--json", "--set", &place]);
    assert!(!output.status.success());
    let s = summary(&output);
    assert!(s["trainers"][0]["error"].as_str().unwrap().contains("blocked"), "{s}");
    assert_eq!(s["dataset"]["complete"], true, "{s}");
}

#[test]
fn a_trainer_that_never_gets_enough_rows_does_not_spoil_the_rest() {
    let scratch = tempfile::tempdir().unwrap();
    let (corpus, out) = (scratch.path().join("corpus"), scratch.path().join("out"));
    write_corpus(&corpus, 8, 4);
    let pipeline = write_pipeline(&corpus, &out);
    let sets = ["trainers.0.buffer.rows=100k", "trainers.0.batch_rows=50000"].map(|set| ["--set", set]).concat();
    let output = harvestd(&[&["run", pipeline.to_str().unwrap(), "--json"], &sets[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let s = summary(&output);
    assert_eq!((s["trainers"][0]["rows"].as_u64(), s["dataset"]["complete"].as_bool()), (Some(0), Some(true)), "{s}");
    assert!(s["trainers"][0]["exported"].is_null(), "{s}");
}

#[test]
fn no_more_is_computed_than_the_trainers_need() {
    let scratch = tempfile::tempdir().unwrap();
    let (corpus, out) = (scratch.path().join("corpus"), scratch.path().join("out"));
    write_corpus(&corpus, 24, 4);
    let pipeline = write_pipeline(&corpus, &out);
    // 8 steps of 256 rows, from a full buffer of 1,024: 2,816 rows; the queue would hold the whole corpus
    let sets = ["dataset=null", "capture=[]", "trainers.0.rows=2048", "trainers.0.batch_rows=256"];
    let sets = sets.iter().chain(&["trainers.0.buffer={rows: 1024, reuse: 1}"]).flat_map(|set| ["--set", set]);
    let args: Vec<&str> = ["run", pipeline.to_str().unwrap(), "--json"].into_iter().chain(sets).collect();
    let output = harvestd(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let s = summary(&output);
    assert_eq!(s["trainers"][0]["rows"], 2048);
    // and what is left of the last batch
    let rows = s["rows"].as_u64().unwrap();
    assert!((2_816..4_096).contains(&rows), "{rows} rows were computed");
}

#[test]
fn a_checkpoint_continues_only_on_the_stream_that_it_was_made_on() {
    let scratch = tempfile::tempdir().unwrap();
    let (corpus, out) = (scratch.path().join("corpus"), scratch.path().join("out"));
    write_corpus(&corpus, 12, 4);
    let pipeline = write_pipeline(&corpus, &out);
    let args = ["run", pipeline.to_str().unwrap(), "--set", "dataset=null", "--set", "evaluate.tokens=0"];
    assert!(harvestd(&[&args[..], &["--set", "trainers.0.rows=10k"]].concat()).status.success());
    let other = harvestd(&[&args[..], &["--set", "tokens.context_length=64"]].concat());
    assert_eq!(other.status.code(), Some(78), "{}", String::from_utf8_lossy(&other.stderr));
    assert!(String::from_utf8_lossy(&other.stderr).contains("context_length"));
}

/// Wait until `check` holds.
fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn it_answers_over_http_while_it_runs_and_drains_on_sigterm() {
    let scratch = tempfile::tempdir().unwrap();
    let (corpus, out) = (scratch.path().join("corpus"), scratch.path().join("out"));
    write_corpus(&corpus, 400, 8);
    let pipeline = write_pipeline(&corpus, &out);
    let address = format!("127.0.0.1:{}", free_port());
    let listen = format!("admin.listen={address}");
    let log = out.join("log");
    let child = start(&pipeline, &log, &["--json", "--set", &listen, "--set", "trainers.0.rows=100M"]);
    let tokens = || {
        let (_, body) = get(&address, "/metrics").ok()?;
        let line = body.lines().find(|l| l.starts_with("harvestd_forward_tokens_total"))?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    eventually("tokens are counted", || tokens().is_some_and(|n| n > 20_000.0));
    assert_eq!(get(&address, "/livez").unwrap().0, 200);
    let (code, ready) = get(&address, "/readyz").unwrap();
    assert_eq!(code, 200, "{ready}");
    serde_json::from_str::<serde_json::Value>(&ready).unwrap();
    let (code, status) = get(&address, "/v1/status").unwrap();
    assert_eq!(code, 200);
    assert!(status.contains("\"one\""), "{status}");
    let (_, metrics) = get(&address, "/metrics").unwrap();
    for name in ["harvestd_stage_busy_seconds_total", "harvestd_trainer_loss", "harvestd_run_dropped_items_total"] {
        assert!(metrics.contains(name), "{name} is missing:\n{metrics}");
    }
    assert_eq!(get(&address, "/nothing").unwrap().0, 404);

    signal(&child, libc::SIGTERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", std::fs::read_to_string(&log).unwrap());
    let s = summary(&output);
    assert_eq!(s["interrupted"], true);
    let rows = s["trainers"][0]["rows"].as_u64().unwrap();
    assert!(rows > 0 && s["trainers"][0]["checkpoint"].as_str().unwrap().contains("step-"), "{s}");
    // and continues where it stopped
    let child = start(&pipeline, &log, &["--json", "--set", "trainers.0.rows=100M", "--set", "evaluate.tokens=0"]);
    let s = summary(&child.wait_with_output().unwrap());
    assert!(s["trainers"][0]["rows"].as_u64().unwrap() > rows, "{s}");
    assert_eq!(s["dataset"]["complete"], true);
}

/// A coder that is slower than the model has minutes of rows in its queue: it is saved in time all the same.
#[test]
fn a_slow_trainer_is_saved_within_the_grace_period() {
    let scratch = tempfile::tempdir().unwrap();
    let (corpus, out) = (scratch.path().join("corpus"), scratch.path().join("out"));
    write_corpus(&corpus, 400, 8);
    let pipeline = write_pipeline(&corpus, &out);
    let address = format!("127.0.0.1:{}", free_port());
    let listen = format!("admin.listen={address}");
    let coder = r#"trainers.0.coder={"type": "standard", "width": 8192, "l1_coefficient": 0}"#;
    let more = [
        "dataset=null",
        coder,
        "trainers.0.rows=100M",
        "trainers.0.checkpoint.every=1h",
        "trainers.0.buffer.rows=2k",
        "shutdown.grace=6s",
    ];
    let more: Vec<&str> = more.into_iter().chain([listen.as_str()]).flat_map(|set| ["--set", set]).collect();
    let log = out.join("log");
    let child = start(&pipeline, &log, &[&["--json"], &more[..]].concat());
    let tokens = || {
        let (_, body) = get(&address, "/metrics").ok()?;
        let line = body.lines().find(|l| l.starts_with("harvestd_forward_tokens_total"))?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    eventually("rows are queued", || tokens().is_some_and(|n| n > 14_000.0));
    let told = Instant::now();
    signal(&child, libc::SIGTERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", std::fs::read_to_string(&log).unwrap());
    assert!(told.elapsed() < Duration::from_secs(6), "{:?}", told.elapsed());
    let s = summary(&output);
    assert_eq!(s["interrupted"], true, "{s}");
    assert!(s["trainers"][0]["checkpoint"].as_str().unwrap().contains("step-"), "{s}");
    let items = |stage: &str, key: &str| {
        let stages = s["stages"].as_array().unwrap();
        stages.iter().find(|line| line["stage"] == stage).and_then(|line| line[key].as_u64()).unwrap()
    };
    assert!(items("train one", "items_in") < items("fan_out", "items_out"), "it was not slow: {s}");
}

#[test]
fn a_second_signal_stops_at_once() {
    let scratch = tempfile::tempdir().unwrap();
    let (corpus, out) = (scratch.path().join("corpus"), scratch.path().join("out"));
    write_corpus(&corpus, 400, 8);
    let pipeline = write_pipeline(&corpus, &out);
    let log = out.join("log");
    let child = start(&pipeline, &log, &["--log-level", "info"]);
    eventually("shards are committed", || {
        std::fs::read_dir(out.join("acts/commits")).is_ok_and(|commits| commits.count() > 2)
    });
    signal(&child, libc::SIGINT);
    signal(&child, libc::SIGTERM);
    let since = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(since.elapsed() < Duration::from_secs(10));
    assert!(output.status.code() == Some(130) || output.status.code() == Some(0), "{}", output.status);
    let verify = harvestd(&["verify", out.join("acts").to_str().unwrap()]);
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
}

/// A crosscoder of two models: the quickstart's, and the same one with other rotary frequencies.
#[test]
fn a_crosscoder_reads_two_models_at_the_same_tokens() {
    let scratch = tempfile::tempdir().unwrap();
    let (corpus, out, other) =
        (scratch.path().join("corpus"), scratch.path().join("out"), scratch.path().join("other"));
    write_corpus(&corpus, 12, 4);
    let pipeline = write_pipeline(&corpus, &out);
    std::fs::create_dir(&other).unwrap();
    for file in std::fs::read_dir("pipelines/quickstart/model").unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), other.join(file.file_name())).unwrap();
    }
    let config = std::fs::read_to_string(other.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config.as_object_mut().unwrap().remove("rope_parameters");
    config["rope_theta"] = 500.into();
    std::fs::write(other.join("config.json"), config.to_string()).unwrap();
    let second = format!("model.second={}", other.display());
    let capture = r#"capture=["blocks.1.hook_resid_post", "second.blocks.1.hook_resid_post"]"#;
    let target = r#"trainers.0.target={"type": "crosscoder", "with": ["second.blocks.1.hook_resid_post"]}"#;
    let args = ["run", pipeline.to_str().unwrap(), "--json", "--set", "trainers.0.rows=9k", "--set", capture];
    let without = harvestd(&[&args[..], &["--set", target]].concat());
    assert_eq!(without.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&without.stderr).contains("name it in `model.second`"));
    let args = [&args[..], &["--set", &second]].concat();
    let single = r#"trainers.0.input=second.blocks.1.hook_resid_post"#;
    let judged = harvestd(&[&args[..], &["--set", single]].concat());
    assert_eq!(judged.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&judged.stderr).contains("must be a site of the first model"));

    let done = harvestd(&[&args[..], &["--set", target]].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let s = summary(&done);
    let evaluation = &s["trainers"][0]["evaluation"];
    assert!(evaluation["fvu"].as_f64().is_some_and(|fvu| fvu > 0.0 && fvu < 1.0), "{s}");
    assert!(evaluation.to_string().contains("second.blocks.1.hook_resid_post"), "{evaluation}");
    let acts = out.join("acts");
    assert!(harvestd(&["verify", acts.to_str().unwrap()]).status.success());
    let header = std::fs::read_to_string(acts.join("dataset.json")).unwrap();
    assert!(header.contains("of the second model"), "{header}");
    // what was stored trains one too
    let replay = format!(
        "version: 1\nname: again\nreplay: {{url: {}}}\ntrainers:\n  - {{name: two, input: blocks.1.hook_resid_post, target: \
         {{type: crosscoder, with: [second.blocks.1.hook_resid_post]}}, buffer: {{rows: 4096}}, coder: {{type: topk, width: \
         256, k: 8}}, optimizer: {{type: adam, learning_rate: 0.001}}, batch_rows: 512, rows: 4k, checkpoint: {{url: {}}}}}\n",
        acts.display(),
        out.join("again").display()
    );
    std::fs::write(out.join("again.yaml"), replay).unwrap();
    let again = harvestd(&["run", out.join("again.yaml").to_str().unwrap(), "--json"]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    // another second model makes another stream
    let same = format!("model.second={}", "pipelines/quickstart/model");
    let changed = harvestd(&[&args[..], &["--set", target, "--set", &same]].concat());
    assert_eq!(changed.status.code(), Some(78), "{}", String::from_utf8_lossy(&changed.stderr));
}

/// The exported weights below `folder`, by the folder's name.
fn weights(folder: &std::path::Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let weights = files(folder).into_iter().filter(|(name, _)| name.ends_with("saelens/sae_weights.safetensors"));
    weights.map(|(name, bytes)| (name.split('/').next().unwrap().to_owned(), bytes)).collect()
}

#[test]
fn coders_of_a_sweep_are_the_same_bytes_as_alone_interrupted_or_not() {
    let scratch = tempfile::tempdir().unwrap();
    let (corpus, out) = (scratch.path().join("corpus"), scratch.path().join("out"));
    write_corpus(&corpus, 24, 4);
    let pipeline = write_pipeline(&corpus, &out);
    let common = ["run", pipeline.to_str().unwrap(), "--json", "--set", "dataset=null", "--set", "evaluate.tokens=0"];
    let sets = |folder: &str, more: &[&str]| -> Vec<String> {
        let place = format!("trainers.0.checkpoint.url={}", out.join(folder).display());
        let place = [place.as_str(), "trainers.0.coder.width=96"];
        place.iter().chain(more).flat_map(|set| ["--set".to_owned(), (*set).to_owned()]).collect()
    };
    let run = |sets: &[String]| {
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let output = harvestd(&[&common[..], &sets].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        summary(&output)
    };
    let grid = "trainers.0.grid={coder.k: [4, 8], rows: [20k, 40k]}";
    let s = run(&sets("sweep", &[grid]));
    let stages: Vec<&str> = s["stages"].as_array().unwrap().iter().filter_map(|s| s["stage"].as_str()).collect();
    assert!(stages.contains(&"train one-k4-rows20k and 3 more"), "{stages:?}");
    assert_eq!(s["trainers"][2]["rows"], 20_480, "{s}");
    assert_eq!(s["trainers"][3]["rows"], 40_960, "{s}");
    let swept = weights(&out.join("sweep"));
    assert_eq!(swept.len(), 4, "{:?}", swept.keys());

    let name = "trainers.0.name=one-k8-rows40k";
    run(&sets("alone/k8-rows40k", &[name, "trainers.0.coder.k=8", "trainers.0.rows=40k"]));
    assert!(weights(&out.join("alone"))["k8-rows40k"] == swept["k8-rows40k"], "alone it is another coder");

    // killed after a checkpoint, some of them may stand elsewhere than others
    let stopped = sets("stopped", &[grid]);
    let args: Vec<&str> = common[2..].iter().copied().chain(stopped.iter().map(String::as_str)).collect();
    let child = start(&pipeline, &out.join("log"), &args);
    let below = |folder: &std::path::Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    eventually("a checkpoint is written", || {
        let mut steps = below(&out.join("stopped")).flat_map(|trainer| below(&trainer).collect::<Vec<_>>());
        steps.any(|step| step.join("checkpoint.json").is_file())
    });
    signal(&child, libc::SIGKILL);
    child.wait_with_output().unwrap();
    run(&stopped);
    assert!(weights(&out.join("stopped")) == swept, "interrupted, they are other coders");
}

#[test]
fn one_coder_of_a_sweep_that_cannot_be_saved_fails_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let (corpus, out) = (scratch.path().join("corpus"), scratch.path().join("out"));
    write_corpus(&corpus, 24, 4);
    let pipeline = write_pipeline(&corpus, &out);
    std::fs::create_dir_all(out.join("coder")).unwrap();
    std::fs::write(out.join("coder/k4"), "not a folder").unwrap();
    let grid = "trainers.0.grid={coder.k: [4, 8]}";
    let sets = ["--set", grid, "--set", "dataset=null", "--set", "evaluate.tokens=0", "--set", "trainers.0.rows=20k"];
    let output = harvestd(&[&["run", pipeline.to_str().unwrap(), "--json"], &sets[..]].concat());
    assert!(!output.status.success());
    let s = summary(&output);
    assert!(s["trainers"][0]["error"].as_str().unwrap().contains("k4"), "{s}");
    assert!(s["trainers"][1]["error"].is_null() && s["trainers"][1]["rows"] == 20_480, "{s}");
    assert!(out.join("coder/k8/saelens/cfg.json").is_file());
}
