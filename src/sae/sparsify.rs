//! EleutherAI's sparsify folders: `cfg.json` and `sae.safetensors`, as bytes. They hold TopK and group-max
//! coders only.
//!
//! `sparsify.SparseCoder.load_from_disk` reads them. It subtracts `b_dec` from the input of an autoencoder, and keeps the
//! encoder's rows by latent.

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::compute::coder_ops::CoderDims;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sae::export::{Architecture, CONFIG_FILE, ExportedCoder, f32_tensor};
use crate::sae::params::PerParam;
use crate::sae::rows::RowScaling;

/// Name of the weights file.
pub const WEIGHTS_FILE: &str = "sae.safetensors";

/// The folder's files: (name, bytes); `None` for a coder that the format cannot hold.
///
/// # Errors
/// `Internal` only.
pub fn write(coder: &ExportedCoder) -> Result<Option<Vec<(String, Vec<u8>)>>> {
    let (activation, k) = match coder.architecture {
        Architecture::Topk { k } => ("topk", k),
        Architecture::GroupMax { groups } => ("groupmax", groups),
        _ => return Ok(None),
    };
    if !coder.apply_b_dec_to_input || coder.rows != RowScaling::None {
        return Ok(None);
    }
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
    let tensors = [
        ("encoder.weight", vec![f, d], w_enc),
        ("encoder.bias", vec![f], b_enc),
        ("W_dec", vec![f, d], w_dec),
        ("b_dec", vec![d], b_dec),
    ];
    let views: Result<Vec<_>> = tensors
        .into_iter()
        .map(|(name, shape, values)| {
            let view = TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values))
                .or_kind(ErrorKind::Internal, || format!("write tensor `{name}`"))?;
            Ok((name, view))
        })
        .collect();
    let weights =
        safetensors::serialize(views?, None).or_kind(ErrorKind::Internal, || format!("write {WEIGHTS_FILE}"))?;
    Ok(Some(vec![(CONFIG_FILE.to_owned(), config), (WEIGHTS_FILE.to_owned(), weights)]))
}

/// Read a folder's files: what [`write`] wrote, or sparsify for an autoencoder.
///
/// # Errors
/// `Data`, naming what is missing, damaged or not known.
pub fn read(files: &[(String, Vec<u8>)]) -> Result<ExportedCoder> {
    let find = |name: &str| {
        let file = files.iter().find(|(n, _)| n == name);
        file.map(|(_, bytes)| bytes.as_slice()).ok_or_else(|| Error::data(format!("the coder has no {name}")))
    };
    let config: Value =
        serde_json::from_slice(find(CONFIG_FILE)?).or_kind(ErrorKind::Data, || format!("read {CONFIG_FILE}"))?;
    for (key, wanted) in [("transcode", json!(false)), ("skip_connection", json!(false))] {
        if let Some(found) = config.get(key).filter(|found| **found != wanted) {
            return Err(Error::data(format!("{CONFIG_FILE}: `{key}` is {found}: only {wanted} can be read")));
        }
    }
    let number = |key: &str| config.get(key).and_then(Value::as_u64).map(|n| n as usize);
    let positive = |key: &str| {
        let missing = || Error::data(format!("{CONFIG_FILE}: `{key}` is not a positive number"));
        number(key).filter(|n| *n > 0).ok_or_else(missing)
    };
    let (d, k) = (positive("d_in")?, positive("k")?);
    // without a number of latents it is a multiple of the width
    let f = match number("num_latents").filter(|f| *f > 0) {
        Some(f) => f,
        None => positive("expansion_factor")?
            .checked_mul(d)
            .ok_or_else(|| Error::data(format!("{CONFIG_FILE}: `expansion_factor` is too large")))?,
    };
    let tensors =
        SafeTensors::deserialize(find(WEIGHTS_FILE)?).or_kind(ErrorKind::Data, || format!("read {WEIGHTS_FILE}"))?;
    let params = PerParam {
        w_enc: f32_tensor(&tensors, "encoder.weight", &[f, d])?,
        b_enc: f32_tensor(&tensors, "encoder.bias", &[f])?,
        w_dec: f32_tensor(&tensors, "W_dec", &[f, d])?,
        b_dec: f32_tensor(&tensors, "b_dec", &[d])?,
        extra: Vec::new(),
    };
    let architecture = match config.get("activation").map_or(Some("topk"), Value::as_str) {
        Some("topk") => Architecture::Topk { k },
        Some("groupmax") => Architecture::GroupMax { groups: k },
        _ => {
            let found = config.get("activation").cloned().unwrap_or(Value::Null);
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
        metadata: serde_json::Map::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(architecture: Architecture) -> ExportedCoder {
        let numbers = |n: usize, from: f32| (0..n).map(|i| from + i as f32).collect::<Vec<_>>();
        ExportedCoder {
            dims: CoderDims::square(3, 5),
            architecture,
            apply_b_dec_to_input: true,
            rows: RowScaling::None,
            params: PerParam {
                w_enc: numbers(15, 0.0),
                b_enc: numbers(5, 20.0),
                w_dec: numbers(15, 30.0),
                b_dec: numbers(3, 50.0),
                extra: Vec::new(),
            },
            metadata: serde_json::Map::new(),
        }
    }

    #[test]
    fn a_topk_coder_reads_back_and_others_have_no_folder() {
        let coder = small(Architecture::Topk { k: 2 });
        let mut files = write(&coder).unwrap().unwrap();
        let back = read(&files).unwrap();
        assert_eq!((back.dims, back.architecture), (coder.dims, coder.architecture));
        assert_eq!(back.params.each(), coder.params.each());
        assert!(write(&small(Architecture::Standard)).unwrap().is_none());
        assert!(write(&ExportedCoder { apply_b_dec_to_input: false, ..coder.clone() }).unwrap().is_none());
        assert!(write(&ExportedCoder { rows: RowScaling::Norm, ..coder }).unwrap().is_none());
        let text = String::from_utf8(files[0].1.clone()).unwrap();
        files[0].1 = text.replace("\"topk\"", "\"batchtopk\"").into_bytes();
        assert!(read(&files).unwrap_err().to_string().contains("`activation` is \"batchtopk\""));
        files[0].1 = text.replace("\"topk\"", "\"groupmax\"").into_bytes();
        assert!(read(&files).unwrap_err().to_string().contains("`k` is 2: it must divide the number of latents (5)"));
        let grouped = small(Architecture::GroupMax { groups: 5 });
        assert_eq!(read(&write(&grouped).unwrap().unwrap()).unwrap().architecture, grouped.architecture);
        files[0].1 = text.replace("\"num_latents\": 5", "\"num_latents\": 6").into_bytes();
        assert!(read(&files).unwrap_err().to_string().contains("`encoder.weight` is F32 [5, 3]"));
        assert!(read(&files[..1]).unwrap_err().to_string().contains("sae.safetensors"));
    }
}
