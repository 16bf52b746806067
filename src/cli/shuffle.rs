//! `harvestd shuffle`: an exact global shuffle of a dataset into another.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{Globals, Outcome, async_runtime, output};
use crate::catalog::columns::View;
use crate::error::Error;
use crate::replay::Source;
use crate::runtime::clock::Stopwatch;
use crate::shuffle::{self, ShuffleOptions, ShuffleProgress, WORKERS_MAX};
use crate::units::ByteSize;

/// Time between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Arguments of `shuffle`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd shuffle out/acts out/acts-shuffled
  harvestd shuffle s3://acts/a s3://acts/a-shuffled --seed 7 --memory 16GiB --workers 8

Every row of SRC, with all its sites, in one random order: a seeded hash of what the row is decides its place. Two passes,
with pieces below DST/scratch that are removed at the end. It may be interrupted and started again, and started on several
machines at once to share the work; the result is the same bytes.")]
pub(crate) struct ShuffleArgs {
    /// The dataset: a local path or URL
    src: String,
    /// Where the shuffled one goes
    dst: String,
    /// Seed of the order
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A site to keep; may be repeated [default: all]
    #[arg(long, value_name = "NAME")]
    site: Vec<String>,
    /// Memory for rows; it decides the number of buckets, and so the result, when a shuffle begins
    #[arg(long, default_value = "4GiB")]
    memory: ByteSize,
    /// Slices and buckets worked on at a time, up to 8 [default: one a core]
    #[arg(long)]
    workers: Option<usize>,
    /// No other process works on this shuffle: for stores with conditional_put: none, whose writes are not exclusive
    #[arg(long)]
    alone: bool,
}

pub(crate) fn execute(args: &ShuffleArgs, globals: &Globals) -> Outcome {
    let stores = globals.stores()?;
    let (from, to) = (stores.open(&args.src)?, stores.open(&args.dst)?);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = args.workers.unwrap_or(cores).clamp(1, WORKERS_MAX);
    let options = ShuffleOptions { seed: args.seed, memory: args.memory.0.max(1), workers, alone: args.alone };
    let watch = Stopwatch::start();
    let progress = Arc::new(ShuffleProgress::default());
    let runtime = async_runtime()?;
    let shown = to.shown.clone();
    let totals = runtime.block_on(async {
        let view = View::open(from).await?;
        let mut names = args.site.clone();
        if names.is_empty() {
            names.extend(view.sites().iter().map(|site| site.site.name.clone()));
        }
        let source = Source::open(&view, &names).await?;
        let reporting = tokio::spawn(report(Arc::clone(&progress)));
        let totals = shuffle::shuffle(source, to, options, &progress).await;
        reporting.abort();
        totals.map_err(|e: Error| e.context(format!("shuffle `{}`", args.src)))
    })?;
    let seconds = watch.elapsed().as_secs_f64();
    if globals.json {
        output::print_json(&json!({"dataset": shown, "totals": totals, "seconds": seconds}));
    } else {
        let size = ByteSize(totals.bytes);
        output::print(&format!("{} rows in {} shards, {size} -> {shown}, {seconds:.1} s", totals.rows, totals.shards));
    }
    Ok(ExitCode::SUCCESS)
}

/// A line now and then.
async fn report(progress: Arc<ShuffleProgress>) {
    loop {
        tokio::time::sleep(PROGRESS_EVERY).await;
        let [scattered, slices, gathered, buckets] =
            [&progress.scattered, &progress.slices, &progress.gathered, &progress.buckets]
                .map(|n| n.load(Ordering::Relaxed));
        tracing::info!(scattered, slices, gathered, buckets, "shuffling");
    }
}
