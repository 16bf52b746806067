//! A coder: the blocks of its [`CoderSettings`], put together.
//!
//! With `y` the scaled input and `c = y - b_dec` (or `c = y`):
//!
//! ```text
//! u = c W_enc^T + b_enc          f = selection of u          y^ = f W_dec + b_dec
//! L = reconstruction(y, y^) + penalties(f) + losses of the selection + auxiliary losses
//! ```
//!
//! All terms share `u`: each gives a sparse gradient with respect to it, and there is one backward pass of encoder and
//! decoder over all of them. `b_dec` gets `sum_b dL/dy^_b` and, where it is subtracted from the input,
//! `-sum_b dL/du_b W_enc`.

use std::borrow::Cow;

use crate::compute::CoderOps;
use crate::compute::coder_ops::{ByLatent, Code, CoderDims, LatentGradients};
use crate::sae::decoder::{self, Held, MappedDecoder};
use crate::sae::directions;
use crate::sae::infer::{Inference, Keep};
use crate::sae::loss::branch::BranchInput;
use crate::sae::loss::{Aux, Branch, Ghost, Penalties, Quadratic, Reconstruction};
use crate::sae::params::{self, Gradients, Params};
use crate::sae::rows::RowScaling;
use crate::sae::selection::{self, Input, Pass, Selection, SelectionLosses, gated, host, make_room};
use crate::sae::settings::{CoderSettings, DecoderNorm, SelectionSettings};
use crate::sae::skip::{self, Skip, W_SKIP};
use crate::sae::state::CoderState;

/// A batch to train on.
pub struct Batch<'a, B: CoderOps> {
    /// `[groups, n, d]` raw rows: one group but in coders of several layers.
    pub x: &'a B::Tensor,
    /// `[n, out]` what is to be reconstructed, scaled; `y` without it.
    pub target: Option<&'a B::Tensor>,
    /// Rows.
    pub n: usize,
    /// `y = scale * x`.
    pub scale: f64,
    /// Dead latents, ascending.
    pub dead: &'a [u32],
    /// Steps before this one.
    pub step: u64,
}

/// What a batch gave.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchReport {
    /// `1/n sum |y - y^|^2`; weighted and summed over nested reconstructions.
    pub reconstruction_loss: f64,
    /// Weighted penalties for sparsity.
    pub sparsity_loss: f64,
    /// Weighted auxiliary losses: AuxK (0 while no latent is dead), and those of the selection.
    pub auxiliary_loss: f64,
    /// `sum |y - y^|^2 / sum |y - mean y|^2` over the batch.
    pub fvu: f64,
    /// Rows.
    pub rows: usize,
    /// Latents that fired, a row.
    pub l0: f64,
    /// `[f + 1]` where each latent's firings start among all: latent `i` fired `fired[i + 1] - fired[i]` times.
    pub fired: Vec<u32>,
    /// The least value that fired (by norm where that ranks), where the coder's state needs it.
    pub least: f64,
    /// `[f]` the least value of each latent, infinite where it did not fire; empty unless the state needs it.
    pub least_of_each: Vec<f64>,
    /// `[f]` the largest value of each latent, 0 or less where it did not fire; empty unless the state needs it.
    pub largest_of_each: Vec<f64>,
    /// `sum |y - b_dec|^2` over the batch.
    pub input_squares: f64,
    /// The first penalty's sum, and the one it would have with the next exponent, where that falls.
    pub annealed: [f64; 2],
}

impl BatchReport {
    /// All losses.
    pub fn loss(&self) -> f64 {
        self.reconstruction_loss + self.sparsity_loss + self.auxiliary_loss
    }
}

