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
