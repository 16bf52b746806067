//! `harvestd plan`: what a run would read, compute, keep and write, before the first forward pass.

mod cost;
mod estimate;
mod memory;
mod rate;
mod replay;
mod stored;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::{Globals, Outcome, async_runtime, model_folder, output};
use crate::compute::cpu::Arithmetic;
use crate::config::env;
use crate::config::{Loaded, Sites};
use crate::corpus::Corpus;
use crate::error::{Error, ErrorKind, ResultExt};
use crate::model::config::{ModelConfig, ModelDtype};
use crate::model::{self, ModelSource};
use crate::pipeline::header;
use crate::store::prices::Usage;
use crate::tokens::estimate::{Estimate, estimate};
use crate::units::{ByteSize, Count};
use cost::CostPlan;
use estimate::{Facts, Plan, ReusePlan};
use stored::{PartPlan, Stored};

/// Longest look at the dataset that may be there.
const LOOK_AT_MOST: Duration = Duration::from_secs(20);

/// Arguments of `plan`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd plan p.yaml
  harvestd plan p.yaml --set tokens.context_length=256 --json | jq .time

Rows, tokens and bytes are estimated from a few hundred documents spread over the corpus, time from the speed of matrix
products measured for a second. Nothing is written, but a model on a hub is downloaded.")]
pub(crate) struct PlanArgs {
    /// The pipeline file
    pipeline: PathBuf,
}

pub(crate) fn execute(args: &PlanArgs, globals: &Globals) -> Outcome {
    let loaded = globals.load(&args.pipeline)?;
    if let Some(replay) = loaded.pipeline.replay() {
        return replay::execute(&loaded, replay, globals);
    }
    let (source, sites) = model_folder::open(&loaded)?;
    let tokenizer = model_folder::tokenizer(&loaded, &source)?;
    let (loaded, special_tokens) = header::decided(&loaded, &tokenizer)?;
    let pipeline = &loaded.pipeline;
    let harvest = pipeline.harvest()?;
    let runtime = async_runtime()?;
    let corpus = Arc::new(runtime.block_on(Corpus::open_in(&harvest.corpus, &loaded.stores))?);
    let estimate: Estimate = estimate(&corpus, &tokenizer)?;
    let backend = env::cpu(harvest.model.threads as usize)?;
    let spec = source.spec();
    let batch_tokens = harvest.tokens.batch_sequences() * harvest.tokens.context_length as usize;
    let rates = rate::measure(&backend, batch_tokens.min(rate::ROWS_MAX), spec.d_model, spec.d_mlp);
    let (stored, trouble) = runtime.block_on(stored_dataset(&loaded, &sites, &source))?;
    let mut plan = estimate::plan(&Facts {
        pipeline,
        harvest,
        sites: &sites,
        spec,
        second: source.second().map(ModelSource::spec),
        weights: model::weight_count(&source)?,
        tokenizer_bytes: match harvest.corpus.pre_tokenised() {
            true => 0,
            false => source.tokenizer_bytes(),
        },
        files: corpus.files().len(),
        units: corpus.n_units(),
        bytes: corpus.bytes(),
        estimate: &estimate,
        special_tokens,
        rates,
        arithmetic: backend.arithmetic(),
        stored: stored.as_ref(),
    })?;
    plan.warnings.extend(trouble);
    plan.warnings.extend(tokenizer.warnings().iter().cloned());
    if globals.json {
        let value = serde_json::to_value(&plan).or_kind(ErrorKind::Internal, || "write the plan as JSON".to_owned())?;
        output::print_json(&value);
    } else {
        print(&plan, &harvest.model);
        loaded.notes.iter().for_each(|note| output::print(&note.line(&loaded.source.display().to_string())));
    }
    Ok(ExitCode::SUCCESS)
}

