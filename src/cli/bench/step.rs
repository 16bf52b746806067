//! `harvestd bench step`: rows a second that a coder is trained on, from rows that are in memory.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::{Globals, Outcome, output};
use crate::config::env;
use crate::corpus::cursor::SourceCursor;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::hooks::{HookPoint, Site};
use crate::runtime::clock::Stopwatch;
use crate::runtime::rng::Seed;
use crate::trainer::config::TrainerConfig;
use crate::trainer::{StepReport, Trainer, TrainerSettings};

/// Batches of rows that take turns.
const BATCHES: usize = 4;

/// Arguments of `bench step`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd bench step                                                        TopK, 576 to 4608, k 32, batches of 4096
  harvestd bench step --coder '{\"type\": \"gated\", \"width\": 16384, \"l1_coefficient\": 4}' --input-width 768
  harvestd bench step --threads 1 --steps 20 --json

A step is all of it: the batch drawn from a buffer, forward and backward pass, clipping, Adam, unit rows. Rows are random
(normal), so a coder that is dense at first stays so; nothing is read or written.")]
pub(crate) struct StepArgs {
    /// A trainer's `coder:` section, as JSON
    #[arg(long, default_value = r#"{"type": "topk", "width": 4608, "k": 32}"#, value_name = "JSON")]
    coder: String,
    /// Width of the rows
    #[arg(long, default_value_t = 576, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    input_width: u32,
    /// Rows of a step
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(2..=1_048_576))]
    batch_rows: u32,
    /// Steps that are measured, after one that warms up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: u32,
    /// Compute threads; 0: one for each core
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1024))]
    threads: u32,
}

pub(crate) fn execute(args: &StepArgs, globals: &Globals) -> Outcome {
    let cpu = Arc::new(env::cpu(args.threads as usize)?);
    let (threads, isa) = (cpu.threads(), cpu.isa());
    let mut trainer = Trainer::new(cpu, settings(args)?)?;
    let mut seconds = measure(&mut trainer, args)?;
    let StepReport { l0, loss, .. } = trainer.report();
    seconds.sort_by(f64::total_cmp);
    let (best, median) = (seconds[0], seconds[seconds.len() / 2]);
    let rate = |seconds: f64| f64::from(args.batch_rows) / seconds;
    if globals.json {
        output::print_json(&json!({
            "rows_per_second": rate(median), "best_rows_per_second": rate(best), "seconds_per_step": median,
            "steps": args.steps, "l0": l0, "loss": loss, "threads": threads, "instructions": isa.name(),
        }));
        return Ok(ExitCode::SUCCESS);
    }
    output::fields(&[
        ("rows/s", format!("{:.0} (best step {:.0})", rate(median), rate(best))),
        ("a step", format!("{:.1} ms", median * 1e3)),
        ("l0", format!("{l0:.1}")),
        ("computed with", format!("{isa}, {threads} threads")),
    ]);
    Ok(ExitCode::SUCCESS)
}

/// A trainer whose buffer is one batch.
fn settings(args: &StepArgs) -> Result<TrainerSettings> {
    let coder: Value =
        serde_json::from_str(&args.coder).or_kind(ErrorKind::Config, || "--coder is not JSON".to_owned())?;
    let config = json!({
        "name": "bench", "input": "blocks.0.hook_resid_post", "normalize": "none", "coder": coder,
        "buffer": {"rows": args.batch_rows}, "batch_rows": args.batch_rows, "rows": 1_000_000_000_000u64,
        "optimizer": {"type": "adam", "learning_rate": 3e-4}, "checkpoint": {"url": "none"},
    });
    let config: TrainerConfig =
        serde_json::from_value(config).or_kind(ErrorKind::Config, || "--coder is no coder".to_owned())?;
    let sites = vec![(HookPoint::block(0, Site::ResidPost), args.input_width as usize)];
    Ok(TrainerSettings { config, sites, seed: Seed(1), stream: Value::Null })
}

/// Seconds of each step but the first.
fn measure(trainer: &mut Trainer<crate::compute::cpu::Cpu>, args: &StepArgs) -> Result<Vec<f64>> {
    let (n, d) = (args.batch_rows as usize, args.input_width as usize);
    let mut rng = Seed(1).stream("rows");
    let batches: Vec<Vec<f32>> = (0..BATCHES).map(|_| (0..n * d).map(|_| rng.normal() as f32).collect()).collect();
    let (documents, cursor) = (vec![0; n], SourceCursor::default());
    let mut seconds = Vec::new();
    for step in 0..=args.steps as usize {
        let watch = Stopwatch::start();
        trainer.offer(&batches[step % BATCHES], &documents, &cursor)?;
        if step > 0 {
            seconds.push(watch.elapsed().as_secs_f64());
        }
    }
    Ok(seconds)
}
