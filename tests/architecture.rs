//! Rules about the source itself: who may import whom, how long things may be, what must be written down.
//!
//! Rules that the linter knows are in `clippy.toml` and the header of `src/lib.rs`. A rule that is in the way is
//! changed here, with its reason, not worked around.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use harvestd::accounting::DropReason;
use harvestd::telemetry::metrics::FAMILIES;

/// Folder (or file at the top of `src/`), and what it may import of this crate. `a::b` allows only that part of `a`.
/// In the order of the layers: nobody imports what stands below.
const IMPORTS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("units", &[]),
    ("accounting", &[]),
    ("telemetry", &["error", "accounting"]),
    ("runtime", &["error", "telemetry"]),
    ("compute", &["error", "runtime::clock", "runtime::worker"]),
    ("store", &["error", "units", "runtime", "telemetry"]),
    ("hub", &["error", "runtime"]),
    ("corpus", &["error", "units", "accounting", "runtime", "store", "telemetry"]),
    ("tokens", &["error", "units", "accounting", "runtime::rng", "corpus"]),
    ("hooks", &["error", "compute"]),
    ("model", &["error", "units", "compute", "hooks", "tokens"]),
    ("roofline", &["error", "runtime::clock", "compute", "hooks", "model"]),
    ("activation", &["error", "accounting", "compute", "hooks", "corpus::cursor", "tokens"]),
    (
        "dataset",
        &[
            "error",
            "units",
            "accounting",
            "activation",
            "compute::cpu::stored",
            "hooks",
            "corpus::cursor",
            "tokens::config",
        ],
    ),
    ("catalog", &["error", "units", "accounting", "dataset", "store", "runtime", "telemetry"]),
    (
        "sink",
        &["error", "units", "accounting", "activation", "hooks", "dataset", "catalog", "store", "runtime", "telemetry"],
    ),
    (
        "replay",
        &[
            "error",
            "units",
            "accounting",
            "activation",
            "hooks",
            "corpus",
            "tokens",
            "dataset",
            "catalog",
            "store",
            "runtime::rng",
        ],
    ),
    ("shuffle", &["error", "units", "accounting", "hooks", "dataset", "catalog", "store", "replay", "runtime"]),
    (
        "import",
        &[
            "error",
            "units",
            "accounting",
            "activation",
            "hooks",
            "corpus::cursor",
            "dataset",
            "catalog",
            "sink",
            "store",
        ],
    ),
    ("sae", &["error", "units", "compute", "runtime::rng"]),
    ("evaluation", &["error", "compute", "runtime::rng", "sae"]),
    (
        "trainer",
        &[
            "error",
            "units",
            "accounting",
            "sae",
            "evaluation",
            "activation",
            "compute",
            "hooks",
            "corpus::cursor",
            "runtime",
            "telemetry",
        ],
    ),
    ("features", &["error", "compute", "sae", "evaluation", "tokens"]),
    ("export", &["error", "dataset", "store", "replay", "features", "tokens"]),
    ("report", &["error", "evaluation", "features", "tokens", "trainer::history"]),
    (
        "config",
        &[
            "error",
            "units",
            "runtime::rng",
            "compute",
            "corpus",
            "tokens",
            "hooks",
            "hub",
            "model",
            "dataset",
            "sink",
            "sae",
            "trainer",
            "store",
            "replay",
        ],
    ),
    (
        "pipeline",
        &[
            "error",
            "units",
            "accounting",
            "runtime",
            "telemetry",
            "compute",
            "corpus",
            "tokens",
            "hooks",
            "hub",
            "model",
            "activation",
            "dataset",
            "store",
            "catalog",
            "sink",
            "replay",
            "sae",
            "evaluation",
            "features",
            "report",
            "trainer",
            "config",
        ],
    ),
    ("admin", &["error", "runtime", "telemetry", "pipeline::status", "pipeline::lens"]),
    ("daemon", &["error", "units", "store::redact", "runtime", "telemetry", "config", "pipeline", "admin"]),
    (
        "cli",
        &[
            "error",
            "units",
            "accounting",
            "runtime",
            "telemetry",
            "compute",
            "corpus",
            "tokens",
            "hooks",
            "hub",
            "model",
            "activation",
            "dataset",
            "store",
            "catalog",
            "sink",
            "replay",
            "sae",
            "evaluation",
            "features",
            "report",
            "trainer",
            "roofline",
            "shuffle",
            "import",
            "export",
            "config",
            "pipeline",
            "admin",
            "daemon",
        ],
    ),
];

