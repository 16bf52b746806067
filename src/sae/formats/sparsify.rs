//! EleutherAI's sparsify folders: `cfg.json` and `sae.safetensors`, as bytes. They hold TopK and group-max coders
//! only.
//!
//! `sparsify.SparseCoder.load_from_disk` reads them. It subtracts `b_dec` from the input of an autoencoder and nothing from
//! that of a transcoder, and keeps the encoder's rows by latent.

use serde_json::{Map, Value, json};

use super::tensors::{self, Tensors};
use super::{Config, Files, find, parse};
use crate::compute::coder_ops::CoderDims;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sae::export::{Architecture, ExportedCoder, W_SKIP};
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
    let CoderDims { d, f, out, groups } = coder.dims;
    let w_skip = coder.params.find(W_SKIP);
    // its transcoders reconstruct as many values as they read, and subtract nothing
    if coder.rows != RowScaling::None || d != out || groups > 1 || (w_skip.is_some() && !coder.transcodes) {
        return Ok(None);
    }
    let coder = coder.clone().with_b_dec_subtracted(!coder.transcodes);
    let config = json!({
        "activation": activation,
        "expansion_factor": f.div_ceil(d),
        "normalize_decoder": true,
        "num_latents": f,
        "k": k,
        "multi_topk": false,
        "skip_connection": w_skip.is_some(),
        "transcode": coder.transcodes,
        "d_in": d,
    });
    let config = serde_json::to_vec_pretty(&config).or_kind(ErrorKind::Internal, || format!("write {CONFIG_FILE}"))?;
    let PerParam { w_enc, b_enc, w_dec, b_dec, .. } = &coder.params;
    let mut all: Vec<(&str, Vec<usize>, &[f32])> = vec![
        ("encoder.weight", vec![f, d], w_enc),
        ("encoder.bias", vec![f], b_enc),
        ("W_dec", vec![f, d], w_dec),
        ("b_dec", vec![d], b_dec),
    ];
    if let Some(w_skip) = w_skip {
        all.push(("W_skip", vec![d, d], w_skip));
    }
    let weights = tensors::file(WEIGHTS_FILE, &all)?;
    Ok(Some(vec![(CONFIG_FILE.to_owned(), config), (WEIGHTS_FILE.to_owned(), weights)]))
}

/// Read a folder's files: what [`write`] wrote, or sparsify.
///
/// # Errors
/// `Data`, naming what is missing, damaged or not known.
pub fn read(files: &[(String, Vec<u8>)]) -> Result<ExportedCoder> {
    let value = parse(files, CONFIG_FILE)?;
    let config = Config { file: CONFIG_FILE, value: &value };
    let (transcodes, skips) = (switch(&value, "transcode")?, switch(&value, "skip_connection")?);
    if skips && !transcodes {
        return Err(Error::data(format!(
            "{CONFIG_FILE}: `skip_connection` is true and `transcode` is not: only skip connections of transcoders can be \
             read"
        )));
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
    let extra = if skips { vec![(W_SKIP, tensors.floats("W_skip", &[d, d])?)] } else { Vec::new() };
    let params = PerParam {
        w_enc: tensors.floats("encoder.weight", &[f, d])?,
        b_enc: tensors.floats("encoder.bias", &[f])?,
        w_dec: tensors.floats("W_dec", &[f, d])?,
        b_dec: tensors.floats("b_dec", &[d])?,
        extra,
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
        apply_b_dec_to_input: !transcodes,
        rows: RowScaling::None,
        transcodes,
        params,
        metadata: Map::new(),
    })
}

/// A switch of the configuration; what is not there is off.
fn switch(config: &Value, key: &str) -> Result<bool> {
    match config.get(key) {
        None => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(found) => Err(Error::data(format!("{CONFIG_FILE}: `{key}` is {found}: expected true or false"))),
    }
}