/// The dataset that is there already, if there is one; a warning if that cannot be seen.
async fn stored_dataset(
    loaded: &Loaded,
    sites: &Sites,
    source: &ModelSource,
) -> Result<(Option<Stored>, Option<String>), Error> {
    let Some(config) = &loaded.pipeline.dataset else { return Ok((None, None)) };
    let location = loaded.stores.open(&config.url)?;
    let context = loaded.pipeline.harvest()?.tokens.context_length as usize;
    let looked = tokio::time::timeout(LOOK_AT_MOST, stored::look(&location, config, sites, source, context)).await;
    let trouble =
        |why: String| format!("cannot see whether there is a dataset, so this is the plan of a new one: {why}");
    Ok(match looked {
        Ok(Ok(found)) => (found, None),
        Ok(Err(error)) => (None, Some(trouble(error.to_string()))),
        Err(_) => (None, Some(trouble(format!("`{}` does not answer", location.shown)))),
    })
}

fn print(plan: &Plan, model: &ModelConfig) {
    let (corpus, forward, memory, time) = (&plan.corpus, &plan.forward, &plan.memory, &plan.time);
    let line = |label: &str, text: String| output::print(&format!("{label:<9} {text}"));
    line("pipeline", plan.pipeline.clone());
    line("model", format!("{}, {} parameters", model.source, count(plan.parameters)));
    line(
        "corpus",
        format!(
            "{} files, {}, {} units; about {} documents, {} tokens; {:.1}% held out",
            corpus.files,
            ByteSize(corpus.bytes),
            corpus.units,
            count(corpus.documents),
            count(corpus.tokens),
            corpus.holdout * 100.0
        ),
    );
    line(
        "forward",
        format!(
            "about {} tokens up to {}, {:.1} MFLOP each; {} rows kept",
            count(forward.tokens),
            forward.last_site,
            forward.flops_per_token / 1e6,
            count(forward.rows)
        ),
    );
    line("tokens", plan.special_tokens.shown());
    output::print(&format!("\n{}\n", site_table(plan)));
    if let Some(dataset) = &plan.dataset {
        line(
            "dataset",
            format!(
                "{}: about {} rows, {} in {} shards, {} write requests",
                dataset.url,
                count(dataset.rows),
                bytes(dataset.bytes),
                count(dataset.shards),
                count(dataset.put_requests)
            ),
        );
        for part in dataset.parts.iter().filter(|part| part.exists || part.column_group.is_some()) {
            line("", part_text(part, corpus.units));
        }
    }
    if !plan.trainers.is_empty() {
        output::print(&format!("\n{}\n", trainer_table(plan)));
    }
    line(
        "memory",
        format!(
            "peak about {}: process {}, model {}, workspace {}, trainers {}; running: batches {}, dataset {}, checkpoints \
             {}; or evaluating: {}; queues at most {}",
            bytes(memory.peak),
            bytes(memory.process),
            bytes(memory.model),
            bytes(memory.workspace),
            bytes(memory.trainers),
            bytes(memory.batches),
            bytes(memory.dataset),
            bytes(memory.checkpoints),
            bytes(memory.evaluation),
            bytes(memory.queues_at_most)
        ),
    );
    line("computes", arithmetic_text(&plan.arithmetic, model.dtype, !plan.trainers.is_empty()));
    line(
        "time",
        format!(
            "about {}: forward {}, trainers {} (at {:.0} GFLOP/s and {:.1} GB/s, measured now)",
            duration(time.forward_seconds + time.trainer_seconds),
            duration(time.forward_seconds),
            duration(time.trainer_seconds),
            time.rates.flops_per_second / 1e9,
            time.rates.bytes_per_second / 1e9
        ),
    );
    if !plan.reuse.is_empty() {
        line("reuse", plan.reuse.iter().map(reuse_text).collect::<Vec<_>>().join("; "));
    }
    if plan.cost.requests != Usage::default() {
        line("cost", cost_text(&plan.cost));
    }
    plan.warnings.iter().for_each(|w| line("warning", w.clone()));
}

/// `with avx2, the widest that this processor has; float32 products f32, 8 at a time`.
fn arithmetic_text(arithmetic: &Arithmetic, dtype: ModelDtype, trains: bool) -> String {
    let Arithmetic { instructions, because, float32, bfloat16, screen } = arithmetic;
    let products = match dtype {
        ModelDtype::Float32 => format!("float32: {float32}"),
        ModelDtype::Bfloat16 => format!("bfloat16: {bfloat16}"),
    };
    let selections = if trains { format!("; selections screened {screen}") } else { String::new() };
    format!("with {instructions}, {because}; {products}{selections}")
}

