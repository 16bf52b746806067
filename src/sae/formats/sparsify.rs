//! EleutherAI's sparsify folders: `cfg.json` and `sae.safetensors`, as bytes. They hold TopK and group-max coders
//! only.
//!
//! `sparsify.SparseCoder.load_from_disk` reads them. It subtracts `b_dec` from the input of an autoencoder, and keeps the
//! encoder's rows by latent.

use serde_json::{Map, Value, json};

use super::tensors::{self, Tensors};
use super::{Config, Files, find, parse};
use crate::compute::coder_ops::CoderDims;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sae::export::{Architecture, ExportedCoder};
use crate::sae::params::PerParam;
use crate::sae::rows::RowScaling;

/// Name of the configuration file.
pub const CONFIG_FILE: &str = "cfg.json";
/// Name of the weights file.
pub const WEIGHTS_FILE: &str = "sae.safetensors";

/// The folder's files: (name, bytes); `None` for a coder that the format cannot hold.
///
/// # Errors
/// `Internal` only.
pub fn write(coder: &ExportedCoder) -> Result<Option<Files>> {
    let (activation, k) = match coder.architecture {
        Architecture::Topk { k } => ("topk", k),
        Architecture::GroupMax { groups } => ("groupmax", groups),
        Architecture::Standard | Architecture::Jumprelu | Architecture::Gated => return Ok(None),
    };
    if coder.rows != RowScaling::None {
        return Ok(None);
    }
    let coder = coder.clone().with_b_dec_subtracted(true);
    let CoderDims { d, f, .. } = coder.dims;
    let config = json!({
        "activation": activation,
        "expansion_factor": f.div_ceil(d),
        "normalize_decoder": true,
        "num_latents": f,
        "k": k,
        "multi_topk": false,
        "skip_connection": false,
        "transcode": false,
        "d_in": d,
    });
    let config = serde_json::to_vec_pretty(&config).or_kind(ErrorKind::Internal, || format!("write {CONFIG_FILE}"))?;
    let PerParam { w_enc, b_enc, w_dec, b_dec, .. } = &coder.params;
    let all: [(&str, Vec<usize>, &[f32]); 4] = [
        ("encoder.weight", vec![f, d], w_enc),
        ("encoder.bias", vec![f], b_enc),
        ("W_dec", vec![f, d], w_dec),
        ("b_dec", vec![d], b_dec),
    ];
    let weights = tensors::file(WEIGHTS_FILE, &all)?;
    Ok(Some(vec![(CONFIG_FILE.to_owned(), config), (WEIGHTS_FILE.to_owned(), weights)]))
}

/// Read a folder's files: what [`write`] wrote, or sparsify for an autoencoder.
///
/// # Errors
/// `Data`, naming what is missing, damaged or not known.
pub fn read(files: &[(String, Vec<u8>)]) -> Result<ExportedCoder> {
    let value = parse(files, CONFIG_FILE)?;
    let config = Config { file: CONFIG_FILE, value: &value };
    for (key, wanted) in [("transcode", json!(false)), ("skip_connection", json!(false))] {
        if let Some(found) = value.get(key).filter(|found| **found != wanted) {
            return Err(Error::data(format!("{CONFIG_FILE}: `{key}` is {found}: only {wanted} can be read")));
        }
    }
    let (d, k) = (config.positive("d_in")?, config.positive("k")?);
    // without a number of latents it is a multiple of the width
    let f = match config.positive("num_latents") {
        Ok(f) => f,
        Err(_) => config
            .positive("expansion_factor")?
            .checked_mul(d)
            .ok_or_else(|| Error::data(format!("{CONFIG_FILE}: `expansion_factor` is too large")))?,
    };
    let tensors = Tensors::open(WEIGHTS_FILE, find(files, WEIGHTS_FILE)?)?;
    let params = PerParam {
        w_enc: tensors.floats("encoder.weight", &[f, d])?,
        b_enc: tensors.floats("encoder.bias", &[f])?,
        w_dec: tensors.floats("W_dec", &[f, d])?,
        b_dec: tensors.floats("b_dec", &[d])?,
        extra: Vec::new(),
    };
    let architecture = match value.get("activation").map_or(Some("topk"), Value::as_str) {
        Some("topk") => Architecture::Topk { k },
        Some("groupmax") => Architecture::GroupMax { groups: k },
        _ => {
            let found = value.get("activation").cloned().unwrap_or(Value::Null);
            let known = "only \"topk\" and \"groupmax\" can be read";
            return Err(Error::data(format!("{CONFIG_FILE}: `activation` is {found}: {known}")));
        }
    };
    architecture.check(f)?;
    Ok(ExportedCoder {
        dims: CoderDims::square(d, f),
        architecture,
        apply_b_dec_to_input: true,
        rows: RowScaling::None,
        params,
        metadata: Map::new(),
    })
}
