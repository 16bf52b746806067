//! Decoder rows of norm 1: the gradient's part along a row is taken out before the update, and the row is scaled back
//! after it. With Adam both are needed, because its moments bring a part along the row back.

use crate::compute::CoderOps;
use crate::compute::coder_ops::CoderDims;
use crate::sae::params::{Gradients, Params};

/// Before the update.
pub fn project<B: CoderOps>(backend: &B, dims: CoderDims, params: &Params<B>, gradients: &mut Gradients<B>) {
    backend.project_rows(&mut gradients.w_dec, &params.w_dec, dims.f, dims.d);
}

/// After the update.
pub fn renormalize<B: CoderOps>(backend: &B, dims: CoderDims, params: &mut Params<B>) {
    backend.normalize_rows(&mut params.w_dec, dims.f, dims.d);
}
