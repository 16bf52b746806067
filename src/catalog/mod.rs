//! Dataset decisions applied to a store: the only place where the two meet.
//!
//! [`Catalog`] opens a dataset, reads what is committed and commits; [`verify`] and [`inspect`] read it for operators;
//! [`checkpoints`] keeps trainers' states by the same rule (data first, then the one small object that makes it count).
//! Decisions themselves are pure and live in [`crate::dataset`]. Nothing here runs in the background: every function
//! returns when its effect is durable, and a process that is killed leaves only objects that nothing names.

pub mod checkpoints;
pub mod inspect;
mod shard_check;
pub mod verify;

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use crate::dataset::commit::{Commit, UnitProgress, unit_progress};
use crate::dataset::header::DatasetHeader;
use crate::dataset::paths;
use crate::error::{Error, Result};
use crate::store::Location;
use crate::store::objects::{self, Created};

/// Commits that are read at a time: small objects, so latency decides.
const READS_AT_A_TIME: usize = 32;

/// An open dataset.
#[derive(Clone, Debug)]
pub struct Catalog {
    location: Location,
    header: Arc<DatasetHeader>,
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
    /// Rows.
    pub rows: u64,
    /// Shards.
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
            Some(header) => Ok(Self { location, header: Arc::new(header) }),
            None => {
                Err(Error::data(format!("there is no dataset at `{}`: it has no {}", location.shown, paths::HEADER)))
            }
        }
    }

    /// Begin a dataset, or open the one that is there if a run with `header` may add to it; otherwise a
    /// [`Config`](crate::error::ErrorKind::Config) error that names what differs. The stored header is the one that counts.
    pub async fn create_or_open(location: Location, header: DatasetHeader) -> Result<Self> {
        let place = location.child(paths::HEADER);
        let header = match objects::create(&place, header.to_json().into()).await? {
            Created::Yes => header,
            Created::No(bytes) => {
                let context = |e: Error| e.context(format!("add to `{}`", location.shown));
                let stored = DatasetHeader::from_json(&bytes).map_err(context)?;
                stored.compatible(&header).map_err(context)?;
                stored
            }
        };
        Ok(Self { location, header: Arc::new(header) })
    }

    /// The header as stored.
    pub fn header(&self) -> &DatasetHeader {
        &self.header
    }

    /// Where the dataset is.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// All commits, by unit and part.
    pub async fn commits(&self) -> Result<Vec<Commit>> {
        let listed = objects::list(&self.location.child(paths::COMMITS)).await?;
        let names = listed.iter().filter_map(|object| {
            let name = object.location.filename()?.to_owned();
            Some((paths::parse_commit(&name)?, name))
        });
        let reads = names.map(|(place, name)| self.read_commit(place, name)).collect::<Vec<_>>();
        let mut commits: Vec<Commit> =
            futures::stream::iter(reads).buffer_unordered(READS_AT_A_TIME).try_collect().await?;
        commits.sort_by_key(|commit| (commit.unit, commit.part));
        Ok(commits)
    }

    async fn read_commit(&self, (unit, part): (u32, u32), name: String) -> Result<Commit> {
        let place = self.location.child(paths::COMMITS).child(&name);
        let bytes = objects::read(&place).await?;
        let bytes = bytes.ok_or_else(|| Error::data(format!("`{}` was listed but is not there", place.shown)))?;
        let commit = Commit::from_json(&bytes).map_err(|e| e.context(format!("read `{}`", place.shown)))?;
        if (commit.unit, commit.part) != (unit, part) {
            return Err(Error::data(format!("`{}` is of unit {} part {}", place.shown, commit.unit, commit.part)));
        }
        Ok(commit)
    }

    /// What is committed, by unit; units without commits are not in the map. An error if commits are missing in between.
    pub async fn progress(&self) -> Result<HashMap<u32, UnitProgress>> {
        let context = |e: Error| e.context(format!("continue `{}`", self.location.shown));
        match unit_progress(&self.commits().await?) {
            Ok(progress) => Ok(progress),
            // a listing that runs beside another worker may miss a part that was committed before one that it shows
            Err(_) => unit_progress(&self.commits().await?).map_err(context),
        }
    }

    /// Totals over all commits.
    pub async fn totals(&self) -> Result<Totals> {
        let commits = self.commits().await?;
        let done = commits.iter().filter(|commit| commit.cursor.done).count();
        Ok(Totals {
            rows: commits.iter().map(|commit| commit.rows).sum(),
            shards: commits.len() as u64,
            bytes: commits.iter().map(|commit| commit.bytes).sum(),
            complete: done == self.header.units as usize,
        })
    }

    /// Make a shard exist. Its object must be durable.
    ///
    /// Exactly one commit of a part ever counts. Losing that race to a worker that committed the same rows is fine; other
    /// rows, or an object of the same name with other bytes, are a [`Data`](crate::error::ErrorKind::Data) error.
    pub async fn commit(&self, commit: &Commit) -> Result<Committed> {
        let place = self.location.child(&paths::commit(commit.unit, commit.part));
        let bytes = match objects::create(&place, commit.to_json().into()).await? {
            Created::Yes => return Ok(Committed::Ours),
            Created::No(bytes) => bytes,
        };
        let stored = Commit::from_json(&bytes).map_err(|e| e.context(format!("read `{}`", place.shown)))?;
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
}

#[cfg(test)]
mod tests;
