//! Token batches to activation batches: owns the model and its device.

use std::sync::Arc;

use crate::activation::{ActivationBatch, KeepRule, capture};
use crate::compute::Backend;
use crate::error::Result;
use crate::hooks::SiteWidth;
use crate::model::Model;
use crate::pipeline::lens::Lenses;
use crate::pipeline::stages::Completion;
use crate::pipeline::wanted::Wanted;
use crate::runtime::channel::{Receiver, Sender};
use crate::runtime::clock::Stopwatch;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::supervisor::Heartbeat;
use crate::telemetry::metrics::{RunStats, StageStats};
use crate::testing::failpoint;
use crate::tokens::TokenBatch;

/// The stage that runs the model.
pub struct Forward<B: Backend> {
    /// The model.
    pub model: Box<dyn Model<B>>,
    /// What is captured.
    pub sites: Vec<SiteWidth>,
    /// Which rows are kept.
    pub keep: KeepRule,
    /// From the tokenize stage.
    pub input: Receiver<TokenBatch>,
    /// Whether the input was complete.
    pub input_complete: Completion,
    /// Who needs what.
    pub wanted: Arc<Wanted>,
    /// To the fan-out stage.
    pub output: Sender<ActivationBatch>,
    /// Set when the whole input was computed.
    pub complete: Completion,
    /// Five numbers.
    pub stats: StageStats,
    /// The run's numbers.
    pub run: RunStats,
    /// Asks what latents do to the logits.
    pub lenses: Arc<Lenses>,
    /// Ends the stage early.
    pub shutdown: Shutdown,
}

impl<B: Backend> Forward<B> {
    /// Work until the input ends; gives the model back for evaluation.
    pub fn run(mut self, heartbeat: &Heartbeat) -> Result<Box<dyn Model<B>>> {
        loop {
            let watch = Stopwatch::start();
            let Some(batch) = heartbeat.while_waiting(|| self.input.recv()) else { break };
            self.stats.blocked.add(watch.elapsed());
            if self.shutdown.is_aborting() {
                return Ok(self.model);
            }
            let watch = Stopwatch::start();
            let needed = || self.wanted.is_needed(batch.index, batch.unit, batch.batch_in_unit, &self.shutdown);
            if !heartbeat.while_waiting(needed) {
                continue;
            }
            self.stats.blocked.add(watch.elapsed());
            self.stats.items_in.inc();
            failpoint("forward_begun");
            let watch = Stopwatch::start();
            let batch = capture::<B>(batch, &self.sites, &self.keep, |batch, tap| self.model.forward(batch, tap))?;
            self.stats.worked((batch.index, batch.unit), watch.elapsed());
            failpoint("forward_done");
            let d_model = self.model.spec().d_model;
            self.lenses.answer(d_model, |directions, effects| self.model.token_effects(directions, effects));
            self.count(&batch);
            self.wanted.computed(batch.index, batch.n_rows());
            let watch = Stopwatch::start();
            if heartbeat.while_waiting(|| self.output.send(batch)).is_err() {
                // the next stage ended; it reports why
                return Ok(self.model);
            }
            self.stats.blocked.add(watch.elapsed());
            self.stats.items_out.inc();
        }
        if self.input_complete.is_set() {
            self.complete.set();
        }
        Ok(self.model)
    }

    fn count(&self, batch: &ActivationBatch) {
        self.run.documents.add(u64::from(batch.documents));
        self.run.tokens.add(u64::from(batch.n_tokens));
        self.run.rows.add(batch.n_rows() as u64);
        batch.dropped.iter().for_each(|dropped| self.run.drop_all(dropped));
        self.run.drop_all(&batch.dropped_at_end);
        self.stats.bytes.add(batch.bytes() as u64);
    }
}
