//! Training that goes on from an exported coder: whether it fits, and its parameters in the space of training.
//!
//! A folder has weights for raw rows; training has rows times a scale, perhaps decoder rows of norm 1, and its own rule of
//! what the encoder subtracts. All of these are moved into the weights, so that the first step starts from the code and
//! the reconstruction that the folder gives. What a folder does not have starts anew: the optimiser's memory, averages,
//! schedules, how long latents were silent.

use crate::compute::CoderOps;
use crate::error::{Error, Result};
use crate::sae::export::{Architecture, ExportedCoder, W_SKIP};
use crate::sae::params::{Params, PerParam};
use crate::sae::rows::RowScaling;
use crate::sae::scales::Scales;
use crate::sae::settings::{CoderSettings, DecoderMapSettings, DecoderNorm, SelectionSettings};
use crate::sae::state::{CoderState, MovingAverage};

/// A folder's threshold counts as this share of the values of an average that has run for long.
const THRESHOLD_COUNTS: f64 = 0.1;

/// Norms, or thresholds, that differ by less than this share of the largest are equal.
const EQUAL: f64 = 1e-3;

/// Why a coder of these settings goes on from no folder whatever, if it does not.
pub fn never(settings: &CoderSettings) -> Option<&'static str> {
    let target = &settings.target;
    if target.parts.len() != 1 || settings.dims.groups > 1 || !target.bias {
        return Some("only a coder that reads one site and reconstructs one can go on from a folder");
    }
    if settings.decoder_map != DecoderMapSettings::Identity {
        return Some("a folder's decoder is a parameter, that of this coder is made from others");
    }
    match settings.selection {
        SelectionSettings::TopK { .. }
        | SelectionSettings::BatchTopK { .. }
        | SelectionSettings::GroupMax { .. }
        | SelectionSettings::Positive
        | SelectionSettings::JumpRelu(_)
        | SelectionSettings::Gated { .. } => None,
        _ => Some("no folder has a coder of this `coder.type`"),
    }
}

/// Whether a coder of these settings, trained on rows that are scaled so, can go on from `coder`.
///
/// # Errors
/// `Config`, naming what does not fit.
pub fn check(coder: &ExportedCoder, settings: &CoderSettings, rows: RowScaling) -> Result<()> {
    if let Some(why) = never(settings) {
        return Err(Error::config(why));
    }
    let target = &settings.target;
    if coder.transcodes == target.is_input {
        let (theirs, ours) = if coder.transcodes { ("another site than", "") } else { ("", "another site than ") };
        return Err(Error::config(format!(
            "its coder reconstructs {theirs} what it reads, `target` of this one says {ours}what it reads"
        )));
    }
    if coder.params.find(W_SKIP).is_some() && !target.skip {
        return Err(Error::config("its coder has a skip connection: `target` must have `skip: true`"));
    }
    let (ours, theirs) = (settings.dims, coder.dims);
    if ours != theirs {
        return Err(Error::config(format!(
            "its coder has {} latents from width {} to {}, this one {} from width {} to {}",
            theirs.f, theirs.d, theirs.out, ours.f, ours.d, ours.out
        )));
    }
    let name = coder.architecture.name();
    let (ranks, one_threshold) = match (&settings.selection, coder.architecture) {
        (SelectionSettings::TopK { .. } | SelectionSettings::BatchTopK { .. }, Architecture::Topk { .. }) => {
            (true, false)
        }
        (SelectionSettings::GroupMax { groups }, Architecture::GroupMax { groups: theirs }) if *groups == theirs => {
            (true, false)
        }
        (SelectionSettings::BatchTopK { .. }, Architecture::Jumprelu) => (true, true),
        (SelectionSettings::Positive, Architecture::Standard)
        | (SelectionSettings::JumpRelu(_), Architecture::Jumprelu)
        | (SelectionSettings::Gated { .. }, Architecture::Gated) => (false, false),
        _ => {
            return Err(Error::config(format!(
                "its coder is of architecture {name}, which `coder.type` does not train"
            )));
        }
    };
    if coder.rows != rows {
        return Err(Error::config(format!(
            "its coder reads rows with `normalize_activations: {}`, `normalize` gives it those of `{}`",
            coder.rows.name(),
            rows.name()
        )));
    }
    let check = |what: &str, values: &[f64], then: &str| match spread(values) {
        Some((least, largest)) => Err(Error::config(format!("its coder has {what} from {least} to {largest}: {then}"))),
        None => Ok(()),
    };
    if ranks && settings.decoder != DecoderNorm::Free {
        check("decoder rows of norms", &coder.decoder_norms(), "latents would be ranked in another order")?;
    }
    if one_threshold {
        let thresholds: Vec<f64> = coder.params.extra("threshold").iter().map(|&t| f64::from(t)).collect();
        check("thresholds", &thresholds, "a coder with one for all cannot go on from it, `type: jumprelu` can")?;
    }
    Ok(())
}

/// The least and the largest value, where they differ.
fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = values.iter().copied().fold(0.0, f64::max);
    (largest - least > EQUAL * largest).then_some((least, largest))
}

/// Parameters and state to go on with, on rows times `scales`. `coder` fits ([`check`]).
pub fn start<B: CoderOps>(
    backend: &B,
    coder: &ExportedCoder,
    settings: &CoderSettings,
    scales: &Scales,
) -> (Params<B>, CoderState) {
    let coder = coder.clone().with_b_dec_subtracted(settings.subtract_bias);
    // one site on either side
    let coder = coder.of_unscaled_sides(1.0 / scales.input[0].scale, 1.0 / scales.output[0].scale);
    let ranks = matches!(
        settings.selection,
        SelectionSettings::TopK { .. } | SelectionSettings::BatchTopK { .. } | SelectionSettings::GroupMax { .. }
    );
    let ranks = ranks && settings.decoder != DecoderNorm::Free;
    let coder = if ranks || settings.decoder == DecoderNorm::Unit { coder.with_unit_decoder() } else { coder };
    let mut state = CoderState::default();
    if let (SelectionSettings::BatchTopK { threshold_rate, .. }, Architecture::Jumprelu) =
        (&settings.selection, coder.architecture)
    {
        let thresholds = coder.params.extra("threshold");
        let value = thresholds.iter().map(|&t| f64::from(t)).sum::<f64>() / thresholds.len() as f64;
        // it counts, but what the rows say soon counts more: a folder's threshold may be of another rule (`top_afa`)
        let count = (THRESHOLD_COUNTS / threshold_rate).ceil() as u64;
        state.threshold = Some(MovingAverage { value, count });
    }
    let PerParam { w_enc, b_enc, w_dec, b_dec, .. } = &coder.params;
    let extra = settings.extra_params().into_iter();
    let of_folder = |name| match coder.params.find(name) {
        None if name == W_SKIP => backend.zeros(settings.dims.d * settings.dims.out),
        _ => backend.upload(coder.params.extra(name)),
    };
    let params = PerParam {
        w_enc: backend.upload(w_enc),
        b_enc: backend.upload(b_enc),
        w_dec: backend.upload(w_dec),
        b_dec: backend.upload(b_dec),
        extra: extra.map(|name| (name, of_folder(name))).collect(),
    };
    (params, state)
}
