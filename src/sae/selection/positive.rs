//! All positive pre-activations: ReLU. What keeps them few are penalties.

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, CoderDims, Rule};
use crate::sae::selection::{Input, Selection};

/// `f = max(u, 0)`.
pub struct Positive<B: CoderOps> {
    /// `[rows, f]`.
    u: B::Tensor,
}

impl<B: CoderOps> Positive<B> {
    /// For batches of up to `rows` rows.
    pub fn new(backend: &B, dims: CoderDims, rows: usize) -> Self {
        Self { u: backend.zeros(rows * dims.f) }
    }
}

impl<B: CoderOps> Selection<B> for Positive<B> {
    fn encode(&mut self, input: &Input<'_, B>, code: &mut Code<B>) {
        let Input { backend, params, dims, c, n, .. } = *input;
        code.rows = n;
        backend.pre_activations(c, &params.w_enc, &params.b_enc, &mut self.u, n, dims);
        backend.select(&self.u, dims.f, Rule::Positive, code);
    }
}
