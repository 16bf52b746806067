//! Compaction: what commits say goes into a manifest of the next generation.
//!
//! Whoever puts the manifest of a generation first has made it; the others look again at what is left to do. A manifest
//! covers each unit from its first part on as far as commits go without a gap. Commits that are covered are deleted only
//! once a manifest that covers them is older than a grace period, for readers that listed them before.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::catalog::Catalog;
use crate::catalog::state::State;
use crate::dataset::commit::{Checksum, Commit, PartMark, advance};
use crate::dataset::encoder::hex;
use crate::dataset::header::DatasetHeader;
use crate::dataset::manifest::{Manifest, SegmentRef};
use crate::dataset::paths;
use crate::dataset::segment::{self, Entry};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::clock::Stopwatch;
use crate::store::objects::{self, Created};
use crate::store::probe;
use crate::testing::failpoint;

/// A writer compacts when it has made so many commits: few enough that a listing of what is not covered stays short.
pub const COMPACT_AFTER: u64 = 4096;
/// How long covered commits and superseded manifests stay, unless an operator says otherwise.
pub const GRACE: Duration = Duration::from_secs(24 * 60 * 60);
/// Generations that others may make before ours.
const TRIES: usize = 50;
/// A compaction that took longer begins anew: what it uploaded may have been collected as garbage.
const LONGEST: Duration = Duration::from_secs(10 * 60);

/// What a compaction did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compacted {
    /// The manifest's generation.
    pub generation: u64,
    /// Parts that it covers and the one before did not.
    pub newly_covered: u64,
    /// Parts that it covers.
    pub covered: u64,
    /// Parts that it retired.
    pub retired: u64,
    /// Its segments.
    pub segments: u64,
}

/// Parts that a new generation retires.
pub(super) struct Retire {
    /// Unit and part.
    pub(super) parts: HashSet<(u32, u32)>,
    /// Now, in seconds since 1970-01-01 UTC.
    pub(super) at: u64,
}

impl Retire {
    /// Nothing is retired, but a generation is made whenever it would cover anything.
    pub(super) fn nothing() -> Self {
        Self { parts: HashSet::new(), at: 0 }
    }
}

/// Cover what is committed and not covered yet, if there are at least `at_least` such parts (and one).
pub async fn compact(catalog: &Catalog, at_least: u64) -> Result<Option<Compacted>> {
    next_generation(catalog, at_least.max(1), None, &[]).await
}

/// Make the next generation, which covers all that can be covered and retires what `retire` says. `inherited` are parts
/// that nobody committed here, to be covered as if somebody had.
pub(super) async fn next_generation(
    catalog: &Catalog,
    at_least: u64,
    retire: Option<&Retire>,
    inherited: &[Entry],
) -> Result<Option<Compacted>> {
    catalog.header().check_can_grow()?;
    probe::exclusive_writes(catalog.location()).await?;
    for _ in 0..TRIES {
        let watch = Stopwatch::start();
        let mut state = catalog.state().await?;
        inherit(&mut state, inherited);
        let fresh = coverable(catalog.header(), &state);
        if retire.is_none() && (fresh.len() as u64) < at_least {
            return Ok(None);
        }
        let newly_covered = fresh.len() as u64;
        let before = state.covered.manifest.totals.retired_shards;
        let manifest = upload_segments(catalog, &state, fresh, retire).await?;
        if retire.is_some() && newly_covered == 0 && manifest.totals.retired_shards == before {
            return Ok(None);
        }
        failpoint("segments_uploaded");
        if watch.elapsed() > LONGEST {
            continue;
        }
        let place = catalog.location().child(&paths::manifest(manifest.generation));
        match objects::create(&place, manifest.to_json().into()).await? {
            Created::Yes => {
                return Ok(Some(Compacted {
                    generation: manifest.generation,
                    newly_covered,
                    covered: manifest.parts(),
                    retired: manifest.totals.retired_shards - before,
                    segments: manifest.segments.len() as u64,
                }));
            }
            Created::No(_) => {}
        }
    }
    let shown = &catalog.location().shown;
    Err(Error::new(ErrorKind::Unavailable, format!("others compact `{shown}` all the time: try again later")))
}

/// Take `inherited` for commits, where there are none.
fn inherit(state: &mut State, inherited: &[Entry]) {
    let place = |entry: &Entry| (entry.commit.unit, entry.commit.part);
    let there: HashSet<_> = state.uncovered.iter().map(place).collect();
    let missing =
        |entry: &&Entry| !there.contains(&place(entry)) && !state.covered.covers(entry.commit.unit, entry.commit.part);
    let missing: Vec<Entry> = inherited.iter().filter(missing).cloned().collect();
    state.uncovered.extend(missing);
    state.uncovered.sort_by_key(place);
}

/// The commits that can be covered: those that follow what is covered without a gap, and say all that a segment holds.
fn coverable(header: &DatasetHeader, state: &State) -> Vec<Entry> {
    let mut fresh = Vec::new();
    for unit in state.uncovered.chunk_by(|a, b| a.commit.unit == b.commit.unit) {
        let mut at = state.covered.progress.get(&unit[0].commit.unit).copied().unwrap_or_default();
        for entry in unit {
            let commit = &entry.commit;
            let whole = |commit: &Commit| header.sites.iter().all(|site| commit.sites.contains_key(&site.name));
            match advance(at, &PartMark::from(commit)) {
                Ok(next) if whole(commit) && commit.checksum.is_known() => at = next,
                _ => break,
            }
            fresh.push(entry.clone());
        }
    }
    fresh
}

