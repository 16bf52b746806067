//! `harvestd validate`: check pipelines without running them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, Globals, Outcome, async_runtime, model_folder, output};
use crate::catalog::Catalog;
use crate::catalog::columns::View;
use crate::config::{Loaded, Problem, Problems, Severity};
use crate::error::{Error, ErrorKind, Result};
use crate::hub::HubName;
use crate::model::ARCHITECTURES;
use crate::pipeline::header;
use crate::pipeline::locate::Located;
use crate::pipeline::replay;
use crate::tokens::Tokenizer;
use crate::tokens::config::PrependBos;

/// Arguments of `validate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd validate pipelines/                       every .yaml and .yml file of a folder
  harvestd validate p.yaml --set trainers.0.rows=1M
  harvestd validate p.yaml --json | jq '.[].problems'

Where the model is on this machine, whether it has the sites and the memory of trainers are checked too.
Exit code 78 if any pipeline has a problem; notes are no problems.")]
pub(crate) struct ValidateArgs {
    /// Pipeline files, or folders of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

pub(crate) fn execute(args: &ValidateArgs, globals: &Globals) -> Outcome {
    let files = pipeline_files(&args.paths)?;
    let reports: Vec<Report> = files.iter().map(|file| check(file, globals)).collect();
    if globals.json {
        output::print_json(&reports.iter().map(Report::to_json).collect());
    } else {
        reports.iter().for_each(|r| output::print(&r.text()));
    }
    let wrong = reports.iter().any(|r| !r.is_ok());
    Ok(if wrong { ExitCode::from(ErrorKind::Config.exit_code()) } else { ExitCode::SUCCESS })
}

/// What there is to say of one file.
struct Report {
    found: Problems,
}

impl Report {
    fn is_ok(&self) -> bool {
        self.found.problems.iter().all(|p| p.severity == Severity::Note)
    }

    fn text(&self) -> String {
        let verdict = if self.is_ok() { "ok" } else { "has problems" };
        let lines = self.found.problems.iter().map(|p| format!("\n- {}", p.line(&self.found.source)));
        format!("{}: {verdict}{}", self.found.source, lines.collect::<String>())
    }

    fn to_json(&self) -> Value {
        json!({"source": self.found.source, "ok": self.is_ok(), "problems": self.found.to_json()})
    }
}

fn check(file: &Path, globals: &Globals) -> Report {
    let source = file.display().to_string();
    let found: Vec<Problem> = match globals.load(file) {
        Err(problems) => problems.problems,
        Ok(loaded) => loaded.notes.iter().cloned().chain(check_model(&loaded)).collect(),
    };
    Report { found: Problems::new(&source, found) }
}

/// What the model has to say, if it is on this machine. Nothing is downloaded for it.
fn check_model(loaded: &Loaded) -> Vec<Problem> {
    let Ok(harvest) = loaded.pipeline.harvest() else { return check_stored(loaded) };
    let located = match Located::model_here(&harvest.model) {
        Ok(Some(located)) => located,
        Ok(None) => {
            let what = match HubName::is_hub(&harvest.model.source) {
                true => "this model is not in the hub's cache (`harvestd plan` downloads it)",
                false => "this folder is not here",
            };
            let rule = format!(
                "{what}, so only the form of sites' names was checked: whether it has them, its limits and the memory of \
                 trainers were not checked"
            );
            let note = loaded.problem(Severity::Note, "model.source", rule);
            let tables = ARCHITECTURES.map(|architecture| &architecture.paths);
            return std::iter::once(note).chain(loaded.check_names(&tables)).collect();
        }
        Err(e) => return vec![loaded.problem(Severity::Error, "model.source", e.to_string())],
    };
    let opened = model_folder::open_located(loaded, &located);
    match opened.and_then(|(source, _)| Ok(tokens_of(loaded, &model_folder::tokenizer(loaded, &source)?)?)) {
        Ok(notes) => notes,
        Err(Failure::Problems(found)) => found.problems,
        Err(Failure::Error(e)) => vec![loaded.problem(Severity::Error, "model.source", e.to_string())],
    }
}

/// What a stored dataset has to say, if it can be read from here.
fn check_stored(loaded: &Loaded) -> Vec<Problem> {
    let Some(config) = loaded.pipeline.replay() else { return Vec::new() };
    let found = async_runtime().and_then(|runtime| {
        let location = loaded.stores.open(&config.url)?;
        runtime.block_on(async {
            if Catalog::read_header(&location).await?.is_none() {
                return Ok(None);
            }
            let view = View::open(location).await?;
            Ok(Some(replay::open(loaded, &view).await?.1))
        })
    });
    match found {
        Ok(Some(inputs)) => replay::problems(loaded, &inputs).into_iter().collect(),
        Ok(None) => {
            let rule = "there is no dataset here yet: whether it has the sites was not checked";
            vec![loaded.problem(Severity::Note, "replay.url", rule)]
        }
        Err(e) if e.kind().retryable() => {
            let rule = format!("cannot be reached, so whether it has the sites was not checked: {e}");
            vec![loaded.problem(Severity::Note, "replay.url", rule)]
        }
        Err(e) => vec![loaded.problem(Severity::Error, "replay.url", e.to_string())],
    }
}

/// What `auto` means, and where the model's files disagree.
fn tokens_of(loaded: &Loaded, tokenizer: &Tokenizer) -> Result<Vec<Problem>> {
    let (_, special_tokens) = header::decided(loaded, tokenizer)?;
    let auto = loaded.pipeline.harvest()?.tokens.prepend_bos == PrependBos::Auto;
    let decided = auto.then(|| special_tokens.shown());
    let lines = decided.into_iter().chain(tokenizer.warnings().iter().cloned());
    Ok(lines.map(|line| loaded.problem(Severity::Note, "tokens.prepend_bos", line)).collect())
}

/// As [`check_model`], where one problem is too many.
pub(super) fn check_deeply(loaded: &Loaded) -> Result<(), Problems> {
    let found = check_model(loaded);
    match found.iter().any(|problem| problem.severity == Severity::Error) {
        true => Err(Problems::new(&loaded.source.display().to_string(), found)),
        false => Ok(()),
    }
}

/// As [`yaml_files`]; a folder without any is a mistake.
fn pipeline_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    for path in paths.iter().filter(|path| path.is_dir()) {
        if yaml_files(std::slice::from_ref(path))?.is_empty() {
            return Err(Error::config(format!("`{}` holds no .yaml or .yml files", path.display())));
        }
    }
    yaml_files(paths)
}

/// The files that `paths` name: files as they are, and the `.yaml` and `.yml` files of folders, sorted.
pub(super) fn yaml_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(|e| Error::io("list", path, e))?;
        let mut inside = Vec::new();
        for entry in entries {
            inside.push(entry.map_err(|e| Error::io("list", path, e))?.path());
        }
        // a mounted ConfigMap has its files twice: below a hidden folder too, which is not looked into
        inside.retain(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml"));
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
}
