//! Activation batches to the stored dataset.

use std::sync::Arc;

use crate::accounting::DropReason;
use crate::catalog::gc::Keeper;
use crate::error::{ErrorKind, Result};
use crate::pipeline::others::Others;
use crate::pipeline::stages::fan_out::SharedBatch;
use crate::pipeline::status::RunStatus;
use crate::runtime::channel::Receiver;
use crate::runtime::clock::Stopwatch;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::supervisor::Heartbeat;
use crate::sink::{CommittedShard, ParquetSink};
use crate::telemetry::metrics::{RunStats, StageStats};

/// The stage that stores.
pub struct Deliver {
    /// Where batches go: the dataset, then its column groups. Each takes what it does not have yet.
    pub sinks: Vec<ParquetSink>,
    /// Applies retention to the dataset.
    pub keeper: Option<Arc<Keeper>>,
    /// Units that other writers finished.
    pub others: Others,
    /// How many of them the sink was told of.
    pub others_seen: usize,
    /// From the fan-out stage.
    pub input: Receiver<SharedBatch>,
    /// The asynchronous runtime on which uploads run.
    pub io: tokio::runtime::Handle,
    /// Five numbers.
    pub stats: StageStats,
    /// The run's numbers.
    pub run: RunStats,
    /// The run's state.
    pub status: Arc<RunStatus>,
    /// Ends the stage early.
    pub shutdown: Shutdown,
}

impl Deliver {
    /// Work until the input ends. What is whole is committed; what is not, is left for the next run. When the store is
    /// full the run is told to stop, and what still comes is left for the next run too.
    pub fn run(mut self, heartbeat: &Heartbeat) -> Result<()> {
        let mut full = false;
        loop {
            let watch = Stopwatch::start();
            let Some(batch) = heartbeat.while_waiting(|| self.input.recv()) else { break };
            self.stats.blocked.add(watch.elapsed());
            if self.shutdown.is_aborting() {
                break;
            }
            if full {
                continue;
            }
            self.stats.items_in.inc();
            let watch = Stopwatch::start();
            match self.write(&batch) {
                Err(error) if error.kind() == ErrorKind::Full => {
                    tracing::error!(%error, "the run stops: no room for more shards");
                    self.status.stop(&error.to_string());
                    self.shutdown.drain("limits.store_bytes");
                    self.end()?;
                    full = true;
                }
                Err(error) => {
                    // the error that came first is the one to tell
                    drop(self.end());
                    return Err(error);
                }
                Ok(()) => {}
            }
            self.stats.worked((batch.index, batch.unit), watch.elapsed());
        }
        let watch = Stopwatch::start();
        self.end()?;
        if let Some(keeper) = &self.keeper {
            self.io.block_on(keeper.collect());
        }
        self.stats.busy.add(watch.elapsed());
        Ok(())
    }

    fn write(&mut self, batch: &SharedBatch) -> Result<()> {
        for unit in self.others.finished_since(&mut self.others_seen) {
            for sink in &mut self.sinks {
                self.io.block_on(sink.others_finished(unit));
            }
        }
        for i in 0..self.sinks.len() {
            let shards = self.io.block_on(self.sinks[i].write(batch))?;
            self.count(&shards);
        }
        if let Some(keeper) = &self.keeper {
            self.io.block_on(keeper.from_time_to_time());
        }
        Ok(())
    }

    /// Commit what is whole; leave the rest.
    fn end(&mut self) -> Result<()> {
        for i in 0..self.sinks.len() {
            let shards = self.io.block_on(self.sinks[i].finish())?;
            self.count(&shards);
        }
        Ok(())
    }

    fn count(&self, shards: &[CommittedShard]) {
        for shard in shards {
            if shard.theirs {
                self.run.shards_lost.inc();
                continue;
            }
            self.stats.items_out.inc();
            self.stats.bytes.add(shard.bytes);
            self.run.shards.inc();
            self.run.shard_rows.add(shard.rows);
            self.run.shard_bytes.add(shard.bytes);
            self.run.drop_n(DropReason::Sampled, shard.sampled_out);
        }
    }
}