/// Foreign crates that only some folders may name.
const FOREIGN: &[(&str, &[&str])] = &[
    (
        "tokio",
        &[
            "runtime", "corpus", "store", "hub", "catalog", "sink", "replay", "shuffle", "import", "pipeline", "admin",
            "daemon", "cli",
        ],
    ),
    ("object_store", &["store", "catalog", "corpus", "sink", "replay", "shuffle", "import"]),
    ("arrow", &["dataset", "corpus", "import", "export"]),
    ("parquet", &["dataset", "corpus", "import", "export"]),
    ("reqwest", &["hub", "admin"]),
    ("hf_hub", &["hub"]),
    ("cudarc", &["compute"]),
    ("libloading", &["compute"]),
    ("gemm", &["compute"]),
    ("saphyr", &["config"]),
    ("axum", &["admin"]),
    ("tokio_rustls", &["admin"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("indicatif", &["cli"]),
    ("comfy_table", &["cli"]),
    ("anyhow", &["cli"]),
];

/// Where `unsafe` may be written: arithmetic.
const UNSAFE: &[&str] = &["compute/"];

/// Files over [`LONG_FILE`] production lines, and why they are not split.
const LONG_FILES: &[(&str, &str)] = &[
    ("compute/cuda/context.rs", "everything that is done with a driver's handles: who made them and who frees them"),
    ("compute/cuda/backend/coder.rs", "the vocabulary on a GPU, in its order"),
    ("compute/reference/coder.rs", "the same in f64, in the same order"),
    ("sae/coder.rs", "one step from top to bottom: the order of the blocks is the point"),
    ("config/document.rs", "one YAML reader with positions"),
    ("telemetry/metrics.rs", "every metric in one file"),
];

/// Functions over [`LONG_FUNCTION`] lines, and why they are not split.
const LONG_FUNCTIONS: &[(&str, &str, &str)] =
    &[("pipeline/build.rs", "run_stages", "the wiring, stage after stage: read top to bottom it is the topology")];

const LONG_FILE: usize = 400;
const FILE_LIMIT: usize = 600;
const LONG_FUNCTION: usize = 90;

/// A source file without its tests and comments.
struct Source {
    /// Path below `src/`.
    path: String,
    /// All lines.
    text: String,
    /// Lines before the tests, comment lines emptied.
    code: Vec<String>,
}

impl Source {
    /// The first folder of the path, or the name of a file at the top.
    fn folder(&self) -> &str {
        self.path.split('/').next().unwrap().trim_end_matches(".rs")
    }

    fn is_tests(&self) -> bool {
        self.path.ends_with("tests.rs") || self.path.contains("/tests/")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        match entry.is_dir() {
            true => found.extend(files_below(&entry)),
            false => found.push(entry),
        }
    }
    found.sort();
    found
}

/// Every file of `src/`; those that hold only tests have no code.
fn sources() -> Vec<Source> {
    let src = root().join("src");
    let rust = files_below(&src).into_iter().filter(|p| p.extension().is_some_and(|e| e == "rs"));
    rust.map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/");
        let production = before_tests(&text);
        let code = production.lines().map(|l| if l.trim_start().starts_with("//") { "" } else { l }.to_owned());
        let mut source = Source { path, code: code.collect(), text };
        if source.is_tests() {
            source.code.clear();
        }
        source
    })
    .collect()
}

/// The text before the first test module.
fn before_tests(text: &str) -> &str {
    const MARK: &str = "#[cfg(test)]\n";
    let is_module = |rest: &str| rest.lines().next().is_some_and(|line| line.contains("mod "));
    let starts = text.match_indices(MARK).map(|(at, _)| at);
    let tests = starts.into_iter().find(|at| is_module(&text[at + MARK.len()..]));
    &text[..tests.unwrap_or(text.len())]
}

