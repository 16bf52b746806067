//! `harvestd selftest`: the model's fast arithmetic against the f64 reference, on the pipeline's own text.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::{Globals, Outcome, async_runtime, model_folder, output};
use crate::compute::cpu::Cpu;
use crate::config::{self, Loaded};
use crate::corpus::Corpus;
use crate::corpus::cursor::SourceCursor;
use crate::error::{Error, ErrorKind, Result};
use crate::model::selftest::{SiteError, compare};
use crate::model::{BatchShape, ModelSource};
use crate::tokens::{TokenBatch, TokenStream};

/// The error that `dtype: float32` promises to stay below at the median token of every site.
const MEDIAN_MAX: f64 = 2e-5;
/// Single tokens may lie further off: where a row nearly cancels, its relative error grows.
const WORST_MAX: f64 = 2e-3;

/// Arguments of `selftest`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd selftest p.yaml
  harvestd selftest p.yaml --sequences 8 --tokens 128 --json

Loads the model twice and computes the reference slowly, so keep sequences few and short. An error is
|fast - reference| / |reference| of one token's row. Exit code 70 if a site is further off than 2e-5 at its median token or
2e-3 at its worst.")]
pub(crate) struct SelftestArgs {
    /// The pipeline file
    pipeline: PathBuf,
    /// Sequences to compare
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    sequences: u32,
    /// Tokens of each, at most
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=4096))]
    tokens: u32,
}

pub(crate) fn execute(args: &SelftestArgs, globals: &Globals) -> Outcome {
    let loaded = config::load(&args.pipeline, &globals.sets)?;
    let (source, _) = model_folder::open(&loaded)?;
    let runtime = async_runtime()?;
    let batches = runtime
        .block_on(Corpus::open(&loaded.pipeline.corpus))
        .and_then(|corpus| first_sequences(&loaded, &source, Arc::new(corpus), args))?;
    let backend = Arc::new(Cpu::new(loaded.pipeline.model.threads as usize)?);
    let tokens = args.tokens.min(loaded.pipeline.tokens.context_length) as usize;
    let shape = BatchShape { max_tokens: tokens, context_length: tokens };
    let errors = compare(backend, &source, shape, loaded.pipeline.model.dtype.matrix_format(), &batches)?;
    let passed = errors.iter().all(within);
    if globals.json {
        output::print_json(&json!({
            "passed": passed,
            "median_max": MEDIAN_MAX,
            "worst_max": WORST_MAX,
            "sites": errors.iter().map(to_json).collect::<Vec<_>>(),
        }));
    } else {
        output::print(&table(&errors).to_string());
        let verdict = if passed { "every site is within" } else { "some site is NOT within" };
        output::print(&format!("\n{verdict} {MEDIAN_MAX:.0e} (median token) and {WORST_MAX:.0e} (worst token)"));
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(ErrorKind::Internal.exit_code()) })
}

fn within(site: &SiteError) -> bool {
    site.median <= MEDIAN_MAX && site.worst <= WORST_MAX
}

fn to_json(site: &SiteError) -> serde_json::Value {
    // an infinite error has no JSON number
    let number = |x: f64| if x.is_finite() { json!(x) } else { json!(x.to_string()) };
    json!({"name": site.name, "median": number(site.median), "worst": number(site.worst), "tokens": site.n_tokens,
        "passed": within(site)})
}

fn table(errors: &[SiteError]) -> comfy_table::Table {
    let rows = errors.iter().map(|site| {
        let verdict = if within(site) { "ok" } else { "OFF" };
        vec![
            site.name.clone(),
            format!("{:.1e}", site.median),
            format!("{:.1e}", site.worst),
            site.n_tokens.to_string(),
            verdict.to_owned(),
        ]
    });
    output::table(
        &["site", "median error", "worst error", "tokens", ""],
        &["median error", "worst error", "tokens"],
        rows,
    )
}

/// The first sequences of the pipeline's stream, one a batch and cut to `--tokens`.
fn first_sequences(
    loaded: &Loaded,
    source: &ModelSource,
    corpus: Arc<Corpus>,
    args: &SelftestArgs,
) -> Result<Vec<TokenBatch>> {
    let mut tokens = loaded.pipeline.tokens.clone();
    tokens.context_length = tokens.context_length.min(args.tokens);
    tokens.batch_tokens = tokens.context_length;
    let tokenizer = Arc::new(model_folder::tokenizer(loaded, source)?);
    let start = SourceCursor::default();
    let mut stream = TokenStream::new(corpus, tokenizer, &tokens, loaded.pipeline.seed, start, HashMap::new())?;
    let mut batches = Vec::new();
    while batches.len() < args.sequences as usize {
        match stream.next(&mut |_, _, _| true)? {
            Some(batch) if batch.n_tokens() > 0 => batches.push(batch),
            Some(_) => {}
            None => break,
        }
    }
    if batches.is_empty() {
        return Err(Error::data("the corpus gives no tokens to compare on"));
    }
    Ok(batches)
}
