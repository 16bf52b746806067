//! Latents that are products of two directions (bilinear): `f = (c L^T) (c R^T)`, of either sign and none of them 0. `c` is a row
//! divided by its norm. What is reconstructed from them is not the row but all products of its values:
//! [`crate::sae::loss::quadratic`].

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, CoderDims, Rule};
use crate::sae::params::Params;
use crate::sae::selection::{Input, Selection};

/// Values of all latents, and what they are the products of: `[n, f]` each.
pub struct Values<B: CoderOps> {
    pub(crate) left: B::Tensor,
    pub(crate) right: B::Tensor,
    pub(crate) values: B::Tensor,
    zeros: B::Tensor,
}

impl<B: CoderOps> Values<B> {
    /// For batches of up to `rows` rows.
    pub fn new(backend: &B, f: usize, rows: usize) -> Self {
        let new = || backend.zeros(rows * f);
        Self { left: new(), right: new(), values: new(), zeros: backend.zeros(f) }
    }

    /// Of rows `c` `[n, d]` of norm 1.
    pub fn set(&mut self, backend: &B, params: &Params<B>, c: &B::Tensor, n: usize, dims: CoderDims) {
        let len = n * dims.f;
        backend.pre_activations(c, &params.w_enc, &self.zeros, &mut self.left, n, dims);
        backend.pre_activations(c, &params.w_dec, &self.zeros, &mut self.right, n, dims);
        backend.combine(1.0, &self.left, 0.0, &mut self.values, len);
        backend.multiply(&self.right, &mut self.values, len);
    }

    /// The code of all of them.
    pub fn code(&self, backend: &B, f: usize, code: &mut Code<B>) {
        backend.select(&self.values, f, Rule::RowLargest { k: f, score: None, signed: true }, code);
    }
}

/// See the module. Its loss does not go by a code: this one is for those who ask for it.
pub struct Products;

impl<B: CoderOps> Selection<B> for Products {
    fn encode(&mut self, input: &Input<'_, B>, code: &mut Code<B>) {
        let Input { backend, params, dims, c, n, .. } = *input;
        code.rows = n;
        let mut values = Values::new(backend, dims.f, n);
        values.set(backend, params, c, n, dims);
        values.code(backend, dims.f, code);
    }
}
