//! `.safetensors` files: a length, a JSON header, tensors.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::import::dense::{Array, Dense, Number};
use crate::import::{ImportOptions, Place};

/// Bytes of a header, at most; the library's own limit.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Names under which token ids are usually kept, beside those of the options.
const TOKEN_NAMES: [&str; 3] = ["token_id", "token_ids", "input_ids"];

/// The tensor with values of a file, and what it says of its rows.
pub(super) fn open(file: Place, options: &ImportOptions) -> Result<Dense> {
    let arrays = arrays(&file)?;
    let values = values(&arrays, options)?.clone();
    let n_rows: u64 = values.shape.iter().rev().skip(1).fold(1, |n, &d| n.saturating_mul(d));
    let sequences = values.shape.first().copied().unwrap_or(0);
    let named = |name: &Option<String>, usual: &[&str], sizes: &[u64]| match name {
        Some(name) if name.is_empty() => Ok(None),
        Some(name) => match arrays.iter().find(|array| array.name == *name) {
            Some(array) => Ok(Some(array.clone())),
            None => Err(no_such(name, &arrays)),
        },
        None => {
            let mut usual = arrays.iter().filter(|array| usual.contains(&array.name.as_str()));
            let fits = |array: &&Array| sizes.contains(&array.shape.iter().product());
            let found = usual.clone().find(fits).cloned();
            // one that does not fit was not meant
            if let (None, Some(other)) = (&found, usual.next()) {
                tracing::warn!(tensor = other.name, shape = ?other.shape, n_rows, "a tensor has not one number a row: not used");
            }
            Ok(found)
        }
    };
    let ids = [
        named(&options.ids.token_id, &TOKEN_NAMES, &[n_rows])?,
        named(&options.ids.doc_id, &["doc_id", "doc_ids"], &[n_rows, sequences])?,
        named(&options.ids.pos, &["pos", "positions"], &[n_rows])?,
    ];
    Dense::new(file, values, ids)
}

fn values<'a>(arrays: &'a [Array], options: &ImportOptions) -> Result<&'a Array> {
    if let Some(name) = &options.values {
        return arrays.iter().find(|array| array.name == *name).ok_or_else(|| no_such(name, arrays));
    }
    let can_be = |array: &&Array| array.number.stored().is_some() && (2..=3).contains(&array.shape.len());
    let found: Vec<&Array> = arrays.iter().filter(can_be).collect();
    match found.as_slice() {
        [one] => Ok(one),
        // what activault calls it
        several => several.iter().find(|array| array.name == "states").copied().ok_or_else(|| {
            let names: Vec<&str> = several.iter().map(|array| array.name.as_str()).collect();
            Error::data(format!(
                "it has {} tensors that may be meant ({}): name one with --values",
                names.len(),
                names.join(", ")
            ))
        }),
    }
}

fn no_such(name: &str, arrays: &[Array]) -> Error {
    let names: Vec<&str> = arrays.iter().map(|array| array.name.as_str()).take(20).collect();
    Error::data(format!("it has no tensor `{name}`; it has {}", names.join(", ")))
}

/// All tensors of number formats that can be read.
fn arrays(file: &Place) -> Result<Vec<Array>> {
    let start = file.at(0, 8)?;
    let length = u64::from_le_bytes([start[0], start[1], start[2], start[3], start[4], start[5], start[6], start[7]]);
    if length > HEADER_BYTES_MAX || length > file.size() {
        return Err(Error::data(format!("it is not a safetensors file: its header would have {length} bytes")));
    }
    let header = file.at(8, length as usize)?;
    let header: Map<String, Value> = serde_json::from_slice(&header)
        .map_err(|e| Error::data(format!("it is not a safetensors file: its header is not JSON: {e}")))?;
    let mut found = Vec::new();
    for (name, tensor) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
        let damaged = || Error::data(format!("the header's entry `{name}` is damaged"));
        let number = match tensor["dtype"].as_str().ok_or_else(damaged)? {
            "F16" => Number::F16,
            "BF16" => Number::Bf16,
            "F32" => Number::F32,
            "F64" => Number::F64,
            "I8" => Number::I8,
            "U8" => Number::U8,
            "I16" => Number::I16,
            "U16" => Number::U16,
            "I32" => Number::I32,
            "U32" => Number::U32,
            "I64" => Number::I64,
            "U64" => Number::U64,
            _ => continue,
        };
        let whole = |value: &Value| -> Result<Vec<u64>> {
            let list = value.as_array().ok_or_else(damaged)?;
            list.iter().map(|n| n.as_u64().ok_or_else(damaged)).collect()
        };
        let (shape, offsets) = (whole(&tensor["shape"])?, whole(&tensor["data_offsets"])?);
        let numbers = shape.iter().try_fold(number.bytes() as u64, |n, &d| n.checked_mul(d));
        match offsets.as_slice() {
            &[from, to] if to.checked_sub(from) == numbers => {
                let offset = from.checked_add(8 + length).ok_or_else(damaged)?;
                found.push(Array { name, number, shape, offset });
            }
            _ => return Err(damaged()),
        }
    }
    Ok(found)
}
