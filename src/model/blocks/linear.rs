//! A matrix with an optional bias.

use crate::compute::ModelOps;
use crate::compute::backend::LinearDims;
use crate::model::blocks::loader::Loader;

/// `y = x w^T + bias`.
pub(in crate::model) struct Linear<B: ModelOps> {
    /// `[n_out, n_in]`.
    pub(in crate::model) w: B::Matrix,
    /// `[n_out]`.
    bias: Option<B::Tensor>,
    n_in: usize,
    n_out: usize,
}

impl<B: ModelOps> Linear<B> {
    /// From values: `w` `[n_out, n_in]`, `bias` `[n_out]`.
    pub(in crate::model) fn new(
        loader: &Loader<'_, B>,
        w: Vec<f32>,
        bias: Option<&[f32]>,
        (n_in, n_out): (usize, usize),
    ) -> Self {
        let bias = bias.map(|bias| loader.backend.upload(bias));
        Self { w: loader.backend.matrix(w, loader.format), bias, n_in, n_out }
    }

    /// `NAME.weight` `[n_out, n_in]` and `NAME.bias`.
    pub(in crate::model) fn load(
        loader: &mut Loader<'_, B>,
        name: &str,
        (n_in, n_out): (usize, usize),
        has_bias: bool,
    ) -> Self {
        let w = loader.matrix(&format!("{name}.weight"), n_out, n_in);
        let bias = has_bias.then(|| loader.vector(&format!("{name}.bias"), n_out));
        Self { w, bias, n_in, n_out }
    }

    /// `y[i, :] = w x[i, :] + bias` for `n` rows.
    pub(in crate::model) fn apply(&self, backend: &B, x: &B::Tensor, y: &mut B::Tensor, n: usize) {
        backend.linear(x, &self.w, self.bias.as_ref(), y, LinearDims { n, n_in: self.n_in, n_out: self.n_out });
    }
}
