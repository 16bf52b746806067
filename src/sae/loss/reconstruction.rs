//! Reconstructions of the target from parts of the code: one from all of it in a plain coder, several from nested parts in
//! others.
//!
//! ```text
//! L = sum_r weight_r 1/n sum_b |target - sum_(i in part r) f_i w_i|^2
//! ```
//!
//! Parts are the first latents (Bussmann et al. 2025, Matryoshka) or the largest values of each row (Zaigrajew et al. 2025):
//! part `r` has everything of part `r - 1`, so a latent takes part in its own and all wider reconstructions, and the
//! gradient that reaches it is a sum over them. It is kept, per part, as a residual: with `t_r = sum_(s >= r) weight_s /
//! weight_last residual_s` the gradient with respect to what part `r` adds to the ones before is `-2 weight_last / n t_r`.

use std::ops::Range;

use crate::compute::CoderOps;
use crate::compute::coder_ops::{ByLatent, Code, CoderDims, GradientTerm, SquareSums};
use crate::sae::selection::{Entries, Input};
use crate::sae::settings::{NestedBy, Prefix};

/// Residuals of the reconstructions.
pub struct Reconstruction<B: CoderOps> {
    prefixes: Vec<Prefix>,
    /// Where parts are by rank: the entries that each adds to the ones before.
    ranks: Vec<Entries<B>>,
    /// `[rows, out]` for each prefix; `t_r` after [`Reconstruction::forward`].
    residuals: Vec<B::Tensor>,
    scale: f64,
    /// Whether [`Reconstruction::forward`] left the entries' gradients, and they still hold.
    has_gradients: bool,
}

impl<B: CoderOps> Reconstruction<B> {
    /// For batches of up to `rows` rows; there is at least one prefix.
    pub fn new(backend: &B, dims: CoderDims, (by, prefixes): (NestedBy, Vec<Prefix>), rows: usize) -> Self {
        let residuals = prefixes.iter().map(|_| backend.zeros(rows * dims.out)).collect();
        let ranked = if by == NestedBy::Rank { prefixes.len() } else { 0 };
        let ranks = (0..ranked).map(|_| Entries::new(backend, dims.f)).collect();
        Self { prefixes, ranks, residuals, scale: 0.0, has_gradients: false }
    }

    /// Subtract the reconstructions from the target: the loss, and the sums of squares of the widest one's residual. `g_code`
    /// has room for [`Reconstruction::entry_gradients`] of this code, which are taken on the way where they can be.
    pub fn forward(&mut self, input: &Input<'_, B>, code: &Code<B>, g_code: &mut B::Tensor) -> (f64, SquareSums) {
        let Input { backend, dims, n, .. } = *input;
        let d = dims.out;
        for r in 0..self.ranks.len() {
            let from = if r == 0 { 0 } else { self.prefixes[r - 1].width };
            backend.rank_range(code, from..self.prefixes[r].width, &mut self.ranks[r].code);
            self.ranks[r].group(backend, dims.f);
        }
        let last = self.prefixes.len() - 1;
        let weight = self.prefixes[last].weight;
        self.scale = -2.0 * weight / n as f64;
        self.has_gradients = last == 0 && self.ranks.is_empty();
        let mut loss = 0.0;
        if self.has_gradients {
            let (target, w_dec, dots) = (input.target, &input.params.w_dec, (self.scale, g_code));
            backend.residual_and_dots(code, 0..u32::MAX, w_dec, target, &mut self.residuals[0], dots, d);
        } else {
            for r in 0..last {
                self.subtract(input, code, r);
                loss += self.prefixes[r].weight * backend.sum_squares(&self.residuals[r], n * d) / n as f64;
            }
            self.subtract(input, code, last);
        }
        let left = backend.square_sums(&self.residuals[last], n, d);
        for r in (0..last).rev() {
            let (narrow, wide) = self.residuals.split_at_mut(r + 1);
            let own = self.prefixes[r].weight / weight;
            // t_r = own residual_r + t_(r + 1)
            backend.combine(1.0, &wide[0], own, &mut narrow[r], n * d);
        }
        (loss + weight * left.about_zero / n as f64, left)
    }

