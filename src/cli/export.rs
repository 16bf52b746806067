//! `harvestd export`: a trained coder in another tool's format.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{Globals, Outcome, async_runtime, output};
use crate::catalog::checkpoints;
use crate::catalog::columns::View;
use crate::config::Harvest;
use crate::config::env;
use crate::error::{Error, Result};
use crate::export::{self, CacheOptions, Exported};
use crate::hub::HubName;
use crate::pipeline::coders;
use crate::replay::Source;
use crate::sae::export::{CONFIG_FILE, ExportMetadata, ExportedCoder};
use crate::sae::formats::{self, circuit_tracer, dictionary_learning};
use crate::store::Location;
use crate::store::objects::{self, Created};
use crate::tokens::config::Separator;
use crate::trainer::{Trainer, TrainerSettings};

/// Arguments of `export`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd export out/coders/resid14 --format saelens exported/resid14
  harvestd export s3://acts/coders/resid14 exported/resid14 --pipeline pipelines/smollm2-mid.yaml
  harvestd export others/saelens-folder as-sparsify/resid14 --format sparsify
  harvestd export out/coders/mlp0 out/coders/mlp1 out/coders/mlp2 exported/set --format circuit-tracer
  harvestd export out/acts --format saelens-cache cached/ --site blocks.14.hook_resid_post --context-length 128

The folder loads with sae_lens.SAE.load_from_disk: the input scale is folded into the weights. With --pipeline its
metadata also name the model, the corpus and the context length. What each format can hold is in docs/formats.md.")]
pub(crate) struct ExportArgs {
    /// A trainer's folder (its newest checkpoint is taken) or one checkpoint in it, or a coder's folder of SAELens or
    /// sparsify; for saelens-cache a dataset; for circuit-tracer a cross-layer transcoder, or the transcoders of all layers
    #[arg(required = true, num_args = 1..)]
    checkpoint: Vec<String>,
    /// Where to write: a folder or URL that holds none yet
    dir: String,
    /// The format
    #[arg(long, value_enum, default_value_t = Format::Saelens)]
    format: Format,
    /// The pipeline that trained it
    #[arg(long, value_name = "PIPELINE")]
    pipeline: Option<PathBuf>,
    /// For saelens-cache: the site [default: the only one]
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// For saelens-cache: rows in a context, SAELens' context_size [default: that of the run that stored them]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    context_length: Option<u32>,
}

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// SAELens 6: cfg.json and sae_weights.safetensors
    Saelens,
    /// EleutherAI's sparsify: cfg.json and sae.safetensors; TopK coders only
    Sparsify,
    /// dictionary_learning: config.json, ae.safetensors and the script that makes ae.pt of them
    DictionaryLearning,
    /// circuit-tracer: config.yaml and a file or two a layer; transcoders of all layers, or one across them
    CircuitTracer,
    /// Activations for SAELens' `cached_activations_path`: a Hugging Face datasets folder
    SaelensCache,
}

pub(crate) fn execute(args: &ExportArgs, globals: &Globals) -> Outcome {
    let stores = globals.stores()?;
    let to = stores.open(&args.dir)?;
    let runtime = async_runtime()?;
    let format = match args.format {
        Format::Saelens => formats::Format::Saelens,
        Format::Sparsify => formats::Format::Sparsify,
        Format::DictionaryLearning => formats::Format::DictionaryLearning,
        Format::CircuitTracer => formats::Format::CircuitTracer,
        Format::SaelensCache => {
            let from = stores.open(one(&args.checkpoint)?)?;
            return cache(args, globals, runtime.block_on(write_cache(args, from, &to))?, &to);
        }
    };
    let several = if format == formats::Format::CircuitTracer { &args.checkpoint[..] } else { &[] };
    let mut found = Vec::new();
    for from in if several.is_empty() { std::slice::from_ref(one(&args.checkpoint)?) } else { several } {
        found.push(read(stores.open(from)?, args, globals, &runtime)?);
    }
    let coders: Vec<ExportedCoder> = found.iter().map(|found| found.coder.clone()).collect();
    let files = match (&coders[..], format) {
        (coders, formats::Format::CircuitTracer) => circuit_tracer::write(coders)?,
        (coders, format) => format.write(&coders[0])?,
    };
    let files = files.ok_or_else(|| {
        Error::config(format!("{} cannot hold this coder: docs/formats.md has what it can", format.name()))
    })?;
    runtime.block_on(write(&to, files))?;
    if globals.json {
        output::print_json(&match &found[..] {
            [Found { from, rows: Some(rows), .. }] => {
                json!({"checkpoint": from, "exported": to.shown, "rows": rows})
            }
            [Found { from, .. }] => json!({"coder": from, "exported": to.shown}),
            several => {
                json!({"coders": several.iter().map(|one| &one.from).collect::<Vec<_>>(), "exported": to.shown})
            }
        });
    } else {
        let shown = |found: &Found| match found.rows {
            Some(rows) => format!("{} ({rows} rows)", found.from),
            None => found.from.clone(),
        };
        let from: Vec<String> = found.iter().map(shown).collect();
        output::print(&format!("{} -> {}", from.join(", "), to.shown));
    }
    Ok(ExitCode::SUCCESS)
}

