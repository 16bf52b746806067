//! One step: batch, loss and gradients, constraint, clipping, update, counters.

use std::borrow::Cow;
use std::ops::Range;

use crate::compute::CoderOps;
use crate::compute::coder_ops::CoderDims;
use crate::error::{Error, Result};
use crate::hooks::SiteWidth;
use crate::runtime::rng::Rng;
use crate::sae::dead::DeadTracker;
use crate::sae::export::ExportedCoder;
use crate::sae::infer::by_group;
use crate::sae::optim::{Average, Optimizer, Schedule, clip};
use crate::sae::resample::{Rows, resample};
use crate::sae::rows::RowScaling;
use crate::sae::scales::{self, Scales};
use crate::sae::settings::ArchetypalSettings;
use crate::sae::state::CoderState;
use crate::sae::{Batch, BatchReport, Coder, CoderSettings, Params, constraint, continued, init, kmeans};
use crate::trainer::config::TrainerConfig;
use crate::trainer::mixing_buffer::MixingBuffer;
use crate::trainer::normalise::measure_scale;

/// Rows from which the decoder's bias is initialised, at most.
const MEDIAN_ROWS: usize = 16_384;
/// Steps in a row whose gradients are not finite before the trainer gives up.
const SKIPPED_MAX: u64 = 10;

/// Everything that changes while a coder is trained.
pub(super) struct Training<B: CoderOps> {
    /// What rows are multiplied by, measured on the first full buffer.
    pub(super) scales: Scales,
    /// The same, of each site.
    pub(super) site_scales: Vec<f64>,
    pub(super) coder: Coder<B>,
    pub(super) optimizer: Optimizer<B>,
    /// What it is judged and exported with, where the optimiser is told to average.
    pub(super) average: Option<Average<B>>,
    pub(super) dead: DeadTracker,
    pub(super) counters: Counters,
    /// `[batch_rows, d]` the batch on the device, and `[batch_rows, out]` its target where that is another.
    pub(super) x: B::Tensor,
    pub(super) y: B::Tensor,
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
    /// Measure the scales on the rows in the buffer, and set the parameters from these rows, or from a coder that fits.
    pub(super) fn start(
        backend: &B,
        settings: &CoderSettings,
        (config, sites): (&TrainerConfig, &[SiteWidth]),
        (buffer, from): (&MixingBuffer, Option<&ExportedCoder>),
        rng: &mut Rng,
        batch_rows: usize,
    ) -> Result<Self> {
        let optimizer = &config.optimizer;
        let mut site_scales = Vec::new();
        let mut at = 0;
        for (_, width) in sites {
            let rows = buffer.iter().map(|(row, _, _)| &row[at..at + width]);
            site_scales.push(measure_scale(config.normalize, *width, rows)?);
            at += width;
        }
        let scales = config.target.scales(sites, &site_scales);
        let (params, state) = match from {
            Some(coder) => continued::start(backend, coder, settings, &scales),
            None => {
                let params = start(backend, settings, &scales, config.normalize.rows(), buffer, rng);
                (params, CoderState::default())
            }
        };
        let mut coder = Coder::new(backend, settings.clone(), params, batch_rows);
        coder.state = state;
        if let (Some(own), None) = (settings.archetypal(), from) {
            let scaling = (&scales, config.normalize.rows());
            let points = points(backend, own, settings.dims.d, scaling, buffer, rng);
            init::set_points(backend, &mut coder, &points);
        }
        Ok(Self {
            scales,
            site_scales,
            coder,
            optimizer: Optimizer::new(backend, settings, optimizer),
            average: optimizer.average().map(|decay| Average::new(backend, settings, decay)),
            dead: DeadTracker::new(settings.dims.f, settings.dead_after),
            counters: Counters::default(),
            x: backend.zeros(batch_rows * settings.dims.groups * settings.dims.d),
            y: backend.zeros(if settings.target.is_input { 0 } else { batch_rows * settings.dims.out }),
        })
    }

    /// One step on `rows` `[n, width]`. `None`: a gradient was not finite, nothing was updated.
    pub(super) fn step(
        &mut self,
        backend: &B,
        rows: &[f32],
        schedule: &Schedule,
        clip_norm: f64,
        seed: impl FnOnce(u64) -> Rng,
    ) -> Result<Option<StepOutcome>> {
        let dims = self.coder.settings().dims;
        let rows = split(rows, self.coder.settings(), &self.scales);
        let n = rows.x.len() / (dims.groups * dims.d);
        backend.write(&mut self.x, 0, &rows.x);
        if let Some(target) = &rows.target {
            backend.write(&mut self.y, 0, target);
        }
        let target = rows.target.is_some().then_some(&self.y);
        let dead = self.dead.dead();
        let batch = Batch { x: &self.x, target, n, scale: rows.scale, dead: &dead, step: self.counters.step };
        let batch = self.coder.loss_and_gradients(backend, &batch);

        let learning_rate = schedule.rate(self.counters.step);
        self.counters.step += 1;
        self.counters.rows += n as u64;
        let coder = &mut self.coder;
        let settings = coder.settings().clone();
        let gradient_norm = constraint::project_and_measure(backend, &settings, &coder.params, &mut coder.gradients);
        if !gradient_norm.is_finite() || !batch.loss().is_finite() {
            return self.skip().map(|()| None);
        }
        self.counters.skipped_in_a_row = 0;
        let factor = clip::factor(gradient_norm, clip_norm);
        let tensors = (&mut coder.params, &coder.gradients);
        constraint::update(backend, &settings, &mut self.optimizer, tensors, learning_rate, factor);
        if let Some(average) = &mut self.average {
            average.update(backend, &coder.params, self.optimizer.updates());
        }
        coder.updated(backend, &batch, self.counters.step);
        self.dead.update(&batch.fired, n as u64);
        self.resample(backend, &rows, seed);
        Ok(Some(StepOutcome { batch, gradient_norm, learning_rate }))
    }

