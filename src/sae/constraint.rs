//! What parameters must be, whatever the update says.
//!
//! Decoder rows of norm 1 (or rows of the encoder that is the decoder up to their length): the gradient's part along a row is taken out before the update, and the row is scaled back
//! after it. With Adam both are needed, because its moments bring a part along the row back. Thresholds are not negative.
//! Mixtures of data points stay mixtures. Latents of a layer do not speak to earlier ones.

use crate::compute::CoderOps;
use crate::sae::optim::{Optimizer, clip};
use crate::sae::params::{Gradients, Params};
use crate::sae::settings::{CoderSettings, DecoderMapSettings, DecoderNorm};

/// [`project`], and the norm of all gradients after it.
pub fn project_and_measure<B: CoderOps>(
    backend: &B,
    settings: &CoderSettings,
    params: &Params<B>,
    gradients: &mut Gradients<B>,
) -> f64 {
    if !only_scales(settings) {
        project(backend, settings, params, gradients);
        return clip::norm(backend, gradients);
    }
    let dims = settings.dims;
    let of_decoder = backend.project_and_sum(&mut gradients.w_dec, &params.w_dec, dims.f, dims.out);
    clip::norm_with(backend, gradients, of_decoder)
}

/// One update with `gradient_scale * gradients`, and [`restore`].
pub fn update<B: CoderOps>(
    backend: &B,
    settings: &CoderSettings,
    optimizer: &mut Optimizer<B>,
    (params, gradients): (&mut Params<B>, &Gradients<B>),
    learning_rate: f64,
    gradient_scale: f64,
) {
    match optimizer {
        Optimizer::Adam(adam) if only_scales(settings) => {
            adam.update_unit_rows(backend, (params, gradients), settings.dims, learning_rate, gradient_scale);
            restore_others(backend, settings, params);
        }
        optimizer => {
            optimizer.update(backend, params, gradients, learning_rate, gradient_scale);
            restore(backend, settings, params);
        }
    }
}

/// Whether decoder rows are of norm 1, and nothing else is asked of them.
fn only_scales(settings: &CoderSettings) -> bool {
    let clears = settings.target.later_layers && settings.dims.groups > 1;
    settings.decoder == DecoderNorm::Unit && settings.decoder_map != DecoderMapSettings::Scaled && !clears
}

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
    restore_others(backend, settings, params);
}

/// As [`restore`], of all but the decoder's rows.
fn restore_others<B: CoderOps>(backend: &B, settings: &CoderSettings, params: &mut Params<B>) {
    let dims = settings.dims;
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
