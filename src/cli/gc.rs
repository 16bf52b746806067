//! `harvestd gc`: retention and garbage of a dataset.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Globals, Outcome, async_runtime, output};
use crate::catalog::Catalog;
use crate::catalog::gc::{Garbage, Policy, collect, plan};
use crate::dataset::config::KeepConfig;
use crate::error::{ErrorKind, ResultExt};
use crate::runtime::clock::Clock;
use crate::units::{ByteSize, Count, HumanDuration};

/// Arguments of `gc`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd gc out/acts                                 say what nothing needs
  harvestd gc out/acts --apply                         delete it
  harvestd gc s3://acts/mid --keep-bytes 2TiB          say what would be retired to keep the newest 2 TiB
  harvestd gc s3://acts/mid --keep-age 30d --apply     retire shards that were committed longer ago

Without --apply nothing changes. Retired are whole shards, the oldest first: they stay counted and are never computed
again, readers skip them, and their objects are deleted by the first gc after the grace period. Garbage is what killed
writers left, commits that a manifest covers, and manifests that newer ones replace; it too must be older than the grace
period, since a live writer's newest objects have no commit yet.")]
pub(crate) struct GcArgs {
    /// The dataset: a local path or URL
    url: String,
    /// Keep the newest shards with so many rows in all
    #[arg(long, value_name = "ROWS")]
    keep_rows: Option<Count>,
    /// Keep the newest shards with so many bytes in all
    #[arg(long, value_name = "BYTES")]
    keep_bytes: Option<ByteSize>,
    /// Keep shards that were committed within this time
    #[arg(long, value_name = "AGE")]
    keep_age: Option<HumanDuration>,
    /// Delete only what nothing has needed for so long; 0s: only when nobody reads or writes
    #[arg(long, default_value = "1d", value_name = "AGE")]
    grace: HumanDuration,
    /// Do it
    #[arg(long)]
    apply: bool,
}

pub(crate) fn execute(args: &GcArgs, globals: &Globals) -> Outcome {
    let location = globals.stores()?.open(&args.url)?;
    let keep = KeepConfig { rows: args.keep_rows, bytes: args.keep_bytes, age: args.keep_age, grace: None };
    let garbage = async_runtime()?.block_on(async {
        let catalog = Catalog::open(location.clone()).await?;
        // the store's clock is known once it has answered
        let policy = Policy { keep, grace: args.grace.0, now: location.now(&Clock::system()) };
        if args.apply { collect(&catalog, &policy).await } else { plan(&catalog, &policy).await }
    })?;
    if globals.json {
        let mut value =
            serde_json::to_value(&garbage).or_kind(ErrorKind::Internal, || "write the plan as JSON".to_owned())?;
        value["applied"] = json!(args.apply);
        output::print_json(&value);
    } else {
        print(&garbage, args);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(garbage: &Garbage, args: &GcArgs) {
    let (retire, delete) = if args.apply { ("retired", "deleted") } else { ("would retire", "would delete") };
    for part in &garbage.retired {
        let size = format!("{} rows, {}", part.rows, ByteSize(part.bytes));
        output::print(&format!("{retire} part {} of unit {}: {size}", part.part, part.unit));
    }
    for object in &garbage.objects {
        let why = object.reason.as_str();
        output::print(&format!("{delete} {} ({}): {why}", object.object, ByteSize(object.bytes)));
    }
    for upload in &garbage.uploads {
        output::print(&format!("{delete} the parts of an upload of {} that never ended", upload.object));
    }
    if !garbage.retired.is_empty() {
        let rows: u64 = garbage.retired.iter().map(|part| part.rows).sum();
        let bytes: u64 = garbage.retired.iter().map(|part| part.bytes).sum();
        let n = garbage.retired.len();
        output::print(&format!("{retire} {n} shards, {} rows, {}", Count(rows), ByteSize(bytes)));
    }
    let mut by_reason: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    for object in &garbage.objects {
        let sums = by_reason.entry(object.reason).or_default();
        *sums = (sums.0 + 1, sums.1 + object.bytes);
    }
    for (reason, (n, bytes)) in by_reason {
        output::print(&format!("{delete} {n} objects, {}: {}", ByteSize(bytes), reason.as_str()));
    }
    if garbage.young > 0 {
        output::print(&format!("{} more are kept until they are {} old", garbage.young, args.grace));
    }
    if garbage.is_empty() {
        output::print("nothing to do");
    } else if !args.apply {
        output::print("nothing was changed: add --apply to do it");
    }
}
