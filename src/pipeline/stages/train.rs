//! Activation batches to one trained coder: feeds the trainer's buffer, saves its state, exports it at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::accounting::DropCounts;
use crate::catalog::checkpoints;
use crate::compute::coder_ops::CoderOps;
use crate::corpus::cursor::SourceCursor;
use crate::error::Result;
use crate::pipeline::splice::side_by_side;
use crate::pipeline::stages::Completion;
use crate::pipeline::stages::fan_out::SharedBatch;
use crate::pipeline::status::RunStatus;
use crate::runtime::channel::Receiver;
use crate::runtime::clock::{Clock, Stopwatch};
use crate::runtime::shutdown::Shutdown;
use crate::runtime::supervisor::Heartbeat;
use crate::store::Location;
use crate::telemetry::metrics::{StageStats, TrainerStats};
use crate::trainer::Trainer;

/// The stage that trains one coder.
pub struct Train<B: CoderOps> {
    /// Its place in the pipeline's list.
    pub index: usize,
    /// The trainer.
    pub trainer: Trainer<B>,
    /// Where its checkpoints go.
    pub checkpoints: CheckpointPolicy,
    /// Whether the end of the corpus brought more steps since the newest checkpoint.
    pub changed_by_finish: bool,
    /// The newest checkpoint, and the cursor that it holds.
    pub saved: Option<(SourceCursor, String)>,
    /// From the fan-out stage.
    pub input: Receiver<SharedBatch>,
    /// Whether the input was complete.
    pub input_complete: Completion,
    /// Set when this trainer needs no more rows.
    pub finished: Arc<AtomicBool>,
    /// The asynchronous runtime on which uploads run.
    pub io: tokio::runtime::Handle,
    /// Five numbers.
    pub stats: StageStats,
    /// The trainer's numbers.
    pub numbers: TrainerStats,
    /// The run's state.
    pub status: Arc<RunStatus>,
    /// Ends the stage early.
    pub shutdown: Shutdown,
    /// For the time between checkpoints.
    pub clock: Clock,
}

/// Where and how often a trainer is saved.
pub struct CheckpointPolicy {
    /// Folder.
    pub location: Location,
    /// Time between two.
    pub every: Duration,
    /// Newest that are kept.
    pub keep: u32,
}

/// A trainer after its stage ended well.
pub struct Trained<B: CoderOps> {
    /// The trainer.
    pub trainer: Trainer<B>,
    /// Where it was saved.
    pub checkpoint: String,
}

impl<B: CoderOps> Train<B> {
    /// Work until the trainer has its rows or the input ends; then save.
    ///
    /// When the corpus ended first, the rows left in the buffer are trained on. When the run was told to stop, or another
    /// stage failed, they are saved instead, so that the next run continues exactly here.
    pub fn run(mut self, heartbeat: &Heartbeat) -> Result<Trained<B>> {
        let finished = Arc::clone(&self.finished);
        let result = self.work(heartbeat);
        finished.store(true, Ordering::Relaxed);
        if let Err(error) = &result {
            let message = error.to_string();
            self.status.update_trainer(self.index, |line| line.error = Some(message));
        }
        result.map(|checkpoint| Trained { trainer: self.trainer, checkpoint })
    }

