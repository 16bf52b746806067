//! Integrity of a whole dataset and its column groups: every commit, manifest, object, checksum, row and statistic; and
//! removal of what nothing names.
//!
//! What is kept in memory a part is its place, a hash of its name and of its rows: commits are read segment by segment.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use crate::accounting::DropCounts;
use crate::catalog::compact::written_at;
use crate::catalog::shard_check::{self, Checked, TOLERANCE};
use crate::catalog::state::State;
use crate::catalog::{Catalog, Totals, lost};
use crate::dataset::commit::{Commit, PartMark, UnitProgress, advance_units};
use crate::dataset::manifest::CoveredTotals;
use crate::dataset::paths;
use crate::dataset::places::RowOrder;
use crate::dataset::segment::Entry;
use crate::dataset::stats::SiteStatistics;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{self, objects, orphans};

/// Shards that are checked at a time: each holds one row group.
const SHARDS_AT_A_TIME: usize = 4;

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VerifyReport {
    /// Live parts, and so shards.
    pub shards: u64,
    /// Their rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Parts that retention took away.
    pub retired_shards: u64,
    /// Units of the corpus.
    pub units: u32,
    /// Units that are committed to their end.
    pub units_done: u32,
    /// The column groups.
    pub columns: Vec<GroupReport>,
    /// What is wrong, in the column groups too.
    pub problems: Vec<Problem>,
    /// Objects that no commit names: harmless to readers, removed by [`remove_unreferenced`]. Uploads that a live writer
    /// has not committed yet are among them.
    pub unreferenced: Vec<Unreferenced>,
}

/// A column group.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GroupReport {
    /// Its name.
    pub name: String,
    /// Its sites.
    pub sites: Vec<String>,
    /// What it holds; complete if every unit of it is done.
    #[serde(flatten)]
    pub totals: Totals,
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

    fn problem(&mut self, object: impl Into<String>, what: impl Into<String>) {
        self.problems.push(Problem { object: object.into(), what: what.into() });
    }
}

/// Check everything that is committed. `checked` is told after each shard how many are done, and of how many.
///
/// What is wrong with the dataset is in the report; an error means that it could not be checked.
pub async fn verify(catalog: &Catalog, mut checked: impl FnMut(usize, usize)) -> Result<VerifyReport> {
    let (mut report, rows) = verify_one(catalog, None, &mut checked).await?;
    for folder in lost::headerless_groups(catalog).await? {
        report.problem(format!("{folder}/{}", paths::HEADER), "is missing, but what it describes is there");
    }
    let mut sites: HashSet<String> = catalog.header().sites.iter().map(|site| site.name.clone()).collect();
    let groups = match catalog.groups().await {
        Err(error) if error.kind() == ErrorKind::Data || error.kind() == ErrorKind::Config => {
            report.problem(paths::COLUMNS, error.to_string());
            return Ok(report);
        }
        groups => groups?,
    };
    for group in groups {
        let name = group.header().column_group.clone().unwrap_or_default();
        let folder = paths::column_group(&name);
        let (found, _) = verify_one(&group, Some(&rows), &mut checked).await?;
        let below = |object: String| format!("{folder}/{object}");
        report.problems.extend(found.problems.into_iter().map(|p| Problem { object: below(p.object), ..p }));
        let unreferenced = found.unreferenced.into_iter().map(|u| Unreferenced { object: below(u.object), ..u });
        report.unreferenced.extend(unreferenced);
        let names: Vec<String> = group.header().sites.iter().map(|site| site.name.clone()).collect();
        for site in names.iter().filter(|site| !sites.insert((*site).clone())) {
            report.problem(folder.clone(), format!("has `{site}`, which stands elsewhere in the dataset already"));
        }
        let complete = found.units_done == found.units;
        let totals = Totals { rows: found.rows, shards: found.shards, bytes: found.bytes, complete };
        report.columns.push(GroupReport { name, sites: names, totals });
    }
    Ok(report)
}

/// What the parts of a column group must have in common with its dataset's, of each part whose shard is there.
type RowHashes = HashMap<(u32, u32), PartHashes>;

/// One part's.
struct PartHashes {
    /// Of the rows' ids.
    rows: u128,
    /// Of what the commit says of them.
    said: u128,
}

impl PartHashes {
    fn new(rows: u128, commit: &Commit) -> Self {
        let said = (commit.sequences, commit.cursor, &commit.dropped);
        // maps with string keys and numbers serialise
        Self { rows, said: xxh3_128(&serde_json::to_vec(&said).unwrap_or_default()) }
    }
}

/// A dataset that is being checked.
struct Check<'a> {
    catalog: &'a Catalog,
    base: Option<&'a RowHashes>,
    report: VerifyReport,
    rows: RowHashes,
    /// Hashes of the names of objects that parts name.
    named: HashSet<u128>,
    marks: Vec<PartMark>,
    totals: CoveredTotals,
    dropped: DropCounts,
    statistics: BTreeMap<String, SiteStatistics>,
    /// Parts to check, and how many are checked.
    parts: usize,
    done: usize,
    /// Whether parts are unknown because what lists them cannot be read.
    incomplete: bool,
}

