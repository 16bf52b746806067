//! The binary as people meet it: exit codes, what goes to which stream, JSON.

use std::path::Path;
use std::process::{Command, Output};

/// Run `harvestd` in the repository's root.
fn harvestd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_harvestd"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the binary runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it exits")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stdout(output)))
}

#[test]
fn help_and_version_are_answers() {
    for arguments in [&["--help"][..], &["--version"], &["validate", "--help"], &["schema", "--help"]] {
        let output = harvestd(arguments);
        assert_eq!(code(&output), 0, "{arguments:?}");
        assert!(output.stderr.is_empty() && !output.stdout.is_empty(), "{arguments:?}");
    }
    assert_eq!(stdout(&harvestd(&["--version"])), format!("harvestd {}\n", env!("CARGO_PKG_VERSION")));
    assert!(stdout(&harvestd(&["--help"])).contains("Exit codes"));
    assert!(stdout(&harvestd(&["validate", "--help"])).contains("Examples:"));
}

#[test]
fn a_wrong_command_line_exits_64() {
    for arguments in [&["harvest"][..], &[], &["validate"], &["validate", "--frobnicate", "x.yaml"]] {
        let output = harvestd(arguments);
        assert_eq!(code(&output), 64, "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    assert!(stderr(&harvestd(&["valdate", "x.yaml"])).contains("validate"));
}

#[test]
fn validate_accepts_the_pipelines_that_ship() {
    let output = harvestd(&["validate", "pipelines"]);
    assert_eq!(code(&output), 0, "{}", stdout(&output));
    assert!(stdout(&output).contains("pipelines/smollm2-mid.yaml: ok"));
}

#[test]
fn validate_exits_78_and_shows_every_problem() {
    let output = harvestd(&["validate", "tests/config/bad/five.yaml", "pipelines/two-trainers.yaml"]);
    assert_eq!(code(&output), 78);
    let text = stdout(&output);
    assert!(text.contains("five.yaml: has problems") && text.contains("two-trainers.yaml: ok"), "{text}");
    assert_eq!(text.matches("tests/config/bad/five.yaml:").count(), 6, "{text}");

    let output = harvestd(&["--json", "validate", "tests/config/bad/five.yaml"]);
    assert_eq!(code(&output), 78);
    let report = json(&output);
    assert_eq!(report[0]["ok"], false);
    assert_eq!(report[0]["problems"].as_array().unwrap().len(), 5);
    assert_eq!(report[0]["problems"][0]["line"], 4);
    assert_eq!(report[0]["problems"][0]["path"], "model.dtyp");

    assert_eq!(code(&harvestd(&["validate", "no/such/pipeline.yaml"])), 78);
    assert_eq!(code(&harvestd(&["validate", "src"])), 78, "a folder without pipelines");
}

#[test]
fn a_misspelt_site_is_found_without_the_model() {
    let validate = |site: &str| {
        let sets = ["model.source=no/such/model".to_owned(), format!("trainers.0.input={site}")];
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        harvestd(&[&["validate", "pipelines/two-trainers.yaml"], &sets[..]].concat())
    };
    let output = validate("blocks.3.attn.hook_z[5]");
    assert_eq!(code(&output), 0, "{}", stdout(&output));
    assert!(stdout(&output).contains("only the form of sites' names was checked"), "{}", stdout(&output));
    let output = validate("model.layers.3.mpl");
    assert_eq!(code(&output), 78);
    assert!(
        stdout(&output).contains("trainers[0].input: model.layers.3.mpl: is not the name of a site"),
        "{}",
        stdout(&output)
    );
    assert!(stdout(&output).contains("did you mean `model.layers.3.mlp`?"), "{}", stdout(&output));
}

#[test]
fn set_is_validated_too() {
    let file = "pipelines/two-trainers.yaml";
    assert_eq!(code(&harvestd(&["validate", file, "--set", "trainers.1.rows=2M", "--set", "seed=3"])), 0);
    let output = harvestd(&["validate", file, "--set", "trainers.1.coder.k=9217"]);
    assert_eq!(code(&output), 78);
    assert!(stdout(&output).contains("--set trainers.1.coder.k=9217: trainers[1].coder.k: 9217: must be at most"));
}

#[test]
fn schema_prints_json_schema_and_the_reference() {
    let schema = json(&harvestd(&["schema"]));
    assert_eq!(schema["title"], "harvestd pipeline");
    assert_eq!(schema["properties"]["seed"]["default"], 0);
    assert!(schema["$defs"]["TrainerConfig"]["properties"]["batch_rows"]["description"].is_string());
    let reference = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pipeline-reference.md"));
    assert_eq!(stdout(&harvestd(&["schema", "--markdown"])), reference.unwrap());
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_harvestd"))
        .arg("schema")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

/// A folder with a corpus of token ids and a pipeline over the tiny llama of the fixtures. The site is trained on.
fn tiny(site: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut corpus = String::new();
    for document in 0..40u32 {
        let ids: Vec<u32> = (0..60).map(|i| (document * 7 + i * 3) % 90 + 2).collect();
        corpus.push_str(&format!("{{\"ids\": {ids:?}}}\n"));
    }
    std::fs::write(folder.path().join("corpus.jsonl"), corpus).unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/llama");
    let pipeline = format!(
        "version: 1\nname: tiny\nmodel: {{source: {model}, threads: 1}}\n\
         corpus: {{type: jsonl, paths: [{corpus}], tokens_field: ids}}\n\
         tokens: {{context_length: 32, prepend_bos: false, separator: none}}\n\
         capture: [blocks.1.hook_mlp_out]\ndataset: {{url: {dataset}}}\n\
         trainers:\n  - name: t\n    input: {site}\n    coder: {{type: topk, width: 64, k: 4}}\n    \
         optimizer: {{type: adam, learning_rate: 1.0e-3, warmup_steps: 1}}\n    batch_rows: 64\n    \
         buffer: {{rows: 512}}\n    rows: 1024\n    checkpoint: {{url: {coder}}}\n",
        model = model.display(),
        corpus = at("corpus.jsonl"),
        dataset = at("acts"),
        coder = at("coder"),
    );
    let file = at("p.yaml");
    std::fs::write(&file, pipeline).unwrap();
    (folder, file)
}

#[test]
fn validate_checks_sites_where_the_model_is_here() {
    let (_folder, file) = tiny("blocks.0.hook_resid_post");
    assert_eq!(code(&harvestd(&["validate", &file])), 0);
    let (_folder, file) = tiny("blocks.0.hook_resid_pots");
    let output = harvestd(&["validate", &file]);
    assert_eq!(code(&output), 78);
    let text = stdout(&output);
    assert!(text.contains("p.yaml:10: trainers[0].input: blocks.0.hook_resid_pots: "), "{text}");
    assert!(text.contains("did you mean `blocks.0.hook_resid_post`?"), "{text}");
}

#[test]
fn plan_shows_sizes_before_anything_runs() {
    let (folder, file) = tiny("blocks.0.hook_resid_post");
    let output = harvestd(&["plan", &file]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    for part in ["blocks.1.hook_mlp_out", "blocks.0.hook_resid_post", "dataset", "memory", "time", "GFLOP/s"] {
        assert!(text.contains(part), "`{part}` in {text}");
    }
    assert!(!folder.path().join("acts").exists() && !folder.path().join("coder").exists(), "nothing is written");

    let plan = json(&harvestd(&["plan", &file, "--json"]));
    // 40 documents of 60 tokens, 1% of which are held out
    let tokens = plan["corpus"]["tokens"].as_f64().unwrap();
    assert!((2300.0..2500.0).contains(&tokens), "{tokens}");
    assert_eq!(plan["trainers"][0]["steps"], 16);
    assert!(plan["time"]["forward_seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn plan_says_what_is_missing() {
    let (_folder, file) = tiny("blocks.0.hook_resid_post");
    let output = harvestd(&["plan", &file, "--json", "--set", "corpus.paths=[no/such/file.jsonl]"]);
    assert_ne!(code(&output), 0);
    assert!(stderr(&output).contains("no/such/file.jsonl"), "{}", stderr(&output));
    assert!(json(&output)["error"]["message"].as_str().unwrap().contains("no/such/file.jsonl"));
    let output = harvestd(&["plan", &file, "--json", "--set", "trainers.0.coder.k=100"]);
    assert_eq!(code(&output), 78);
    assert_eq!(json(&output)["error"]["problems"][0]["path"], "trainers[0].coder.k");
    let output = harvestd(&["plan", &file, "--set", "model.source=no/such/model"]);
    assert_eq!(code(&output), 78);
    assert!(stderr(&output).contains("no/such/model"), "{}", stderr(&output));
}

#[test]
fn selftest_compares_every_site_with_the_reference() {
    let (_folder, file) = tiny("blocks.0.hook_resid_post");
    let output = harvestd(&["selftest", &file, "--tokens", "16", "--json"]);
    assert_eq!(code(&output), 0, "{}{}", stdout(&output), stderr(&output));
    let report = json(&output);
    assert_eq!(report["passed"], true);
    let sites = report["sites"].as_array().unwrap();
    assert!(sites.len() > 20 && sites.iter().any(|s| s["name"] == "logits"), "{}", sites.len());
    assert!(sites.iter().all(|s| s["median"].as_f64().unwrap() <= 2e-5 && s["tokens"].as_u64().unwrap() > 0));
    assert!(stdout(&harvestd(&["selftest", &file, "--tokens", "16"])).contains("every site is within"));
}

#[test]
fn bench_roofline_measures_the_machine_and_what_a_pipeline_reaches_of_it() {
    let (folder, file) = tiny("blocks.0.hook_resid_post");
    let scratch = folder.path().display().to_string();
    let output = harvestd(&["bench", "roofline", &file, "--json", "--folder", &scratch]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let report = json(&output);
    let units = report["machine"]["units"].as_array().unwrap();
    assert!(units.iter().all(|unit| unit["flops"]["all"].as_f64().unwrap() > 0.0), "{units:?}");
    let stages = report["stages"].as_array().unwrap();
    let stage = |name: &str| stages.iter().find(|stage| stage["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    let number = |name: &str, key: &str| stage(name)[key].as_f64().unwrap_or_else(|| panic!("no {key} of {name}"));
    assert!(number("tokenise", "measured") > 0.0 && number("tokenise", "bytes") > 1.0);
    let (reached, share) = (number("forward", "measured"), number("forward", "reached"));
    assert!(reached > 0.0 && (share - reached / number("forward", "ideal")).abs() < 1e-9);
    let parts = number("products with weights", "flops") + number("attention", "flops");
    assert_eq!(parts, number("forward", "flops"));
    assert!(number("encode and store", "bytes") > 0.0);
    let table = stdout(&harvestd(&["bench", "roofline", &file, "--no-sample", "--folder", &scratch]));
    assert!(table.contains("memory copy") && table.contains("products with weights"), "{table}");
    assert_eq!(code(&harvestd(&["bench", "roofline", "--folder", "no/such/folder"])), 69);
}

#[test]
fn bench_step_measures_a_coder_and_refuses_what_is_none() {
    let coder = r#"{"type": "topk", "width": 96, "k": 3}"#;
    let step =
        |coder: &str| harvestd(&["bench", "step", "--json", "--coder", coder, "--input-width=8", "--batch-rows=64"]);
    let output = step(coder);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let report = json(&output);
    assert!(report["rows_per_second"].as_f64().unwrap() > 0.0 && report["steps"] == 10, "{report}");
    assert_eq!(report["l0"], 3.0);
    for (wrong, named) in
        [("topk", "not JSON"), (r#"{"type": "topkk", "width": 96}"#, "topkk"), (&coder.replace('3', "97"), "97")]
    {
        let output = step(wrong);
        assert!(code(&output) == 78 && stderr(&output).contains(named), "{wrong}: {}", stderr(&output));
    }
}

#[test]
fn a_wrong_log_level_exits_64() {
    assert_eq!(code(&harvestd(&["--log-level", "harvestd=loud", "schema"])), 64);
    assert_eq!(code(&harvestd(&["--log-format", "xml", "schema"])), 64);
}

#[test]
fn what_a_run_leaves_can_be_inspected_verified_and_exported() {
    let (folder, file) = tiny("blocks.0.hook_resid_post");
    // nothing is held out, so nobody is judged
    let output = harvestd(&["run", &file, "--json", "--set", "corpus.holdout=0%"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let rows = json(&output)["dataset"]["rows"].as_u64().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();

    let dataset = json(&harvestd(&["inspect", &at("acts"), "--json"]));
    assert_eq!((dataset["rows"].as_u64(), dataset["units_done"].as_u64()), (Some(rows), Some(1)));
    assert_eq!(dataset["sites"][0]["name"], "blocks.1.hook_mlp_out", "the trainer's input is not stored");
    assert_eq!(dataset["sites"].as_array().unwrap().len(), 1);
    assert!(stdout(&harvestd(&["inspect", &at("acts")])).contains("blocks.1.hook_mlp_out"));

    let checkpoint = json(&harvestd(&["inspect", &at("coder"), "--json"]));
    assert_eq!(
        (&checkpoint["point"], &checkpoint["report"]["rows"]),
        (&"blocks.0.hook_resid_post".into(), &1024.into())
    );
    let step = checkpoint["folder"].as_str().unwrap();
    assert!(stdout(&harvestd(&["inspect", step])).contains("1024 of 1024"), "one checkpoint's own folder");

    let exported = at("exported");
    let output = harvestd(&["export", &at("coder"), &exported, "--format", "saelens", "--pipeline", &file]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let coder = json(&harvestd(&["inspect", &exported, "--json"]));
    assert_eq!((&coder["d_in"], &coder["d_sae"], &coder["k"]), (&32.into(), &64.into(), &4.into()));
    assert_eq!(coder["metadata"]["hook_name"], "blocks.0.hook_resid_post");
    assert_eq!(coder["metadata"]["context_size"], 32);
    let bytes = |place: &str| std::fs::read(Path::new(place).join("sae_weights.safetensors")).unwrap();
    assert!(bytes(&exported) == bytes(&at("coder/saelens")), "the run's own export is the same");
    // the same again is fine, another coder is not overwritten
    assert_eq!(code(&harvestd(&["export", step, &exported, "--pipeline", &file])), 0);
    assert_eq!(code(&harvestd(&["export", step, &exported])), 78, "its metadata differ");
}

#[test]
fn verify_finds_damage_and_removes_garbage() {
    let (folder, file) = tiny("blocks.0.hook_resid_post");
    let output = harvestd(&["run", &file, "--set", "trainers=[]", "--set", "corpus.holdout=0%"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let acts = folder.path().join("acts");
    let url = acts.display().to_string();
    let report = json(&harvestd(&["verify", &url, "--json"]));
    assert_eq!((&report["ok"], &report["complete"]), (&true.into(), &true.into()));

    let garbage = acts.join("shards/00000000-00009-dead.parquet");
    std::fs::write(&garbage, "left behind").unwrap();
    assert!(stdout(&harvestd(&["verify", &url])).contains("no commit names"));
    assert_eq!(code(&harvestd(&["verify", &url, "--gc"])), 0);
    assert!(garbage.exists(), "younger than a day");
    assert_eq!(code(&harvestd(&["verify", &url, "--gc", "--older-than", "0s"])), 0);
    assert!(!garbage.exists());

    let mut shards: Vec<_> = std::fs::read_dir(acts.join("shards")).unwrap().map(|e| e.unwrap().path()).collect();
    let shard = shards.pop().unwrap();
    let mut bytes = std::fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    let output = harvestd(&["verify", &url]);
    assert_eq!(code(&output), 65, "{}", stdout(&output));
    assert!(stdout(&output).contains("checksum"), "{}", stdout(&output));
}

#[test]
fn nothing_to_inspect_exits_65() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().display().to_string();
    for verb in ["inspect", "verify"] {
        let output = harvestd(&[verb, &url]);
        assert_eq!(code(&output), 65, "{verb}: {}", stderr(&output));
        assert!(stderr(&output).contains(&url), "{verb}: {}", stderr(&output));
    }
    assert_eq!(code(&harvestd(&["export", &url, &format!("{url}/out")])), 65);
    assert_eq!(code(&harvestd(&["verify", &url, "--older-than", "1d"])), 64, "without --gc it means nothing");
    assert_eq!(code(&harvestd(&["verify", &url, "--gc", "--older-than", "1 fortnight"])), 64);
}
