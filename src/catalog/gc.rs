//! Retention and garbage collection: what goes, why, and when.
//!
//! Retention retires whole parts, the oldest commits first, through a manifest of the next generation: their counts stay,
//! so that the unit is never computed again, and readers skip them. Their objects, and everything else that nothing needs
//! any more, are deleted once they are older than a grace period, for readers and writers that still use them.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use object_store::ObjectStore;
use serde::Serialize;

use crate::catalog::compact::{Retire, next_generation, old_commits, written_at};
use crate::catalog::{Catalog, lost};
use crate::dataset::config::KeepConfig;
use crate::dataset::manifest::Manifest;
use crate::dataset::paths;
use crate::dataset::segment::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::clock::{Clock, Stopwatch};
use crate::store::orphans::{self, OpenUpload};
use crate::store::{self, objects};

/// Time between two looks at what is to be retired, while a run goes on.
const LOOK_EVERY: Duration = Duration::from_secs(10 * 60);

/// What is kept, and how old garbage must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Retention; nothing is retired without one of its limits.
    pub keep: KeepConfig,
    /// What nothing needs is deleted when it is older.
    pub grace: Duration,
    /// Since 1970-01-01 UTC.
    pub now: Duration,
}

impl Policy {
    /// Garbage of before then goes, since 1970-01-01 UTC; without a grace period all does, whatever the store's clock says.
    fn before(&self) -> Duration {
        self.older_than(self.grace)
    }

    /// Shards of parts that were retired before then go: the shorter of the two graces counts.
    fn retired_before(&self) -> Duration {
        self.older_than(self.keep.grace.map_or(self.grace, |grace| grace.0.min(self.grace)))
    }

    fn older_than(&self, grace: Duration) -> Duration {
        if grace.is_zero() { Duration::MAX } else { self.now.saturating_sub(grace) }
    }
}

/// What goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Garbage {
    /// Parts that retention takes away.
    pub retired: Vec<RetiredPart>,
    /// Objects to delete.
    pub objects: Vec<GarbageObject>,
    /// Uploads in parts that never ended: their parts are billed but cannot be seen.
    pub uploads: Vec<GarbageUpload>,
    /// Objects and uploads that nothing needs but that are not old enough.
    pub young: u64,
}

/// An upload in parts that began and did not end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GarbageUpload {
    /// The object that it would make, by its path in the store.
    pub object: String,
    /// Seconds since it began.
    pub age: u64,
    #[serde(skip)]
    upload: OpenUpload,
}

/// A part that retention takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RetiredPart {
    /// The work unit.
    pub unit: u32,
    /// Index of the part in its unit.
    pub part: u32,
    /// Its rows.
    pub rows: u64,
    /// Bytes of its shards, those of column groups included.
    pub bytes: u64,
    /// When it was committed, in seconds since 1970-01-01 UTC.
    pub committed_at: u64,
}

/// An object that nothing needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GarbageObject {
    /// Relative to the dataset's URL.
    pub object: String,
    /// Its size.
    pub bytes: u64,
    /// Why it goes.
    pub reason: Reason,
}

impl Garbage {
    /// Whether nothing goes.
    pub fn is_empty(&self) -> bool {
        self.retired.is_empty() && self.objects.is_empty() && self.uploads.is_empty()
    }
}

/// Why an object goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A shard that no commit names: a killed writer's, or one that lost a race.
    Uncommitted,
    /// The shard of a retired part.
    Retired,
    /// A commit that a manifest covers.
    Covered,
    /// A manifest or segment that newer ones replace.
    Superseded,
}

impl Reason {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uncommitted => "no commit names it",
            Self::Retired => "its part is retired",
            Self::Covered => "a manifest covers it",
            Self::Superseded => "newer manifests replace it",
        }
    }
}

/// Say what would go.
pub async fn plan(catalog: &Catalog, policy: &Policy) -> Result<Garbage> {
    let groups = catalog.groups().await?;
    let retired = to_retire(catalog, &groups, policy).await?;
    let mut garbage = Garbage { retired, ..Garbage::default() };
    find_all(catalog, &groups, policy, &mut garbage).await?;
    Ok(garbage)
}

/// Retire what the policy does not keep, then delete garbage that is old enough. Gives what was done.
pub async fn collect(catalog: &Catalog, policy: &Policy) -> Result<Garbage> {
    let groups = catalog.groups().await?;
    let retired = retire(catalog, &groups, policy).await?;
    let mut garbage = Garbage { retired, ..Garbage::default() };
    find_all(catalog, &groups, policy, &mut garbage).await?;
    let names = garbage.objects.iter().map(|object| object.object.clone());
    objects::delete_all(catalog.location(), names.collect()).await?;
    for upload in &garbage.uploads {
        orphans::abort(catalog.location(), &upload.upload).await?;
    }
    for place in std::iter::once(catalog).chain(&groups).map(Catalog::location) {
        for folder in paths::FOLDERS {
            let swept = objects::sweep_staging(&place.child(folder), Some(policy.before()))?;
            if !swept.is_empty() {
                tracing::info!(place = %place.shown, folder, files = swept.len(), "deleted half-written files");
            }
        }
    }
    Ok(garbage)
}

