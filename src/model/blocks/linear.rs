//! A matrix with an optional bias.

use crate::compute::ModelOps;
use crate::compute::backend::LinearDims;
use crate::compute::projection::{Factor, Projection, ProjectionDims, Then};
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
        Self { w: loader.backend.weights(w, [n_out, n_in], loader.format), bias, n_in, n_out }
    }

    /// `NAME.weight` `[n_out, n_in]` and `NAME.bias`.
    pub(in crate::model) fn load(
        loader: &mut Loader<'_, B>,
        name: &str,
        (n_in, n_out): (usize, usize),
        has_bias: bool,
    ) -> Self {
        let w = loader.product_matrix(&format!("{name}.weight"), n_out, n_in);
        let bias = has_bias.then(|| loader.vector(&format!("{name}.bias"), n_out));
        Self { w, bias, n_in, n_out }
    }

    /// The matrix and its bias.
    pub(in crate::model) fn factor(&self) -> Factor<'_, B> {
        Factor { w: &self.w, bias: self.bias.as_ref() }
    }

    /// This product as a part of several of the same rows.
    pub(in crate::model) fn part<'a>(&'a self, then: Then<'a, B>, y: &'a mut B::Tensor) -> Projection<'a, B> {
        Projection { factor: self.factor(), n_out: self.n_out, then, y }
    }

    /// Shape of the products of `n` rows.
    pub(in crate::model) fn of_rows(&self, n: usize) -> ProjectionDims {
        ProjectionDims { n, n_in: self.n_in }
    }

    /// `y[i, :] = w x[i, :] + bias` for `n` rows, and what becomes of it.
    pub(in crate::model) fn apply_then<'a>(
        &'a self,
        backend: &B,
        x: &B::Tensor,
        then: Then<'a, B>,
        y: &'a mut B::Tensor,
        n: usize,
    ) {
        backend.project(x, self.of_rows(n), &mut [self.part(then, y)]);
    }

    /// `y[i, :] = w x[i, :] + bias` for `n` rows.
    pub(in crate::model) fn apply(&self, backend: &B, x: &B::Tensor, y: &mut B::Tensor, n: usize) {
        backend.linear(x, &self.w, self.bias.as_ref(), y, LinearDims { n, n_in: self.n_in, n_out: self.n_out });
    }
}