async fn verify_one(
    catalog: &Catalog,
    base: Option<&RowHashes>,
    checked: &mut impl FnMut(usize, usize),
) -> Result<(VerifyReport, RowHashes)> {
    let report = VerifyReport { units: catalog.header().units, ..VerifyReport::default() };
    let state = match catalog.lenient_state().await {
        // nothing can be said about parts when the manifest that lists them cannot be read
        Err(error) if error.kind() == ErrorKind::Data => {
            let mut report = report;
            report.problem(paths::MANIFESTS, error.to_string());
            return Ok((report, RowHashes::new()));
        }
        state => state?,
    };
    let mut check = Check {
        catalog,
        base,
        report,
        rows: RowHashes::new(),
        named: HashSet::new(),
        marks: Vec::new(),
        totals: CoveredTotals::default(),
        dropped: DropCounts::new(),
        statistics: BTreeMap::new(),
        parts: usize::try_from(state.covered.manifest.parts()).unwrap_or(usize::MAX) + state.uncovered.len(),
        done: 0,
        incomplete: !state.unreadable.is_empty(),
    };
    for (object, what) in &state.unreadable {
        check.report.problem(object, what);
    }
    for (object, parts) in lost::parts_of_lost_manifests(catalog, &state).await? {
        let what = format!("names {parts} parts that no manifest and no commit names: a manifest was lost");
        check.report.problem(object, what);
        check.incomplete = true;
    }
    check.manifest(&state, checked).await?;
    check.parts(state.uncovered, checked).await?;
    check.coverage();
    check.shuffled_rows();
    check.unreferenced().await?;
    Ok((check.report, check.rows))
}

