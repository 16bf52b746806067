//! `harvestd selftest`: the model's fast arithmetic against the f64 reference, on the pipeline's own text, or on a sample.

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::{Failure, Globals, Outcome, async_runtime, model_folder, output};
use crate::config::Loaded;
use crate::config::env;
use crate::corpus::Corpus;
use crate::corpus::cursor::SourceCursor;
use crate::error::{Error, ErrorKind, Result};
use crate::model::config::ModelDtype;
use crate::model::selftest::{SiteError, compare};
use crate::model::{BatchShape, ModelSource};
use crate::pipeline::device;
use crate::runtime::rng::Seed;
use crate::tokens::{Segment, TokenBatch, TokenStream};

/// What is compared where no pipeline names a corpus: prose, code, numbers, other scripts.
const SAMPLE: &str = include_str!("selftest/sample.txt");

/// How far sites may be off.
struct Limits {
    /// At the median token: what `dtype` promises.
    median: f64,
    /// At the worst: where a row nearly cancels, its relative error grows.
    worst: f64,
}

impl Limits {
    fn of(dtype: ModelDtype) -> Self {
        match dtype {
            ModelDtype::Float32 => Self { median: 2e-5, worst: 2e-3 },
            ModelDtype::Bfloat16 => Self { median: 2e-2, worst: 0.5 },
        }
    }

    fn hold(&self, site: &SiteError) -> bool {
        site.median <= self.median && site.worst <= self.worst
    }
}

/// Arguments of `selftest`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd selftest p.yaml                          on the first sequences of the pipeline's corpus
  harvestd selftest models/pythia-160m              on a short text that comes with the program
  harvestd selftest p.yaml --sequences 8 --tokens 128 --json

Loads the model twice and computes the reference slowly, so keep sequences few and short. An error is
|fast - reference| / |reference| of one token's row. Exit code 70 if a site is further off than 2e-5 at its median token or
2e-3 at its worst (bfloat16: 2e-2 and 0.5).")]
pub(crate) struct SelftestArgs {
    /// A pipeline file, or a model as in `model.source`
    #[arg(value_name = "PIPELINE|MODEL")]
    model: String,
    /// Arithmetic to test [default: the pipeline's, or float32]
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// Sequences to compare
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    sequences: u32,
    /// Tokens of each, at most
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=4096))]
    tokens: u32,
}

/// As `model.dtype`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Dtype {
    Float32,
    Bfloat16,
}

impl From<Dtype> for ModelDtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Float32 => Self::Float32,
            Dtype::Bfloat16 => Self::Bfloat16,
        }
    }
}

/// What is compared, and on what.
struct Subject {
    source: ModelSource,
    batches: Vec<TokenBatch>,
    dtype: ModelDtype,
    threads: usize,
    /// The GPU, if it is one.
    gpu: Option<usize>,
}

pub(crate) fn execute(args: &SelftestArgs, globals: &Globals) -> Outcome {
    let is_pipeline = Path::new(&args.model).extension().is_some_and(|e| e == "yaml" || e == "yml");
    let subject = if is_pipeline { of_pipeline(args, globals)? } else { of_model(args)? };
    let Subject { source, batches, dtype, threads, gpu } = subject;
    let dtype = args.dtype.map_or(dtype, ModelDtype::from);
    let tokens = batches.iter().map(TokenBatch::n_tokens).max().unwrap_or(1);
    let shape = BatchShape { max_tokens: tokens, context_length: tokens };
    let format = dtype.matrix_format();
    let errors = match gpu {
        None => compare(Arc::new(env::cpu(threads)?), &source, shape, format, &batches)?,
        Some(ordinal) => compare(device::cuda(ordinal, &source)?.of_model, &source, shape, format, &batches)?,
    };
    let limits = Limits::of(dtype);
    let within = |site: &SiteError| limits.hold(site);
    let passed = errors.iter().all(within);
    if globals.json {
        output::print_json(&json!({
            "passed": passed,
            "median_max": limits.median,
            "worst_max": limits.worst,
            "sites": errors.iter().map(|site| to_json(site, within(site))).collect::<Vec<_>>(),
        }));
    } else {
        output::print(&table(&errors, &limits).to_string());
        let verdict = if passed { "every site is within" } else { "some site is NOT within" };
        output::print(&format!(
            "\n{verdict} {:.0e} (median token) and {:.0e} (worst token)",
            limits.median, limits.worst
        ));
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(ErrorKind::Internal.exit_code()) })
}

