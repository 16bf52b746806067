//! What parameters must be, whatever the update says.
//!
//! Decoder rows of norm 1: the gradient's part along a row is taken out before the update, and the row is scaled back
//! after it. With Adam both are needed, because its moments bring a part along the row back. Thresholds are not negative.

use crate::compute::CoderOps;
use crate::sae::params::{Gradients, Params};
use crate::sae::settings::{CoderSettings, DecoderNorm};

/// Before the update.
pub fn project<B: CoderOps>(backend: &B, settings: &CoderSettings, params: &Params<B>, gradients: &mut Gradients<B>) {
    let dims = settings.dims;
    if settings.decoder == DecoderNorm::Unit {
        backend.project_rows(&mut gradients.w_dec, &params.w_dec, dims.f, dims.out);
    }
}

/// After the update.
pub fn restore<B: CoderOps>(backend: &B, settings: &CoderSettings, params: &mut Params<B>) {
    let dims = settings.dims;
    if settings.decoder == DecoderNorm::Unit {
        backend.normalize_rows(&mut params.w_dec, dims.f, dims.out);
    }
    for (_, threshold) in params.extra.iter_mut().filter(|(name, _)| *name == "threshold") {
        backend.at_least(threshold, 0.0, dims.f);
    }
}
