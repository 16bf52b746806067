//! One step: batch, loss and gradients, constraint, clipping, update, counters.

use crate::compute::CoderOps;
use crate::error::{Error, Result};
use crate::runtime::rng::Rng;
use crate::sae::config::OptimizerConfig;
use crate::sae::dead::DeadTracker;
use crate::sae::optim::{Average, Optimizer, Schedule, clip};
use crate::sae::resample::resample;
use crate::sae::rows::RowScaling;
use crate::sae::{Batch, BatchReport, Coder, CoderSettings, Params, constraint, init};
use crate::trainer::config::Normalize;
use crate::trainer::mixing_buffer::MixingBuffer;
use crate::trainer::normalise::measure_scale;

/// Rows from which the decoder's bias is initialised, at most.
const MEDIAN_ROWS: usize = 16_384;
/// Steps in a row whose gradients are not finite before the trainer gives up.
const SKIPPED_MAX: u64 = 10;

/// Everything that changes while a coder is trained.
pub(super) struct Training<B: CoderOps> {
    pub(super) scale: f64,
    pub(super) coder: Coder<B>,
    pub(super) optimizer: Optimizer<B>,
    /// What it is judged and exported with, where the optimiser is told to average.
    pub(super) average: Option<Average<B>>,
    pub(super) dead: DeadTracker,
    pub(super) counters: Counters,
    /// `[batch_rows, d]` the batch on the device.
    pub(super) x: B::Tensor,
}

/// Counts that survive a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Counters {
    /// Steps, skipped ones included.
    pub(super) step: u64,
    /// Rows in them.
    pub(super) rows: u64,
    /// Steps without an update because a gradient was not finite.
    pub(super) skipped: u64,
    /// Such steps since the last good one.
    pub(super) skipped_in_a_row: u64,
}

/// What one step did.
pub(super) struct StepOutcome {
    pub(super) batch: BatchReport,
    pub(super) gradient_norm: f64,
    pub(super) learning_rate: f64,
}

impl<B: CoderOps> Training<B> {
    /// Measure the scale and set the parameters from the rows in the buffer.
    pub(super) fn start(
        backend: &B,
        settings: &CoderSettings,
        (optimizer, normalize): (&OptimizerConfig, Normalize),
        buffer: &MixingBuffer,
        rng: &mut Rng,
        batch_rows: usize,
    ) -> Result<Self> {
        let d = settings.dims.d;
        let scale = measure_scale(normalize, d, buffer.iter().map(|(row, _, _)| row))?;
        let b_dec = match settings.start.median {
            true => median(backend, (scale, normalize.rows()), buffer, d),
            false => backend.zeros(d),
        };
        let params = init::start(backend, settings, rng, b_dec);
        Ok(Self {
            scale,
            coder: Coder::new(backend, settings.clone(), params, batch_rows),
            optimizer: Optimizer::new(backend, settings, optimizer),
            average: optimizer.average().map(|decay| Average::new(backend, settings, decay)),
            dead: DeadTracker::new(settings.dims.f, settings.dead_after),
            counters: Counters::default(),
            x: backend.zeros(batch_rows * d),
        })
    }

    /// One step on `rows` `[n, d]`. `None`: a gradient was not finite, nothing was updated.
    pub(super) fn step(
        &mut self,
        backend: &B,
        rows: &[f32],
        schedule: &Schedule,
        clip_norm: f64,
        seed: impl FnOnce(u64) -> Rng,
    ) -> Result<Option<StepOutcome>> {
        let dims = self.coder.settings().dims;
        let n = rows.len() / dims.d;
        backend.write(&mut self.x, 0, rows);
        let dead = self.dead.dead();
        let batch = Batch { x: &self.x, target: None, n, scale: self.scale, dead: &dead, step: self.counters.step };
        let batch = self.coder.loss_and_gradients(backend, &batch);

        let learning_rate = schedule.rate(self.counters.step);
        self.counters.step += 1;
        self.counters.rows += n as u64;
        let coder = &mut self.coder;
        let settings = coder.settings().clone();
        constraint::project(backend, &settings, &coder.params, &mut coder.gradients);
        let gradient_norm = clip::norm(backend, &coder.gradients);
        if !gradient_norm.is_finite() || !batch.loss().is_finite() {
            return self.skip().map(|()| None);
        }
        self.counters.skipped_in_a_row = 0;
        let factor = clip::factor(gradient_norm, clip_norm);
        self.optimizer.update(backend, &mut coder.params, &coder.gradients, learning_rate, factor);
        constraint::restore(backend, &settings, &mut coder.params);
        if let Some(average) = &mut self.average {
            average.update(backend, &coder.params, self.optimizer.updates());
        }
        coder.state.update(&settings, &batch, self.counters.step);
        self.dead.update(&batch.fired, n as u64);
        self.resample(backend, rows, seed);
        Ok(Some(StepOutcome { batch, gradient_norm, learning_rate }))
    }

    /// Let dead latents start anew, where the coder has it and it is time. `seed` gives the step's random stream.
    fn resample(&mut self, backend: &B, rows: &[f32], seed: impl FnOnce(u64) -> Rng) {
        let step = self.counters.step;
        let due = self.coder.settings().resample_every.is_some_and(|every| step.is_multiple_of(every));
        let dead = if due { self.dead.dead() } else { Vec::new() };
        if !dead.is_empty() {
            let (coder, optimizer) = (&mut self.coder, &mut self.optimizer);
            let renewed = resample(backend, coder, optimizer, (rows, self.scale), &dead, &mut seed(step));
            self.dead.renew(&renewed);
        }
    }

    /// The coder as it is judged and exported, given to `use_it`.
    pub(super) fn judged<R>(&self, backend: &B, use_it: impl FnOnce(&Coder<B>, &Params<B>) -> R) -> R {
        let averaged = self.optimizer.averaged(backend, &self.coder.params).map(|mut params| {
            constraint::restore(backend, self.coder.settings(), &mut params);
            params
        });
        // an average of unit rows is shorter: latents' values make up for what the norm would take
        let average = self.average.as_ref().filter(|_| self.optimizer.updates() > 0).map(|average| &average.params);
        use_it(&self.coder, averaged.as_ref().or(average).unwrap_or(&self.coder.params))
    }

    fn skip(&mut self) -> Result<()> {
        self.counters.skipped += 1;
        self.counters.skipped_in_a_row += 1;
        if self.counters.skipped_in_a_row < SKIPPED_MAX {
            return Ok(());
        }
        Err(Error::data(format!(
            "{SKIPPED_MAX} steps in a row had gradients that are not finite: lower `optimizer.learning_rate`, or exclude \
             rows of extreme norm"
        )))
    }
}

/// The geometric median of the first rows of the buffer, scaled.
fn median<B: CoderOps>(backend: &B, (scale, scaling): (f64, RowScaling), buffer: &MixingBuffer, d: usize) -> B::Tensor {
    let rows = buffer.iter().take(MEDIAN_ROWS);
    let mut sample: Vec<f32> =
        rows.flat_map(|(row, _, _)| row.iter().map(|&x| (scale * f64::from(x)) as f32)).collect();
    scaling.apply(&mut sample, d);
    init::geometric_median(backend, &backend.upload(&sample), sample.len() / d, d)
}
