//! What parameters must be, whatever the update says.
//!
//! Decoder rows of norm 1 (or rows of the encoder that is the decoder up to their length): the gradient's part along a row is taken out before the update, and the row is scaled back
//! after it. With Adam both are needed, because its moments bring a part along the row back. Thresholds are not negative.
//! Mixtures of data points stay mixtures. Latents of a layer do not speak to earlier ones.

use crate::compute::CoderOps;
use crate::sae::params::{Gradients, Params};
use crate::sae::settings::{CoderSettings, DecoderMapSettings, DecoderNorm};

/// Before the update.
pub fn project<B: CoderOps>(backend: &B, settings: &CoderSettings, params: &Params<B>, gradients: &mut Gradients<B>) {
    let dims = settings.dims;
    clear_earlier(backend, settings, &mut gradients.w_dec);
    if settings.decoder == DecoderNorm::Unit {
        backend.project_rows(&mut gradients.w_dec, &params.w_dec, dims.f, dims.out);
    }
    if settings.decoder_map == DecoderMapSettings::Scaled {
        backend.project_rows(&mut gradients.w_enc, &params.w_enc, dims.f, dims.d);
    }
}

/// After the update.
pub fn restore<B: CoderOps>(backend: &B, settings: &CoderSettings, params: &mut Params<B>) {
    let dims = settings.dims;
    clear_earlier(backend, settings, &mut params.w_dec);
    if settings.decoder == DecoderNorm::Unit {
        backend.normalize_rows(&mut params.w_dec, dims.f, dims.out);
    }
    if settings.decoder_map == DecoderMapSettings::Scaled {
        backend.normalize_rows(&mut params.w_enc, dims.f, dims.d);
    }
    if let DecoderMapSettings::Archetypal(own) = &settings.decoder_map {
        own.restore(backend, dims, params);
    }
    for (_, threshold) in params.extra.iter_mut().filter(|(name, _)| *name == "threshold") {
        backend.at_least(threshold, 0.0, dims.f);
    }
}

/// Set to 0 what latents of a group say to layers before their own: `w` `[f, out]`.
fn clear_earlier<B: CoderOps>(backend: &B, settings: &CoderSettings, w: &mut B::Tensor) {
    let dims = settings.dims;
    let layer = dims.out / dims.groups;
    for group in (1..dims.groups).filter(|_| settings.target.later_layers) {
        let latents = group * dims.group()..(group + 1) * dims.group();
        backend.clear_columns(w, latents, 0..group * layer, dims.out);
    }
}
