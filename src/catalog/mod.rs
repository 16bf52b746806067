//! Dataset decisions applied to a store: the only place where the two meet.
//!
//! [`Catalog`] opens a dataset, reads what is committed ([`state`]) and commits; [`compact`] puts what commits say into
//! manifests; [`View`](columns::View) joins a dataset with its column groups for readers; [`verify`], [`inspect`] and
//! [`gc`] serve operators; [`checkpoints`] keeps trainers' states by the same rule as commits (data first, then the one
//! small object that makes it count). Decisions themselves are pure and live in [`crate::dataset`]. Nothing here runs in
//! the background: every function returns when its effect is durable, and a process that is killed leaves only objects
//! that nothing names.

pub mod checkpoints;
pub mod columns;
pub mod compact;
pub mod gc;
pub mod inspect;
mod lost;
pub mod meter;
mod register;
mod shard_check;
pub mod state;
pub mod verify;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::catalog::columns::BaseRows;
use crate::catalog::state::Covered;
use crate::dataset::commit::{Commit, PartMark, UnitProgress, advance_units};
use crate::dataset::header::{DatasetHeader, FORMAT};
use crate::dataset::manifest::CoveredTotals;
use crate::dataset::paths;
use crate::dataset::segment::Entry;
use crate::error::{Error, Result};
use crate::store::objects::{self, Created};
use crate::store::{Location, probe};
use crate::testing::failpoint;

/// An open dataset.
#[derive(Clone, Debug)]
pub struct Catalog {
    location: Location,
    header: Arc<DatasetHeader>,
    /// The last manifest that was read: it never changes, so it is read once.
    covered: Arc<Mutex<Arc<Covered>>>,
    /// For a column group that is written to: the rows that it must have.
    base: Option<Arc<BaseRows>>,
}

/// What became of a commit.
#[derive(Clone, Debug, PartialEq)]
pub enum Committed {
    /// It counts.
    Ours,
    /// Another worker had committed the same rows first; our object was deleted if it had a name of its own.
    Theirs(Box<Commit>),
}

/// What a dataset holds in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Rows, without those that retention took away.
    pub rows: u64,
    /// Shards, without retired ones.
    pub shards: u64,
    /// Bytes of the shards.
    pub bytes: u64,
    /// Whether every unit is done.
    pub complete: bool,
}

impl Catalog {
    /// The header of the dataset at `location`, if there is one.
    pub async fn read_header(location: &Location) -> Result<Option<DatasetHeader>> {
        let place = location.child(paths::HEADER);
        match objects::read(&place).await? {
            None => Ok(None),
            Some(bytes) => {
                DatasetHeader::from_json(&bytes).map(Some).map_err(|e| e.context(format!("read `{}`", place.shown)))
            }
        }
    }

    /// Open a dataset that must exist.
    pub async fn open(location: Location) -> Result<Self> {
        match Self::read_header(&location).await? {
            Some(header) => Ok(Self::of(location, header)),
            None => {
                Err(Error::data(format!("there is no dataset at `{}`: it has no {}", location.shown, paths::HEADER)))
            }
        }
    }

    /// Begin a dataset, or open the one that is there if a run with `header` may add to it; otherwise a
    /// [`Config`](crate::error::ErrorKind::Config) error that names what differs. The stored header is the one that counts.
    pub async fn create_or_open(location: Location, header: DatasetHeader) -> Result<Self> {
        let place = location.child(paths::HEADER);
        probe::exclusive_writes(&location).await?;
        if Self::read_header(&location).await?.is_none()
            && lost::has_parts(&location).await?
            && Self::read_header(&location).await?.is_none()
        {
            return Err(Error::data(format!(
                "`{}` is missing, but what it describes is there: it was lost; put it back, or choose another place",
                place.shown
            )));
        }
        failpoint("header_before");
        let header = match objects::create(&place, header.to_json().into()).await? {
            Created::Yes => header,
            Created::No(bytes) => {
                let context = |e: Error| e.context(format!("add to `{}`", location.shown));
                let stored = DatasetHeader::from_json(&bytes).map_err(context)?;
                stored.compatible(&header).map_err(context)?;
                stored
            }
        };
        failpoint("header_written");
        Ok(Self::of(location, header))
    }

    fn of(location: Location, header: DatasetHeader) -> Self {
        Self { location, header: Arc::new(header), covered: Arc::default(), base: None }
    }

    /// Make the dataset one of the newest format, so that manifests and column groups may be added to it. Readers of the
    /// old format then refuse it. Gives the format that it had; the newest one means that nothing was to be done.
    pub async fn upgrade(&mut self) -> Result<u32> {
        let before = self.header.format;
        if before < FORMAT {
            let header = DatasetHeader { format: FORMAT, ..(*self.header).clone() };
            objects::replace(&self.location.child(paths::HEADER), header.to_json().into()).await?;
            self.header = Arc::new(header);
        }
        Ok(before)
    }

