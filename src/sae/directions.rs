//! The rows of a coder's encoder and decoder in raw space, whether or not another format has a form of the coder.
//!
//! Input scales are folded in, and so are the norms of decoder rows where these rank latents: a latent's reported value
//! times its decoder row is what it adds to a raw reconstruction.

use crate::compute::CoderOps;
use crate::sae::coder::{Coder, decoder_norms};
use crate::sae::params::Params;
use crate::sae::scales::Scales;
use crate::sae::selection::host;
use crate::sae::settings::{CoderSettings, DecoderNorm, SelectionSettings};

/// Rows in raw space, a latent each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Directions {
    /// `[f, d]`; empty where latents have no encoder rows of their own. Where one matrix encodes and decodes, these are its
    /// rows too.
    pub encoder: Vec<f32>,
    /// `[f, out]`.
    pub decoder: Vec<f32>,
}

/// `[f]` what a latent's pre-activation is multiplied by to become the value that is reported: the norm of its decoder row
/// where these rank latents; nothing otherwise. `w_dec` is the decoder.
pub(crate) fn gains<B: CoderOps>(backend: &B, settings: &CoderSettings, w_dec: &B::Tensor) -> Option<Vec<f64>> {
    let f = settings.dims.f;
    (settings.decoder == DecoderNorm::Ranked).then(|| {
        let mut norms = backend.zeros(f);
        decoder_norms(backend, settings, w_dec, &mut norms);
        host(backend, &norms, f)
    })
}

/// Those of a coder that was trained on rows times `scales`, with its own parameters or an average of them; `None` if no row
/// is reconstructed from its code.
pub fn of<B: CoderOps>(backend: &B, coder: &Coder<B>, params: &Params<B>, scales: &Scales) -> Option<Directions> {
    let settings = coder.settings();
    if !settings.reconstructs_rows() {
        return None;
    }
    let params = &*coder.effective(backend, params);
    let gains = gains(backend, settings, &params.w_dec).unwrap_or_else(|| vec![1.0; settings.dims.f]);
    let encoder = match settings.selection {
        SelectionSettings::Pairs { .. } => Vec::new(),
        SelectionSettings::Pursuit { .. } => encoder_rows(backend, settings, &params.w_dec, scales, &gains),
        _ => encoder_rows(backend, settings, &params.w_enc, scales, &gains),
    };
    Some(Directions { encoder, decoder: decoder_rows(backend, settings, &params.w_dec, scales, &gains) })
}

/// `[f, d]` of an encoder.
pub(crate) fn encoder_rows<B: CoderOps>(
    backend: &B,
    settings: &CoderSettings,
    w_enc: &B::Tensor,
    scales: &Scales,
    gains: &[f64],
) -> Vec<f32> {
    let (d, f, groups, input) = (settings.dims.d, settings.dims.f, settings.dims.groups, scales.by_input());
    // latents of group `g` read values `g d ..` of the input
    folded(backend, w_enc, |i| input[i / d * groups / f * d + i % d] * gains[i / d])
}

/// `[f, out]` of a decoder.
pub(crate) fn decoder_rows<B: CoderOps>(
    backend: &B,
    settings: &CoderSettings,
    w_dec: &B::Tensor,
    scales: &Scales,
    gains: &[f64],
) -> Vec<f32> {
    let (out, output) = (settings.dims.out, scales.by_output());
    folded(backend, w_dec, |i| 1.0 / (output[i % out] * gains[i / out]))
}

/// The values of a tensor, each times a factor.
pub(crate) fn folded<B: CoderOps>(backend: &B, t: &B::Tensor, factor: impl Fn(usize) -> f64) -> Vec<f32> {
    let mut values = vec![0f32; backend.len(t)];
    backend.read(t, 0, &mut values);
    values.iter_mut().enumerate().for_each(|(i, x)| *x = (f64::from(*x) * factor(i)) as f32);
    values
}
