//! Activation batches to coders that draw from one buffer, mostly a single one: feeds the buffer, saves their states.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::accounting::DropCounts;
use crate::catalog::checkpoints;
use crate::compute::coder_ops::CoderOps;
use crate::corpus::cursor::SourceCursor;
use crate::error::{Error, Result};
use crate::pipeline::demand::{Demand, FinishAtEnd};
use crate::pipeline::lens::Looker;
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
use crate::trainer::group::{Files, Group, Left};

/// The stage that trains coders which draw from one buffer.
pub struct Train<B: CoderOps> {
    /// The trainers; their numbers are their places in `lines`.
    pub group: Group<B>,
    /// What the run knows of each.
    pub lines: Vec<Line>,
    /// From the fan-out stage.
    pub input: Receiver<SharedBatch>,
    /// Whether the input was complete.
    pub input_complete: Completion,
    /// Set if the run was told to stop and there was no time for all that was queued.
    pub cut_short: Completion,
    /// What they still need; finished when none of them needs more rows.
    pub demand: Arc<Demand>,
    /// The asynchronous runtime on which uploads run.
    pub io: tokio::runtime::Handle,
    /// Five numbers.
    pub stats: StageStats,
    /// The run's state.
    pub status: Arc<RunStatus>,
    /// Ends the stage early.
    pub shutdown: Shutdown,
    /// For the time between checkpoints.
    pub clock: Clock,
    /// Looks at the coders.
    pub looker: Looker,
    /// Checkpoints that were asked for, and are written.
    pub asked: u64,
    /// Those that ended.
    pub ended: Vec<(usize, Result<Trained<B>>)>,
}

/// What the run knows of one trainer.
pub struct Line {
    /// Its place in the pipeline's list.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Where its checkpoints go.
    pub checkpoints: CheckpointPolicy,
    /// The newest checkpoint.
    pub saved: Option<Saved>,
    /// When it was written, or the stage began.
    pub saved_at: Duration,
    /// The trainer's numbers.
    pub numbers: TrainerStats,
    /// What of its drops the run was told.
    pub reported: DropCounts,
    /// Whether its last evaluation had an open gap ([`crate::trainer::history::HeldOutPoint::gap_is_open`]).
    pub gap_is_open: bool,
}

/// A checkpoint, and where the trainer stood.
pub struct Saved {
    /// In the stream.
    pub cursor: SourceCursor,
    /// Steps made.
    pub step: u64,
    /// Where it is.
    pub folder: String,
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

impl Saved {
    fn is_of<B: CoderOps>(&self, trainer: &Trainer<B>) -> bool {
        self.cursor == *trainer.cursor() && self.step == trainer.report().step
    }
}

impl<B: CoderOps> Train<B> {
    /// Work until the trainers have their rows or the input ends; then save. Gives each, by its place in the pipeline.
    ///
    /// When the corpus ended first, the rows left in the buffer are trained on. When the run was told to stop, or another
    /// stage failed, they are saved instead, so that the next run continues exactly here: after what is queued, or when half
    /// of the grace period is over. What ends one trainer does not end the others.
    pub fn run(mut self, heartbeat: &Heartbeat) -> Vec<(usize, Result<Trained<B>>)> {
        let _at_the_end = FinishAtEnd(Arc::clone(&self.demand));
        let result = self.work(heartbeat);
        self.demand.finish();
        if let Err(error) = result {
            for (line, _) in self.members() {
                self.end(line, Err(Error::new(error.kind(), error.to_string())));
            }
        }
        self.ended
    }

    fn members(&self) -> Vec<(usize, u64)> {
        self.group.members().iter().map(|(line, trainer)| (*line, trainer.report().step)).collect()
    }

    fn work(&mut self, heartbeat: &Heartbeat) -> Result<()> {
        let now = self.clock.now();
        for line in &mut self.lines {
            line.saved_at = now;
        }
        self.publish();
        let mut rows = Vec::new();
        while !self.group.is_empty() {
            let watch = Stopwatch::start();
            let Some(batch) = heartbeat.while_waiting(|| self.input.recv()) else { break };
            self.stats.blocked.add(watch.elapsed());
            if self.shutdown.is_aborting() {
                return Err(Error::closed("the run"));
            }
            if self.shutdown.is_urgent() {
                // the queue may hold more than the grace period has time for: the next run computes it again
                self.cut_short.set();
                break;
            }
            let watch = Stopwatch::start();
            let left = self.offer(&batch, &mut rows)?;
            self.stats.items_in.inc();
            self.stats.bytes.add((batch.n_rows() * self.group.settings().width() * 4) as u64);
            self.stats.worked((batch.index, batch.unit), watch.elapsed());
            self.demand.consumed(batch.n_rows() as u64, self.group.rows_needed());
            self.looker.look(&self.group, &batch);
            drop(batch);
            self.publish();
            self.settle(left);
            self.save_those_due();
        }
        if self.input_complete.is_set() && !self.cut_short.is_set() {
            let watch = Stopwatch::start();
            let left = self.group.finish();
            self.stats.busy.add(watch.elapsed());
            self.settle(left);
        }
        self.save(|_| true);
        for (line, _) in self.members() {
            let trainer = self.group.take(line).ok_or_else(|| Error::internal("a trainer left twice"))?;
            self.end(line, Ok(trainer));
        }
        Ok(())
    }

