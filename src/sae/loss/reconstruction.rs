//! Reconstructions of the target from the first latents of the code: one from all of them in a plain coder, several from
//! nested prefixes in a Matryoshka one (Bussmann et al. 2025).
//!
//! ```text
//! L = sum_r weight_r 1/n sum_b |target - sum_(i < width_r) f_i w_i|^2
//! ```
//!
//! A latent takes part in its own and all wider reconstructions, so the gradient that reaches it is a sum over them. It is
//! kept, per prefix, as a residual: with `t_r = sum_(s >= r) weight_s / weight_last residual_s` the gradient with respect
//! to what latents of prefix `r` (and of none before) add is `-2 weight_last / n t_r`.

use std::ops::Range;

use crate::compute::CoderOps;
use crate::compute::coder_ops::{ByLatent, Code, CoderDims, GradientTerm, SquareSums};
use crate::sae::selection::Input;
use crate::sae::settings::Prefix;

/// Residuals of the reconstructions.
pub struct Reconstruction<B: CoderOps> {
    prefixes: Vec<Prefix>,
    /// `[rows, out]` for each prefix; `t_r` after [`Reconstruction::forward`].
    residuals: Vec<B::Tensor>,
    scale: f64,
}

impl<B: CoderOps> Reconstruction<B> {
    /// For batches of up to `rows` rows; there is at least one prefix.
    pub fn new(backend: &B, dims: CoderDims, prefixes: Vec<Prefix>, rows: usize) -> Self {
        let residuals = prefixes.iter().map(|_| backend.zeros(rows * dims.out)).collect();
        Self { prefixes, residuals, scale: 0.0 }
    }

    /// Subtract the reconstructions from the target: the loss, and the sums of squares of the widest one's residual.
    pub fn forward(&mut self, input: &Input<'_, B>, code: &Code<B>) -> (f64, SquareSums) {
        let Input { backend, params, dims, target, n, .. } = *input;
        let d = dims.out;
        let last = self.prefixes.len() - 1;
        let mut loss = 0.0;
        for r in 0..last {
            self.subtract(input, code, r);
            loss += self.prefixes[r].weight * backend.sum_squares(&self.residuals[r], n * d) / n as f64;
        }
        match last {
            0 => backend.residual(code, 0..u32::MAX, &params.w_dec, target, &mut self.residuals[0], d),
            _ => self.subtract(input, code, last),
        }
        let left = backend.square_sums(&self.residuals[last], n, d);
        let weight = self.prefixes[last].weight;
        for r in (0..last).rev() {
            let (narrow, wide) = self.residuals.split_at_mut(r + 1);
            let own = self.prefixes[r].weight / weight;
            // t_r = own residual_r + t_(r + 1)
            backend.combine(1.0, &wide[0], own, &mut narrow[r], n * d);
        }
        self.scale = -2.0 * weight / n as f64;
        (loss + weight * left.about_zero / n as f64, left)
    }

    fn subtract(&mut self, input: &Input<'_, B>, code: &Code<B>, r: usize) {
        let latents = self.latents(r);
        let (before, after) = self.residuals.split_at_mut(r);
        let from = before.last().unwrap_or(input.target);
        input.backend.residual(code, latents, &input.params.w_dec, from, &mut after[0], input.dims.out);
    }

    /// The latents that prefix `r` has and none before it.
    fn latents(&self, r: usize) -> Range<u32> {
        let from = if r == 0 { 0 } else { self.prefixes[r - 1].width };
        from as u32..self.prefixes[r].width as u32
    }

    /// The gradient with respect to each entry's value, at the places of `code`.
    pub fn entry_gradients(&self, input: &Input<'_, B>, code: &Code<B>, out: &mut B::Tensor) {
        let Input { backend, params, dims, .. } = *input;
        for (r, residual) in self.residuals.iter().enumerate() {
            backend.entry_dots(code, self.latents(r), &params.w_dec, residual, self.scale, out, dims.out);
        }
    }

    /// What the parameters' gradients need.
    pub fn terms<'a>(
        &'a self,
        code: &'a Code<B>,
        by_latent: &'a ByLatent<B>,
        g_pre: &'a B::Tensor,
    ) -> Vec<GradientTerm<'a, B>> {
        let term = |(r, residual): (usize, &'a B::Tensor)| GradientTerm {
            code,
            by_latent,
            g_pre,
            residual,
            residual_scale: self.scale,
            latents: self.latents(r),
        };
        self.residuals.iter().enumerate().map(term).collect()
    }

    /// The gradient of what is added to every reconstruction, `[out]`: overwrites `out`.
    pub fn bias_gradient(&self, input: &Input<'_, B>, out: &mut B::Tensor) {
        input.backend.column_sums(&self.residuals[0], self.scale, out, input.n, input.dims.out);
    }

    /// `[n, out]` what the widest reconstruction left.
    pub fn residual(&self) -> &B::Tensor {
        &self.residuals[self.residuals.len() - 1]
    }
}
