//! The largest latent of each of `k` ranges of as many latents, where it is positive (sparsify's `groupmax`).

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, CoderDims, Rule};
use crate::sae::selection::{Input, Selection};

/// `f = u` where `u` is the largest of its range and positive.
pub struct GroupMax<B: CoderOps> {
    groups: usize,
    /// `[rows, f]`.
    u: B::Tensor,
}

impl<B: CoderOps> GroupMax<B> {
    /// For batches of up to `rows` rows; `groups` divides the latents.
    pub fn new(backend: &B, dims: CoderDims, rows: usize, groups: usize) -> Self {
        Self { groups, u: backend.zeros(rows * dims.f) }
    }
}

impl<B: CoderOps> Selection<B> for GroupMax<B> {
    fn encode(&mut self, input: &Input<'_, B>, code: &mut Code<B>) {
        let Input { backend, params, dims, c, n, .. } = *input;
        code.rows = n;
        backend.pre_activations(c, &params.w_enc, &params.b_enc, &mut self.u, n, dims);
        backend.select(&self.u, dims.f, Rule::GroupLargest { groups: self.groups }, code);
    }
}