/// Names after `prefix` in `line`, as paths of at most two segments; `prefix{a::x, b}` gives each.
fn paths_after<'a>(line: &'a str, prefix: &str) -> Vec<&'a str> {
    let starts = line.match_indices(prefix).filter(|(at, _)| !line[..*at].ends_with(|c: char| c.is_alphanumeric()));
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let path = |text: &'a str| text.split(|c: char| !is_path(c)).next().unwrap_or_default();
    starts
        .flat_map(|(at, _)| {
            let rest = &line[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(list) => list.split(',').map(|item| path(item.trim())).collect(),
                None => vec![path(rest)],
            }
        })
        .filter(|p| !p.is_empty())
        .collect()
}

fn fail_with(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn imports_follow_the_layers() {
    let mut problems = Vec::new();
    for source in sources() {
        let folder = source.folder();
        if ["lib", "main", "testing"].contains(&folder) {
            continue;
        }
        let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == folder) else {
            problems.push(format!("src/{}: `{folder}` is not in the table of imports", source.path));
            continue;
        };
        for (i, line) in source.code.iter().enumerate() {
            if line.contains("crate::{") && !line.contains('}') {
                problems.push(format!("src/{}:{}: write one `use` a folder", source.path, i + 1));
            }
            for import in paths_after(line, "crate::") {
                let is_allowed = |a: &str| import == a || import.starts_with(&format!("{a}::"));
                // failpoints are compiled away; they stand at stage borders
                if import.starts_with("testing::failpoint") {
                    continue;
                }
                if !import.starts_with(folder) && !allowed.iter().any(|a| is_allowed(a)) {
                    problems.push(format!("src/{}:{}: `{folder}` must not import `{import}`", source.path, i + 1));
                }
            }
        }
    }
    fail_with(problems);
}

#[test]
fn the_table_of_imports_has_no_way_back() {
    for (i, (folder, allowed)) in IMPORTS.iter().enumerate() {
        for import in *allowed {
            let target = import.split("::").next().unwrap();
            assert!(
                IMPORTS[..i].iter().any(|(name, _)| *name == target),
                "{folder} may import {import}, which is not before it"
            );
        }
    }
}

#[test]
fn foreign_crates_stay_in_their_folders() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|s| s.folder() != "testing") {
        let has_module =
            |name: &str| source.code.iter().any(|l| l.trim_end_matches(';').ends_with(&format!("mod {name}")));
        for (i, line) in source.code.iter().enumerate() {
            for (name, folders) in FOREIGN.iter().filter(|(name, _)| !has_module(name)) {
                if !paths_after(line, &format!("{name}::")).is_empty() && !folders.contains(&source.folder()) {
                    problems.push(format!("src/{}:{}: only {folders:?} may use `{name}`", source.path, i + 1));
                }
            }
            let is_unsafe = line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl");
            if is_unsafe && !UNSAFE.iter().any(|place| source.path.starts_with(place)) {
                problems.push(format!("src/{}:{}: `unsafe` belongs to {UNSAFE:?}", source.path, i + 1));
            }
            let is_command_line = ["println!(", "eprintln!(", "process::exit("].iter().any(|w| line.contains(w));
            if is_command_line && source.folder() != "cli" {
                problems.push(format!("src/{}:{}: only the command line prints and exits", source.path, i + 1));
            }
        }
    }
    fail_with(problems);
}

#[test]
fn files_have_one_subject() {
    let mut problems = Vec::new();
    for source in sources() {
        let (path, lines) = (&source.path, source.code.len());
        let reason = LONG_FILES.iter().find(|(name, _)| name == path);
        if lines > FILE_LIMIT {
            problems.push(format!("src/{path}: {lines} lines before the tests, {FILE_LIMIT} is the limit: split it"));
        } else if lines > LONG_FILE && reason.is_none() {
            problems
                .push(format!("src/{path}: {lines} lines before the tests: split it, or say why not in LONG_FILES"));
        } else if lines <= LONG_FILE && reason.is_some() {
            problems.push(format!("src/{path}: only {lines} lines: take it out of LONG_FILES"));
        }
    }
    fail_with(problems);
}

/// Relies on rustfmt: a function's closing brace stands in the column of its `fn` line.
#[test]
fn functions_fit_a_screen() {
    let mut problems = Vec::new();
    for source in sources() {
        for (i, line) in source.code.iter().enumerate() {
            let Some(name) = function_name(line) else { continue };
            // a method that a trait only names has no body
            if source.code[i..].iter().find(|l| l.ends_with(['{', ';'])).is_some_and(|l| l.ends_with(';')) {
                continue;
            }
            let closing = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
            let length = source.code[i..].iter().position(|l| *l == closing).map_or(0, |n| n + 1);
            let listed = LONG_FUNCTIONS.iter().any(|(path, function, _)| *path == source.path && *function == name);
            if length > LONG_FUNCTION && !listed {
                let at = i + 1;
                problems
                    .push(format!("src/{}:{at}: `{name}` has {length} lines: split it, or say why not", source.path));
            }
        }
    }
    fail_with(problems);
}

