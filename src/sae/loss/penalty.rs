//! Penalties on a code's values, by themselves or times the norms of their decoder rows.
//!
//! With `v = value |w_dec|` a penalty `c/n sum s(v)` has the gradients `c/n s'(v) |w_dec|` in the value and
//! `(c/n sum_b s'(v) value) w_dec / |w_dec|` in the decoder row.

use crate::compute::CoderOps;
use crate::compute::coder_ops::{ByLatent, Code, PenaltyGradients, PenaltyShape};
use crate::sae::selection::{Input, host, latent_sums, make_room};
use crate::sae::settings::{PenaltySettings, warmup};

/// Norms below this have no direction.
const NO_NORM: f64 = 1e-12;

/// The penalties of a coder, and what a step gathers.
pub struct Penalties<B: CoderOps> {
    list: Vec<PenaltySettings>,
    /// At a code's places: the gradient with respect to the norm.
    g_norms: B::Tensor,
    /// `[f]` gradients with respect to the norms, summed.
    norm_gradient: Vec<f64>,
}

impl<B: CoderOps> Penalties<B> {
    /// For `f` latents.
    pub fn new(backend: &B, list: Vec<PenaltySettings>, f: usize) -> Self {
        Self { list, g_norms: backend.zeros(0), norm_gradient: vec![0.0; f] }
    }

    /// Replace the first penalty, which changes while training.
    pub fn set_first(&mut self, penalty: PenaltySettings) {
        if let Some(first) = self.list.first_mut() {
            *first = penalty;
        }
    }

    /// The first penalty's sum over `code`, without weight: as it is, and with `next` as its shape.
    pub fn compare(&mut self, input: &Input<'_, B>, code: &Code<B>, next: PenaltyShape) -> [f64; 2] {
        let Some(first) = self.list.first() else { return [0.0, 0.0] };
        make_room(input.backend, &mut self.g_norms, code.places());
        let weight = first.by_norm.then_some(input.norms);
        [first.shape, next].map(|shape| {
            let out = PenaltyGradients { values: &mut self.g_norms, weights: None };
            input.backend.penalize(code, weight, shape, 0.0, out)
        })
    }

    /// Add the gradients at `code` to `g`, gather those of the norms, and give the loss.
    pub fn apply(&mut self, input: &Input<'_, B>, code: &Code<B>, by_latent: &ByLatent<B>, g: &mut B::Tensor) -> f64 {
        let backend = input.backend;
        let mut loss = 0.0;
        for penalty in self.list.clone() {
            let coefficient = penalty.coefficient * warmup(input.step, penalty.warmup_steps) / input.n as f64;
            let weight = penalty.by_norm.then_some(input.norms);
            make_room(backend, &mut self.g_norms, code.places());
            let weights = penalty.by_norm.then_some(&mut self.g_norms);
            let out = PenaltyGradients { values: &mut *g, weights };
            loss += coefficient * backend.penalize(code, weight, penalty.shape, coefficient, out);
            if penalty.by_norm {
                let sums = latent_sums(backend, by_latent, &self.g_norms, None, self.norm_gradient.len());
                self.norm_gradient.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
            }
        }
        loss
    }

    /// As [`Penalties::apply`], gradients with respect to values only.
    pub fn apply_to_values(&self, input: &Input<'_, B>, code: &Code<B>, g: &mut B::Tensor) {
        for penalty in &self.list {
            let coefficient = penalty.coefficient * warmup(input.step, penalty.warmup_steps) / input.n as f64;
            let weight = penalty.by_norm.then_some(input.norms);
            let out = PenaltyGradients { values: &mut *g, weights: None };
            input.backend.penalize(code, weight, penalty.shape, coefficient, out);
        }
    }

    /// Gather `scale` times the sums of `g_norms` (at the places) by latent.
    pub fn add_norm_gradient(&mut self, backend: &B, by_latent: &ByLatent<B>, g_norms: &B::Tensor, scale: f64) {
        let sums = latent_sums(backend, by_latent, g_norms, None, self.norm_gradient.len());
        self.norm_gradient.iter_mut().zip(sums).for_each(|(total, sum)| *total += scale * sum);
    }

    /// Add what was gathered to the gradient of the decoder, `[f, out]`, and start anew.
    pub fn finish(&mut self, input: &Input<'_, B>, w_dec_gradient: &mut B::Tensor) {
        if self.norm_gradient.iter().all(|g| *g == 0.0) {
            return;
        }
        let Input { backend, params, parts, .. } = *input;
        let f = self.norm_gradient.len();
        let mut norms = backend.zeros(f * parts.len());
        backend.part_norms(&params.w_dec, &mut norms, f, parts);
        let norms = host(backend, &norms, f * parts.len());
        let latent = self.norm_gradient.iter().zip(norms.chunks_exact(parts.len()));
        let along = latent.flat_map(|(g, norms)| norms.iter().map(|n| if *n < NO_NORM { 0.0 } else { *g / n }));
        let along: Vec<f64> = along.collect();
        let mut scale = backend.zeros(along.len());
        backend.write_f64(&mut scale, 0, &along);
        backend.add_scaled_parts(&scale, &params.w_dec, w_dec_gradient, f, parts);
        self.norm_gradient.fill(0.0);
    }
}
