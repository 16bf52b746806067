//! `harvestd eval`: judge trained coders on what a pipeline holds out.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::chosen::{self, ChosenArgs};
use super::{Globals, Outcome, async_runtime, model_folder, output};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::pipeline::judge::{self, Wanted};
use crate::report::html::{maybe, number, percent};
use crate::report::{self, CoderReport, PairReport, Report};
use crate::store::{Location, Stores, objects};

/// The metrics.
const JSON_FILE: &str = "evaluation.json";
/// The page.
const PAGE_FILE: &str = "report.html";
/// Tokens where neither the command line nor the pipeline says.
const TOKENS: u64 = 65_536;

/// Arguments of `eval`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd eval pipelines/quickstart.yaml --out evaluation
  harvestd eval p.yaml --coder other=exported/resid14 --tokens 100k
  harvestd eval p.yaml --only-given --coder a=coders/a/saelens --coder b=hub/sparsify --site b=blocks.14.hook_resid_post

Coders are the pipeline's trainers that have a checkpoint, and those given with --coder: a trainer's folder, one
checkpoint in it, or a folder of SAELens or sparsify. All are judged on the same held-out documents of the corpus (or
held-out rows of a replay), and every two are compared. What each number means is in docs/evaluation.md.")]
pub(crate) struct EvalArgs {
    /// The pipeline file
    pipeline: PathBuf,
    #[command(flatten)]
    chosen: ChosenArgs,
    /// Tokens (or rows of a replay) to judge on [default: the pipeline's evaluate.tokens]
    #[arg(long, value_name = "N", value_parser = chosen::at_least_one)]
    tokens: Option<crate::units::Count>,
    /// Judge and replace special tokens too, and with them excluded positions and outliers, which training leaves out
    #[arg(long)]
    special_tokens: bool,
    /// Where evaluation.json and report.html go: a folder or URL; what is there is replaced
    #[arg(long, default_value = "evaluation", value_name = "DIR")]
    out: String,
}

pub(crate) fn execute(args: &EvalArgs, globals: &Globals) -> Outcome {
    let loaded = match args.chosen.only_given() {
        true => globals.load_to_judge(&args.pipeline)?,
        false => globals.load(&args.pipeline)?,
    };
    let place = loaded.stores.open(&args.out)?;
    let wanted = wanted(args, &loaded.stores, loaded.pipeline.evaluate_tokens)?;
    let located = match loaded.pipeline.replay() {
        Some(_) => None,
        None => Some(model_folder::fetch_model(&loaded.pipeline.harvest()?.model)?),
    };
    let runtime = async_runtime()?;
    let report = judge::judge(&loaded, located.as_ref(), &wanted, runtime.handle())?;
    if report.coders.iter().all(|coder| coder.evaluation.is_none()) {
        return Err(Error::config("nothing is held out: raise corpus.holdout (or replay.holdout)").into());
    }
    runtime.block_on(write(&place, &report))?;
    if globals.json {
        let value = serde_json::to_value(&report).or_kind(ErrorKind::Internal, || "write the report".to_owned())?;
        output::print_json(&json!({"out": place.shown, "report": value}));
    } else {
        print(&report, &place);
    }
    Ok(ExitCode::SUCCESS)
}

fn wanted(args: &EvalArgs, stores: &Stores, of_pipeline: u64) -> Result<Wanted> {
    let tokens = chosen::tokens(args.tokens, of_pipeline, TOKENS);
    Ok(Wanted { tokens, special_tokens: args.special_tokens, chosen: args.chosen.open(stores)? })
}

async fn write(place: &Location, report: &Report) -> Result<()> {
    let text = serde_json::to_vec_pretty(report).or_kind(ErrorKind::Internal, || "write the report".to_owned())?;
    objects::replace(&place.child(JSON_FILE), text.into()).await?;
    objects::replace(&place.child(PAGE_FILE), report::page(report).into()).await
}

fn print(report: &Report, place: &Location) {
    let header =
        ["coder", "site", "latents", "rows", "L0", "FVU", "cosine", "dead", "CE increase", "CE recovered", "bits"];
    let right = ["latents", "rows", "L0", "FVU", "cosine", "dead", "CE increase", "CE recovered", "bits"];
    output::print(&output::table(&header, &right, report.coders.iter().map(coder_row)).to_string());
    if !report.pairs.is_empty() {
        let header = ["pair", "MMCS to", "MMCS from", "paired cosine", "shared", "correlation to", "correlation from"];
        output::print("");
        output::print(&output::table(&header, &header[1..], report.pairs.iter().map(pair_row)).to_string());
    }
    output::print(&format!("\nwritten to {}: {JSON_FILE}, {PAGE_FILE}", place.shown));
}

fn coder_row(coder: &CoderReport) -> Vec<String> {
    let none = || "-".to_owned();
    let e = coder.evaluation.as_ref();
    let model = e.and_then(|e| e.language_model.as_ref());
    vec![
        coder.name.clone(),
        coder.site.clone(),
        coder.latents.to_string(),
        e.map_or_else(none, |e| e.reconstruction.rows.to_string()),
        maybe(e.map(|e| e.sparsity.l0)),
        maybe(e.map(|e| e.reconstruction.fvu)),
        maybe(e.map(|e| e.reconstruction.cosine)),
        e.map_or_else(none, |e| percent(e.sparsity.dead_fraction)),
        maybe(model.map(|m| m.ce_increase)),
        model.map_or_else(none, |m| percent(m.ce_recovered)),
        maybe(coder.description.as_ref().and_then(|d| d.bits)),
    ]
}

fn pair_row(pair: &PairReport) -> Vec<String> {
    let (m, u) = (pair.matching.as_ref(), pair.universality.as_ref());
    vec![
        format!("{} to {}", pair.first, pair.second),
        maybe(m.map(|m| m.mmcs_first_to_second)),
        maybe(m.map(|m| m.mmcs_second_to_first)),
        maybe(m.map(|m| m.paired_cosine)),
        m.and_then(|m| m.shared).map_or_else(|| "-".to_owned(), percent),
        u.map_or_else(|| "-".to_owned(), |u| number(u.correlation_first_to_second)),
        u.map_or_else(|| "-".to_owned(), |u| number(u.correlation_second_to_first)),
    ]
}