    fn offer(&mut self, batch: &SharedBatch, rows: &mut Vec<f32>) -> Result<Vec<Left<B>>> {
        let sites = &self.group.settings().sites;
        let values: Option<Vec<&[f32]>> =
            sites.iter().map(|(point, _)| batch.site(*point).map(|site| &site.data[..])).collect();
        match values.as_deref() {
            None => Ok(Vec::new()),
            Some([alone]) => self.group.offer(alone, &batch.doc_id, &batch.cursor_after),
            Some(several) => {
                side_by_side(several, sites, 0..batch.n_rows(), rows);
                self.group.offer(rows, &batch.doc_id, &batch.cursor_after)
            }
        }
    }

    /// Save those that left the group with their rows, and take leave of all that left.
    fn settle(&mut self, left: Vec<Left<B>>) {
        if self.group.is_empty() {
            // fan-out learns it before the next batch, and frees what is queued for this stage
            self.demand.finish();
        }
        for (line, trainer) in left {
            let saved = trainer.and_then(|trainer| {
                self.publish_one(line, &trainer);
                self.looker.leave(&trainer);
                if !trainer.done() {
                    self.warn_of_the_end(&trainer);
                }
                if !self.lines[line].saved.as_ref().is_some_and(|saved| saved.is_of(&trainer)) {
                    let files = trainer.save()?.into_iter().map(|(name, bytes)| (name, Bytes::from(bytes))).collect();
                    self.write(line, (trainer.cursor().clone(), trainer.report().step), files)?;
                }
                Ok(trainer)
            });
            self.end(line, saved);
        }
    }

    /// A trainer's last word.
    fn end(&mut self, line: usize, trainer: Result<Trainer<B>>) {
        let Line { index, name, saved, .. } = &self.lines[line];
        if let Err(error) = &trainer {
            let message = error.to_string();
            tracing::error!(trainer = name, error = message, "the trainer failed");
            self.status.update_trainer(*index, |line| line.error = Some(message));
        }
        let checkpoint = saved.as_ref().map(|saved| saved.folder.clone()).unwrap_or_default();
        let trained = trainer.map(|mut trainer| {
            trainer.release_buffer();
            Trained { trainer, checkpoint }
        });
        self.ended.push((*index, trained));
    }

    fn warn_of_the_end(&self, trainer: &Trainer<B>) {
        let source = self.status.rows_from().noun();
        tracing::warn!(
            trainer = trainer.settings().config.name,
            rows = trainer.report().rows,
            wanted = trainer.settings().config.rows.0,
            "the {source} ended before the trainer had its rows; its learning rate did not reach the end of its schedule"
        );
    }

    fn save_those_due(&mut self) {
        let now = self.clock.now();
        let asked = self.status.checkpoints_asked();
        let all = std::mem::replace(&mut self.asked, asked) < asked;
        let due = |line: &Line| all || now - line.saved_at >= line.checkpoints.every;
        if self.lines.iter().any(due) {
            self.save(due);
            let now = self.clock.now();
            self.lines.iter_mut().filter(|line| due(line)).for_each(|line| line.saved_at = now);
        }
    }

    /// Save the whole states of those that are `wanted`; a state that is saved already is not saved again. One that cannot
    /// be saved ends.
    fn save(&mut self, wanted: impl Fn(&Line) -> bool) {
        // the same bytes for everybody
        let mut buffer = None;
        for (line, step) in self.members() {
            let cursor = self.group.cursor().clone();
            let is_saved = |saved: &Saved| saved.cursor == cursor && saved.step == step;
            if !wanted(&self.lines[line]) || self.lines[line].saved.as_ref().is_some_and(is_saved) {
                continue;
            }
            let written = self.files(line, &mut buffer).and_then(|files| self.write(line, (cursor, step), files));
            if let Err(error) = written {
                drop(self.group.take(line));
                self.end(line, Err(error));
            }
        }
    }

