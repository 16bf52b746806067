//! Adam (Kingma & Ba 2015), dense: latents without a gradient keep moving by their moments. With weight decay, AdamW
//! (Loshchilov & Hutter 2019): weights shrink by `rate * decay` besides.

use crate::compute::CoderOps;
use crate::compute::coder_ops::{AdamStep, CoderDims};
use crate::sae::params::{self, Gradients, Params, PerParam, W_DEC};
use crate::sae::settings::CoderSettings;

/// Moments and the number of updates.
pub struct Adam<B: CoderOps> {
    /// Decay rates of the moments.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub epsilon: f64,
    /// Share of the weights, times the rate, that is taken off.
    pub weight_decay: f64,
    /// Updates so far.
    pub t: u64,
    /// First moments.
    pub m: PerParam<B::Tensor>,
    /// Second moments.
    pub v: PerParam<B::Tensor>,
}

impl<B: CoderOps> Adam<B> {
    /// Before the first update, without weight decay.
    pub fn new(backend: &B, settings: &CoderSettings, betas: [f64; 2], epsilon: f64) -> Self {
        let zeros = || params::zeros(backend, settings);
        Self { betas, epsilon, weight_decay: 0.0, t: 0, m: zeros(), v: zeros() }
    }

    /// One update with `gradient_scale * gradients`.
    pub fn update(
        &mut self,
        backend: &B,
        params: &mut Params<B>,
        gradients: &Gradients<B>,
        learning_rate: f64,
        gradient_scale: f64,
    ) {
        let step = self.next(learning_rate, gradient_scale);
        let state = self.m.each_mut().into_iter().zip(self.v.each_mut());
        for ((w, g), (m, v)) in params.each_mut().into_iter().zip(gradients.each()).zip(state) {
            let len = backend.len(w);
            backend.adam(w, g, m, v, len, &step);
        }
    }

    /// As [`Adam::update`]; afterwards the rows of `w_dec` have norm 1.
    pub fn update_unit_rows(
        &mut self,
        backend: &B,
        (params, gradients): (&mut Params<B>, &Gradients<B>),
        CoderDims { f, out, .. }: CoderDims,
        learning_rate: f64,
        gradient_scale: f64,
    ) {
        let step = self.next(learning_rate, gradient_scale);
        let state = self.m.each_mut().into_iter().zip(self.v.each_mut());
        let tensors = params.each_mut().into_iter().zip(gradients.each()).zip(state);
        for (i, ((w, g), (m, v))) in tensors.enumerate() {
            let len = backend.len(w);
            match i == W_DEC {
                true => backend.adam_unit_rows(w, g, (m, v), (f, out), &step),
                false => backend.adam(w, g, m, v, len, &step),
            }
        }
    }

    fn next(&mut self, learning_rate: f64, gradient_scale: f64) -> AdamStep {
        self.t += 1;
        let Self { betas, epsilon, weight_decay, t, .. } = *self;
        AdamStep { learning_rate, betas, epsilon, weight_decay, t, gradient_scale }
    }
}
