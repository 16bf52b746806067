//! Batches to shards of a dataset.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::accounting::DropReason;
use crate::activation::ActivationBatch;
use crate::catalog::compact::{COMPACT_AFTER, GRACE, compact, delete_covered_commits};
use crate::catalog::{Catalog, Committed};
use crate::dataset::PageBuffers;
use crate::dataset::commit::{Commit, UnitProgress};
use crate::dataset::encoder::fits;
use crate::dataset::paths;
use crate::dataset::sample::Sample;
use crate::dataset::schema::ShardSpec;
use crate::error::{Error, Result};
use crate::runtime::clock::{Clock, Stopwatch};
use crate::sink::Quota;
use crate::sink::advice::advised;
use crate::sink::lock::WriterLock;
use crate::sink::open_part::OpenPart;
use crate::store::objects;
use crate::store::upload::UploadOptions;
use crate::telemetry::traces::PipelineTraces;

/// How a sink writes; nothing here changes what it writes.
#[derive(Clone, Debug, Default)]
pub struct SinkOptions {
    /// In the name of every object of a writer that may race with others on the same unit: letters and digits, different
    /// for each writer and each of its starts. `None`: this is the only writer.
    pub attempt: Option<String>,
    /// How shards are uploaded.
    pub upload: UploadOptions,
    /// Wait until a shard is committed before anything else is done: another sink builds on it.
    pub one_by_one: bool,
    /// How much may be stored; `None`: any amount.
    pub quota: Option<Quota>,
    /// Commits after which a manifest is made that covers them; `None`: [`COMPACT_AFTER`].
    pub compact_after: Option<u64>,
    /// Where spans of shards go.
    pub traces: PipelineTraces,
}

/// A shard that [`ParquetSink::write`] completed.
#[derive(Clone, Debug, PartialEq)]
pub struct CommittedShard {
    /// The work unit.
    pub unit: u32,
    /// Index of the shard in its unit.
    pub part: u32,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// Rows that `sample` left out.
    pub sampled_out: u64,
    /// Whether the unit is committed to its end.
    pub unit_done: bool,
    /// Whether another worker had committed the same rows first.
    pub theirs: bool,
}

/// Writes batches as shards, exactly once.
///
/// Batches of several units may be interleaved, but those of one unit come in order, and begin at or before its first
/// sequence that is not committed. Not cancellation-safe: after a dropped or failed call, only [`ParquetSink::abort`].
pub struct ParquetSink {
    catalog: Catalog,
    spec: ShardSpec,
    options: SinkOptions,
    sample: Sample,
    progress: HashMap<u32, UnitProgress>,
    open: BTreeMap<u32, OpenPart>,
    /// Commits, about, that no manifest covers.
    uncovered: u64,
    /// Used by one shard after the other.
    buffers: PageBuffers,
    lock: Option<Arc<WriterLock>>,
    /// Shards that were committed by a call that then failed.
    unreported: Vec<CommittedShard>,
    /// The part that is being finished and committed while others are filled.
    publishing: Option<JoinHandle<Result<(Commit, Committed)>>>,
}

impl ParquetSink {
    /// A sink that is the dataset's only writer and continues after `progress`. Leftovers of a killed writer on a local
    /// store are removed.
    pub async fn new(catalog: Catalog, spec: ShardSpec, progress: HashMap<u32, UnitProgress>) -> Result<Self> {
        Self::with_options(catalog, spec, progress, SinkOptions::default()).await
    }

    /// As [`ParquetSink::new`], with options.
    pub async fn with_options(
        catalog: Catalog,
        spec: ShardSpec,
        progress: HashMap<u32, UnitProgress>,
        options: SinkOptions,
    ) -> Result<Self> {
        if options.attempt.is_none() {
            for folder in paths::FOLDERS {
                let swept = objects::sweep_staging(&catalog.location().child(folder), None)?;
                if !swept.is_empty() {
                    tracing::info!(folder, files = swept.len(), "removed what a killed run left half-written");
                }
            }
        }
        let sample = Sample::new(spec.sample);
        let parts: u64 = progress.values().map(|unit| u64::from(unit.next_part)).sum();
        let uncovered = parts.saturating_sub(catalog.covered_parts());
        Ok(Self {
            catalog,
            spec,
            options,
            sample,
            progress,
            open: BTreeMap::new(),
            uncovered,
            lock: None,
            unreported: Vec::new(),
            publishing: None,
            buffers: PageBuffers::default(),
        })
    }

