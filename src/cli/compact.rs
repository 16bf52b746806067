//! `harvestd compact`: commits into a manifest.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Globals, Outcome, async_runtime, output};
use crate::catalog::Catalog;
use crate::catalog::compact::{Compacted, compact, delete_covered_commits};
use crate::dataset::paths;
use crate::error::Error;
use crate::runtime::clock::Clock;
use crate::units::HumanDuration;

/// Arguments of `compact`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd compact s3://acts/smollm2-mid

What commits say goes into a manifest, a handful of objects that are read at once; column groups get their own. Runs
that write at the same time are not disturbed, and do this themselves every few thousand commits. Commits that a manifest
covers are deleted once it is a day old.")]
pub(crate) struct CompactArgs {
    /// The dataset: a local path or URL
    url: String,
    /// Delete commits that were covered so long ago; readers may still look for younger ones
    #[arg(long, default_value = "1d", value_name = "AGE")]
    grace: HumanDuration,
}

pub(crate) fn execute(args: &CompactArgs, globals: &Globals) -> Outcome {
    let location = globals.stores()?.open(&args.url)?;
    let done = async_runtime()?.block_on(async {
        let catalog = Catalog::open(location.clone()).await?;
        let mut datasets = vec![(String::new(), catalog.clone())];
        let groups = catalog.groups().await?.into_iter();
        datasets
            .extend(groups.map(|g| (paths::column_group(g.header().column_group.as_deref().unwrap_or_default()), g)));
        let mut done = Vec::new();
        for (name, catalog) in datasets {
            let compacted = compact(&catalog, 1).await?;
            let before = match args.grace.0 {
                grace if grace.is_zero() => std::time::Duration::MAX,
                grace => location.now(&Clock::system()).saturating_sub(grace),
            };
            done.push((name, compacted, delete_covered_commits(&catalog, before).await?));
        }
        Ok::<_, Error>(done)
    })?;
    if globals.json {
        let all = done.iter().map(
            |(name, compacted, deleted)| json!({ "dataset": name, "compacted": compacted, "deleted_commits": deleted }),
        );
        output::print_json(&json!({ "url": location.shown, "datasets": all.collect::<Vec<_>>() }));
        return Ok(ExitCode::SUCCESS);
    }
    for (name, compacted, deleted) in &done {
        let what = match compacted {
            None => "nothing to cover".to_owned(),
            Some(Compacted { generation, newly_covered, covered, segments, .. }) => format!(
                "manifest {generation} covers {newly_covered} more commits, {covered} in all, in {segments} segments"
            ),
        };
        let place = if name.is_empty() { location.shown.clone() } else { format!("{}/{name}", location.shown) };
        output::print(&format!("{place}: {what}; {deleted} covered commits deleted"));
    }
    Ok(ExitCode::SUCCESS)
}
