//! Wrong pipelines are refused with every problem at once; overrides and variables obey the file's rules.
//!
//! Each `tests/config/bad/NAME.yaml` has a `NAME.txt` with the lines that must be printed, in order. Run with
//! `UPDATE_EXPECTED=1` to write them, then read what was written.

use std::path::{Path, PathBuf};

use harvestd::config::{self, Severity};
use harvestd::hooks::{HookPoint, ModulePaths, PointShape, Site};
use harvestd::tokens::config::PrependBos;

fn bad_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/bad")
}

/// A pipeline with nothing wrong.
const GOOD: &str = r#"
version: 1
name: good
model: {source: models/m}
corpus: {type: jsonl, paths: ["corpus/*.jsonl"]}
tokens: {context_length: 128}
capture: ["blocks.1.hook_resid_post"]
dataset: {url: out/acts}
trainers:
  - name: one
    input: blocks.0.hook_mlp_out
    coder: {type: topk, width: 64, k: 8}
    optimizer: {type: adam, learning_rate: 1.0e-3}
    batch_rows: 256
    buffer: {rows: 4096}
    rows: 1M
    checkpoint: {url: out/coder}
"#;

/// Load `text` with `sets`.
fn load(text: &str, sets: &[&str]) -> Result<config::Loaded, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.yaml");
    std::fs::write(&file, text).unwrap();
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    config::load(&file, &sets).map_err(|found| found.problems.iter().map(|p| p.line("p.yaml")).collect())
}

/// The only problem of `text` with `sets`.
fn problem(text: &str, sets: &[&str]) -> String {
    let found = load(text, sets).expect_err("it should be refused");
    assert_eq!(found.len(), 1, "{found:#?}");
    found[0].clone()
}