/// Parameters, and the buffers of a training step.
pub struct Coder<B: CoderOps> {
    settings: CoderSettings,
    /// The parameters.
    pub params: Params<B>,
    /// Their gradients after [`Coder::loss_and_gradients`].
    pub gradients: Gradients<B>,
    /// What is remembered besides; see [`CoderState::update`].
    pub state: CoderState,
    /// `[points, out]` rows of the data that the decoder is made of, where it is; set before the first batch.
    pub points: B::Tensor,
    /// `[rows, out]` the target less `b_dec`; and, where the encoder reads another, that, and zeros.
    target: B::Tensor,
    input: Option<(B::Tensor, B::Tensor)>,
    skip: Option<Skip<B>>,
    norms: B::Tensor,
    decoder: Option<MappedDecoder<B>>,
    selection: Box<dyn Selection<B>>,
    code: Code<B>,
    by_latent: ByLatent<B>,
    bare: Option<Bare<B>>,
    g_code: B::Tensor,
    reconstruction: Reconstruction<B>,
    penalties: Penalties<B>,
    multi: Option<Branch<B>>,
    aux: Option<Aux<B>>,
    ghost: Option<Ghost<B>>,
    quadratic: Option<Quadratic<B>>,
}

impl<B: CoderOps> Coder<B> {
    /// A coder for batches of up to `rows` rows.
    pub fn new(backend: &B, settings: CoderSettings, params: Params<B>, rows: usize) -> Self {
        let dims = settings.dims;
        let k = settings.expected_k();
        Self {
            params,
            gradients: params::zeros(backend, &settings),
            state: CoderState::default(),
            points: backend.zeros(settings.points() * dims.out),
            target: backend.zeros(rows * dims.out),
            input: (!settings.subtract_bias)
                .then(|| (backend.zeros(rows * dims.groups * dims.d), backend.zeros(dims.d))),
            skip: settings.target.skip.then(|| Skip::new(backend, dims, rows)),
            norms: backend.zeros(if settings.needs_norms() { dims.f } else { 0 }),
            decoder: MappedDecoder::new(backend, &settings),
            selection: selection::build(backend, &settings, rows),
            code: Code::new(backend, rows, k),
            by_latent: ByLatent::new(backend, rows, k, dims.f),
            bare: (!settings.has_encoder_rows()).then(|| Bare::new(backend, rows, dims.f)),
            g_code: backend.zeros(rows * k),
            reconstruction: Reconstruction::new(backend, dims, (settings.nested_by, settings.prefixes.clone()), rows),
            penalties: Penalties::new(backend, settings.penalties.clone(), dims.f),
            multi: settings.multi.map(|multi| Branch::new(backend, dims, rows, multi.k)),
            aux: settings.aux.map(|aux| Aux::new(backend, dims, aux, settings.decoder, rows)),
            quadratic: match settings.selection {
                SelectionSettings::Products(own) => Some(Quadratic::new(backend, dims, own, rows)),
                _ => None,
            },
            ghost: settings.ghost.then(|| Ghost::new(backend, dims, rows)),
            settings,
        }
    }

    /// What it is.
    pub fn settings(&self) -> &CoderSettings {
        &self.settings
    }

    /// The code of the last batch.
    pub fn code(&self) -> &Code<B> {
        &self.code
    }

    /// `[n, out]` what the reconstruction of the last batch left.
    pub fn residual(&self) -> &B::Tensor {
        self.reconstruction.residual()
    }

    /// Loss of a batch, and [`Coder::gradients`].
    pub fn loss_and_gradients(&mut self, backend: &B, batch: &Batch<'_, B>) -> BatchReport {
        if let Some(quadratic) = &mut self.quadratic {
            return quadratic.step(backend, &self.params, batch, &mut self.gradients);
        }
        let mut decoder = self.decoder.take();
        if let Some(decoder) = &mut decoder {
            decoder.enter(backend, &self.points, &mut self.params, &mut self.gradients);
        }
        let report = self.with_decoder(backend, batch);
        if let Some(decoder) = &mut decoder {
            decoder.leave(backend, &self.points, &mut self.params, &mut self.gradients);
        }
        self.decoder = decoder;
        report
    }

