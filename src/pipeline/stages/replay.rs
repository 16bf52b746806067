//! A stored dataset to activation batches: stands in place of the stages up to the forward pass.

use std::sync::Arc;

use crate::activation::ActivationBatch;
use crate::error::Result;
use crate::pipeline::stages::Completion;
use crate::pipeline::wanted::Wanted;
use crate::replay::Reader;
use crate::runtime::channel::Sender;
use crate::runtime::clock::Stopwatch;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::supervisor::Heartbeat;
use crate::telemetry::metrics::{RunStats, StageStats};

/// The stage that reads stored rows.
pub struct Replay {
    /// The dataset, in the order of the replay.
    pub reader: Reader,
    /// Who needs what.
    pub wanted: Arc<Wanted>,
    /// To the fan-out stage.
    pub output: Sender<ActivationBatch>,
    /// Set at the end of the last epoch.
    pub complete: Completion,
    /// The asynchronous runtime on which reading runs.
    pub io: tokio::runtime::Handle,
    /// Five numbers.
    pub stats: StageStats,
    /// The run's numbers.
    pub run: RunStats,
    /// Ends the stage early.
    pub shutdown: Shutdown,
}

impl Replay {
    /// Work until the dataset ends, nobody wants more, or the run is told to stop.
    pub fn run(mut self, heartbeat: &Heartbeat) -> Result<()> {
        while !self.shutdown.is_draining() {
            if self.wanted.nothing_left() {
                self.complete.set();
                return Ok(());
            }
            let watch = Stopwatch::start();
            let next = heartbeat.while_waiting(|| self.io.block_on(self.reader.next()));
            let Some(batch) = next? else {
                self.complete.set();
                return Ok(());
            };
            self.stats.worked((batch.index, batch.unit), watch.elapsed());
            let watch = Stopwatch::start();
            let needed = || self.wanted.is_needed(batch.index, batch.unit, batch.batch_in_unit, &self.shutdown);
            if !heartbeat.while_waiting(needed) {
                continue;
            }
            self.count(&batch);
            self.wanted.computed(batch.index, batch.n_rows());
            if heartbeat.while_waiting(|| self.output.send(batch)).is_err() {
                // the next stage ended; it reports why
                return Ok(());
            }
            self.stats.items_out.inc();
            self.stats.blocked.add(watch.elapsed());
        }
        Ok(())
    }

    fn count(&self, batch: &ActivationBatch) {
        self.stats.items_in.inc();
        self.stats.bytes.add(batch.bytes() as u64);
        self.run.rows.add(batch.n_rows() as u64);
        batch.dropped.iter().for_each(|dropped| self.run.drop_all(dropped));
        self.run.drop_all(&batch.dropped_at_end);
    }
}
