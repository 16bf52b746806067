//! Rows of norm 1 by division in the forward pass: `D_i = w_i / |w_i|`. With `g` the gradient with respect to `D`, that of
//! `w_i` is `(g_i - <g_i, D_i> D_i) / |w_i|`: it never moves a row along itself, so nothing else has to hold the norms.

use crate::compute::CoderOps;
use crate::compute::coder_ops::CoderDims;
use crate::sae::decoder::DecoderMap;
use crate::sae::params::{Gradients, Params};
use crate::sae::selection::host;

/// Norms are not taken to be below this.
const LEAST_NORM: f64 = 1e-8;

/// See the module.
pub(super) struct Normalized {
    pub(super) dims: CoderDims,
}

impl<B: CoderOps> DecoderMap<B> for Normalized {
    fn forward(&self, backend: &B, _: &B::Tensor, params: &Params<B>, w_dec: &mut B::Tensor) {
        let CoderDims { f, out: d, .. } = self.dims;
        backend.combine(1.0, &params.w_dec, 0.0, w_dec, f * d);
        backend.normalize_rows(w_dec, f, d);
    }

    fn backward(
        &self,
        backend: &B,
        _: &B::Tensor,
        params: &Params<B>,
        (w_dec, g): (&B::Tensor, &mut B::Tensor),
        gradients: &mut Gradients<B>,
    ) {
        let CoderDims { f, out: d, .. } = self.dims;
        let mut norms = backend.zeros(f);
        backend.row_norms(&params.w_dec, &mut norms, f, d);
        let inverse: Vec<f64> = host(backend, &norms, f).into_iter().map(|norm| 1.0 / norm.max(LEAST_NORM)).collect();
        backend.write_f64(&mut norms, 0, &inverse);
        backend.project_rows(g, w_dec, f, d);
        backend.scale_rows(&norms, g, f, d);
        std::mem::swap(g, &mut gradients.w_dec);
    }
}
