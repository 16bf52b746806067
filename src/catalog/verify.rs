//! Integrity of a whole dataset: every commit, object, checksum, row and statistic; and removal of what nothing names.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use serde::Serialize;

use crate::catalog::{Catalog, shard_check};
use crate::dataset::commit::{Commit, unit_progress};
use crate::dataset::paths;
use crate::error::Result;
use crate::store::objects;

/// Shards that are checked at a time: each holds one row group.
const SHARDS_AT_A_TIME: usize = 4;

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VerifyReport {
    /// Commits, and so shards.
    pub shards: u64,
    /// Rows committed.
    pub rows: u64,
    /// Bytes committed.
    pub bytes: u64,
    /// Units of the corpus.
    pub units: u32,
    /// Units that are committed to their end.
    pub units_done: u32,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Objects that no commit names: harmless to readers, removed by [`remove_unreferenced`]. Uploads that a live writer
    /// has not committed yet are among them.
    pub unreferenced: Vec<Unreferenced>,
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The object, relative to the dataset's URL; or a unit.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
}

/// An object that no commit names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreferenced {
    /// Relative to the dataset's URL.
    pub object: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written, in seconds since 1970-01-01 UTC.
    pub written_at: u64,
}

impl VerifyReport {
    /// Whether nothing is wrong. Unfinished units and unreferenced objects are not wrong.
    pub fn ok(&self) -> bool {
        self.problems.is_empty()
    }

    /// Whether every unit is committed to its end.
    pub fn complete(&self) -> bool {
        self.units_done == self.units
    }
}

/// Check everything that is committed. `checked` is told after each shard how many are done, and of how many.
///
/// What is wrong with the dataset is in the report; an error means that it could not be checked.
pub async fn verify(catalog: &Catalog, mut checked: impl FnMut(usize, usize)) -> Result<VerifyReport> {
    let header = catalog.header();
    let commits = catalog.commits().await?;
    let mut report = VerifyReport {
        shards: commits.len() as u64,
        rows: commits.iter().map(|commit| commit.rows).sum(),
        bytes: commits.iter().map(|commit| commit.bytes).sum(),
        units: header.units,
        units_done: commits.iter().filter(|commit| commit.cursor.done).count() as u32,
        ..VerifyReport::default()
    };
    report.problems.extend(coverage_problems(&commits, header.units));
    let checks = commits.iter().map(|commit| async move {
        let problems = shard_check::check(catalog.location(), header, commit).await?;
        Ok(problems.into_iter().map(|what| Problem { object: commit.object.clone(), what }).collect::<Vec<_>>())
    });
    let mut results = futures::stream::iter(checks.collect::<Vec<_>>()).buffered(SHARDS_AT_A_TIME);
    let mut done = 0;
    while let Some(problems) = results.next().await {
        let problems: Result<Vec<Problem>> = problems;
        report.problems.extend(problems?);
        done += 1;
        checked(done, commits.len());
    }
    report.unreferenced = unreferenced(catalog, &commits).await?;
    Ok(report)
}

/// Units whose parts leave out or repeat sequences, units that do not exist, objects that two commits name.
fn coverage_problems(commits: &[Commit], units: u32) -> Vec<Problem> {
    let mut problems = Vec::new();
    for parts in commits.chunk_by(|a, b| a.unit == b.unit) {
        let unit = parts[0].unit;
        let object = format!("unit {unit}");
        if unit >= units {
            problems.push(Problem { object: object.clone(), what: format!("is not one of the corpus's {units}") });
        }
        if let Err(error) = unit_progress(parts) {
            problems.push(Problem { object, what: error.to_string() });
        }
    }
    let mut seen = BTreeSet::new();
    for commit in commits {
        if !seen.insert(&commit.object) {
            problems.push(Problem { object: commit.object.clone(), what: "is named by two commits".into() });
        }
    }
    problems
}

async fn unreferenced(catalog: &Catalog, commits: &[Commit]) -> Result<Vec<Unreferenced>> {
    let named: BTreeSet<&str> = commits.iter().map(|commit| commit.object.as_str()).collect();
    let listed = objects::list(&catalog.location().child(paths::SHARDS)).await?;
    let found = listed.into_iter().filter_map(|object| {
        let name = format!("{}/{}", paths::SHARDS, object.location.filename()?);
        (!named.contains(name.as_str())).then(|| Unreferenced {
            object: name,
            bytes: object.size,
            written_at: object.last_modified.timestamp().max(0).cast_unsigned(),
        })
    });
    Ok(found.collect())
}

/// Delete the unreferenced objects of `report` that were written before `before` (since 1970-01-01 UTC), and staging files
/// of that age on local stores; gives their names. A live writer's newest shard is unreferenced until it is committed:
/// choose `before` well in the past, or make sure that nobody writes.
pub async fn remove_unreferenced(catalog: &Catalog, report: &VerifyReport, before: Duration) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for object in report.unreferenced.iter().filter(|object| object.written_at < before.as_secs()) {
        objects::delete(&catalog.location().child(&object.object)).await?;
        removed.push(object.object.clone());
    }
    for folder in [paths::SHARDS, paths::COMMITS] {
        let swept = objects::sweep_staging(&catalog.location().child(folder), Some(before))?;
        removed.extend(swept.into_iter().map(|name| format!("{folder}/{name}")));
    }
    Ok(removed)
}
