//! Folders for dictionary_learning: `config.json`, the weights as `ae.safetensors`, and a script that makes the `ae.pt` of
//! them which the library wants, a pickle.
//!
//! Its classes have decoder rows of norm 1 in raw space, and say with their names what the encoder subtracts. A latent's
//! value is the length of its part of the reconstruction: what SAELens' format gives, times the norm of its decoder row.
//! TopK coders whose rows differ in norm stay as they are, since ranking would change.

use serde_json::{Value, json};

use super::Files;
use super::tensors::{self, transposed};
use crate::compute::coder_ops::CoderDims;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::sae::export::{Architecture, ExportedCoder};
use crate::sae::params::PerParam;
use crate::sae::rows::RowScaling;

/// Name of the configuration file.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the weights file.
pub const WEIGHTS_FILE: &str = "ae.safetensors";
/// Name of the script that makes `ae.pt`.
pub const SCRIPT_FILE: &str = "make_ae_pt.py";
/// The script.
const SCRIPT: &str = include_str!("make_ae_pt.py");
/// Decoder norms that differ by less than this share of the largest are equal.
const EQUAL_NORMS: f64 = 1e-3;

/// Its class for coders of an architecture, if it has one.
fn class(architecture: Architecture) -> Option<&'static str> {
    match architecture {
        Architecture::Standard => Some("AutoEncoder"),
        Architecture::Topk { .. } => Some("AutoEncoderTopK"),
        Architecture::Jumprelu => Some("JumpReluAutoEncoder"),
        Architecture::Gated => Some("GatedAutoEncoder"),
        Architecture::GroupMax { .. } => None,
    }
}

/// The folder's files: (name, bytes); `None` for a coder of rows that are scaled each by itself, or without a class.
///
/// # Errors
/// `Internal` only.
pub fn write(coder: &ExportedCoder) -> Result<Option<Files>> {
    let architecture = coder.architecture;
    let Some(class) = class(architecture).filter(|_| coder.rows == RowScaling::None && !coder.transcodes) else {
        return Ok(None);
    };
    let coder = coder.clone().with_b_dec_subtracted(architecture != Architecture::Jumprelu);
    let coder = match architecture {
        Architecture::Topk { .. } if !equal(&coder.decoder_norms()) => coder,
        _ => coder.with_unit_decoder(),
    };
    let config = serde_json::to_vec_pretty(&config(&coder, class))
        .or_kind(ErrorKind::Internal, || format!("write {CONFIG_FILE}"))?;
    let CoderDims { d, f, .. } = coder.dims;
    let PerParam { w_enc, b_enc, w_dec, b_dec, .. } = &coder.params;
    let (w_enc_t, w_dec_t) = (transposed(w_enc, f, d), transposed(w_dec, f, d));
    let extra = |name: &str| coder.params.extra(name).as_slice();
    // AutoEncoderTopK ranks on its own unless it has a threshold above 0
    let no_threshold = [-1.0f32];
    let all: Vec<(&str, Vec<usize>, &[f32])> = match architecture {
        Architecture::Standard => vec![
            ("encoder.weight", vec![f, d], w_enc),
            ("encoder.bias", vec![f], b_enc),
            ("decoder.weight", vec![d, f], &w_dec_t),
            ("bias", vec![d], b_dec),
        ],
        Architecture::Topk { .. } | Architecture::GroupMax { .. } => vec![
            ("encoder.weight", vec![f, d], w_enc),
            ("encoder.bias", vec![f], b_enc),
            ("decoder.weight", vec![d, f], &w_dec_t),
            ("b_dec", vec![d], b_dec),
            ("threshold", vec![], &no_threshold),
        ],
        Architecture::Jumprelu => vec![
            ("W_enc", vec![d, f], &w_enc_t),
            ("b_enc", vec![f], b_enc),
            ("W_dec", vec![f, d], w_dec),
            ("b_dec", vec![d], b_dec),
            ("threshold", vec![f], extra("threshold")),
        ],
        Architecture::Gated => vec![
            ("encoder.weight", vec![f, d], w_enc),
            ("gate_bias", vec![f], b_enc),
            ("r_mag", vec![f], extra("r_mag")),
            ("mag_bias", vec![f], extra("b_mag")),
            ("decoder.weight", vec![d, f], &w_dec_t),
            ("decoder_bias", vec![d], b_dec),
        ],
    };
    let weights = tensors::file(WEIGHTS_FILE, &all)?;
    Ok(Some(vec![
        (CONFIG_FILE.to_owned(), config),
        (WEIGHTS_FILE.to_owned(), weights),
        (SCRIPT_FILE.to_owned(), SCRIPT.as_bytes().to_vec()),
    ]))
}

/// What its `load_dictionary` and other readers look at.
fn config(coder: &ExportedCoder, class: &str) -> Value {
    let about = |key: &str| coder.metadata.get(key).cloned().unwrap_or(Value::Null);
    let site = about("hook_name");
    let layer = site.as_str().and_then(|name| name.strip_prefix("blocks.")?.split('.').next()?.parse::<u32>().ok());
    let mut config = json!({
        "trainer": {
            "dict_class": class,
            "activation_dim": coder.dims.d,
            "dict_size": coder.dims.f,
            "layer": layer,
            "lm_name": about("model_name"),
            "submodule_name": site,
        },
        "buffer": {
            "d_submodule": coder.dims.d,
            "ctx_len": about("context_size"),
        },
    });
    if let Architecture::Topk { k } = coder.architecture {
        config["trainer"]["k"] = json!(k);
    }
    config
}

fn equal(norms: &[f64]) -> bool {
    let largest = norms.iter().copied().fold(0.0, f64::max);
    norms.iter().all(|norm| largest - norm <= EQUAL_NORMS * largest)
}