    /// The header as stored.
    pub fn header(&self) -> &DatasetHeader {
        &self.header
    }

    /// Where the dataset is.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Parts that the last manifest covers which was read; nothing is asked.
    pub fn covered_parts(&self) -> u64 {
        self.covered.lock().unwrap_or_else(PoisonError::into_inner).manifest.parts()
    }

    /// What the live parts' commits say, by unit and part. Those that a manifest covers come without the mean rows of
    /// their statistics; retired parts are left out.
    pub async fn commits(&self) -> Result<Vec<Commit>> {
        let live = self.entries().await?.into_iter().filter(|entry| entry.retired_at.is_none());
        Ok(live.map(|entry| entry.commit).collect())
    }

    /// All parts, retired ones too, by unit and part.
    pub async fn entries(&self) -> Result<Vec<Entry>> {
        loop {
            let state = self.state().await?;
            let mut entries = match self.segment_entries(&state).await {
                Ok(entries) => entries,
                // segments of a manifest that was replaced may be gone
                Err(_) if self.newest_generation().await? != state.covered.manifest.generation => continue,
                Err(error) => return Err(error),
            };
            entries.extend(state.uncovered);
            entries.sort_by_key(|entry| (entry.commit.unit, entry.commit.part));
            return Ok(entries);
        }
    }

    /// What is committed, by unit; units without commits are not in the map. An error if commits are missing in between.
    pub async fn progress(&self) -> Result<HashMap<u32, UnitProgress>> {
        let once = async || {
            let state = self.state().await?;
            let mut progress = state.covered.progress.clone();
            let parts = state.uncovered.iter().map(|entry| PartMark::from(&entry.commit));
            advance_units(&mut progress, parts.collect()).map(|()| progress)
        };
        match once().await {
            Ok(progress) => Ok(progress),
            // a listing that runs beside another worker may miss a part that was committed before one that it shows
            Err(_) => once().await.map_err(|e| e.context(format!("continue `{}`", self.location.shown))),
        }
    }

    /// Totals over all parts.
    pub async fn totals(&self) -> Result<Totals> {
        let state = self.state().await?;
        let mut sums = state.covered.manifest.totals;
        sums.merge(&CoveredTotals::of(&state.uncovered));
        let complete = !self.header.follows && sums.units_done == u64::from(self.header.units);
        Ok(Totals { rows: sums.rows, shards: sums.shards, bytes: sums.bytes, complete })
    }

    /// Make a shard exist. Its object must be durable.
    ///
    /// Exactly one commit of a part ever counts. Losing that race to a worker that committed the same rows is fine; other
    /// rows, an object of the same name with other bytes, or rows of a column group that are not its dataset's are a
    /// [`Data`](crate::error::ErrorKind::Data) error.
    pub async fn commit(&self, commit: &Commit) -> Result<Committed> {
        if let Some(base) = &self.base {
            base.check(commit).await?;
        }
        let place = self.location.child(&paths::commit(commit.unit, commit.part));
        let stored = match objects::create(&place, commit.to_json().into()).await? {
            Created::Yes => match self.covered_before(commit).await? {
                None => return Ok(Committed::Ours),
                Some(stored) => {
                    objects::delete(&place).await?;
                    stored
                }
            },
            Created::No(bytes) => {
                Commit::from_json(&bytes).map_err(|e| e.context(format!("read `{}`", place.shown)))?
            }
        };
        if !stored.same_rows(commit) {
            return Err(Error::data(format!(
                "`{}` is committed with other rows ({} of sequences {:?}, not {} of {:?}): two different runs write to this dataset",
                place.shown, stored.rows, stored.sequences, commit.rows, commit.sequences
            )));
        }
        if stored.object != commit.object {
            objects::delete(&self.location.child(&commit.object)).await?;
        } else if stored.checksum != commit.checksum {
            return Err(Error::data(format!(
                "`{}` was overwritten with other bytes after it was committed: give racing workers different attempts",
                self.location.child(&commit.object).shown
            )));
        }
        Ok(Committed::Theirs(Box::new(stored)))
    }

    /// The commit of the same part that a manifest covers already, whose own object was tidied away. Only a writer that
    /// may race with others asks: its objects have names of their own.
    async fn covered_before(&self, commit: &Commit) -> Result<Option<Commit>> {
        if commit.object == paths::shard(commit.unit, commit.part, None) {
            return Ok(None);
        }
        let state = self.covered_state().await?;
        if !state.covered.covers(commit.unit, commit.part) {
            return Ok(None);
        }
        let entries = self.segment_entries(&state).await?;
        let is_it = |entry: &Entry| (entry.commit.unit, entry.commit.part) == (commit.unit, commit.part);
        let stored = entries.into_iter().find(is_it).map(|entry| entry.commit);
        Ok(stored.filter(|stored| stored.object != commit.object))
    }
}

#[cfg(test)]
mod tests;
