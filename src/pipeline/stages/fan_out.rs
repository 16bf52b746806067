//! One activation batch to everybody who wants it.

use std::sync::Arc;

use crate::accounting::DropReason;
use crate::activation::ActivationBatch;
use crate::error::Result;
use crate::pipeline::stages::Completion;
use crate::pipeline::wanted::Wanted;
use crate::runtime::channel::{NotSent, Receiver, Sender};
use crate::runtime::clock::Stopwatch;
use crate::runtime::supervisor::Heartbeat;
use crate::telemetry::metrics::{RunStats, StageStats};
use crate::testing::failpoint;
use crate::trainer::config::WhenSlow;

/// Shared by everybody who consumes it.
pub type SharedBatch = Arc<ActivationBatch>;

/// The way to trainers that draw from one buffer.
pub struct TrainerOutput {
    /// Its queue; `None` when it has ended.
    pub sender: Option<Sender<SharedBatch>>,
    /// What happens when the queue is full.
    pub when_slow: WhenSlow,
}

/// The stage that distributes batches.
pub struct FanOut {
    /// From the forward stage.
    pub input: Receiver<ActivationBatch>,
    /// Whether the input was complete.
    pub input_complete: Completion,
    /// Who needs what.
    pub wanted: Arc<Wanted>,
    /// To the deliver stage.
    pub deliver: Option<Sender<SharedBatch>>,
    /// To the groups of trainers, in the order of [`Wanted::trainers`].
    pub trainers: Vec<TrainerOutput>,
    /// Set when the whole input was distributed.
    pub complete: Completion,
    /// Five numbers.
    pub stats: StageStats,
    /// The run's numbers.
    pub run: RunStats,
}

impl FanOut {
    /// Work until the input or every consumer ends.
    pub fn run(mut self, heartbeat: &Heartbeat) -> Result<()> {
        loop {
            let watch = Stopwatch::start();
            let Some(batch) = heartbeat.while_waiting(|| self.input.recv()) else { break };
            self.stats.items_in.inc();
            let batch: SharedBatch = Arc::new(batch);
            self.stats.bytes.add(batch.bytes() as u64);
            heartbeat.while_waiting(|| {
                self.send_to_dataset(&batch);
                for i in 0..self.trainers.len() {
                    self.send_to_trainer(i, &batch);
                }
            });
            failpoint("fanned_out");
            if batch.ends_unit {
                self.run.units_done.set(self.run.units_done.get() + 1.0);
            }
            self.stats.blocked.add(watch.elapsed());
            if self.deliver.is_none() && self.trainers.iter().all(|t| t.sender.is_none()) {
                break;
            }
        }
        // everybody having enough is as good as the end of the corpus
        if self.input_complete.is_set() || self.wanted.nothing_left() {
            self.complete.set();
        }
        Ok(())
    }

    fn send_to_dataset(&mut self, batch: &SharedBatch) {
        if let Some(deliver) = &self.deliver
            && self.wanted.by_dataset(batch.unit, batch.batch_in_unit)
        {
            match deliver.send(Arc::clone(batch)) {
                Ok(()) => self.stats.items_out.inc(),
                // the stage ended with an error, which it reports; the trainers go on
                Err(_) => self.deliver = None,
            }
        }
    }

    fn send_to_trainer(&mut self, i: usize, batch: &SharedBatch) {
        if !self.wanted.by_trainer(i, batch.index) {
            if self.wanted.trainers[i].demand.is_finished() {
                self.trainers[i].sender = None;
            }
            return;
        }
        let TrainerOutput { sender: Some(sender), when_slow } = &self.trainers[i] else { return };
        let open = match when_slow {
            WhenSlow::Block => sender.send(Arc::clone(batch)).is_ok(),
            WhenSlow::Drop => match sender.try_send(Arc::clone(batch)) {
                Ok(()) => true,
                Err(NotSent::Full(batch)) => {
                    self.wanted.trainers[i].demand.lost(batch.n_rows() as u64);
                    self.run.drop_n(DropReason::SlowTrainer, batch.n_rows() as u64);
                    return;
                }
                Err(NotSent::Closed(_)) => false,
            },
        };
        if open {
            self.stats.items_out.inc();
        } else {
            self.trainers[i].sender = None;
        }
    }
}