/// Retire parts in the dataset and its groups.
async fn retire(catalog: &Catalog, groups: &[Catalog], policy: &Policy) -> Result<Vec<RetiredPart>> {
    let retired = to_retire(catalog, groups, policy).await?;
    let parts: HashSet<(u32, u32)> = retired.iter().map(|part| (part.unit, part.part)).collect();
    let at = policy.now.as_secs();
    if !parts.is_empty() {
        next_generation(catalog, 0, Some(&Retire { parts, at }), &[]).await?;
    }
    // what the dataset does not have any more, its groups need not have: also from a run that ended in between
    let gone: HashSet<(u32, u32)> = catalog
        .entries()
        .await?
        .iter()
        .filter(|entry| entry.retired_at.is_some())
        .map(|entry| (entry.commit.unit, entry.commit.part))
        .collect();
    for group in groups {
        let live = group.commits().await?;
        let parts: HashSet<_> = live.iter().map(|c| (c.unit, c.part)).filter(|part| gone.contains(part)).collect();
        if !parts.is_empty() {
            next_generation(group, 0, Some(&Retire { parts, at }), &[]).await?;
        }
    }
    Ok(retired)
}

/// The parts that the policy does not keep, oldest first.
async fn to_retire(catalog: &Catalog, groups: &[Catalog], policy: &Policy) -> Result<Vec<RetiredPart>> {
    let KeepConfig { rows, bytes, age, .. } = policy.keep;
    if rows.is_none() && bytes.is_none() && age.is_none() {
        return Ok(Vec::new());
    }
    catalog.header().check_can_grow()?;
    let mut of_groups: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    for group in groups {
        for commit in group.commits().await? {
            *of_groups.entry((commit.unit, commit.part)).or_default() += commit.bytes;
        }
    }
    let mut live = catalog.entries().await?;
    live.retain(|entry| entry.retired_at.is_none());
    // newest first; of the same second, the last of a unit first, so that what goes of a unit is its beginning
    live.sort_by_key(|e| std::cmp::Reverse((e.committed_at, e.commit.part, e.commit.unit)));
    let part = |Entry { commit, committed_at, .. }: &Entry| RetiredPart {
        unit: commit.unit,
        part: commit.part,
        rows: commit.rows,
        bytes: commit.bytes + of_groups.get(&(commit.unit, commit.part)).copied().unwrap_or(0),
        committed_at: *committed_at,
    };
    let youngest = age.map(|age| policy.now.saturating_sub(age.0).as_secs());
    let (mut kept_rows, mut kept_bytes) = (0u64, 0u64);
    let is_kept = |part: &RetiredPart| {
        kept_rows = kept_rows.saturating_add(part.rows);
        kept_bytes = kept_bytes.saturating_add(part.bytes);
        rows.is_none_or(|most| kept_rows <= most.0)
            && bytes.is_none_or(|most| kept_bytes <= most.0)
            && youngest.is_none_or(|youngest| part.committed_at >= youngest)
    };
    let parts: Vec<RetiredPart> = live.iter().map(part).collect();
    // from the first that is not kept on, all go: what is kept is the newest, without holes
    let n_kept = parts.iter().copied().take_while({
        let mut is_kept = is_kept;
        move |part| is_kept(part)
    });
    let n_kept = n_kept.count();
    Ok(parts[n_kept..].iter().rev().copied().collect())
}

/// Objects of the dataset and its groups that nothing needs.
async fn find_all(catalog: &Catalog, groups: &[Catalog], policy: &Policy, garbage: &mut Garbage) -> Result<()> {
    find(catalog, "", policy, garbage).await?;
    for group in groups {
        let name = group.header().column_group.clone().unwrap_or_default();
        find(group, &format!("{}/", paths::column_group(&name)), policy, garbage).await?;
    }
    for upload in orphans::list(catalog.location()).await? {
        match upload.age >= policy.grace {
            true => {
                let (object, age) = (upload.object.clone(), upload.age.as_secs());
                garbage.uploads.push(GarbageUpload { object, age, upload });
            }
            false => garbage.young += 1,
        }
    }
    Ok(())
}

