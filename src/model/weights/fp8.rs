//! Weights of eight-bit floats: which `quantization_config` can be read, and where the scales are.
//!
//! `fp8` (DeepSeek-V3, Qwen3-FP8) stores `NAME.weight` as e4m3 and `NAME.weight_scale_inv`, one factor for each block of
//! 128 x 128 or for the tensor; `compressed-tensors` stores `NAME.weight_scale`, one factor for the tensor or for each row.
//! Values are widened as they are; activations are never rounded, which is what transformers computes with
//! `dequantize=True`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::model::weights::Tensor;
use crate::model::weights::encoding::Encoding;

/// Rows and columns that share a factor, where not all do.
const BLOCK: usize = 128;

/// Check that weights stored as `quantization_config` of `config.json` says can be read.
///
/// Errors name what is not supported.
pub fn check_quantization(config: &Value) -> Result<()> {
    let refuse =
        |key: &str, value: &Value| Err(Error::data(format!("config.json: `{key}` ({value}) is not supported")));
    let Some(object) = config.as_object() else { return refuse("quantization_config", config) };
    let get = |key: &str| object.get(key).unwrap_or(&Value::Null);
    match get("quant_method").as_str() {
        Some("fp8") => {
            let block = get("weight_block_size");
            if !block.is_null() && *block != serde_json::json!([BLOCK, BLOCK]) {
                return refuse("quantization_config.weight_block_size", block);
            }
            match get("fmt") {
                Value::Null => {}
                fmt if fmt == "e4m3" => {}
                fmt => return refuse("quantization_config.fmt", fmt),
            }
            match get("scale_fmt") {
                Value::Null => Ok(()),
                // factors that happen to be powers of two, stored as f32
                fmt if fmt == "ue8m0" => Ok(()),
                fmt => refuse("quantization_config.scale_fmt", fmt),
            }
        }
        Some("compressed-tensors") => {
            if get("format") != "float-quantized" {
                return refuse("quantization_config.format", get("format"));
            }
            for key in ["kv_cache_scheme", "transform_config", "sparsity_config"] {
                let value = get(key);
                let empty = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
                if !empty && value.get("format").is_none_or(|format| format != "dense") {
                    return refuse(&format!("quantization_config.{key}"), value);
                }
            }
            let groups = get("config_groups").as_object();
            for (name, group) in groups.into_iter().flatten() {
                let weights = group.get("weights").unwrap_or(&Value::Null);
                let is = |key: &str, wanted: &[Value]| weights.get(key).is_some_and(|value| wanted.contains(value));
                let strategies = ["tensor".into(), "channel".into()];
                if !is("num_bits", &[8.into()]) || !is("type", &["float".into()]) || !is("strategy", &strategies) {
                    return refuse(&format!("quantization_config.config_groups.{name}.weights"), weights);
                }
            }
            Ok(())
        }
        _ => refuse("quantization_config.quant_method", get("quant_method")),
    }
}

/// Give each e4m3 tensor its scales, and take these and the scales of activations out of the names. A tensor without scales
/// cannot be read.
pub(super) fn attach_scales(tensors: &mut BTreeMap<String, Tensor>) {
    let is_e4m3 = |tensor: &Tensor| tensor.encoding == Ok(Encoding::F8E4M3);
    let names: Vec<String> =
        tensors.iter().filter(|(_, tensor)| is_e4m3(tensor)).map(|(name, _)| name.clone()).collect();
    for name in names {
        let stem = name.strip_suffix(".weight").unwrap_or(&name);
        let scales = ["weight_scale_inv", "weight_scale"].map(|kind| tensors.remove(&format!("{stem}.{kind}")));
        for activations in ["input_scale", "activation_scale"] {
            tensors.remove(&format!("{stem}.{activations}"));
        }
        let Some(tensor) = tensors.get_mut(&name) else { continue };
        match scales.into_iter().flatten().next() {
            Some(scale) if grid(&tensor.shape, &scale.shape).is_some() => tensor.scale = Some(Box::new(scale)),
            Some(scale) => tensor.encoding = Err(format!("F8_E4M3 with scales of shape {:?}", scale.shape)),
            None => tensor.encoding = Err("F8_E4M3 without scales".to_owned()),
        }
    }
}

/// Factors for the values of a matrix.
pub(super) struct Scales {
    /// `[rows / rows_each, columns / columns_each]`, rounded up.
    factors: Vec<f32>,
    columns: usize,
    rows_each: usize,
    columns_each: usize,
}

/// Rows and columns that share a factor.
fn grid(shape: &[usize], scales: &[usize]) -> Option<(usize, usize)> {
    let (&columns, rows) = shape.split_last()?;
    let rows: usize = rows.iter().product();
    if scales.iter().product::<usize>() == 1 {
        Some((rows.max(1), columns.max(1)))
    } else if scales == [rows, 1] || scales == [rows] {
        Some((1, columns.max(1)))
    } else if scales == [rows.div_ceil(BLOCK), columns.div_ceil(BLOCK)] {
        Some((BLOCK, BLOCK))
    } else {
        None
    }
}

impl Scales {
    /// `factors` of shape `scales` for a tensor of `shape`.
    pub(super) fn new(shape: &[usize], scales: &[usize], factors: Vec<f32>) -> Option<Self> {
        let (rows_each, columns_each) = grid(shape, scales)?;
        let columns = shape.last().copied().unwrap_or(1).max(1);
        (!factors.is_empty()).then_some(Self { factors, columns, rows_each, columns_each })
    }

    /// Multiply `values`, which begin at index `first` of the tensor.
    pub(super) fn apply(&self, first: usize, values: &mut [f32]) {
        let across = self.columns.div_ceil(self.columns_each);
        let mut at = 0;
        while at < values.len() {
            let (row, column) = ((first + at) / self.columns, (first + at) % self.columns);
            let to_border = (self.columns_each - column % self.columns_each).min(self.columns - column);
            let end = values.len().min(at + to_border);
            let factor = self.factors[row / self.rows_each * across + column / self.columns_each];
            values[at..end].iter_mut().for_each(|value| *value *= factor);
            at = end;
        }
    }
}