#[test]
fn every_rule_has_its_message() {
    let mut files: Vec<_> = std::fs::read_dir(bad_folder())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 20, "{} files", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let found = match config::load(&file, &[]) {
            Ok(_) => format!("{name} is accepted\n"),
            Err(found) => {
                let lines = found.problems.iter().filter(|p| p.path != "model.device" || p.severity == Severity::Error);
                lines.map(|p| p.line(&name) + "\n").collect()
            }
        };
        let expected_file = file.with_extension("txt");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&expected_file, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_file).unwrap_or_default();
        if found != expected {
            wrong.push(format!("{name}\n--- expected\n{expected}--- found\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn five_problems_are_shown_at_once() {
    let found = config::load(bad_folder().join("five.yaml"), &[]).unwrap_err();
    assert_eq!(found.problems.len(), 5, "{found}");
    assert_eq!(found.to_json().as_array().unwrap().len(), 5);
    let shown = found.to_string();
    assert_eq!(shown.lines().count(), 5);
    assert!(shown.lines().all(|l| l.starts_with("- ")), "{shown}");
}

#[test]
fn defaults_are_filled_in() {
    let pipeline = load(GOOD, &[]).unwrap().pipeline;
    assert_eq!(pipeline.evaluate_tokens, 65_536);
    assert_eq!(pipeline.memory_limit.0, 8 << 30);
    assert_eq!(pipeline.grace.as_secs(), 30);
    assert_eq!(pipeline.admin_listen, None);
    assert_eq!(pipeline.seed.0, 0);
    assert_eq!(pipeline.harvest().unwrap().tokens.prepend_bos, PrependBos::Auto);
}

#[test]
fn set_overrides_and_is_validated() {
    let sets = ["trainers.0.checkpoint.url=s3://b/c", "seed=9", "dataset=null", "evaluate.tokens=1M"];
    let pipeline = load(GOOD, &sets).unwrap().pipeline;
    assert_eq!(pipeline.trainers[0].checkpoint.url, "s3://b/c");
    assert_eq!((pipeline.seed.0, pipeline.dataset, pipeline.evaluate_tokens), (9, None, 1_000_000));
    assert!(load(GOOD, &["trainers=[]"]).unwrap().pipeline.trainers.is_empty());

    assert_eq!(
        problem(GOOD, &["trainers.0.coder.k=65"]),
        "--set trainers.0.coder.k=65: trainers[0].coder.k: 65: must be at most coder.width (64)"
    );
    assert!(problem(GOOD, &["sead=1"]).ends_with("is not a known key; did you mean `seed`?"));
    assert!(problem(GOOD, &["trainers=[]", "dataset=null"]).contains("needs `dataset`"));
}

#[test]
fn variables_are_expanded_for_the_run_and_concealed_for_the_record() {
    // PATH is set wherever cargo runs
    let path = std::env::var("PATH").unwrap();
    let loaded = load(GOOD, &["dataset.url=x/${PATH}", "trainers.0.rows=${HARVESTD_TEST_UNSET:-2M}"]).unwrap();
    assert_eq!(loaded.pipeline.dataset.as_ref().unwrap().url, format!("x/{path}"));
    assert_eq!(loaded.pipeline.trainers[0].rows.0, 2_000_000);
    let published = loaded.published.to_string();
    assert!(!published.contains(&path), "{published}");
    assert_eq!(loaded.published["dataset"]["url"], "x/${PATH}");
    assert_eq!(loaded.published["trainers"][0]["rows"], "${HARVESTD_TEST_UNSET:-2M}");

    // text that came out of a variable is a number where a number is wanted, and text where text is wanted
    let loaded = load(GOOD, &["seed=${HARVESTD_TEST_UNSET:-7}", "name=${HARVESTD_TEST_UNSET:-7}"]).unwrap();
    assert_eq!((loaded.pipeline.seed.0, loaded.pipeline.name.as_str()), (7, "7"));
}

#[test]
fn a_problem_does_not_show_what_a_variable_held() {
    let path = std::env::var("PATH").unwrap();
    for set in ["trainers.0.rows=${PATH}", "tokens.packing=${PATH}", "seed=${PATH}", "admin.listen=${PATH}"] {
        let found = problem(GOOD, &[set]);
        assert!(found.contains("${PATH}") && !found.contains(&path), "{found}");
    }
    assert!(problem(GOOD, &["name=${HARVESTD_TEST_UNSET}"]).contains("`HARVESTD_TEST_UNSET` is not set"));
}

#[test]
fn notes_do_not_stop_a_pipeline() {
    let loaded = load(GOOD, &["corpus.holdout=0%"]).unwrap();
    assert!(loaded.notes.iter().any(|n| n.path == "corpus.holdout" && n.severity == Severity::Note));
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem() {
    let found = config::load("no/such/file.yaml", &[]).unwrap_err();
    assert!(found.to_string().starts_with("- no/such/file.yaml: cannot be read: "), "{found}");
    assert_eq!(harvestd::error::Error::from(found).kind(), harvestd::error::ErrorKind::Config);
}

const PATHS: ModulePaths = ModulePaths { blocks: &[], in_block: &[], outside: &[] };

/// Two blocks of a model that is 64 wide.
fn declared() -> Vec<PointShape> {
    let shape = |point| PointShape { point, width: 64, heads: 1 };
    let block = |l| [Site::ResidPre, Site::MlpOut, Site::ResidPost].map(|site| shape(HookPoint::block(l, site)));
    let mut sites = vec![shape(HookPoint::outside(Site::Embed))];
    sites.extend(block(0).into_iter().chain(block(1)));
    sites
}

#[test]
fn sites_are_resolved_in_the_order_of_the_forward_pass() {
    let loaded = load(GOOD, &["capture=['blocks.*.hook_resid_post', hook_embed, blocks.0.hook_resid_post]"]).unwrap();
    let sites = loaded.sites(&declared(), &PATHS).unwrap();
    let names = |points: &[(HookPoint, usize)]| points.iter().map(|(p, _)| p.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&sites.stored), ["hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]);
    assert_eq!(names(&sites.inputs[0]), ["blocks.0.hook_mlp_out"]);
    assert_eq!(
        names(&sites.captured),
        ["hook_embed", "blocks.0.hook_mlp_out", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    );
}

#[test]
fn without_a_dataset_nothing_is_stored_but_captures_are_still_checked() {
    let loaded = load(GOOD, &["dataset=null"]).unwrap();
    assert!(loaded.sites(&declared(), &PATHS).unwrap().stored.is_empty());
    let loaded = load(GOOD, &["dataset=null", "capture.0=blocks.9.hook_resid_post"]).unwrap();
    assert!(loaded.sites(&declared(), &PATHS).is_err());
}

#[test]
fn unknown_and_ambiguous_sites_are_problems_with_their_line() {
    let sets = ["capture.0=blocks.1.hook_resid_pots", "trainers.0.input=blocks.*.hook_mlp_out"];
    let found = load(GOOD, &sets).unwrap().sites(&declared(), &PATHS).unwrap_err();
    let lines: Vec<_> = found.problems.iter().map(|p| p.line("p")).collect();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].contains("capture[0]") && lines[0].contains("blocks.1.hook_resid_post"), "{}", lines[0]);
    assert!(lines[1].contains("must name one site"), "{}", lines[1]);
    let text = GOOD.replace("blocks.0.hook_mlp_out", "blocks.0.hook_mlp_uot");
    let found = load(&text, &[]).unwrap().sites(&declared(), &PATHS).unwrap_err();
    assert!(found.problems[0].line("p").starts_with("p:11: trainers[0].input: "), "{found}");
}

#[test]
fn buffers_and_coders_must_fit_the_memory_limit() {
    let limit = |memory: &str, rows: &str| {
        let loaded = load(GOOD, &[&format!("limits.memory={memory}"), &format!("trainers.0.buffer.rows={rows}")]);
        loaded.unwrap().sites(&declared(), &PATHS)
    };
    // 64 values of 4 bytes and 17 more a row, 4 copies of 2 * 64 * 64 + 128 parameters, and half a MiB of scratch for 256 rows
    assert!(limit("2MiB", "5000").is_ok());
    let found = limit("2MiB", "6000").unwrap_err();
    assert_eq!(found.problems[0].path, "limits.memory");
    assert!(found.problems[0].rule.contains("one: buffer 1.6MiB, coder "), "{found}");
}