/// Objects of one dataset that nothing needs; their names get `prefix`.
async fn find(catalog: &Catalog, prefix: &str, policy: &Policy, garbage: &mut Garbage) -> Result<()> {
    let (before, retired_before) = (policy.before(), policy.retired_before());
    let mut add = |object: &str, bytes: u64, reason: Reason, old: bool| match old {
        true => garbage.objects.push(GarbageObject { object: format!("{prefix}{object}"), bytes, reason }),
        false => garbage.young += 1,
    };
    // listed before commits are: a shard that is committed in between is not taken for garbage
    let place = catalog.location().child(paths::SHARDS);
    let listed: Vec<_> =
        place.store.list(Some(&place.path)).try_collect().await.map_err(|e| store::error("list", &place.shown, e))?;
    let state = catalog.state().await?;
    if let Some((segment, parts)) = lost::parts_of_lost_manifests(catalog, &state).await?.first() {
        return Err(Error::data(format!(
            "nothing is collected: `{}` names {parts} parts that no manifest and no commit names, so a manifest was lost",
            catalog.location().child(segment).shown
        )));
    }
    let entries = catalog.entries().await?;
    let (mut named, mut gone) = (HashSet::new(), BTreeMap::new());
    for entry in &entries {
        match entry.retired_at {
            Some(at) => _ = gone.insert(entry.commit.object.as_str(), at <= retired_before.as_secs()),
            None => _ = named.insert(entry.commit.object.as_str()),
        }
    }
    for object in &listed {
        let name = format!("{}/{}", paths::SHARDS, object.location.filename().unwrap_or_default());
        match gone.get(name.as_str()) {
            Some(old) => add(&name, object.size, Reason::Retired, *old),
            None if named.contains(name.as_str()) => {}
            None => add(&name, object.size, Reason::Uncommitted, written_at(object) < before.as_secs()),
        }
    }
    for (name, bytes) in old_commits(catalog, before).await? {
        add(&name, bytes, Reason::Covered, true);
    }
    for (name, bytes, old) in superseded(catalog, policy, &state.covered.manifest).await? {
        add(&name, bytes, Reason::Superseded, old);
    }
    Ok(())
}

/// Manifests before the newest, and segments that no manifest needs which is kept: name, size, whether it is old enough.
/// `known` was read before: nothing that it names goes, whatever a listing shows.
async fn superseded(catalog: &Catalog, policy: &Policy, known: &Manifest) -> Result<Vec<(String, u64, bool)>> {
    let place = catalog.location().child(paths::MANIFESTS);
    let listed = objects::list(&place).await?;
    let generation = |object: &object_store::ObjectMeta| paths::parse_manifest(object.location.filename()?);
    let newest = listed.iter().filter_map(generation).max().max(Some(known.generation));
    let mut found = Vec::new();
    let mut needed: HashSet<String> = known.segments.iter().map(|segment| segment.object.clone()).collect();
    for object in listed.iter().filter(|object| generation(object).is_some()) {
        let name = format!("{}/{}", paths::MANIFESTS, object.location.filename().unwrap_or_default());
        let old = generation(object) < newest && written_at(object) < policy.before().as_secs();
        if generation(object) < newest {
            found.push((name, object.size, old));
        }
        if !old {
            let number = generation(object).unwrap_or_default();
            let segments =
                Catalog::of(catalog.location().clone(), catalog.header().clone()).read_manifest(number).await;
            match segments {
                Ok(manifest) => needed.extend(manifest.segments.into_iter().map(|segment| segment.object)),
                // one that is not the newest may be anything
                Err(error) if error.kind() == ErrorKind::Data && generation(object) < newest => {}
                Err(error) => return Err(error),
            }
        }
    }
    for object in listed.iter().filter(|object| generation(object).is_none()) {
        let name = format!("{}/{}", paths::MANIFESTS, object.location.filename().unwrap_or_default());
        if !needed.contains(&name) {
            found.push((name, object.size, written_at(object) < policy.before().as_secs()));
        }
    }
    Ok(found)
}

/// Applies retention while a run goes on, and at its end.
#[derive(Debug)]
pub struct Keeper {
    catalog: Catalog,
    keep: KeepConfig,
    grace: Duration,
    clock: Clock,
    /// Since the last time.
    watch: Mutex<Stopwatch>,
}

impl Keeper {
    /// A keeper of a dataset; an error ([`Config`](ErrorKind::Config)) if its format has no retention.
    pub fn new(catalog: Catalog, keep: KeepConfig, grace: Duration, clock: Clock) -> Result<Self> {
        catalog.header().check_can_grow()?;
        Ok(Self { catalog, keep, grace, clock, watch: Mutex::new(Stopwatch::start()) })
    }

    /// Collect if the last time was long ago.
    pub async fn from_time_to_time(&self) {
        let since = self.watch.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if since >= LOOK_EVERY {
            self.collect().await;
        }
    }

    /// Retire and delete now. Trouble is logged: the next time does it.
    pub async fn collect(&self) {
        let policy = Policy { keep: self.keep, grace: self.grace, now: self.catalog.location().now(&self.clock) };
        match collect(&self.catalog, &policy).await {
            Ok(done) if done.is_empty() => {}
            Ok(done) => {
                tracing::info!(retired = done.retired.len(), deleted = done.objects.len(), "retention");
            }
            Err(error) => log_trouble(&error),
        }
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Stopwatch::start();
    }
}

fn log_trouble(error: &Error) {
    tracing::warn!(%error, "cannot apply dataset.keep now");
}
