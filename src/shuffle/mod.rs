//! An exact global shuffle of a dataset, in two passes over the data and with bounded memory.
//!
//! ```text
//! pass 1  scatter  every slice of a source shard -> one piece: its rows in the order of their hashes
//! pass 2  gather   every bucket (a range of hashes): its run of each piece -> sorted -> one shard, committed
//! ```
//!
//! A row's place is the order of a seeded hash of what it is ([`Shuffled`](crate::dataset::places::Shuffled)), so the result is a function of the
//! source, the seed and the number of buckets, whoever does which part of the work, in whatever order, interrupted or not.
//! Every piece and every bucket is durable before the small object that makes it count, and those are put if absent: workers of several
//! processes may share the work, and one that is killed costs what it was doing. Pieces lie below `scratch/`, which is removed
//! at the end.

mod gather;
mod piece;
mod plan;
mod scatter;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::TryStreamExt;
use futures::stream::FuturesUnordered;

use crate::catalog::{Catalog, Totals};
use crate::dataset::paths;
use crate::error::{Error, Result};
use crate::replay::Source;
use crate::shuffle::plan::Plan;
use crate::store::{Location, objects, probe};

/// Workers that memory is divided among, and the most that one process has: what is written must not depend on how many
/// there are.
pub const WORKERS_MAX: usize = 8;

/// How a shuffle is done.
#[derive(Clone, Copy, Debug)]
pub struct ShuffleOptions {
    /// Seed of the order.
    pub seed: u64,
    /// Memory for rows, in bytes. It decides the number of buckets when a shuffle begins.
    pub memory: u64,
    /// Slices and buckets that are worked on at a time, up to [`WORKERS_MAX`].
    pub workers: usize,
    /// Whether no other process works on it: needed where the store's writes are not exclusive.
    pub alone: bool,
}

/// How far a shuffle is. Work that others do is counted when it is met.
#[derive(Debug, Default)]
pub struct ShuffleProgress {
    /// Slices scattered.
    pub scattered: AtomicU64,
    /// Slices in all.
    pub slices: AtomicU64,
    /// Buckets gathered.
    pub gathered: AtomicU64,
    /// Buckets in all.
    pub buckets: AtomicU64,
}

/// Shuffle `source` into a dataset at `destination`, or go on with a shuffle that was begun there.
///
/// # Errors
/// `Config` if another dataset is there, or a shuffle of another source or seed, or several processes could work in a store
/// whose writes are not exclusive; `Data` if the source is damaged, or one of
/// its column groups is behind.
pub async fn shuffle(
    source: Source,
    destination: Location,
    options: ShuffleOptions,
    progress: &ShuffleProgress,
) -> Result<Totals> {
    source.check_whole()?;
    if !options.alone {
        probe::may_be_shared(&destination, "by several processes that shuffle; with --alone there is one")?;
    }
    let plan = Plan::begin(source, destination, options).await?;
    let done = plan.committed().await?;
    progress.buckets.store(u64::from(plan.order.buckets), Ordering::Relaxed);
    progress.gathered.store(done.len() as u64, Ordering::Relaxed);
    let buckets: Vec<u32> = (0..plan.order.buckets).filter(|bucket| !done.contains(bucket)).collect();
    if !buckets.is_empty() {
        let slices = plan.slices();
        let workers = plan.workers(options);
        progress.slices.store(slices.len() as u64, Ordering::Relaxed);
        run(workers, slices.iter().collect(), |slice| async {
            scatter::scatter(&plan, slice).await?;
            progress.scattered.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .await?;
        let stripes = buckets.chunks(gather::STRIPE).map(<[u32]>::to_vec).collect();
        run(workers, stripes, |stripe: Vec<u32>| async { gather::gather(&plan, &slices, stripe, progress).await })
            .await?;
    }
    let totals = finished(&plan.catalog, plan.order.rows).await?;
    remove_scratch(&plan).await?;
    Ok(totals)
}

/// Work on `items`, some at a time; the first error ends it.
async fn run<T, F: Future<Output = Result<()>>>(workers: usize, items: Vec<T>, work: impl Fn(T) -> F) -> Result<()> {
    let mut items = VecDeque::from(items);
    // processes that share the work begin at different places, and pass what they find done
    let start = (std::process::id() as usize).wrapping_mul(0x9e37_79b9) % items.len().max(1);
    items.rotate_left(start);
    let items = Mutex::new(items);
    let next = || items.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
    let worker = || async {
        while let Some(item) = next() {
            work(item).await?;
        }
        Ok(())
    };
    let workers = (0..workers.clamp(1, WORKERS_MAX)).map(|_| worker()).collect::<FuturesUnordered<_>>();
    workers.try_collect::<()>().await
}

async fn finished(catalog: &Catalog, rows: u64) -> Result<Totals> {
    let totals = catalog.totals().await?;
    if !totals.complete || totals.rows != rows {
        return Err(Error::data(format!(
            "`{}` has {} rows where the source has {rows}: it was changed while it was being written",
            catalog.location().shown,
            totals.rows
        )));
    }
    Ok(totals)
}

async fn remove_scratch(plan: &Plan) -> Result<()> {
    let scratch = plan.scratch();
    let listed = objects::list(&scratch).await?;
    let names = listed.iter().filter_map(|object| object.location.filename().map(str::to_owned));
    objects::delete_all(&scratch, names.collect()).await?;
    // everything is committed: what a killed worker left half-written is of no use to anybody
    for folder in [plan::SCRATCH, paths::SHARDS, paths::COMMITS] {
        objects::sweep_staging(&plan.catalog.location().child(folder), None)?;
    }
    objects::sweep_staging(plan.catalog.location(), None)?;
    Ok(())
}

#[cfg(test)]
mod tests;