impl Check<'_> {
    /// What the newest manifest covers, segment by segment, and its sums.
    async fn manifest(&mut self, state: &State, checked: &mut impl FnMut(usize, usize)) -> Result<()> {
        let manifest = &state.covered.manifest;
        for segment in &manifest.segments {
            match self.catalog.entries_of(segment).await {
                Ok(entries) => self.parts(entries, checked).await?,
                Err(error) if error.kind() == ErrorKind::Data => {
                    if self.catalog.newest_generation().await? != manifest.generation {
                        return Err(Error::new(
                            ErrorKind::Unavailable,
                            "the dataset was compacted while it was verified: verify it again",
                        ));
                    }
                    self.report.problem(&segment.object, error.to_string());
                    self.incomplete = true;
                }
                Err(error) => return Err(error),
            }
        }
        let name = paths::manifest(manifest.generation);
        if self.incomplete || manifest.generation == 0 {
            return Ok(());
        }
        if self.totals != manifest.totals {
            self.report.problem(&name, "has other totals than its segments");
        }
        if self.dropped != manifest.dropped {
            self.report.problem(&name, "says something else of drops than its segments");
        }
        // values of retired parts are gone, and those of damaged shards are not to be trusted
        if manifest.totals.retired_shards > 0 || !self.report.problems.is_empty() {
            return Ok(());
        }
        for site in &self.catalog.header().sites {
            let (found, stored) = (self.statistics.get(&site.name), manifest.sites.get(&site.name));
            let empty = SiteStatistics::default();
            if let Some(field) = stored.unwrap_or(&empty).difference(found.unwrap_or(&empty), TOLERANCE) {
                self.report.problem(&name, format!("has another {field} of `{}` than its shards", site.name));
            }
        }
        Ok(())
    }

    /// A shuffle has all rows of its source, until retention takes some.
    fn shuffled_rows(&mut self) {
        if let Some(RowOrder::Shuffled(order)) = &self.catalog.header().order
            && self.report.complete()
            && self.report.retired_shards == 0
            && self.report.rows != order.rows
        {
            let what = format!("has {} rows, and its source had {}", self.report.rows, order.rows);
            self.report.problem(paths::HEADER, what);
        }
    }

    /// Check the shards of these parts.
    async fn parts(&mut self, entries: Vec<Entry>, checked: &mut impl FnMut(usize, usize)) -> Result<()> {
        let sum = CoveredTotals::of(&entries);
        self.totals.merge(&sum);
        let report = &mut self.report;
        report.shards += sum.shards;
        report.rows += sum.rows;
        report.bytes += sum.bytes;
        report.retired_shards += sum.retired_shards;
        report.units_done += sum.units_done as u32;
        for entry in &entries {
            self.marks.push(PartMark::from(&entry.commit));
            self.dropped.merge(&entry.commit.dropped);
            if !self.named.insert(xxh3_128(entry.commit.object.as_bytes())) {
                self.report.problem(&entry.commit.object, "is named by two commits");
            }
        }
        let (location, header) = (self.catalog.location(), self.catalog.header());
        let checks = entries.into_iter().map(|Entry { commit, retired_at, .. }| async move {
            let checked = match retired_at {
                None => shard_check::check(location, header, &commit).await?,
                Some(_) => Checked::default(),
            };
            Ok::<_, Error>((commit, checked))
        });
        let mut checks = futures::stream::iter(checks).buffered(SHARDS_AT_A_TIME);
        while let Some(result) = checks.next().await {
            let (commit, found) = result?;
            self.done += 1;
            checked(self.done, self.parts.max(self.done));
            self.take(&commit, found);
        }
        Ok(())
    }

    fn take(&mut self, commit: &Commit, found: Checked) {
        let place = (commit.unit, commit.part);
        for what in found.problems {
            self.report.problem(&commit.object, what);
        }
        for (site, statistics) in self.catalog.header().sites.iter().zip(&found.statistics) {
            self.statistics.entry(site.name.clone()).or_default().merge(statistics);
        }
        let Some(rows) = found.ids else { return };
        let own = PartHashes::new(rows, commit);
        let Some(base) = self.base else {
            self.rows.insert(place, own);
            return;
        };
        // a part that the base does not have any more, or whose shard is damaged, is reported there
        let Some(base) = base.get(&place) else { return };
        if base.rows != own.rows {
            self.report.problem(&commit.object, "has other rows than the dataset's shard of the same part");
        } else if base.said != own.said {
            let name = paths::commit(commit.unit, commit.part);
            self.report.problem(name, "says something else of sequences, cursor or drops than the dataset's commit");
        }
    }

    /// Units whose parts leave out or repeat sequences, units that do not exist.
    fn coverage(&mut self) {
        if self.incomplete {
            return;
        }
        self.marks.sort_unstable_by_key(|mark| (mark.unit, mark.part));
        if self.catalog.header().follows {
            self.report.units = self.marks.last().map_or(0, |last| last.unit + 1); // as many as there are
        }
        let units = self.report.units;
        let marks = std::mem::take(&mut self.marks);
        for parts in marks.chunk_by(|a, b| a.unit == b.unit) {
            let unit = parts[0].unit;
            if unit >= units {
                self.report.problem(format!("unit {unit}"), format!("is not one of the corpus's {units}"));
            }
            let mut progress: HashMap<u32, UnitProgress> = HashMap::new();
            if let Err(error) = advance_units(&mut progress, parts.to_vec()) {
                self.report.problem(format!("unit {unit}"), error.to_string());
            }
        }
    }

    /// Shards that no part names.
    async fn unreferenced(&mut self) -> Result<()> {
        if self.incomplete {
            return Ok(());
        }
        let place = self.catalog.location().child(paths::SHARDS);
        let mut listed = place.store.list(Some(&place.path));
        while let Some(object) = listed.try_next().await.map_err(|e| store::error("list", &place.shown, e))? {
            let Some(name) = object.location.filename() else { continue };
            let name = format!("{}/{name}", paths::SHARDS);
            if !self.named.contains(&xxh3_128(name.as_bytes())) {
                let (bytes, written_at) = (object.size, written_at(&object));
                self.report.unreferenced.push(Unreferenced { object: name, bytes, written_at });
            }
        }
        self.report.unreferenced.sort_by(|a, b| a.object.cmp(&b.object));
        Ok(())
    }
}

/// Delete the unreferenced objects of `report` that were written before `before` (since 1970-01-01 UTC), and what uploads of
/// that age left: staging files on local stores, parts on others; gives their names. A live writer's newest shard is
/// unreferenced until it is committed: choose `before` well in the past, or make sure that nobody writes.
pub async fn remove_unreferenced(catalog: &Catalog, report: &VerifyReport, before: Duration) -> Result<Vec<String>> {
    let old = report.unreferenced.iter().filter(|object| object.written_at < before.as_secs());
    let mut removed: Vec<String> = old.map(|object| object.object.clone()).collect();
    objects::delete_all(catalog.location(), removed.clone()).await?;
    let groups = report.columns.iter().map(|group| format!("{}/", paths::column_group(&group.name)));
    for folder in std::iter::once(String::new()).chain(groups) {
        for folder in paths::FOLDERS.map(|name| format!("{folder}{name}")) {
            let swept = objects::sweep_staging(&catalog.location().child(&folder), Some(before))?;
            let below =
                |name: String| format!("{}/{name}", folder.trim_end_matches('/')).trim_start_matches('/').to_owned();
            removed.extend(swept.into_iter().map(below));
        }
    }
    for upload in orphans::list(catalog.location()).await?.iter().filter(|upload| upload.initiated < before) {
        orphans::abort(catalog.location(), upload).await?;
        removed.push(format!("parts of an upload of {}", upload.object));
    }
    Ok(removed)
}