    /// The checkpoint of a trainer of the group.
    fn files(&self, line: usize, buffer: &mut Option<(String, Bytes)>) -> Result<Vec<(String, Bytes)>> {
        let own: Files = self.group.save(line)?.unwrap_or_default();
        let mut files: Vec<(String, Bytes)> = own.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
        if buffer.is_none() {
            let (name, bytes) = self.group.save_buffer()?;
            *buffer = Some((name, bytes.into()));
        }
        files.extend(buffer.clone());
        Ok(files)
    }

    /// Write a checkpoint; nothing is overwritten in place.
    fn write(&mut self, line: usize, at: (SourceCursor, u64), files: Vec<(String, Bytes)>) -> Result<()> {
        let watch = Stopwatch::start();
        let (line, (cursor, step)) = (&mut self.lines[line], at);
        let CheckpointPolicy { location, keep, .. } = &line.checkpoints;
        let folder = self.io.block_on(checkpoints::save(location, step, files, *keep))?;
        line.numbers.checkpoints.inc();
        self.stats.items_out.inc();
        self.stats.blocked.add(watch.elapsed());
        tracing::info!(trainer = line.name, step, %folder, "checkpoint written");
        line.saved = Some(Saved { cursor, step, folder });
        Ok(())
    }

    /// Show the state of all that still train.
    fn publish(&mut self) {
        for (line, trainer) in self.group.members() {
            show(&mut self.lines[*line], trainer, &self.input, &self.status);
        }
    }

    fn publish_one(&mut self, line: usize, trainer: &Trainer<B>) {
        show(&mut self.lines[line], trainer, &self.input, &self.status);
    }
}

/// Say once that rows which are drawn several times are explained better than others, each time that it begins.
fn warn_of_the_gap<B: CoderOps>(line: &mut Line, trainer: &Trainer<B>) {
    let reuse = trainer.settings().config.buffer.reuse;
    let open = trainer.history().held_out().last().filter(|point| reuse > 1 && point.gap_is_open());
    let (fvu, training) = open.map_or((0.0, None), |point| (point.fvu, point.training_fvu));
    if let (Some(training), false) = (training, line.gap_is_open) {
        tracing::warn!(
            trainer = line.name,
            held_out_fvu = fvu,
            training_fvu = training,
            reuse,
            "held-out rows are explained more than a tenth worse than the rows it is trained on: it learns them by heart; \
             a smaller `buffer.reuse`, or a narrower coder, would learn more of the text"
        );
    }
    line.gap_is_open = open.is_some();
}

/// Show a trainer's state.
fn show<B: CoderOps>(line: &mut Line, trainer: &Trainer<B>, input: &Receiver<SharedBatch>, status: &RunStatus) {
    let report = trainer.report();
    let n = &line.numbers;
    n.loss.set(report.loss);
    n.fvu.set(report.fvu);
    n.l0.set(report.l0);
    n.dead_fraction.set(report.dead_fraction);
    n.grad_norm.set(report.grad_norm);
    n.learning_rate.set(report.learning_rate);
    let held_out = trainer.history().held_out().last();
    if let Some(point) = held_out {
        n.heldout_fvu.set(point.fvu);
        n.fvu_gap.set(point.gap().unwrap_or_default());
        n.heldout_l0.set(point.l0);
        n.heldout_dead_fraction.set(point.dead_fraction);
    }
    n.rows.add(report.rows.saturating_sub(n.rows.get()));
    n.steps.add(report.step.saturating_sub(n.steps.get()));
    n.steps_skipped.add(report.skipped_steps.saturating_sub(n.steps_skipped.get()));
    n.rows_buffered.set(report.rows_buffered as f64);
    n.rows_behind.set(input.stats().weight.get());
    n.batch_documents.set(report.documents_per_batch as f64);
    let screened = trainer.screening();
    status.metrics.run.screened_rows.reach(screened.rows);
    status.metrics.run.screen_candidates.reach(screened.candidates);
    status.metrics.run.unscreened_rows.reach(screened.unscreened_rows);
    let dropped = trainer.dropped();
    for (reason, count) in dropped.iter() {
        status.metrics.run.drop_n(reason, count - line.reported.get(reason));
    }
    line.reported = dropped.clone();
    warn_of_the_gap(line, trainer);
    status.update_trainer(line.index, |line| {
        line.rows = report.rows;
        line.loss = report.loss;
        line.fvu = report.fvu;
        line.l0 = report.l0;
        line.dead_fraction = report.dead_fraction;
        line.buffered = report.rows_buffered;
        line.held_out_fvu = held_out.map(|point| point.fvu);
    });
}
