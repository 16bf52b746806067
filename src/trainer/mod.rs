//! The online loop around [`crate::sae`]: rows in, steps, checkpoints out.
//!
//! A [`Trainer`] is a plain state machine. It has no clock, no thread and no files: rows are offered to it in the order
//! of the stream, it runs every step that becomes possible, and it gives its state as bytes. Its state is a function of
//! its settings and the rows offered so far, whatever the sizes of the offers, the threads and the interruptions: rows
//! gather in the mixing buffer until it is full; then the input's scale is measured and the parameters are set from its
//! rows; from then on each time it is full, a batch is drawn and a step is made, until `rows` rows were trained on.
//! Trainers that would draw the same batches are a [`group::Group`], and draw them once.
//!
//! It does not know where rows come from or where checkpoints go.

mod boosting;
mod checkpoint;
pub mod config;
mod export;
pub mod group;
pub mod held_out;
pub mod history;
mod infer;
pub mod mixing_buffer;
mod normalise;
mod plan;
mod settings;
mod step;
pub mod target;

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::accounting::{DropCounts, DropReason};
use crate::compute::CoderOps;
use crate::corpus::cursor::SourceCursor;
use crate::error::{Error, Result};
use crate::sae::continued;
use crate::sae::export::ExportedCoder;
use crate::sae::rows::RowScaling;
use crate::trainer::boosting::Base;
use crate::trainer::checkpoint::TrainingState;
use crate::trainer::held_out::HeldOut;
use crate::trainer::history::History;
use crate::trainer::mixing_buffer::MixingBuffer;
use crate::trainer::plan::Plan;
use crate::trainer::step::Training;

pub use crate::trainer::settings::{TrainerBytes, TrainerSettings};

/// The last step, for metrics and status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Steps made, skipped ones included.
    pub step: u64,
    /// Rows trained on; a row drawn twice counts twice.
    pub rows: u64,
    /// Reconstruction loss `mean |y - y^|^2` of the scaled input, plus penalties and auxiliary losses.
    pub loss: f64,
    /// The part of penalties for sparsity.
    #[serde(default)]
    pub sparsity_loss: f64,
    /// The part of auxiliary losses.
    pub auxiliary_loss: f64,
    /// Fraction of variance unexplained, of the batch (see
    /// [`crate::evaluation::reconstruction::ReconstructionMetrics::fvu`]); before the step's update.
    pub fvu: f64,
    /// Latents that fired, a row.
    pub l0: f64,
    /// Share of latents that fired for none of the last `dead_after_tokens` rows.
    pub dead_fraction: f64,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Documents that the batch's rows come from: how well the buffer mixes.
    pub documents_per_batch: u64,
    /// Rows in the mixing buffer.
    pub rows_buffered: u64,
    /// Steps without an update because a gradient was not finite.
    pub skipped_steps: u64,
}

impl StepReport {
    /// The report of a checkpoint.
    ///
    /// # Errors
    /// `Data` if `state.json` is missing or damaged.
    pub fn of_checkpoint(files: &[(String, Vec<u8>)]) -> Result<Self> {
        checkpoint::saved_report(files)
    }
}

/// Trains one coder.
pub struct Trainer<B: CoderOps> {
    backend: Arc<B>,
    settings: TrainerSettings,
    plan: Plan,
    /// None while it draws from the buffer of a [`group::Group`].
    buffer: Option<Arc<MixingBuffer>>,
    /// From the first full buffer on.
    training: Option<Training<B>>,
    /// What training will go on from; until it begins.
    start_from: Option<ExportedCoder>,
    /// What its coder is to make better.
    base: Option<Base<B>>,
    cursor: SourceCursor,
    dropped: DropCounts,
    report: StepReport,
    history: History,
    /// What it is judged on while it trains, if it is.
    held_out: Option<Arc<HeldOut>>,
}

impl<B: CoderOps> Trainer<B> {
    /// A trainer at the start of the stream.
    ///
    /// # Errors
    /// `Config` if a setting is out of range.
    pub fn new(backend: Arc<B>, settings: TrainerSettings) -> Result<Self> {
        let plan = Plan::new(&settings)?;
        let buffer = settings.empty_buffer(&plan);
        Ok(Self {
            backend,
            settings,
            plan,
            buffer: Some(Arc::new(buffer)),
            training: None,
            start_from: None,
            base: None,
            cursor: SourceCursor::default(),
            dropped: DropCounts::new(),
            report: StepReport::default(),
            history: History::default(),
            held_out: None,
        })
    }

    /// Where the coder is that training is to go on from, if it has not begun and was not given it.
    pub fn wants_coder(&self) -> Option<&str> {
        let wanted = self.settings.config.start_from.as_deref();
        wanted.filter(|_| self.training.is_none() && self.start_from.is_none())
    }

    /// Go on from a coder that others trained, or an earlier run: what is at [`Trainer::wants_coder`].
    ///
    /// # Errors
    /// `Config` if it does not fit.
    pub fn start_from(&mut self, coder: ExportedCoder) -> Result<()> {
        continued::check(&coder, &self.plan.coder, self.settings.config.normalize.rows())?;
        self.start_from = Some(coder);
        Ok(())
    }

