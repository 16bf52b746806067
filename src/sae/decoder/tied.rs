//! The decoder is the encoder: `D = w_enc`, whose gradient is the sum of both paths.

use crate::compute::CoderOps;
use crate::compute::coder_ops::CoderDims;
use crate::sae::decoder::DecoderMap;
use crate::sae::params::{Gradients, Params};

/// See the module.
pub(super) struct Tied {
    pub(super) dims: CoderDims,
}

impl<B: CoderOps> DecoderMap<B> for Tied {
    fn forward(&self, backend: &B, _: &B::Tensor, params: &Params<B>, w_dec: &mut B::Tensor) {
        backend.combine(1.0, &params.w_enc, 0.0, w_dec, self.dims.f * self.dims.out);
    }

    fn backward(
        &self,
        backend: &B,
        _: &B::Tensor,
        _: &Params<B>,
        (_, g): (&B::Tensor, &mut B::Tensor),
        gradients: &mut Gradients<B>,
    ) {
        backend.combine(1.0, g, 1.0, &mut gradients.w_enc, self.dims.f * self.dims.out);
    }
}