    /// Hold `lock` for as long as this sink exists.
    pub fn holding(mut self, lock: WriterLock) -> Self {
        self.lock = Some(Arc::new(lock));
        self
    }

    /// Append the rows of `batch` that are not committed yet; gives the shards that were committed since the last call, all
    /// durable. A shard that this completes is finished and committed while the next ones are filled.
    pub async fn write(&mut self, batch: &ActivationBatch) -> Result<Vec<CommittedShard>> {
        let mut committed = std::mem::take(&mut self.unreported);
        match self.write_batch(batch, &mut committed).await {
            Ok(()) => Ok(committed),
            Err(error) => {
                self.unreported = committed;
                Err(error)
            }
        }
    }

    async fn write_batch(&mut self, batch: &ActivationBatch, committed: &mut Vec<CommittedShard>) -> Result<()> {
        if self.publishing.as_ref().is_some_and(JoinHandle::is_finished) {
            committed.extend(self.published().await?);
        }
        let progress = self.progress.entry(batch.unit).or_default();
        let end_seq = batch.first_seq + batch.n_sequences() as u32;
        if progress.done || (end_seq <= progress.next_seq && !batch.ends_unit) {
            return Ok(());
        }
        if let Some(quota) = self.options.quota.clone() {
            let open = self.open.values().map(OpenPart::bytes).sum();
            if !quota.fits(open).await {
                // what it measures has all that was taken
                committed.extend(self.published().await?);
                quota.make_room(open).await?;
            }
        }
        for i in 0..batch.n_sequences() {
            let seq = batch.first_seq + i as u32;
            if seq >= self.progress[&batch.unit].next_seq {
                self.write_sequence(batch, i, seq, committed).await?;
            }
        }
        let part = self.open_part(batch.unit)?;
        part.count_batch(batch);
        if batch.ends_unit {
            let batches = batch.batch_in_unit + 1;
            committed.extend(self.close_part(batch.unit, batches, Some(batches)).await?);
        }
        self.uncovered += committed.len() as u64;
        self.compact_if_due().await;
        Ok(())
    }

    /// Put what commits say into a manifest once there are many. Nothing depends on it: trouble is logged, and the next
    /// time does it.
    async fn compact_if_due(&mut self) {
        let after = self.options.compact_after.unwrap_or(COMPACT_AFTER);
        if self.uncovered < after || self.catalog.header().check_can_grow().is_err() {
            return;
        }
        self.uncovered = 0;
        let before = self.catalog.location().now(&Clock::system()).saturating_sub(GRACE);
        let compacted = compact(&self.catalog, after).await;
        let result = match compacted {
            Ok(made) => delete_covered_commits(&self.catalog, before).await.map(|deleted| (made, deleted)),
            Err(error) => Err(error),
        };
        match result {
            Ok((Some(made), deleted)) => {
                tracing::info!(
                    generation = made.generation,
                    covered = made.covered,
                    deleted,
                    "commits are in a manifest"
                );
            }
            Ok((None, _)) => {}
            Err(error) => tracing::warn!(%error, "cannot put commits into a manifest now"),
        }
    }

    async fn write_sequence(
        &mut self,
        batch: &ActivationBatch,
        i: usize,
        seq: u32,
        committed: &mut Vec<CommittedShard>,
    ) -> Result<()> {
        let runs = self.sampled(batch, i);
        let kept: usize = runs.iter().map(Range::len).sum();
        let sampled_out = (batch.sequence_rows(i).len() - kept) as u64;
        let full =
            self.open.get(&batch.unit).is_some_and(|part| !fits(part.rows(), kept as u64, self.spec.rows_per_shard));
        if full {
            committed.extend(self.close_part(batch.unit, batch.batch_in_unit, None).await?);
        }
        let part = self.open_part(batch.unit)?;
        if seq != part.next_seq {
            return Err(Error::internal(format!(
                "unit {}: sequence {seq} came when {} was next",
                batch.unit, part.next_seq
            )));
        }
        let pushed = part.push_sequence(batch, &runs, &batch.dropped[i], sampled_out).await;
        pushed.map_err(|error| advised(error, self.catalog.location()))
    }