    /// Take in `rows` `[n, width]` of documents `doc_ids` `[n]`, the next in the stream, and run every step that becomes
    /// possible. A trainer that is done takes no more rows; what it does not take is not counted as dropped.
    ///
    /// # Errors
    /// `Data` if the rows cannot be trained on (all zero, or gradients that stay not finite). The trainer is then
    /// unusable; its last checkpoint is not.
    pub fn offer(&mut self, rows: &[f32], doc_ids: &[u64], cursor_after: &SourceCursor) -> Result<()> {
        self.settings.check_rows(rows, doc_ids)?;
        let mut buffer = self.take_buffer()?;
        let own = Arc::make_mut(&mut buffer);
        let (width, mut at, mut batch) = (self.settings.width(), 0, Vec::new());
        while at < doc_ids.len() && !self.done() {
            at += own.fill(&rows[at * width..], &doc_ids[at..]);
            while own.is_full() && !self.done() {
                self.step(own, &mut batch)?;
            }
        }
        self.now_at(cursor_after, own);
        self.buffer = Some(buffer);
        Ok(())
    }

    /// The stream ended, or the trainer is done: serve what is left in whole batches and drop the rest, with an account.
    ///
    /// # Errors
    /// As [`Trainer::offer`].
    pub fn finish(&mut self) -> Result<()> {
        let mut buffer = self.take_buffer()?;
        let (own, mut batch) = (Arc::make_mut(&mut buffer), Vec::new());
        while own.len() >= self.plan.batch_rows && !self.done() {
            self.step(own, &mut batch)?;
        }
        self.leave_the_tail(own.len());
        own.clear();
        self.buffer = Some(buffer);
        Ok(())
    }

    fn take_buffer(&mut self) -> Result<Arc<MixingBuffer>> {
        let elsewhere = || Error::internal(format!("`{}` draws from a group's buffer", self.settings.config.name));
        self.buffer.take().ok_or_else(elsewhere)
    }

    /// A step on a batch of its own.
    fn step(&mut self, buffer: &mut MixingBuffer, batch: &mut Vec<f32>) -> Result<()> {
        self.begin(buffer)?;
        let documents = buffer.draw(self.plan.batch_rows, batch);
        self.learn(batch, documents, buffer.len())
    }

    /// Everything of the batch whose last row led to `cursor` was offered, to `buffer`.
    fn now_at(&mut self, cursor: &SourceCursor, buffer: &MixingBuffer) {
        self.cursor.clone_from(cursor);
        self.report.rows_buffered = buffer.len() as u64;
    }

    /// The last `rows` of the buffer will not be trained on.
    fn leave_the_tail(&mut self, rows: usize) {
        self.dropped.add(DropReason::BufferTail, rows as u64);
        self.report.rows_buffered = 0;
    }

    fn context(&self, error: Error) -> Error {
        error.context(format!("train `{}` on {}", self.settings.config.name, self.settings.point()))
    }

    /// Set the parameters from the first full buffer, where that is not done yet.
    fn begin(&mut self, buffer: &MixingBuffer) -> Result<()> {
        if self.training.is_some() {
            return Ok(());
        }
        let config = &self.settings.config;
        let from = self.start_from.take();
        if config.start_from.is_some() && from.is_none() {
            return Err(self.context(Error::internal("nobody read the coder of `start_from`")));
        }
        let (how, rows) = ((config, &self.settings.sites[..]), (buffer, from.as_ref()));
        let mut rng = self.settings.stream("init");
        let started = Training::start(&*self.backend, &self.plan.coder, how, rows, &mut rng, self.plan.batch_rows);
        self.training = Some(started.map_err(|e| self.context(e))?);
        Ok(())
    }

    /// One step on `batch` `[batch_rows, width]`, rows as they were offered, of `documents` documents; `buffered` rows are
    /// left where they were drawn from.
    fn learn(&mut self, batch: &[f32], documents: usize, buffered: usize) -> Result<()> {
        let Plan { schedule, clip_norm, .. } = &self.plan;
        let mut batch = Cow::Borrowed(batch);
        let scaling = self.settings.config.normalize.rows();
        if scaling != RowScaling::None {
            scaling.apply(batch.to_mut(), self.settings.width());
        }
        if let Some(base) = &self.base {
            batch = Cow::Owned(base.with_residuals(&*self.backend, &batch));
        } else if self.settings.config.target.base().is_some() {
            return Err(self.context(Error::internal("nobody read the coder of `target.base`")));
        }
        let Some(training) = &mut self.training else { return Err(Error::internal("a step before the first")) };
        let stepped = training.step(&*self.backend, &batch, schedule, *clip_norm, |step| {
            // a stream for each step: nothing to save
            self.settings.stream(&format!("resample/{step}"))
        });
        let dead_fraction = training.dead.dead_fraction();
        let report = &mut self.report;
        let before = report.rows;
        report.step = training.counters.step;
        report.rows = training.counters.rows;
        report.skipped_steps = training.counters.skipped;
        report.documents_per_batch = documents as u64;
        report.rows_buffered = buffered as u64;
        if let Some(outcome) = stepped.map_err(|e| self.context(e))? {
            let report = &mut self.report;
            let batch = &outcome.batch;
            report.loss = batch.loss();
            report.sparsity_loss = batch.sparsity_loss;
            report.auxiliary_loss = batch.auxiliary_loss;
            report.fvu = batch.fvu;
            report.l0 = batch.l0;
            report.dead_fraction = dead_fraction;
            report.grad_norm = outcome.gradient_norm;
            report.learning_rate = outcome.learning_rate;
            self.history.add(report);
            self.compare_if_judged();
        }
        self.judge_if_due(before)
    }