/// The only one of what was named.
fn one(names: &[String]) -> Result<&String> {
    match names {
        [one] => Ok(one),
        _ => Err(Error::config("only --format circuit-tracer takes several coders: name one, and a folder for it")),
    }
}

/// A coder, and where it came from.
struct Found {
    coder: ExportedCoder,
    from: String,
    /// Rows that it was trained on, where it is of a checkpoint.
    rows: Option<u64>,
}

fn read(from: Location, args: &ExportArgs, globals: &Globals, runtime: &Runtime) -> Result<Found> {
    if let Some(coder) = runtime.block_on(coders::find(&from))? {
        return Ok(Found { coder, from: from.shown, rows: None });
    }
    let checkpoint = runtime
        .block_on(checkpoints::at(&from))?
        .ok_or_else(|| Error::data(format!("`{}` holds no complete checkpoint", from.shown)))?;
    let files: Vec<(String, Vec<u8>)> = checkpoint.files.into_iter().map(|(n, b)| (n, b.into())).collect();
    let settings = TrainerSettings::of_checkpoint(&files)?;
    // what `auto` meant in the run that trained it
    let prepend_bos = settings.stream.pointer("/tokens/policy/prepend_bos") == Some(&json!(true));
    let about = match &args.pipeline {
        Some(file) => about(globals.load(file)?.pipeline.harvest()?, prepend_bos),
        None => ExportMetadata::default(),
    };
    let trainer = Trainer::restore(Arc::new(env::cpu(1)?), settings, &files)?;
    Ok(Found { coder: trainer.exported(about)?, from: checkpoint.folder, rows: Some(trainer.report().rows) })
}

/// Write the activations of a dataset as SAELens' cache.
async fn write_cache(args: &ExportArgs, from: Location, to: &Location) -> Result<Exported> {
    let view = View::open(from).await?;
    let name = match (&args.site, view.sites()) {
        (Some(site), _) => site.clone(),
        (None, [one]) => one.site.name.clone(),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|site| site.site.name.as_str()).collect();
            return Err(Error::config(format!(
                "the dataset has several sites: choose one with --site ({})",
                names.join(", ")
            )));
        }
    };
    let stored = view.source(0).header().tokens.pointer("/policy/context_length").and_then(Value::as_u64);
    let context_length = args
        .context_length
        .or(stored.and_then(|n| u32::try_from(n).ok()))
        .ok_or_else(|| Error::config("the dataset does not say how long its contexts were: give --context-length"))?;
    let source = Source::open(&view, &[name]).await?;
    export::write(source, to, CacheOptions { context_length }).await
}

fn cache(args: &ExportArgs, globals: &Globals, exported: Exported, to: &Location) -> Outcome {
    if globals.json {
        output::print_json(&json!({"dataset": args.checkpoint[0], "exported": to.shown, "cache": exported}));
    } else {
        let Exported { contexts, rows, rows_left_over, files } = exported;
        output::print(&format!(
            "{contexts} contexts of {rows} rows in {files} files -> {}; {rows_left_over} rows did not fill a context",
            to.shown
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// What a pipeline says about its coders.
fn about(pipeline: &Harvest, prepend_bos: bool) -> ExportMetadata {
    ExportMetadata {
        model_name: HubName::model_name(&pipeline.model.source),
        dataset_path: pipeline.corpus.paths().join(","),
        context_size: pipeline.tokens.context_length,
        prepend_bos,
        separator: match pipeline.tokens.separator {
            Separator::Eos => Some("eos".to_owned()),
            Separator::Bos => Some("bos".to_owned()),
            Separator::None => None,
        },
        exclude_special_tokens: pipeline.tokens.exclude.special,
        extra: serde_json::Map::new(),
    }
}

/// Write the files, the configuration last: a folder that has one is whole. Another coder that is there stays.
async fn write(folder: &Location, files: Vec<(String, Vec<u8>)>) -> Result<()> {
    let configs = [CONFIG_FILE, dictionary_learning::CONFIG_FILE, circuit_tracer::CONFIG_FILE];
    let is_config = |name: &String| configs.contains(&name.as_str());
    let (last, first): (Vec<_>, Vec<_>) = files.into_iter().partition(|(name, _)| is_config(name));
    for (name, bytes) in first.into_iter().chain(last) {
        if objects::create(&folder.child(&name), bytes.into()).await? != Created::Yes {
            return Err(Error::config(format!("`{}` holds another coder already: give another folder", folder.shown)));
        }
    }
    Ok(())
}