    fn work(&mut self, heartbeat: &Heartbeat) -> Result<String> {
        let mut saved_at = self.clock.now();
        let mut reported = self.trainer.dropped().clone();
        self.publish(&mut reported);
        let mut rows = Vec::new();
        while !self.trainer.done() {
            let watch = Stopwatch::start();
            let Some(batch) = heartbeat.while_waiting(|| self.input.recv()) else { break };
            self.stats.blocked.add(watch.elapsed());
            if self.shutdown.is_aborting() {
                return Err(crate::error::Error::closed("the run"));
            }
            let watch = Stopwatch::start();
            let sites = &self.trainer.settings().sites;
            let values: Option<Vec<&[f32]>> =
                sites.iter().map(|(point, _)| batch.site(*point).map(|site| &site.data[..])).collect();
            match values.as_deref() {
                None => {}
                Some([alone]) => self.trainer.offer(alone, &batch.doc_id, &batch.cursor_after)?,
                Some(several) => {
                    side_by_side(several, sites, 0..batch.n_rows(), &mut rows);
                    self.trainer.offer(&rows, &batch.doc_id, &batch.cursor_after)?;
                }
            }
            self.stats.items_in.inc();
            self.stats.bytes.add((batch.n_rows() * self.trainer.settings().width() * 4) as u64);
            self.stats.busy.add(watch.elapsed());
            self.publish(&mut reported);
            if self.clock.now() - saved_at >= self.checkpoints.every {
                self.save()?;
                saved_at = self.clock.now();
            }
        }
        if self.trainer.done() {
            // fan-out learns it before the next batch, and frees what is queued for this trainer
            self.finished.store(true, Ordering::Relaxed);
        } else if self.input_complete.is_set() {
            let watch = Stopwatch::start();
            let before = self.trainer.report().step;
            self.trainer.finish()?;
            self.changed_by_finish = self.trainer.report().step != before;
            self.stats.busy.add(watch.elapsed());
            self.publish(&mut reported);
            if !self.trainer.done() {
                let source = self.status.rows_from().noun();
                tracing::warn!(
                    trainer = self.trainer.settings().config.name,
                    rows = self.trainer.report().rows,
                    wanted = self.trainer.settings().config.rows.0,
                    "the {source} ended before the trainer had its rows; its learning rate did not reach the end of its schedule"
                );
            }
        }
        self.save()
    }

    /// Save the whole state; nothing is overwritten in place. A state that is saved already is not saved again.
    fn save(&mut self) -> Result<String> {
        if let Some((cursor, folder)) = &self.saved
            && cursor == self.trainer.cursor()
            && !self.changed_by_finish
        {
            return Ok(folder.clone());
        }
        let watch = Stopwatch::start();
        let files = self.trainer.save()?.into_iter().map(|(name, bytes)| (name, Bytes::from(bytes))).collect();
        let CheckpointPolicy { location, keep, .. } = &self.checkpoints;
        let step = self.trainer.report().step;
        let folder = self.io.block_on(checkpoints::save(location, step, files, *keep))?;
        self.numbers.checkpoints.inc();
        self.stats.items_out.inc();
        self.stats.blocked.add(watch.elapsed());
        tracing::info!(trainer = self.trainer.settings().config.name, step, %folder, "checkpoint written");
        self.saved = Some((self.trainer.cursor().clone(), folder.clone()));
        Ok(folder)
    }

    /// Show the trainer's state; `reported` is what its drops were the last time.
    fn publish(&self, reported: &mut DropCounts) {
        let report = self.trainer.report();
        let n = &self.numbers;
        n.loss.set(report.loss);
        n.fvu.set(report.fvu);
        n.l0.set(report.l0);
        n.dead_fraction.set(report.dead_fraction);
        n.grad_norm.set(report.grad_norm);
        n.learning_rate.set(report.learning_rate);
        n.rows.add(report.rows.saturating_sub(n.rows.get()));
        n.steps.add(report.step.saturating_sub(n.steps.get()));
        n.steps_skipped.add(report.skipped_steps.saturating_sub(n.steps_skipped.get()));
        n.rows_buffered.set(report.rows_buffered as f64);
        n.rows_behind.set(self.input.stats().weight.get());
        n.batch_documents.set(report.documents_per_batch as f64);
        let dropped = self.trainer.dropped();
        for (reason, count) in dropped.iter() {
            self.status.metrics.run.drop_n(reason, count - reported.get(reason));
        }
        *reported = dropped.clone();
        self.status.update_trainer(self.index, |line| {
            line.rows = report.rows;
            line.loss = report.loss;
            line.fvu = report.fvu;
            line.l0 = report.l0;
            line.dead_fraction = report.dead_fraction;
            line.buffered = report.rows_buffered;
        });
    }
}