/// The next manifest; its new segments are uploaded.
async fn upload_segments(
    catalog: &Catalog,
    state: &State,
    fresh: Vec<Entry>,
    retire: Option<&Retire>,
) -> Result<Manifest> {
    let old = &state.covered.manifest;
    let mut manifest = Manifest { generation: old.generation + 1, segments: Vec::new(), ..old.clone() };
    for entry in &fresh {
        manifest.cover(&entry.commit);
        if entry.retired_at.is_some() {
            manifest.totals.retire(&entry.commit);
        }
    }
    let row_bytes = segment::row_bytes(catalog.header().sites.len());
    let keep = if fresh.is_empty() { old.segments.len() } else { old.segments_to_keep(fresh.len() as u64, row_bytes) };
    let mut last = Vec::new();
    for (i, segment) in old.segments.iter().enumerate() {
        if i < keep && retire.is_none() {
            manifest.segments.push(segment.clone());
            continue;
        }
        let mut entries = catalog.entries_of(segment).await?;
        let retired = retire_in(&mut entries, retire, &mut manifest);
        match (i < keep, retired) {
            (true, 0) => manifest.segments.push(segment.clone()),
            (true, _) => {
                let segment = upload(catalog, manifest.generation, entries).await?;
                manifest.segments.push(segment);
            }
            (false, _) => last.append(&mut entries),
        }
    }
    let mut fresh = fresh;
    retire_in(&mut fresh, retire, &mut manifest);
    last.append(&mut fresh);
    last.sort_by_key(|entry| (entry.commit.unit, entry.commit.part));
    while !last.is_empty() {
        let rest = last.split_off(last.len().min(Manifest::segment_rows(row_bytes) as usize));
        let segment = upload(catalog, manifest.generation, std::mem::replace(&mut last, rest)).await?;
        manifest.segments.push(segment);
    }
    Ok(manifest)
}

/// Retire what is to be retired of `entries`; how many these were.
fn retire_in(entries: &mut [Entry], retire: Option<&Retire>, manifest: &mut Manifest) -> u64 {
    let Some(retire) = retire else { return 0 };
    let mut retired = 0;
    let wanted = |entry: &Entry| retire.parts.contains(&(entry.commit.unit, entry.commit.part));
    for entry in entries.iter_mut().filter(|entry| entry.retired_at.is_none() && wanted(entry)) {
        entry.retired_at = Some(retire.at);
        manifest.totals.retire(&entry.commit);
        retired += 1;
    }
    retired
}

/// Encode and upload a segment.
async fn upload(catalog: &Catalog, generation: u64, entries: Vec<Entry>) -> Result<SegmentRef> {
    let sites = catalog.header().sites.clone();
    let rows = entries.len() as u64;
    let encoded = tokio::task::spawn_blocking(move || segment::encode(&sites, &entries));
    let bytes = encoded.await.map_err(|e| Error::internal(format!("encoding a segment failed: {e}")))??;
    let sum = hex(&Sha256::digest(&bytes));
    let object = paths::segment(generation, &sum);
    let place = catalog.location().child(&object);
    let segment = SegmentRef { object, rows, bytes: bytes.len() as u64, checksum: Checksum::sha256(sum) };
    match objects::create(&place, Bytes::from(bytes)).await? {
        Created::Yes => Ok(segment),
        Created::No(_) => {
            Err(Error::data(format!("`{}` holds other bytes than its name says: delete it", place.shown)))
        }
    }
}

/// The commits that may be deleted: covered by a manifest that was there before `before` (since 1970-01-01 UTC). Names
/// relative to the dataset's URL, and sizes.
pub(super) async fn old_commits(catalog: &Catalog, before: Duration) -> Result<Vec<(String, u64)>> {
    let manifests = objects::list(&catalog.location().child(paths::MANIFESTS)).await?;
    let old = manifests.iter().filter(|object| written_at(object) < before.as_secs());
    let newest = old.filter_map(|object| paths::parse_manifest(object.location.filename()?)).max();
    let Some(generation) = newest else { return Ok(Vec::new()) };
    // not by way of the cache: it keeps the newest
    let covered = Catalog::of(catalog.location().clone(), catalog.header().clone()).covered_at(generation).await?;
    let listed = objects::list(&catalog.location().child(paths::COMMITS)).await?;
    let found = listed.iter().filter_map(|object| {
        let name = object.location.filename()?;
        let (unit, part) = paths::parse_commit(name)?;
        covered.covers(unit, part).then(|| (format!("{}/{name}", paths::COMMITS), object.size))
    });
    Ok(found.collect())
}

/// Delete the commits that a manifest of before `before` covers; how many these were.
pub async fn delete_covered_commits(catalog: &Catalog, before: Duration) -> Result<u64> {
    let old = old_commits(catalog, before).await?;
    objects::delete_all(catalog.location(), old.iter().map(|(name, _)| name.clone()).collect()).await?;
    Ok(old.len() as u64)
}

/// When an object was written, in seconds since 1970-01-01 UTC.
pub(super) fn written_at(object: &object_store::ObjectMeta) -> u64 {
    object.last_modified.timestamp().max(0).cast_unsigned()
}