    /// Whether `rows` rows were trained on.
    pub fn done(&self) -> bool {
        self.report.rows >= self.plan.rows
    }

    /// Index, in the stream, of the first batch that was not offered yet.
    pub fn next_batch_index(&self) -> u64 {
        self.cursor.next_batch
    }

    /// The stream's state after the last offer.
    pub fn cursor(&self) -> &SourceCursor {
        &self.cursor
    }

    /// The last step.
    pub fn report(&self) -> StepReport {
        self.report.clone()
    }

    /// The steps so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Rows that were offered and never trained on.
    pub fn dropped(&self) -> &DropCounts {
        &self.dropped
    }

    /// What it was made from.
    pub fn settings(&self) -> &TrainerSettings {
        &self.settings
    }

    /// The whole state: (file name, bytes).
    ///
    /// # Errors
    /// `Internal` only.
    pub fn save(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let elsewhere = || Error::internal(format!("`{}` has let its buffer go", self.settings.config.name));
        let buffer = self.buffer.as_deref().ok_or_else(elsewhere)?;
        let mut files = self.save_beside(buffer)?;
        files.push(checkpoint::write_buffer(buffer, self.settings.width())?);
        Ok(files)
    }

    /// What [`Trainer::save`] gives, but for the file of `buffer`, from which it draws.
    fn save_beside(&self, buffer: &MixingBuffer) -> Result<Vec<(String, Vec<u8>)>> {
        let scalars = self.training.as_ref().map(TrainingState::of);
        let about = (&self.cursor, &self.dropped, &self.report, &self.history);
        let state = checkpoint::new_state(&self.settings, about, buffer, scalars)?;
        let mut files = checkpoint::write(&*self.backend, &state, self.training.as_ref())?;
        if let Some(base) = &self.base {
            files.extend(base.files()?);
        }
        Ok(files)
    }

    /// Let the buffer's memory go: it was saved, and no more rows will come.
    pub fn release_buffer(&mut self) {
        self.buffer = None;
    }

    /// A trainer in the state that [`Trainer::save`] gave.
    ///
    /// # Errors
    /// `Config` if the checkpoint was made with other settings (`rows`, `checkpoint` and `when_slow` may differ), naming
    /// the key; `Data` if a file is missing or damaged.
    pub fn restore(backend: Arc<B>, settings: TrainerSettings, files: &[(String, Vec<u8>)]) -> Result<Self> {
        let plan = Plan::new(&settings)?;
        let state = checkpoint::read_state(files, &settings)?;
        let shape = (settings.width(), plan.buffer_rows, plan.reuse);
        let buffer = checkpoint::read_buffer(files, &state.buffer_rng, shape)?;
        let how = (&settings.config, &settings.sites[..], plan.batch_rows);
        let training = match &state.training {
            Some(scalars) => Some(checkpoint::read_training(&*backend, files, scalars, &plan.coder, how)?),
            None => None,
        };
        let base = match settings.config.target.base() {
            Some(_) => Some(Base::read(&*backend, files, settings.width())?),
            None => None,
        };
        let (cursor, dropped, report, history) = (state.cursor, state.dropped, state.report, state.history);
        let (start_from, held_out, buffer) = (None, None, Some(Arc::new(buffer)));
        Ok(Self {
            backend,
            settings,
            plan,
            buffer,
            training,
            start_from,
            base,
            cursor,
            dropped,
            report,
            history,
            held_out,
        })
    }

    /// Why SAELens has no form of the coder, if it has none: its checkpoint is the coder then.
    pub fn not_in_saelens(&self) -> Option<&'static str> {
        match &self.base {
            Some(base) => base.not_one_coder(&self.plan.coder),
            None => self.plan.coder.not_in_saelens(),
        }
    }

    fn started(&self) -> Result<&Training<B>> {
        let name = &self.settings.config.name;
        let few = self.report.rows_buffered;
        self.training.as_ref().ok_or_else(|| {
            Error::data(format!(
                "trainer `{name}` has made no step: {few} rows are in its buffer, it begins with {} (`buffer.rows`)",
                self.plan.buffer_rows
            ))
        })
    }
}

#[cfg(test)]
mod tests;