/// The name, if `line` begins a function with a body of several lines.
fn function_name(line: &str) -> Option<&str> {
    let words = line.trim_start();
    let mut rest = words.split("fn ");
    let before = rest.next()?;
    let is_modifier = |w: &str| w.starts_with("pub") || ["async", "unsafe", "const", "in", "super)"].contains(&w);
    let is_function = before.split_whitespace().all(is_modifier) && !words.ends_with(';') && !words.ends_with('}');
    rest.next().filter(|_| is_function)?.split(['(', '<']).next()
}

#[test]
fn every_folder_and_file_says_what_it_owns() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|s| !s.is_tests() && s.path != "main.rs") {
        let comment = source.text.lines().take_while(|l| l.starts_with("//!")).count();
        let folder_comment = source.path.ends_with("mod.rs") && source.path.matches('/').count() == 1;
        let least = if folder_comment { 3 } else { 1 };
        if comment < least {
            problems.push(format!("src/{}: begins with {comment} lines of `//!`, not {least}", source.path));
        }
    }
    fail_with(problems);
}

#[test]
fn every_metric_and_reason_is_in_the_operators_manual() {
    let manual = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let lines: BTreeSet<&str> = manual.lines().collect();
    let mut problems = Vec::new();
    for family in FAMILIES {
        let labels = family.labels.iter().map(|l| format!("`{l}`")).collect::<Vec<_>>().join(", ");
        let row = format!("| `{}` | {labels} | {} |", family.name, family.help).replace("|  |", "| |");
        if !lines.contains(row.as_str()) {
            problems.push(row);
        }
    }
    for reason in DropReason::ALL {
        let start = format!("| `{}` | {} |", reason.as_str(), format!("{:?}", reason.counts()).to_lowercase());
        if !lines.iter().any(|l| l.starts_with(&start)) {
            problems.push(format!("{start} ... |"));
        }
    }
    let known = |name: &str| FAMILIES.iter().any(|f| f.name == name);
    let rows = lines.iter().filter_map(|l| l.strip_prefix("| `harvestd_")?.split('`').next());
    problems
        .extend(rows.filter(|rest| !known(&format!("harvestd_{rest}"))).map(|rest| format!("harvestd_{rest} is gone")));
    assert!(problems.is_empty(), "\ndocs/operations.md lacks:\n{}\n", problems.join("\n"));
}

/// Finished work only.
#[test]
fn nothing_is_left_undone() {
    const WORDS: &[&str] = &["TODO", "FIXME", "XXX:", "todo!(", "unimplemented!(", "#[ignore", "dbg!("];
    let mut problems = Vec::new();
    let folders = ["src", "tests", "docs", "pipelines", "benches", "deploy", ".ci"].map(|f| root().join(f));
    let files = folders.iter().filter(|f| f.is_dir()).flat_map(|f| files_below(f));
    let top = ["README.md", "Cargo.toml", "clippy.toml", "deny.toml"].map(|f| root().join(f));
    for path in files.chain(top).filter(|p| !p.ends_with("tests/architecture.rs")) {
        // files that are not text hold no words
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (i, line) in text.lines().enumerate() {
            let shown = path.strip_prefix(root()).unwrap().display();
            let found = WORDS.iter().filter(|w| line.contains(**w));
            problems.extend(found.map(|w| format!("{shown}:{}: `{w}`", i + 1)));
        }
    }
    fail_with(problems);
}

#[test]
fn the_overview_stays_short() {
    let overview = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    assert!(overview.lines().count() <= 200, "docs/ARCHITECTURE.md is an overview: at most 200 lines");
    for source in sources().iter().filter(|s| s.path.ends_with("mod.rs") && s.path.matches('/').count() == 1) {
        let folder = source.folder();
        assert!(
            overview.contains(&format!("`{folder}`")) || overview.contains(&format!("{folder}/")),
            "{folder} is missing"
        );
    }
}