    /// Parameters of which `w_dec` is the decoder, whatever it is made from.
    pub fn effective<'a>(&self, backend: &B, params: &'a Params<B>) -> Held<'a, Params<B>> {
        decoder::effective(backend, &self.settings, &self.points, params)
    }

    /// The step, with the decoder in `params.w_dec`.
    fn with_decoder(&mut self, backend: &B, batch: &Batch<'_, B>) -> BatchReport {
        let (dims, n) = (self.settings.dims, batch.n);
        let Self { params, state, target, norms, penalties, skip, .. } = self;
        let state = &*state;
        let (read, scale) = batch.target.map_or((batch.x, batch.scale), |target| (target, 1.0));
        backend.center(read, scale, &params.b_dec, target, n, dims.out);
        if let Some((input, zeros)) = &mut self.input {
            backend.center(batch.x, batch.scale, zeros, input, n * dims.groups, dims.d);
        }
        if self.settings.needs_norms() {
            decoder_norms(backend, &self.settings, &params.w_dec, norms);
        }
        let spread = backend.square_sums(target, n, dims.out);
        if let (Some(skip), Some((input, _))) = (skip, &self.input) {
            skip.subtract(backend, input, params.extra(W_SKIP), target, n);
        }
        let parts = &self.settings.target.parts[..];
        let c = self.input.as_ref().map_or(&*target, |(input, _)| input);
        let (dead, step) = (batch.dead, batch.step);
        let input = Input { backend, params, dims, c, target, n, parts, norms, dead, step, state };

        if let (Some(anneal), Some(start)) = (&self.settings.anneal, self.settings.penalties.first()) {
            penalties.set_first(state.anneal.clone().unwrap_or_default().penalty(anneal, *start));
        }

        self.selection.encode(&input, &mut self.code);
        backend.group_by_latent(&self.code, dims.f, &mut self.by_latent);
        let mut fired = vec![0; dims.f + 1];
        backend.read_index(&self.by_latent.starts, &mut fired);
        make_room(backend, &mut self.g_code, self.code.places());
        let (reconstruction_loss, left) = self.reconstruction.forward(&input, &self.code, &mut self.g_code);
        let taking_part = taking_part(&self.settings, &input);
        let revival = self.aux.as_mut().map_or(0.0, |aux| {
            let encoder = (!self.settings.has_encoder_rows()).then_some(&*self.selection);
            aux.forward(&input, &taking_part, &mut self.reconstruction, (left, encoder))
        });
        let ghosts = self.ghost.as_mut().map_or(0.0, |ghost| ghost.forward(&input, self.reconstruction.residual()));
        self.reconstruction.code_gradients(&input, &self.code, &mut self.g_code);
        let mut pass = Pass {
            code: &self.code,
            by_latent: &self.by_latent,
            fired: &fired,
            g_code: &mut self.g_code,
            reconstruction: &mut self.reconstruction,
            penalties,
            gradients: &mut self.gradients,
        };
        let SelectionLosses { sparsity, auxiliary } = self.selection.backward(&input, &mut pass);

        let multi = match (&mut self.multi, self.settings.multi) {
            (Some(branch), Some(multi)) => more_latents(&input, branch, multi.coefficient / n as f64),
            _ => 0.0,
        };
        let terms = Terms {
            code: &self.code,
            by_latent: &self.by_latent,
            g_code: &self.g_code,
            reconstruction: &self.reconstruction,
            selection: &*self.selection,
            multi: self.multi.as_ref(),
            aux: self.aux.as_ref(),
            ghost: self.ghost.as_ref(),
        };
        terms.sum(&input, self.settings.subtract_bias, self.bare.as_mut(), &mut self.gradients);
        freeze(backend, &self.settings, &mut self.gradients);
        self.selection.finish(&input, &mut self.gradients);
        penalties.finish(&input, &mut self.gradients.w_dec);

        let (least, least_of_each) = least_values(&self.settings, &input, &self.code, &self.by_latent);
        let next =
            self.settings.anneal.as_ref().and_then(|anneal| state.anneal.clone().unwrap_or_default().next(anneal));
        let penalized = self.selection.penalized().unwrap_or(&self.code);
        let annealed = next.map_or([0.0; 2], |next| penalties.compare(&input, penalized, next));
        BatchReport {
            reconstruction_loss,
            sparsity_loss: sparsity,
            auxiliary_loss: auxiliary + multi + revival + ghosts,
            // rows that are all alike have no variance to explain
            fvu: if spread.about_mean > 0.0 { left.about_zero / spread.about_mean } else { 0.0 },
            rows: n,
            l0: f64::from(fired[dims.f]) / n as f64,
            fired,
            least,
            least_of_each,
            largest_of_each: self.largest_values(backend),
            input_squares: spread.about_zero,
            annealed,
        }
    }

    /// After an update that a batch gave, the `steps`-th: what is remembered, and biases that follow from it.
    pub fn updated(&mut self, backend: &B, report: &BatchReport, steps: u64) {
        self.state.update(&self.settings, report, steps);
        if let Some(control) = &self.settings.bias_control {
            let seen = self.state.bias_control.get_or_insert_default();
            if seen.update(control, report, steps) {
                seen.apply(control, backend, &mut self.params.b_enc);
            }
        }
    }

    /// See [`BatchReport::largest_of_each`].
    fn largest_values(&self, backend: &B) -> Vec<f64> {
        if self.settings.bias_control.is_none() {
            return Vec::new();
        }
        let (f, places) = (self.settings.dims.f, self.code.places());
        let (mut negated, mut least) = (backend.zeros(places), backend.zeros(f));
        backend.combine(-1.0, &self.code.values, 0.0, &mut negated, places);
        backend.entry_minima(&self.by_latent, &negated, f, &mut least);
        host(backend, &least, f).into_iter().map(|value| -value).collect()
    }

    /// The coder for inference, with its own parameters or an average of them; rows as they are.
    pub fn inference<'a>(&self, backend: &B, params: &'a Params<B>) -> Inference<'a, B> {
        let dims = self.settings.dims;
        let f = dims.f;
        let params = self.effective(backend, params);
        let upload = |values: &[f64]| {
            let mut t = backend.zeros(f);
            backend.write_f64(&mut t, 0, values);
            t
        };
        let of = |t: &B::Tensor| host(backend, t, f);
        let norms = || {
            let mut norms = backend.zeros(f);
            decoder_norms(backend, &self.settings, &params.w_dec, &mut norms);
            norms
        };
        let ranked = self.settings.decoder == DecoderNorm::Ranked;
        let keep = match &self.settings.selection {
            SelectionSettings::TopK { k } => Keep::TopK { k: *k, score: ranked.then(norms) },
            SelectionSettings::BatchTopK { .. }
            | SelectionSettings::TopAfa { .. }
            | SelectionSettings::FeatureChoice(_) => Keep::Above(upload(&self.thresholds(backend, &params))),
            SelectionSettings::GroupMax { groups } => Keep::GroupLargest { groups: *groups },
            SelectionSettings::SignedTopK { inference_k, .. } => Keep::SignedTopK { k: *inference_k },
            SelectionSettings::Pursuit { k } => Keep::Pursuit { k: *k },
            SelectionSettings::Pairs { shape, k } => Keep::Pairs { shape: *shape, k: *k },
            SelectionSettings::Experts(own) => Keep::Experts(*own),
            SelectionSettings::Products(_) => Keep::Products,
            SelectionSettings::Positive => Keep::Positive,
            SelectionSettings::JumpRelu(_) => Keep::Above(upload(&of(params.extra("threshold")))),
            SelectionSettings::Gated { .. } => {
                let (r_mag, b_mag) = (of(params.extra("r_mag")), of(params.extra("b_mag")));
                let (gain, offset) = gated::magnitude(&r_mag, &b_mag, &of(&params.b_enc));
                Keep::Gated { gain: upload(&gain), offset: upload(&offset) }
            }
        };
        let gains = directions::gains(backend, &self.settings, &params.w_dec);
        Inference { dims, params, keep, gains, subtract_bias: self.settings.subtract_bias, rows: RowScaling::None }
    }

    /// Where a batch decides what is kept: `[f]` what `u` must exceed at inference, with [`Coder::effective`] parameters; 0 before the first step.
    pub fn thresholds(&self, backend: &B, params: &Params<B>) -> Vec<f64> {
        let f = self.settings.dims.f;
        if let Some(choice) = &self.state.choice {
            return choice.thresholds();
        }
        let threshold = self.state.threshold.unwrap_or_default().value;
        if self.settings.decoder != DecoderNorm::Ranked {
            return vec![threshold; f];
        }
        let mut norms = backend.zeros(f);
        decoder_norms(backend, &self.settings, &params.w_dec, &mut norms);
        host(backend, &norms, f).into_iter().map(|norm| threshold / norm.max(1e-12)).collect()
    }
}

