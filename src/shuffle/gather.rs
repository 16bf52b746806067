//! The second pass: a bucket's runs of all pieces become one shard.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;

use crate::accounting::DropCounts;
use crate::dataset::commit::{Commit, UnitCursor};
use crate::dataset::decoder::ShardRows;
use crate::dataset::encoder::{ShardEncoder, ShardSummary};
use crate::dataset::header::{PART_FORMAT, SiteHeader};
use crate::dataset::paths;
use crate::dataset::places::Shuffled;
use crate::dataset::schema::ShardSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::shuffle::ShuffleProgress;
use crate::shuffle::piece::{ENTRY_BYTES, Entry, Key, key, unpack};
use crate::shuffle::plan::{Plan, Slice};
use crate::shuffle::scatter::exists;
use crate::store::upload::Upload;
use crate::store::{self, Location};
use crate::testing::failpoint;

/// Buckets whose entries are read together.
pub(super) const STRIPE: usize = 16;
/// Requests at a time, for one bucket.
const READS_AT_A_TIME: usize = 8;
/// Rows that are widened at a time.
const ROWS_AT_A_TIME: usize = 2048;
/// Pieces of a shard that wait for the upload.
const CHUNKS_WAITING: usize = 4;

/// Write and commit `buckets`, which are close together, in order.
pub(super) async fn gather(plan: &Plan, slices: &[Slice], buckets: Vec<u32>, progress: &ShuffleProgress) -> Result<()> {
    let mut entries: Option<Vec<Vec<Entry>>> = None;
    let first = buckets.first().copied().unwrap_or(0);
    for &bucket in &buckets {
        let commit = plan.catalog.location().child(&paths::commit(bucket, 0));
        if !exists(&commit).await? {
            let done = async {
                let entries = match &mut entries {
                    Some(entries) => entries,
                    none => none.insert(read_entries(plan, slices, &buckets).await?),
                };
                let of_bucket = entries.iter().map(|piece| piece[(bucket - first) as usize]);
                write_bucket(plan, slices, of_bucket.collect(), bucket).await
            };
            if let Err(error) = done.await {
                // somebody else may have finished everything meanwhile, and removed the pieces
                if !exists(&commit).await? {
                    return Err(error);
                }
            }
        }
        progress.gathered.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// For every piece, the entries from the first to the last of `buckets`.
async fn read_entries(plan: &Plan, slices: &[Slice], buckets: &[u32]) -> Result<Vec<Vec<Entry>>> {
    let (Some(&first), Some(&last)) = (buckets.first(), buckets.last()) else { return Ok(Vec::new()) };
    let range = u64::from(first) * ENTRY_BYTES as u64..(u64::from(last) + 1) * ENTRY_BYTES as u64;
    let reads = slices.iter().map(|slice| {
        let (place, range) = (plan.scratch().child(&format!("{}.index", slice.name)), range.clone());
        async move {
            let bytes = read_range(&place, range).await?;
            let entries: Option<Vec<Entry>> = bytes.chunks(ENTRY_BYTES).map(Entry::read).collect();
            let entries = entries.filter(|entries| entries.len() == (last - first + 1) as usize);
            entries.ok_or_else(|| Error::data(format!("`{}` is not the index of a piece", place.shown)))
        }
    });
    futures::stream::iter(reads.collect::<Vec<_>>()).buffered(READS_AT_A_TIME).try_collect().await
}

async fn write_bucket(plan: &Plan, slices: &[Slice], entries: Vec<Entry>, bucket: u32) -> Result<()> {
    let wanted: Vec<(Location, Entry)> = slices
        .iter()
        .zip(entries)
        .filter(|(_, entry)| entry.rows > 0)
        .map(|(slice, entry)| (plan.scratch().child(&format!("{}.rows", slice.name)), entry))
        .collect();
    let row_bytes = plan.row_bytes;
    let reads = wanted.into_iter().map(|(place, entry)| async move {
        let range = entry.range(row_bytes).ok_or_else(|| Error::data("a piece's index names impossible offsets"))?;
        let bytes = read_range(&place, range).await?;
        entry.check(&bytes).map_err(|e| e.context(format!("read `{}`", place.shown)))?;
        Ok::<_, Error>(bytes)
    });
    let runs: Vec<Bytes> =
        futures::stream::iter(reads.collect::<Vec<_>>()).buffered(READS_AT_A_TIME).try_collect().await?;
    let object = paths::shard(bucket, 0, None);
    let summary = write_shard(plan, runs, bucket, plan.catalog.location().child(&object)).await?;
    failpoint("bucket_written");
    let rows =
        u32::try_from(summary.rows).map_err(|_| Error::internal("a bucket of more rows than a shard may have"))?;
    // what the source counted is kept whole, in the first unit
    let counts = if bucket == 0 { plan.counts.clone() } else { (0, 0, DropCounts::new()) };
    let commit = Commit {
        format: PART_FORMAT,
        unit: bucket,
        part: 0,
        object,
        rows: summary.rows,
        bytes: summary.bytes,
        checksum: summary.checksum,
        sequences: [0, rows],
        documents: counts.0,
        tokens: counts.1,
        dropped: counts.2,
        cursor: UnitCursor { next_seq: rows, next_batch: 1, done: true, batches: Some(1) },
        sites: summary.sites,
    };
    plan.catalog.commit(&commit).await?;
    failpoint("bucket_committed");
    Ok(())
}

/// Sort, encode and upload, each as far as the next is behind.
async fn write_shard(plan: &Plan, runs: Vec<Bytes>, bucket: u32, place: Location) -> Result<ShardSummary> {
    let (give, mut chunks) = tokio::sync::mpsc::channel(CHUNKS_WAITING);
    let (order, spec) = (plan.order.clone(), plan.spec.clone());
    let (sites, row_bytes) = (Arc::clone(plan.sites()), plan.row_bytes);
    let encoding = tokio::task::spawn_blocking(move || {
        let rows = Rows { order: &order, sites: &sites, row_bytes, runs: &runs };
        // an upload that failed has dropped its end, and says why
        rows.encode(&spec, bucket, |chunk| drop(give.blocking_send(chunk)))
    });
    let mut upload = Upload::new(place, plan.upload);
    while let Some(chunk) = chunks.recv().await {
        if let Err(error) = upload.write(chunk).await {
            upload.abort().await;
            return Err(error);
        }
    }
    match encoding.await.map_err(|e| Error::internal(format!("encoding a bucket failed: {e}")))? {
        Ok(summary) => upload.finish().await.map(|()| summary),
        Err(error) => {
            upload.abort().await;
            Err(error)
        }
    }
}

/// The rows of a bucket, as they lie in the pieces.
struct Rows<'a> {
    order: &'a Shuffled,
    sites: &'a [SiteHeader],
    row_bytes: usize,
    runs: &'a [Bytes],
}

impl Rows<'_> {
    /// The shard of unit `bucket`, handed out as it is made.
    fn encode(&self, spec: &ShardSpec, bucket: u32, mut give: impl FnMut(Bytes)) -> Result<ShardSummary> {
        let keys = self.sorted(bucket)?;
        let mut encoder = ShardEncoder::new(spec, bucket, 0)?;
        for some in keys.chunks(ROWS_AT_A_TIME) {
            let mut rows = ShardRows { sites: vec![Vec::new(); self.sites.len()], ..ShardRows::default() };
            for &(_, run, row) in some {
                unpack(self.row(run, row), self.sites, &mut rows);
            }
            encoder.push_rows(&rows)?;
            encoder.take_ready().into_iter().for_each(&mut give);
        }
        let (last, summary) = encoder.finish()?;
        last.into_iter().for_each(give);
        Ok(summary)
    }

    /// What to take, in order: (key, run, row of it).
    fn sorted(&self, bucket: u32) -> Result<Vec<(Key, u32, u32)>> {
        let n: usize = self.runs.iter().map(|run| run.len() / self.row_bytes).sum();
        let mut keys = Vec::with_capacity(n);
        for (r, run) in self.runs.iter().enumerate() {
            for (i, row) in run.chunks_exact(self.row_bytes).enumerate() {
                keys.push((key(self.order, row), r as u32, i as u32));
            }
        }
        keys.sort_unstable();
        let misplaced = keys.iter().any(|((hash, ..), ..)| self.order.bucket(*hash) != bucket);
        if misplaced || keys.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            let problem = "the source holds a row twice, or a piece holds another bucket's row";
            return Err(Error::new(ErrorKind::Data, problem));
        }
        Ok(keys)
    }

    fn row(&self, run: u32, row: u32) -> &[u8] {
        &self.runs[run as usize][row as usize * self.row_bytes..][..self.row_bytes]
    }
}

async fn read_range(place: &Location, range: std::ops::Range<u64>) -> Result<Bytes> {
    let wanted = range.end - range.start;
    let read = place.store.get_range(&place.path, range).await;
    let bytes = read.map_err(|e| store::error("read", &place.shown, e))?;
    if bytes.len() as u64 != wanted {
        return Err(Error::data(format!("`{}` is shorter than its index says", place.shown)));
    }
    Ok(bytes)
}