    /// The rows of sequence `i` that are stored, as runs.
    fn sampled(&self, batch: &ActivationBatch, i: usize) -> Vec<Range<usize>> {
        let rows = batch.sequence_rows(i);
        if self.sample.keeps_all() {
            return vec![rows];
        }
        let mut runs: Vec<Range<usize>> = Vec::new();
        for row in rows.filter(|&row| self.sample.keeps(batch.unit, batch.seq[row], batch.pos[row])) {
            match runs.last_mut() {
                Some(run) if run.end == row => run.end += 1,
                _ => runs.push(row..row + 1),
            }
        }
        runs
    }

    /// The open part of `unit`, begun if there is none.
    fn open_part(&mut self, unit: u32) -> Result<&mut OpenPart> {
        match self.open.entry(unit) {
            std::collections::btree_map::Entry::Occupied(part) => Ok(part.into_mut()),
            std::collections::btree_map::Entry::Vacant(place) => {
                let progress = self.progress.entry(unit).or_default();
                Ok(place.insert(OpenPart::begin(
                    &self.catalog,
                    &self.spec,
                    &self.options,
                    unit,
                    progress,
                    &self.buffers,
                )?))
            }
        }
    }

    /// Publish the open part of `unit` beside what comes next, once the part before has been published: parts of a unit are
    /// committed in order, and what waits for the store is bounded.
    async fn close_part(&mut self, unit: u32, next_batch: u32, batches: Option<u32>) -> Result<Option<CommittedShard>> {
        let part = self.open.remove(&unit).ok_or_else(|| Error::internal(format!("unit {unit} has no open part")))?;
        let before = self.published().await;
        if let Err(error) = &before {
            tracing::debug!(%error, unit, "a part is given up");
            part.abort().await;
            return before;
        }
        let part = part.seal(next_batch, batches).await?;
        self.progress.insert(unit, part.progress_after());
        let (catalog, lock) = (self.catalog.clone(), self.lock.clone());
        let traces = self.options.traces.clone();
        let publish = async move {
            let watch = Stopwatch::start();
            let published = part.publish(&catalog, lock.as_deref()).await;
            if let Ok((commit, _)) = &published {
                traces.shard(commit.unit, commit.part, (commit.rows, commit.bytes), watch.elapsed());
            }
            published
        };
        self.publishing = Some(tokio::spawn(publish));
        if self.options.one_by_one { self.published().await } else { before }
    }

    /// Wait for the part that is being published, if there is one.
    async fn published(&mut self) -> Result<Option<CommittedShard>> {
        let Some(publishing) = self.publishing.take() else { return Ok(None) };
        let ended = publishing.await.map_err(|e| Error::internal(format!("publishing a part failed: {e}")))?;
        // a folder that is gone shows itself in many ways
        let gone = |lock: &Arc<WriterLock>| lock.check().err();
        let explained = |error| match self.lock.as_ref().and_then(gone) {
            Some(gone) => gone,
            None => advised(error, self.catalog.location()),
        };
        let (commit, committed) = ended.map_err(explained)?;
        Ok(Some(CommittedShard {
            unit: commit.unit,
            part: commit.part,
            rows: commit.rows,
            bytes: commit.bytes,
            sampled_out: commit.dropped.get(DropReason::Sampled),
            unit_done: commit.cursor.done,
            theirs: matches!(committed, Committed::Theirs(_)),
        }))
    }

    /// What is committed, or is being committed in order, by unit.
    pub fn progress(&self) -> &HashMap<u32, UnitProgress> {
        &self.progress
    }

    /// Other writers committed `unit` to its end: what this one has of it is dropped, and what comes of it is passed over.
    pub async fn others_finished(&mut self, unit: u32) {
        self.progress.entry(unit).or_default().done = true;
        if let Some(part) = self.open.remove(&unit) {
            part.abort().await;
        }
    }

    /// End the stream. Units that did not end are left at their last commit: what they have beyond it is not whole and is
    /// dropped. Nothing is left unreferenced in the store. Gives the shards that this completed.
    pub async fn finish(&mut self) -> Result<Vec<CommittedShard>> {
        let last = self.published().await;
        self.abort().await?;
        let mut committed = std::mem::take(&mut self.unreported);
        committed.extend(last?);
        Ok(committed)
    }

    /// Stop: the part that is being published is committed, other uploads that are under way are aborted.
    pub async fn abort(&mut self) -> Result<()> {
        for part in std::mem::take(&mut self.open).into_values() {
            part.abort().await;
        }
        self.published().await.map(drop)
    }
}

impl Drop for ParquetSink {
    /// A sink that is dropped without its end is a writer that died.
    fn drop(&mut self) {
        if let Some(publishing) = &self.publishing {
            publishing.abort();
        }
    }
}
