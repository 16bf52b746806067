//! What is committed at one moment: the newest manifest, and the commits that it does not cover.
//!
//! Manifests are listed, then commits, then manifests again. If the generation changed meanwhile, commits may have been
//! covered and tidied away between the two: everything is read anew.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};

use crate::catalog::Catalog;
use crate::dataset::commit::{Commit, PartMark, UnitProgress, advance_units};
use crate::dataset::encoder::hex;
use crate::dataset::manifest::{Manifest, SegmentRef};
use crate::dataset::paths;
use crate::dataset::segment::{self, Entry};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{self, Location, objects};

/// Commits that are read at a time: small objects, so latency decides.
const READS_AT_A_TIME: usize = 32;
/// Segments that are read at a time: they are large.
const SEGMENTS_AT_A_TIME: usize = 2;
/// Times that everything is read anew because manifests changed meanwhile.
const TRIES: usize = 20;
/// A manifest's size, at most; larger ones are refused unread.
const MANIFEST_BYTES_MAX: u64 = 256 << 20;
/// A commit's size, at most.
const COMMIT_BYTES_MAX: u64 = 256 << 20;

/// What a manifest covers.
#[derive(Debug)]
pub struct Covered {
    /// The manifest; the empty one of generation 0 if there is none.
    pub manifest: Manifest,
    /// By unit: what is covered, from its first part on.
    pub progress: HashMap<u32, UnitProgress>,
}

/// What is committed at one moment.
#[derive(Debug)]
pub struct State {
    /// What the newest manifest covers.
    pub covered: Arc<Covered>,
    /// The commits that it does not cover, by unit and part.
    pub uncovered: Vec<Entry>,
    /// Commits that cannot be read: their names and why. Empty unless they were asked for.
    pub unreadable: Vec<(String, String)>,
}

impl Default for Covered {
    fn default() -> Self {
        Self { manifest: Manifest::empty(), progress: HashMap::new() }
    }
}

impl Covered {
    /// Whether a part is covered: its commit, if there is one, counts no more.
    pub fn covers(&self, unit: u32, part: u32) -> bool {
        self.progress.get(&unit).is_some_and(|at| part < at.next_part)
    }
}

/// What is wanted of the commits that no manifest covers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Commits {
    /// Nothing.
    Unread,
    /// All of them; one that cannot be read is an error.
    Strict,
    /// Those that can be read.
    Lenient,
}

impl Catalog {
    /// What is committed now. A commit that cannot be read is an error.
    pub async fn state(&self) -> Result<State> {
        self.consistent(Commits::Strict).await
    }

    /// What is committed now, with a list of the commits that cannot be read.
    pub async fn lenient_state(&self) -> Result<State> {
        self.consistent(Commits::Lenient).await
    }

    /// What manifests say now; commits are not read.
    pub(super) async fn covered_state(&self) -> Result<State> {
        self.consistent(Commits::Unread).await
    }

