//! `harvestd verify`: the integrity of a dataset.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{Globals, Outcome, async_runtime, output};
use crate::catalog::Catalog;
use crate::catalog::verify::{VerifyReport, remove_unreferenced, verify};
use crate::error::{ErrorKind, ResultExt};
use crate::runtime::clock::{Clock, Stopwatch};
use crate::units::{ByteSize, HumanDuration};

/// Time between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd verify s3://acts/smollm2-mid
  harvestd verify out/acts --json | jq .problems
  harvestd verify out/acts --gc                    delete what no commit names, if it is older than a day (see also gc)
  harvestd verify out/acts --gc --older-than 0s    whatever its age: only when nobody writes to the dataset

Reads every shard: its checksum, its rows, its statistics, and that sequences neither repeat nor miss. Exit code 65 if
something is wrong. Units that are not finished yet and objects that no commit names are not wrong.")]
pub(crate) struct VerifyArgs {
    /// The dataset: a local path or URL
    url: String,
    /// Delete objects that no commit names: what killed writers left behind
    #[arg(long)]
    gc: bool,
    /// With --gc: only objects older than this; a live writer's newest objects have no commit yet
    #[arg(long, default_value = "1d", value_name = "AGE", requires = "gc")]
    older_than: HumanDuration,
}

pub(crate) fn execute(args: &VerifyArgs, globals: &Globals) -> Outcome {
    let location = globals.stores()?.open(&args.url)?;
    let runtime = async_runtime()?;
    let (report, removed) = runtime.block_on(async {
        let catalog = Catalog::open(location.clone()).await?;
        let mut lap = Stopwatch::start();
        let progress = |done: usize, of: usize| {
            if lap.elapsed() >= PROGRESS_EVERY {
                lap = Stopwatch::start();
                tracing::info!(done, of, "checking shards");
            }
        };
        let report = verify(&catalog, progress).await?;
        if !args.gc {
            return Ok((report, Vec::new()));
        }
        let before = match args.older_than.0 {
            Duration::ZERO => Duration::MAX,
            age => location.now(&Clock::system()).saturating_sub(age),
        };
        let removed = remove_unreferenced(&catalog, &report, before).await?;
        Ok::<_, crate::error::Error>((report, removed))
    })?;
    let removed_objects = report.unreferenced.iter().filter(|u| removed.contains(&u.object)).count();
    let young = if args.gc { report.unreferenced.len() - removed_objects } else { 0 };
    if globals.json {
        let mut value =
            serde_json::to_value(&report).or_kind(ErrorKind::Internal, || "write the report as JSON".to_owned())?;
        value["ok"] = json!(report.ok());
        value["complete"] = json!(report.complete());
        value["removed"] = json!(removed);
        value["young"] = json!(young);
        output::print_json(&value);
    } else {
        print(&report, &removed, &location.shown);
        if young > 0 {
            let age = args.older_than;
            output::print(&format!("kept {young} of them that are not {age} old yet: --older-than sets the age"));
        }
        print_verdict(&report);
    }
    Ok(if report.ok() { ExitCode::SUCCESS } else { ExitCode::from(ErrorKind::Data.exit_code()) })
}

fn print(report: &VerifyReport, removed: &[String], shown: &str) {
    output::fields(&[
        ("dataset", shown.to_owned()),
        ("checked", format!("{} shards, {} rows, {}", report.shards, report.rows, ByteSize(report.bytes))),
        ("units", format!("{} of {} done", report.units_done, report.units)),
    ]);
    if report.retired_shards > 0 {
        output::print(&format!("{} shards are retired and were not looked at", report.retired_shards));
    }
    for group in &report.columns {
        let state = if group.totals.complete { "complete" } else { "not complete" };
        let (shards, rows) = (group.totals.shards, group.totals.rows);
        let size = format!("{shards} shards, {rows} rows, {}", ByteSize(group.totals.bytes));
        output::print(&format!("column group {}: {}; {size}, {state}", group.name, group.sites.join(", ")));
    }
    for problem in &report.problems {
        output::print(&format!("- {}: {}", problem.object, problem.what));
    }
    if !report.unreferenced.is_empty() {
        let bytes: u64 = report.unreferenced.iter().map(|u| u.bytes).sum();
        let n = report.unreferenced.len();
        output::print(&format!("{n} objects ({}) that no commit names; readers do not see them", ByteSize(bytes)));
    }
    for name in removed {
        output::print(&format!("deleted {name}"));
    }
}

fn print_verdict(report: &VerifyReport) {
    let verdict = match (report.ok(), report.complete()) {
        (true, true) => "ok".to_owned(),
        (true, false) => "ok so far: the dataset is not complete".to_owned(),
        (false, _) => format!("{} problems", report.problems.len()),
    };
    output::print(&verdict);
}
