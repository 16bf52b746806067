//! A shard that is being filled and uploaded.

use std::ops::Range;

use bytes::Bytes;

use crate::accounting::{DropCounts, DropReason};
use crate::activation::ActivationBatch;
use crate::catalog::{Catalog, Committed};
use crate::dataset::PageBuffers;
use crate::dataset::commit::{Commit, UnitCursor, UnitProgress};
use crate::dataset::encoder::ShardEncoder;
use crate::dataset::header::PART_FORMAT;
use crate::dataset::paths;
use crate::dataset::schema::ShardSpec;
use crate::error::Result;
use crate::sink::{Quota, SinkOptions, WriterLock};
use crate::store::upload::Upload;
use crate::testing::failpoint;

/// One part of one unit, from its first sequence on.
pub(super) struct OpenPart {
    unit: u32,
    part: u32,
    object: String,
    from_seq: u32,
    /// First sequence that it does not hold.
    pub(super) next_seq: u32,
    encoder: ShardEncoder,
    upload: Upload,
    quota: Option<Quota>,
    /// Bytes that are encoded.
    bytes: u64,
    dropped: DropCounts,
    documents: u64,
    tokens: u64,
}

impl OpenPart {
    /// The part of `unit` that comes after `progress`.
    pub(super) fn begin(
        catalog: &Catalog,
        spec: &ShardSpec,
        options: &SinkOptions,
        unit: u32,
        progress: &UnitProgress,
        buffers: &PageBuffers,
    ) -> Result<Self> {
        let part = progress.next_part;
        let object = paths::shard(unit, part, options.attempt.as_deref());
        Ok(Self {
            unit,
            part,
            from_seq: progress.next_seq,
            next_seq: progress.next_seq,
            encoder: ShardEncoder::with_buffers(spec, unit, part, buffers)?,
            upload: Upload::new(catalog.location().child(&object), options.upload),
            object,
            quota: options.quota.clone(),
            bytes: 0,
            dropped: DropCounts::new(),
            documents: 0,
            tokens: 0,
        })
    }

    /// Rows so far.
    pub(super) fn rows(&self) -> u64 {
        self.encoder.rows()
    }

    /// Bytes so far, without the row group that is being filled.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Append the next sequence: these runs of rows of `batch`. `dropped` is what was not kept of it.
    pub(super) async fn push_sequence(
        &mut self,
        batch: &ActivationBatch,
        runs: &[Range<usize>],
        dropped: &DropCounts,
        sampled_out: u64,
    ) -> Result<()> {
        for run in runs {
            self.encoder.push(batch, run.clone())?;
        }
        failpoint("sequence_encoded");
        self.next_seq += 1;
        self.dropped.merge(dropped);
        self.dropped.add(DropReason::Sampled, sampled_out);
        for bytes in self.encoder.take_ready() {
            self.bytes += bytes.len() as u64;
            self.upload.write(bytes).await?;
        }
        Ok(())
    }

    /// Count what a whole batch adds; called once a batch, for the part that holds its last sequence.
    pub(super) fn count_batch(&mut self, batch: &ActivationBatch) {
        self.documents += u64::from(batch.documents);
        self.tokens += u64::from(batch.n_tokens);
        if batch.ends_unit {
            self.dropped.merge(&batch.dropped_at_end);
        }
    }

    /// End it: no more rows. `next_batch` holds the sequence after this part; `batches` is the number of the unit's batches
    /// if this is its last part. What its sink took of the quota before must be committed.
    pub(super) async fn seal(self, next_batch: u32, batches: Option<u32>) -> Result<SealedPart> {
        let Self { upload, encoder, quota, .. } = self;
        let finished = match (encoder.finish(), &quota) {
            (Ok((last, summary)), Some(quota)) => quota.take(summary.bytes).await.map(|()| (last, summary)),
            (finished, _) => finished,
        };
        let (last, summary) = match finished {
            Ok(finished) => finished,
            Err(error) => {
                upload.abort().await;
                return Err(error);
            }
        };
        let commit = Commit {
            format: PART_FORMAT,
            unit: self.unit,
            part: self.part,
            object: self.object,
            rows: summary.rows,
            bytes: summary.bytes,
            checksum: summary.checksum,
            sequences: [self.from_seq, self.next_seq],
            documents: self.documents,
            tokens: self.tokens,
            dropped: self.dropped,
            cursor: UnitCursor { next_seq: self.next_seq, next_batch, done: batches.is_some(), batches },
            sites: summary.sites,
        };
        Ok(SealedPart { upload, last, commit })
    }

    /// Leave nothing behind.
    pub(super) async fn abort(self) {
        self.upload.abort().await;
    }
}

/// A part with all its rows, not yet durable.
pub(super) struct SealedPart {
    upload: Upload,
    last: Vec<Bytes>,
    commit: Commit,
}

impl SealedPart {
    /// Where its unit stands once it is committed.
    pub(super) fn progress_after(&self) -> UnitProgress {
        let UnitCursor { next_seq, next_batch, done, batches } = self.commit.cursor;
        UnitProgress { next_seq, next_batch, next_part: self.commit.part + 1, done, batches }
    }

    /// Finish the object, then commit it, unless `lock` says that the folder is gone.
    pub(super) async fn publish(self, catalog: &Catalog, lock: Option<&WriterLock>) -> Result<(Commit, Committed)> {
        let Self { mut upload, last, commit } = self;
        failpoint("shard_before_upload_end");
        for bytes in last {
            if let Err(error) = upload.write(bytes).await {
                upload.abort().await;
                return Err(error);
            }
        }
        upload.finish().await?;
        failpoint("shard_uploaded");
        lock.map_or(Ok(()), WriterLock::check)?;
        let committed = catalog.commit(&commit).await?;
        failpoint("shard_committed");
        Ok((commit, committed))
    }
}
