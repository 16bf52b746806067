//! `harvestd upgrade`: a dataset of an old format becomes one of the newest.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Globals, Outcome, async_runtime, output};
use crate::catalog::Catalog;
use crate::dataset::header::FORMAT;

/// Arguments of `upgrade`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd upgrade s3://acts/smollm2-mid

Only dataset.json changes: shards and commits are the same in all formats. Afterwards the dataset can be compacted, have
shards retired and sites added, and programs that only know the old format refuse it. Doing it twice does nothing.")]
pub(crate) struct UpgradeArgs {
    /// The dataset: a local path or URL
    url: String,
}

pub(crate) fn execute(args: &UpgradeArgs, globals: &Globals) -> Outcome {
    let location = globals.stores()?.open(&args.url)?;
    let before = async_runtime()?.block_on(async { Catalog::open(location.clone()).await?.upgrade().await })?;
    if globals.json {
        output::print_json(&json!({ "url": location.shown, "from": before, "to": FORMAT }));
    } else if before == FORMAT {
        output::print(&format!("{} is of format {FORMAT} already", location.shown));
    } else {
        output::print(&format!("{}: dataset.json said format {before}, now {FORMAT}", location.shown));
    }
    Ok(ExitCode::SUCCESS)
}