    fn subtract(&mut self, input: &Input<'_, B>, code: &Code<B>, r: usize) {
        let latents = self.latents(r);
        let code = self.ranks.get(r).map_or(code, |part| &part.code);
        let (before, after) = self.residuals.split_at_mut(r);
        let from = before.last().unwrap_or(input.target);
        input.backend.residual(code, latents, &input.params.w_dec, from, &mut after[0], input.dims.out);
    }

    /// The latents that prefix `r` has and none before it; all where parts are by rank.
    fn latents(&self, r: usize) -> Range<u32> {
        if !self.ranks.is_empty() || self.prefixes.len() == 1 {
            return 0..u32::MAX;
        }
        let from = if r == 0 { 0 } else { self.prefixes[r - 1].width };
        from as u32..self.prefixes[r].width as u32
    }

    /// [`Reconstruction::entry_gradients`] of the code of [`Reconstruction::forward`], of which `g_code` has what that left.
    pub fn code_gradients(&mut self, input: &Input<'_, B>, code: &Code<B>, g_code: &mut B::Tensor) {
        if !self.has_gradients {
            self.entry_gradients(input, code, g_code);
        }
    }

    /// The gradient with respect to each entry's value: at the places of `code`, or where parts are by rank at those of the
    /// parts, which [`Reconstruction::terms`] gives.
    pub fn entry_gradients(&mut self, input: &Input<'_, B>, code: &Code<B>, out: &mut B::Tensor) {
        let Input { backend, params, dims, .. } = *input;
        for (r, residual) in self.residuals.iter().enumerate() {
            let latents = self.latents(r);
            let (code, out) = match self.ranks.get_mut(r) {
                Some(Entries { code, g, .. }) => (&*code, g),
                None => (code, &mut *out),
            };
            backend.entry_dots(code, latents, &params.w_dec, residual, self.scale, out, dims.out);
        }
    }

    /// What the parameters' gradients need.
    pub fn terms<'a>(
        &'a self,
        code: &'a Code<B>,
        by_latent: &'a ByLatent<B>,
        g_pre: &'a B::Tensor,
    ) -> Vec<GradientTerm<'a, B>> {
        let term = |(r, residual): (usize, &'a B::Tensor)| {
            let (code, by_latent, g_pre) = match self.ranks.get(r) {
                Some(part) => (&part.code, &part.by_latent, &part.g),
                None => (code, by_latent, g_pre),
            };
            GradientTerm { code, by_latent, g_pre, residual, residual_scale: self.scale, latents: self.latents(r) }
        };
        self.residuals.iter().enumerate().map(term).collect()
    }

    /// The gradient of what is added to every reconstruction, `[out]`: overwrites `out`.
    pub fn bias_gradient(&self, input: &Input<'_, B>, out: &mut B::Tensor) {
        let (residual, scale) = self.added();
        input.backend.column_sums(residual, scale, out, input.n, input.dims.out);
    }

    /// The gradient with respect to what is added to every reconstruction, row by row: `[n, out]` and its factor.
    pub fn added(&self) -> (&B::Tensor, f64) {
        (&self.residuals[0], self.scale)
    }

    /// Add `scale * residual` (the first `len` numbers) to the gradient with respect to every latent's contribution. What
    /// was left is no longer to be had.
    pub fn pull(&mut self, backend: &B, residual: &B::Tensor, scale: f64, len: usize) {
        self.has_gradients = false;
        for own in &mut self.residuals {
            backend.combine(scale / self.scale, residual, 1.0, own, len);
        }
    }

    /// `[n, out]` what the widest reconstruction left.
    pub fn residual(&self) -> &B::Tensor {
        &self.residuals[self.residuals.len() - 1]
    }
}