    async fn consistent(&self, commits: Commits) -> Result<State> {
        let mut before = self.newest_generation().await?;
        for _ in 0..TRIES {
            let found = self.state_at(before, commits).await;
            let after =
                if commits == Commits::Unread && found.is_ok() { before } else { self.newest_generation().await? };
            if after == before {
                return found;
            }
            before = after;
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("the manifests of `{}` change too fast to read", self.location.shown),
        ))
    }

    async fn state_at(&self, generation: u64, commits: Commits) -> Result<State> {
        let covered = self.covered_at(generation).await?;
        let mut state = State { covered, uncovered: Vec::new(), unreadable: Vec::new() };
        if commits == Commits::Unread {
            return Ok(state);
        }
        let listed = objects::list(&self.location.child(paths::COMMITS)).await?;
        let names = listed.iter().filter_map(|object| {
            let name = object.location.filename()?.to_owned();
            let (unit, part) = paths::parse_commit(&name)?;
            let at = object.last_modified.timestamp().max(0).cast_unsigned();
            (!state.covered.covers(unit, part)).then_some((unit, part, name, at))
        });
        let reads = names.map(|(unit, part, name, committed_at)| async move {
            let read = self.read_commit((unit, part), &name).await;
            (name, read.map(|commit| Entry { commit, committed_at, retired_at: None }))
        });
        let mut reads = futures::stream::iter(reads.collect::<Vec<_>>()).buffered(READS_AT_A_TIME);
        while let Some((name, read)) = reads.next().await {
            match read {
                Ok(entry) => state.uncovered.push(entry),
                Err(error) if commits == Commits::Lenient && error.kind() == ErrorKind::Data => {
                    state.unreadable.push((format!("{}/{name}", paths::COMMITS), error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        drop(reads);
        state.uncovered.sort_by_key(|entry| (entry.commit.unit, entry.commit.part));
        Ok(state)
    }

    async fn read_commit(&self, (unit, part): (u32, u32), name: &str) -> Result<Commit> {
        let place = self.location.child(paths::COMMITS).child(name);
        let bytes = read_bounded(&place, COMMIT_BYTES_MAX).await?;
        let commit = Commit::from_json(&bytes).map_err(|e| e.context(format!("read `{}`", place.shown)))?;
        if (commit.unit, commit.part) != (unit, part) {
            return Err(Error::data(format!("`{}` is of unit {} part {}", place.shown, commit.unit, commit.part)));
        }
        Ok(commit)
    }

    /// Generation of the newest manifest; 0 if there is none.
    pub(super) async fn newest_generation(&self) -> Result<u64> {
        let listed = objects::list(&self.location.child(paths::MANIFESTS)).await?;
        Ok(listed.iter().filter_map(|object| paths::parse_manifest(object.location.filename()?)).max().unwrap_or(0))
    }

    /// What the manifest of `generation` covers.
    pub(super) async fn covered_at(&self, generation: u64) -> Result<Arc<Covered>> {
        let cached = Arc::clone(&self.covered.lock().unwrap_or_else(PoisonError::into_inner));
        if cached.manifest.generation == generation {
            return Ok(cached);
        }
        let manifest = match generation {
            0 => Manifest::empty(),
            _ => self.read_manifest(generation).await?,
        };
        let reads = manifest.segments.iter().map(|segment| async move {
            let decode = |bytes, rows| segment::decode_marks(bytes, rows);
            self.read_segment(segment, decode).await
        });
        let marks: Vec<Vec<PartMark>> =
            futures::stream::iter(reads.collect::<Vec<_>>()).buffered(SEGMENTS_AT_A_TIME).try_collect().await?;
        let mut progress = HashMap::new();
        let context =
            |e: Error| e.context(format!("read `{}`", self.location.child(&paths::manifest(generation)).shown));
        advance_units(&mut progress, marks.concat()).map_err(context)?;
        let covered = Arc::new(Covered { manifest, progress });
        *self.covered.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&covered);
        Ok(covered)
    }

    pub(super) async fn read_manifest(&self, generation: u64) -> Result<Manifest> {
        let place = self.location.child(&paths::manifest(generation));
        let bytes = read_bounded(&place, MANIFEST_BYTES_MAX).await?;
        Manifest::from_json(&bytes, generation).map_err(|e| e.context(format!("read `{}`", place.shown)))
    }

    /// Everything that the segments of `state`'s manifest list.
    pub(super) async fn segment_entries(&self, state: &State) -> Result<Vec<Entry>> {
        let segments = &state.covered.manifest.segments;
        let reads = segments.iter().map(|segment| self.entries_of(segment)).collect::<Vec<_>>();
        let found: Vec<Vec<Entry>> = futures::stream::iter(reads).buffered(SEGMENTS_AT_A_TIME).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The entries of one segment.
    pub(super) async fn entries_of(&self, segment: &SegmentRef) -> Result<Vec<Entry>> {
        self.read_segment(segment, segment::decode).await
    }

    /// Read a segment, compare its checksum, and only then decode it.
    async fn read_segment<T: Send + 'static>(
        &self,
        segment: &SegmentRef,
        decode: impl FnOnce(Bytes, u64) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = self.location.child(&segment.object);
        let bytes = read_bounded(&place, segment.bytes).await?;
        let (rows, sum) = (segment.rows, segment.checksum.value.clone());
        let decoded = tokio::task::spawn_blocking(move || {
            let found = hex(&Sha256::digest(&bytes));
            if found != sum {
                return Err(Error::data(format!("has checksum {found} instead of {sum}")));
            }
            decode(bytes, rows)
        });
        let decoded = decoded.await.map_err(|e| Error::internal(format!("decoding `{}` failed: {e}", place.shown)))?;
        decoded.map_err(|e| e.context(format!("read `{}`", place.shown)))
    }
}

/// The bytes of an object that must be there and have at most `max` bytes.
async fn read_bounded(place: &Location, max: u64) -> Result<Bytes> {
    let found = match place.store.get(&place.path).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => {
            return Err(Error::data(format!("`{}` should be there but is not", place.shown)));
        }
        Err(error) => return Err(store::error("read", &place.shown, error)),
    };
    if found.meta.size > max {
        return Err(Error::data(format!("`{}` has {} bytes, more than {max}", place.shown, found.meta.size)));
    }
    found.bytes().await.map_err(|e| store::error("read", &place.shown, e))
}