fn to_json(site: &SiteError, passed: bool) -> serde_json::Value {
    // an infinite error has no JSON number
    let number = |x: f64| if x.is_finite() { json!(x) } else { json!(x.to_string()) };
    json!({"name": site.name, "median": number(site.median), "worst": number(site.worst), "tokens": site.n_tokens,
        "passed": passed})
}

fn table(errors: &[SiteError], limits: &Limits) -> comfy_table::Table {
    let rows = errors.iter().map(|site| {
        let verdict = if limits.hold(site) { "ok" } else { "OFF" };
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

/// A pipeline's model on its own corpus.
fn of_pipeline(args: &SelftestArgs, globals: &Globals) -> Result<Subject, Failure> {
    let loaded = globals.load(&args.model)?;
    let (source, _) = model_folder::open(&loaded)?;
    // reading goes on with it
    let runtime = async_runtime()?;
    let corpus = runtime.block_on(Corpus::open_in(&loaded.pipeline.harvest()?.corpus, &loaded.stores))?;
    let batches = first_sequences(&loaded, &source, Arc::new(corpus), args)?;
    let model = &loaded.pipeline.harvest()?.model;
    let (dtype, threads) = (model.dtype, model.threads as usize);
    let gpu = device::chosen(&model.device)?;
    Ok(Subject { source, batches, dtype, threads, gpu })
}

/// A model on the sample, or on random tokens if it has no tokenizer.
fn of_model(args: &SelftestArgs) -> Result<Subject> {
    let source = model_folder::fetch(&args.model)?.open()?;
    let spec = source.spec();
    let limit = if spec.has_learned_positions() { spec.max_positions } else { usize::MAX };
    let (n, len) = (args.sequences as usize, (args.tokens as usize).min(limit));
    let ids = match source.tokenizer()? {
        Some(tokenizer) => {
            let ids = tokenizer.encode(SAMPLE)?;
            if ids.is_empty() || !tokenizer.all_in_vocabulary(&ids) {
                return Err(Error::data(format!(
                    "the tokenizer of `{}` gives ids that the model does not have",
                    args.model
                )));
            }
            ids.into_iter().cycle().take(n * len).collect()
        }
        None => {
            let mut rng = Seed(0).stream("selftest");
            (0..n * len).map(|_| rng.below(spec.vocab_size as u64) as u32).collect::<Vec<u32>>()
        }
    };
    let batches = ids.chunks(len).map(one_sequence).collect();
    Ok(Subject { source, batches, dtype: ModelDtype::default(), threads: 0, gpu: None })
}

/// A batch of one sequence.
fn one_sequence(ids: &[u32]) -> TokenBatch {
    let len = ids.len() as u32;
    TokenBatch {
        ids: ids.to_vec(),
        positions: (0..len).collect(),
        doc_ids: vec![0; ids.len()],
        seq_starts: vec![0, len],
        segments: vec![Segment { start: 0, len }],
        ..TokenBatch::default()
    }
}

/// The first sequences of the pipeline's stream, one a batch and cut to `--tokens`.
fn first_sequences(
    loaded: &Loaded,
    source: &ModelSource,
    corpus: Arc<Corpus>,
    args: &SelftestArgs,
) -> Result<Vec<TokenBatch>> {
    let mut tokens = loaded.pipeline.harvest()?.tokens.clone();
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
