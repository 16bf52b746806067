//! The decoder is the encoder, each row times a number that is trained: `D_i = a_i w_i`. With `g` the gradient with respect to
//! `D`, that of `a_i` is `<g_i, w_i>`, and `w_i` gets `a_i g_i` besides what comes through the encoder.

use crate::compute::CoderOps;
use crate::compute::coder_ops::CoderDims;
use crate::sae::decoder::DecoderMap;
use crate::sae::params::{Gradients, Params};

/// Name of its parameter, `[f]`.
pub(crate) const PARAM: &str = "gain";

/// See the module.
pub(super) struct Scaled {
    pub(super) dims: CoderDims,
}

impl<B: CoderOps> DecoderMap<B> for Scaled {
    fn forward(&self, backend: &B, _: &B::Tensor, params: &Params<B>, w_dec: &mut B::Tensor) {
        let CoderDims { f, out, .. } = self.dims;
        backend.combine(1.0, &params.w_enc, 0.0, w_dec, f * out);
        backend.scale_rows(params.extra(PARAM), w_dec, f, out);
    }

    fn backward(
        &self,
        backend: &B,
        _: &B::Tensor,
        params: &Params<B>,
        (_, g): (&B::Tensor, &mut B::Tensor),
        gradients: &mut Gradients<B>,
    ) {
        let CoderDims { f, out, .. } = self.dims;
        backend.row_dots(g, &params.w_enc, gradients.extra_mut(PARAM), f, out);
        backend.add_scaled_rows(params.extra(PARAM), g, &mut gradients.w_enc, f, out);
    }
}
