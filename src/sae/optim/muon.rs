//! Muon (Jordan et al. 2024) as sparsify has it: steps along the orthogonalised momentum for the two matrices, Adam for
//! everything else.
//!
//! ```text
//! m <- beta m + (1 - beta) g        x = orthogonalised (1 - beta) g + beta m
//! w <- (1 - rate decay) w - 0.2 sqrt(max(f, d)) rate x
//! ```

use crate::compute::CoderOps;
use crate::compute::coder_ops::{AdamStep, CoderDims};
use crate::sae::params::{self, Gradients, Params, PerParam};
use crate::sae::settings::CoderSettings;

/// Rates of the moments of what is no matrix, and what is added to their denominator.
const ADAM: ([f64; 2], f64) = ([0.9, 0.999], 1e-8);
/// A step's root mean square is about this times the rate, as Adam's.
const SCALE: f64 = 0.2;

/// Moments and the number of updates.
pub struct Muon<B: CoderOps> {
    /// Decay rate of the matrices' momentum.
    pub beta: f64,
    /// Share of the matrices, times the rate, that is taken off.
    pub weight_decay: f64,
    /// Updates so far.
    pub t: u64,
    /// Momentum; first moments.
    pub m: PerParam<B::Tensor>,
    /// Second moments; those of matrices stay 0.
    pub v: PerParam<B::Tensor>,
    latents: usize,
    /// The direction of a step: as long as the larger of the matrices.
    direction: B::Tensor,
}

impl<B: CoderOps> Muon<B> {
    /// Before the first update.
    pub fn new(backend: &B, settings: &CoderSettings, beta: f64, weight_decay: f64) -> Self {
        let zeros = || params::zeros(backend, settings);
        let CoderDims { d, f, out, .. } = settings.dims;
        let direction = backend.zeros(f * d.max(out));
        Self { beta, weight_decay, t: 0, m: zeros(), v: zeros(), latents: f, direction }
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
        self.t += 1;
        let (betas, epsilon) = ADAM;
        let step = AdamStep { learning_rate, betas, epsilon, weight_decay: 0.0, t: self.t, gradient_scale };
        let names = params.names();
        let state = self.m.each_mut().into_iter().zip(self.v.each_mut());
        for (((w, g), (m, v)), name) in params.each_mut().into_iter().zip(gradients.each()).zip(state).zip(names) {
            let len = backend.len(w);
            if len == 0 || !["w_enc", "w_dec"].contains(&name) {
                backend.adam(w, g, m, v, len, &step);
                continue;
            }
            let (beta, direction, rows) = (self.beta, &mut self.direction, self.latents);
            let columns = len / rows;
            backend.combine((1.0 - beta) * gradient_scale, g, beta, m, len);
            backend.combine((1.0 - beta) * gradient_scale, g, 0.0, direction, len);
            backend.combine(beta, m, 1.0, direction, len);
            backend.orthogonalize(direction, rows, columns);
            let along = -learning_rate * SCALE * (rows.max(columns) as f64).sqrt();
            backend.combine(along, direction, 1.0 - learning_rate * self.weight_decay, w, len);
        }
    }
}
