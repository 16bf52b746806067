//! Rotary position embedding: GGUF's keys and factor tensor to Hugging Face's `rope_parameters`.

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result};
use crate::model::gguf::Gguf;
use crate::model::gguf::config::View;
use crate::model::weights::DataFile;
use crate::model::weights::encoding::Encoding;

/// The tensor of factors.
pub(super) const FACTORS: &str = "rope_freqs.weight";
/// Factors of a head, at most.
const FACTORS_MAX: usize = 1 << 16;
/// How far a stored factor may lie from the computed one, relatively: both are rounded to f32.
const TOLERANCE: f64 = 1e-5;

/// The factors that `file` stores, if it does.
pub(super) fn read_factors(gguf: &Gguf, file: &DataFile) -> Result<Option<Vec<f32>>> {
    let Some(info) = gguf.info(FACTORS) else { return Ok(None) };
    let [n] = info.shape[..] else { return Err(Error::data(format!("`{FACTORS}` has shape {:?}", info.shape))) };
    if info.encoding != Ok(Encoding::F32) || n > FACTORS_MAX {
        return Err(Error::data(format!("`{FACTORS}` is not a short list of F32")));
    }
    let mut bytes = vec![0; 4 * n];
    file.read_at(info.offset, &mut bytes)?;
    let mut factors = vec![0.0; n];
    Encoding::F32.decode(&bytes, &mut factors);
    Ok(Some(factors))
}

/// `rope_parameters` for heads of `d_rotated` rotated values.
pub(super) fn parameters(gguf: &Gguf, view: &View<'_>, d_rotated: u64) -> Result<Map<String, Json>> {
    let theta = view.number("rope.freq_base")?.unwrap_or(10_000.0);
    let mut rope = scaling(view)?;
    rope.insert("rope_theta".to_owned(), json!(theta));
    if let Some(factors) = gguf.rope_factors.as_ref().filter(|factors| factors.iter().any(|&factor| factor != 1.0)) {
        let llama3 = llama3(factors, theta, d_rotated).ok_or_else(|| {
            Error::data(format!("the factors in `{FACTORS}` are not those of llama3's rope scaling: not supported"))
        })?;
        rope.extend(llama3);
    }
    Ok(rope)
}

/// The keys below `rope.scaling`.
fn scaling(view: &View<'_>) -> Result<Map<String, Json>> {
    let mut rope = Map::new();
    let factor = match view.number("rope.scaling.factor")? {
        // llama.cpp writes 0 for "none"
        Some(factor) if factor != 0.0 => Some(factor),
        _ => view.number("rope.scale_linear")?,
    };
    let positions = view.count("rope.scaling.original_context_length")?;
    let attention = view.number("rope.scaling.attn_factor")?;
    view.ignore("rope.scaling.finetuned");
    // without a type, a factor is linear
    let kind = view.text("rope.scaling.type")?.unwrap_or(if factor.is_some() { "linear" } else { "none" });
    let kind = match kind {
        "none" => "default",
        "linear" if factor.is_none_or(|factor| factor == 1.0) => "default",
        other => other,
    };
    rope.insert("rope_type".to_owned(), json!(kind));
    match kind {
        "default" => {}
        "linear" => {
            rope.insert("factor".to_owned(), json!(factor));
        }
        "yarn" => {
            rope.insert("factor".to_owned(), json!(factor));
            if let Some(positions) = positions {
                rope.insert("original_max_position_embeddings".to_owned(), json!(positions));
            }
            if let Some(attention) = attention {
                rope.insert("attention_factor".to_owned(), json!(attention));
            }
            for (key, name) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
                if let Some(beta) = view.number(&format!("rope.scaling.{key}"))? {
                    rope.insert(name.to_owned(), json!(beta));
                }
            }
        }
        other => return Err(Error::data(format!("rope scaling `{other}` is not supported"))),
    }
    if kind != "yarn" && attention.is_some_and(|factor| factor != 1.0) {
        return Err(Error::data("`rope.scaling.attn_factor` is only supported for yarn"));
    }
    Ok(rope)
}

/// The scaling of Llama 3 that gives `factors`: the stored tensor is computed from four numbers, of which only the largest
/// factor can be read off; the others are those that all published models have.
fn llama3(factors: &[f32], theta: f64, d_rotated: u64) -> Option<Map<String, Json>> {
    if factors.len() as u64 != d_rotated / 2 {
        return None;
    }
    let (low, high) = (1.0, 4.0);
    let factor = f64::from(factors.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let positions = [8192.0, 4096.0, 16384.0, 32768.0, 2048.0].into_iter().find(|positions| {
        factors.iter().enumerate().all(|(i, &stored)| {
            let wavelength = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / d_rotated as f64);
            let smooth = ((positions / wavelength - low) / (high - low)).clamp(0.0, 1.0);
            let computed = 1.0 / ((1.0 - smooth) / factor + smooth);
            (f64::from(stored) - computed).abs() <= TOLERANCE * computed.abs()
        })
    })?;
    let parameters = json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": positions as u64,
    });
    parameters.as_object().cloned()
}
