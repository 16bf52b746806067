//! Activation batches to the stored dataset.

use std::sync::Arc;

use crate::accounting::DropReason;
use crate::catalog::gc::Keeper;
use crate::error::{ErrorKind, Result};
use crate::pipeline::stages::Completion;
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
    pub keeper: Option<Keeper>,
    /// From the fan-out stage.
    pub input: Receiver<SharedBatch>,
    /// Whether the input was complete.
    pub input_complete: Completion,
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
                    self.end(false)?;
                    full = true;
                }
                written => written?,
            }
            self.stats.busy.add(watch.elapsed());
        }
        let watch = Stopwatch::start();
        self.end(self.input_complete.is_set() && !full)?;
        if let Some(keeper) = &mut self.keeper {
            self.io.block_on(keeper.collect());
        }
        self.stats.busy.add(watch.elapsed());
        Ok(())
    }

    fn write(&mut self, batch: &SharedBatch) -> Result<()> {
        for i in 0..self.sinks.len() {
            let shards = self.io.block_on(self.sinks[i].write(batch))?;
            self.count(&shards);
        }
        if let Some(keeper) = &mut self.keeper {
            self.io.block_on(keeper.from_time_to_time());
        }
        Ok(())
    }

    fn end(&mut self, complete: bool) -> Result<()> {
        for i in 0..self.sinks.len() {
            if complete {
                let shards = self.io.block_on(self.sinks[i].finish())?;
                self.count(&shards);
            } else {
                self.io.block_on(self.sinks[i].abort())?;
            }
        }
        Ok(())
    }

    fn count(&self, shards: &[CommittedShard]) {
        for shard in shards {
            self.stats.items_out.inc();
            self.stats.bytes.add(shard.bytes);
            self.run.shards.inc();
            self.run.shard_rows.add(shard.rows);
            self.run.shard_bytes.add(shard.bytes);
            self.run.drop_n(DropReason::Sampled, shard.sampled_out);
        }
    }
}