/// No gradient for what is not trained by one.
fn freeze<B: CoderOps>(backend: &B, settings: &CoderSettings, gradients: &mut Gradients<B>) {
    if !settings.target.bias {
        gradients.b_dec = backend.zeros(settings.dims.out);
    }
    if settings.bias_control.is_some() {
        gradients.b_enc = backend.zeros(settings.dims.f);
    }
}

/// `[f]` norms of decoder rows: of several parts, their sum.
pub(crate) fn decoder_norms<B: CoderOps>(
    backend: &B,
    settings: &CoderSettings,
    w_dec: &B::Tensor,
    norms: &mut B::Tensor,
) {
    let (f, parts) = (settings.dims.f, &settings.target.parts);
    if parts.len() == 1 {
        return backend.row_norms(w_dec, norms, f, settings.dims.out);
    }
    let mut each = backend.zeros(f * parts.len());
    backend.part_norms(w_dec, &mut each, f, parts);
    let each = host(backend, &each, f * parts.len());
    let sums: Vec<f64> = each.chunks_exact(parts.len()).map(|norms| norms.iter().sum()).collect();
    backend.write_f64(norms, 0, &sums);
}

/// The least value of all, and of each latent, where the coder's state needs them: see [`BatchReport`].
fn least_values<B: CoderOps>(
    settings: &CoderSettings,
    input: &Input<'_, B>,
    code: &Code<B>,
    by_latent: &ByLatent<B>,
) -> (f64, Vec<f64>) {
    let Input { backend, dims, norms, .. } = *input;
    match settings.selection {
        SelectionSettings::BatchTopK { .. } | SelectionSettings::TopAfa { .. } => {
            let ranked = settings.decoder == DecoderNorm::Ranked;
            (backend.least_entry(code, ranked.then_some(norms)), Vec::new())
        }
        SelectionSettings::FeatureChoice(_) => {
            let mut least = backend.zeros(dims.f);
            backend.entry_minima(by_latent, &code.values, dims.f, &mut least);
            (f64::INFINITY, host(backend, &least, dims.f))
        }
        _ => (f64::INFINITY, Vec::new()),
    }
}

