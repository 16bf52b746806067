//! Activation batches to the stored dataset.

use crate::accounting::DropReason;
use crate::error::Result;
use crate::pipeline::stages::Completion;
use crate::pipeline::stages::fan_out::SharedBatch;
use crate::runtime::channel::Receiver;
use crate::runtime::clock::Stopwatch;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::supervisor::Heartbeat;
use crate::sink::{CommittedShard, ParquetSink};
use crate::telemetry::metrics::{RunStats, StageStats};

/// The stage that stores.
pub struct Deliver {
    /// Where batches go.
    pub sink: ParquetSink,
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
    /// Ends the stage early.
    pub shutdown: Shutdown,
}

impl Deliver {
    /// Work until the input ends. What is whole is committed; what is not, is left for the next run.
    pub fn run(mut self, heartbeat: &Heartbeat) -> Result<()> {
        loop {
            let watch = Stopwatch::start();
            let Some(batch) = heartbeat.while_waiting(|| self.input.recv()) else { break };
            self.stats.blocked.add(watch.elapsed());
            if self.shutdown.is_aborting() {
                break;
            }
            self.stats.items_in.inc();
            let watch = Stopwatch::start();
            let shards = self.io.block_on(self.sink.write(&batch))?;
            self.stats.busy.add(watch.elapsed());
            self.count(&shards);
        }
        let watch = Stopwatch::start();
        if self.input_complete.is_set() {
            let shards = self.io.block_on(self.sink.finish())?;
            self.count(&shards);
        } else {
            self.io.block_on(self.sink.abort())?;
        }
        self.stats.busy.add(watch.elapsed());
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
