//! A matrix with an optional bias.

use crate::compute::ModelOps;
use crate::compute::backend::LinearDims;
use crate::model::weights::Weights;

/// `y = x w^T + bias`.
pub(in crate::model) struct Linear<B: ModelOps> {
    /// `[n_out, n_in]`.
    w: B::Tensor,
    /// `[n_out]`.
    bias: Option<B::Tensor>,
    n_in: usize,
    n_out: usize,
}

/// Whether a matrix has a bias beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Bias {
    /// `NAME.bias`.
    Present,
    /// None.
    Absent,
}

impl From<bool> for Bias {
    fn from(present: bool) -> Self {
        if present { Self::Present } else { Self::Absent }
    }
}

impl<B: ModelOps> Linear<B> {
    /// From values: `w` `[n_out, n_in]`, `bias` `[n_out]`.
    pub(in crate::model) fn new(backend: &B, w: &[f32], bias: Option<&[f32]>, n_in: usize, n_out: usize) -> Self {
        Self { w: backend.upload(w), bias: bias.map(|b| backend.upload(b)), n_in, n_out }
    }

    /// `NAME.weight` `[n_out, n_in]` and `NAME.bias`.
    pub(in crate::model) fn load(
        backend: &B,
        weights: &mut Weights,
        name: &str,
        (n_in, n_out): (usize, usize),
        bias: Bias,
    ) -> Self {
        let w = weights.tensor(&format!("{name}.weight"), &[n_out, n_in]);
        let bias = (bias == Bias::Present).then(|| weights.tensor(&format!("{name}.bias"), &[n_out]));
        Self::new(backend, &w, bias.as_deref(), n_in, n_out)
    }

    /// As [`Linear::load`], of gpt2's `Conv1D`, which stores `[n_in, n_out]`.
    pub(in crate::model) fn load_conv1d(
        backend: &B,
        weights: &mut Weights,
        name: &str,
        (n_in, n_out): (usize, usize),
    ) -> Self {
        let w = weights.transposed(&format!("{name}.weight"), n_out, n_in);
        let bias = weights.tensor(&format!("{name}.bias"), &[n_out]);
        Self::new(backend, &w, Some(&bias), n_in, n_out)
    }

    /// `y[i, :] = w x[i, :] + bias` for `n` rows.
    pub(in crate::model) fn apply(&self, backend: &B, x: &B::Tensor, y: &mut B::Tensor, n: usize) {
        backend.linear(x, &self.w, self.bias.as_ref(), y, LinearDims { n, n_in: self.n_in, n_out: self.n_out });
    }
}