/// The latents of the auxiliary branch, ascending: dead ones, or those that fire less often than they may.
fn taking_part<'a, B: CoderOps>(settings: &CoderSettings, input: &Input<'a, B>) -> Cow<'a, [u32]> {
    let share = settings.aux.and_then(|aux| aux.rare_below);
    match (&settings.selection, share, &input.state.choice) {
        (SelectionSettings::FeatureChoice(own), Some(share), Some(choice)) => choice.rare(own, input.n, share).into(),
        _ => input.dead.into(),
    }
}

/// Another reconstruction of the input, from a TopK code of its own: loss `weight * sum_b |target_b - y_b|^2`.
fn more_latents<B: CoderOps>(input: &Input<'_, B>, branch: &mut Branch<B>, weight: f64) -> f64 {
    let Input { backend, params, dims, c, target, n, .. } = *input;
    branch.limit_k(dims.f);
    branch.forward(backend, params, dims, BranchInput { c, target, n }, None);
    branch.backward(backend, params, dims, -2.0 * weight);
    weight * backend.sum_squares(branch.residual(), n * dims.out)
}

/// Stand-ins for what latents without rows of `w_enc` do not have: they read one zero a row.
struct Bare<B: CoderOps> {
    /// `[rows]`.
    c: B::Tensor,
    /// `[f]` each.
    w_enc: B::Tensor,
    b_enc: B::Tensor,
}