/// `2: 1M rows, forward 6min 10s`.
fn reuse_text(plan: &ReusePlan) -> String {
    let ReusePlan { reuse, rows, forward_seconds, corpus_is_enough } = plan;
    let short = if *corpus_is_enough { "" } else { " (more than the corpus has)" };
    format!("{reuse}: {} rows{short}, forward {}", count(*rows), duration(*forward_seconds))
}

/// `column group x (sites): 26 shards are there, 9 of 9 units done; about 0 rows, 0B in 0 shards are added`.
fn part_text(part: &PartPlan, units: u32) -> String {
    let name = part.column_group.as_ref().map_or("itself".to_owned(), |group| format!("column group {group}"));
    let there = match part.exists {
        true => format!("{} shards are there, {} of {units} units done", part.stored_shards, part.units_done),
        false => "new".to_owned(),
    };
    let (rows, shards) = (count(part.rows), count(part.shards));
    let added = format!("about {rows} rows, {} in {shards} shards are added", bytes(part.bytes));
    format!("{name} ({}): {there}; {added}", part.sites.join(", "))
}

fn cost_text(cost: &CostPlan) -> String {
    let asked = format!(
        "about {} write, {} read and {} list requests; {} kept",
        count(cost.requests.write),
        count(cost.requests.read),
        count(cost.requests.list),
        bytes(cost.kept_bytes)
    );
    let (Some(run), Some(month), Some(currency)) = (cost.run, cost.month, &cost.currency) else {
        return format!("{asked} (no `prices:` to say what that costs)");
    };
    let source = cost.source.as_ref().map_or_else(String::new, |source| format!(" ({source})"));
    format!("{asked}: {run:.2} {currency} for the run, {month:.2} {currency} a month to keep it{source}")
}

fn site_table(plan: &Plan) -> comfy_table::Table {
    let header = ["site", "width", "stored bytes/token", "stored in all", "trainers"];
    let rows = plan.sites.iter().map(|site| {
        let stored = site.stored_bytes_per_token > 0.0;
        vec![
            site.name.clone(),
            site.width.to_string(),
            if stored { format!("{:.0}", site.stored_bytes_per_token) } else { "-".to_owned() },
            if stored { bytes(site.stored_bytes) } else { "-".to_owned() },
            site.trainers.join(", "),
        ]
    });
    output::table(&header, &["width", "stored bytes/token", "stored in all"], rows)
}

fn trainer_table(plan: &Plan) -> comfy_table::Table {
    let header = ["trainer", "input", "rows", "steps", "buffer", "coder", "checkpoints", "time"];
    let rows = plan.trainers.iter().map(|t| {
        vec![
            t.name.clone(),
            t.input.clone(),
            count(t.rows as f64),
            t.steps.to_string(),
            t.shares_buffer_of.as_ref().map_or_else(|| ByteSize(t.buffer_bytes).to_string(), |of| format!("{of}'s")),
            ByteSize(t.coder_bytes).to_string(),
            bytes(t.checkpoint_bytes),
            duration(t.seconds),
        ]
    });
    output::table(&header, &["rows", "steps", "buffer", "coder", "checkpoints", "time"], rows)
}

fn count(n: f64) -> String {
    Count(n.max(0.0).round() as u64).to_string()
}

fn bytes(n: f64) -> String {
    ByteSize(n.max(0.0).round() as u64).to_string()
}

/// `3d 4h`, `2h 5min`, `40min`, `12s`: two figures at most.
fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    let parts = |big: u64, big_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit} {small}{small_unit}"),
    };
    match s {
        0..60 => format!("{s}s"),
        60..3600 => parts(s / 60, "min", if s < 600 { s % 60 } else { 0 }, "s"),
        3600..86_400 => parts(s / 3600, "h", s % 3600 / 60, "min"),
        _ => parts(s / 86_400, "d", s % 86_400 / 3600, "h"),
    }
}

#[cfg(test)]
mod tests;