    /// Let dead latents start anew, where the coder has it and it is time. `seed` gives the step's random stream.
    fn resample(&mut self, backend: &B, rows: &Rows<'_>, seed: impl FnOnce(u64) -> Rng) {
        let step = self.counters.step;
        let due = self.coder.settings().resample_every.is_some_and(|every| step.is_multiple_of(every));
        let dead = if due { self.dead.dead() } else { Vec::new() };
        if !dead.is_empty() {
            let (coder, optimizer) = (&mut self.coder, &mut self.optimizer);
            let renewed = resample(backend, coder, optimizer, rows, &dead, &mut seed(step));
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

/// Rows of a buffer as the coder takes them: its input with one scale for all of it, or scaled already; and, where it is
/// another, the target, scaled.
fn split<'a>(rows: &'a [f32], settings: &CoderSettings, scales: &Scales) -> Rows<'a> {
    let CoderDims { d, out, groups, .. } = settings.dims;
    if settings.target.is_input {
        return match scales.of_input() {
            Some(scale) => Rows { x: Cow::Borrowed(rows), scale, target: None },
            None => {
                let mut x = rows.to_vec();
                scales::apply(&mut x, &scales.input);
                Rows { x: Cow::Owned(x), scale: 1.0, target: None }
            }
        };
    }
    let (mut x, mut target) = (Vec::new(), Vec::new());
    for row in rows.chunks_exact(groups * d + out) {
        let (read, write) = row.split_at(groups * d);
        x.extend_from_slice(read);
        target.extend_from_slice(write);
    }
    scales::apply(&mut x, &scales.input);
    if groups > 1 {
        x = by_group(&x, groups, d);
    }
    scales::apply(&mut target, &scales.output);
    Rows { x: Cow::Owned(x), scale: 1.0, target: Some(target) }
}

/// Parameters to start from, by the first rows of the buffer: `b_dec` at the geometric median of what is reconstructed, and,
/// where the encoder reads something else, `b_enc` so that pre-activations are 0 at the median of that.
fn start<B: CoderOps>(
    backend: &B,
    settings: &CoderSettings,
    scales: &Scales,
    scaling: RowScaling,
    buffer: &MixingBuffer,
    rng: &mut Rng,
) -> Params<B> {
    let (dims, f) = (settings.dims, settings.dims.f);
    if !settings.start.median {
        return init::start(backend, settings, rng, backend.zeros(dims.out));
    }
    let mut sample: Vec<f32> = buffer.iter().take(MEDIAN_ROWS).flat_map(|(row, _, _)| row).copied().collect();
    if settings.target.is_input {
        scales::apply(&mut sample, &scales.input);
        scaling.apply(&mut sample, dims.d);
        let n = sample.len() / dims.d;
        let b_dec = init::geometric_median(backend, &backend.upload(&sample), n, dims.d);
        return init::start(backend, settings, rng, b_dec);
    }
    let rows = split(&sample, settings, scales);
    let n = rows.x.len() / (dims.groups * dims.d);
    let median = |values: &[f32], width| init::geometric_median(backend, &backend.upload(values), n, width);
    let b_dec = rows.target.as_ref().map_or_else(|| backend.zeros(dims.out), |target| median(target, dims.out));
    let mut params = init::start(backend, settings, rng, b_dec);
    let mut at_median = backend.zeros(dims.groups * dims.d);
    let mut values = vec![0f32; dims.d];
    for (group, rows) in rows.x.chunks_exact(n * dims.d).enumerate() {
        backend.read(&median(rows, dims.d), 0, &mut values);
        backend.write(&mut at_median, group * dims.d, &values);
    }
    let mut u = backend.zeros(f);
    backend.pre_activations(&at_median, &params.w_enc, &backend.zeros(f), &mut u, 1, dims);
    backend.combine(-1.0, &u, 0.0, &mut params.b_enc, f);
    params
}

/// Iterations of k-means, and the rows that are compared for each of its centroids, at most.
const KMEANS_STEPS: usize = 10;
const KMEANS_ROWS: usize = 32;

/// Points that a decoder is made of, `[points, out]`, scaled: rows of the buffer, different ones if it has as many, or the
/// centroids that k-means finds from them.
fn points<B: CoderOps>(
    backend: &B,
    own: &ArchetypalSettings,
    d: usize,
    (scales, scaling): (&Scales, RowScaling),
    buffer: &MixingBuffer,
    rng: &mut Rng,
) -> Vec<f32> {
    let rows: Vec<&[f32]> = buffer.iter().map(|(row, _, _)| row).collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let wanted = own.points * if own.centroids { KMEANS_ROWS } else { 1 };
    for i in 0..wanted.min(rows.len()) {
        order.swap(i, i + rng.below((rows.len() - i) as u64) as usize);
    }
    let scaled = |places: Range<usize>| {
        let mut some: Vec<f32> = places.flat_map(|i| rows[order[i % order.len()]]).copied().collect();
        scales::apply(&mut some, &scales.input);
        scaling.apply(&mut some, d);
        some
    };
    let mut points = scaled(0..own.points);
    if own.centroids {
        kmeans::refine(backend, &mut points, d, wanted.min(rows.len()), KMEANS_STEPS, scaled);
    }
    points
}