impl<B: CoderOps> Bare<B> {
    fn new(backend: &B, rows: usize, f: usize) -> Self {
        Self { c: backend.zeros(rows), w_enc: backend.zeros(f), b_enc: backend.zeros(f) }
    }
}

/// Everything that has a gradient with respect to the pre-activations of a batch.
struct Terms<'a, B: CoderOps> {
    code: &'a Code<B>,
    by_latent: &'a ByLatent<B>,
    g_code: &'a B::Tensor,
    reconstruction: &'a Reconstruction<B>,
    selection: &'a dyn Selection<B>,
    multi: Option<&'a Branch<B>>,
    aux: Option<&'a Aux<B>>,
    ghost: Option<&'a Ghost<B>>,
}

impl<B: CoderOps> Terms<'_, B> {
    /// The gradients of encoder, decoder and `b_dec`.
    fn sum(&self, input: &Input<'_, B>, subtract_bias: bool, bare: Option<&mut Bare<B>>, gradients: &mut Gradients<B>) {
        let Input { backend, params, dims, c, n, .. } = *input;
        let CoderDims { d, f, out, .. } = dims;
        let own: Vec<_> = self.selection.terms(input).into_iter().chain(self.multi.map(Branch::term)).collect();
        let others: Vec<f64> = own.iter().map(|term| term.residual_scale).collect();
        let mut terms = self.reconstruction.terms(self.code, self.by_latent, self.g_code);
        let first_own = terms.len();
        terms.extend(own);
        terms.extend(self.aux.and_then(Aux::term));
        terms.extend(self.ghost.and_then(Ghost::term));
        let Gradients::<B> { w_enc, b_enc, w_dec, b_dec, extra } = gradients;
        let has_rows = bare.is_none();
        match bare {
            None => backend.latent_gradients(&terms, c, dims, LatentGradients { w_enc, b_enc, w_dec }),
            Some(Bare { c, w_enc, b_enc }) => {
                let dims = CoderDims { d: 1, ..dims };
                backend.latent_gradients(&terms, c, dims, LatentGradients { w_enc, b_enc, w_dec });
            }
        }
        self.reconstruction.bias_gradient(input, b_dec);
        for (i, &scale) in others.iter().enumerate().filter(|(_, scale)| **scale != 0.0) {
            let mut sums = backend.zeros(out);
            backend.column_sums(terms[first_own + i].residual, scale, &mut sums, n, out);
            backend.combine(1.0, &sums, 1.0, b_dec, out);
        }
        if let Some((_, w_skip)) = extra.iter_mut().find(|(name, _)| *name == W_SKIP) {
            let own = terms[first_own..].iter().zip(&others).map(|(term, scale)| (term.residual, *scale));
            skip::gradient(backend, c, [self.reconstruction.added()].into_iter().chain(own), w_skip, dims, n);
        }
        if !has_rows {
            self.selection.encoder_gradients(input, &terms, subtract_bias, gradients);
        } else if subtract_bias {
            backend.add_weighted_rows(b_enc, &params.w_enc, -1.0, b_dec, f, d);
        }
    }
}

#[cfg(test)]
mod tests;
