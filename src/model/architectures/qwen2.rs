//! Qwen 2 and 2.5: llama with biases of queries, keys and values, and perhaps a sliding window in the last blocks.

use serde_json::Value;

use crate::error::Result;
use crate::model::ModelSpec;
use crate::model::architectures::llama::{self, DEFAULTS, LLAMA_PATHS};
use crate::model::architectures::{Architecture, LLAMA_TENSORS};
use crate::model::json::Config;
use crate::model::spec::AttentionSpec;

/// `model_type: qwen2`.
pub(super) static QWEN2: Architecture =
    Architecture { model_type: "qwen2", parse, tensors: LLAMA_TENSORS, paths: LLAMA_PATHS };

fn parse(architecture: &'static Architecture, config: &Config<'_>) -> Result<ModelSpec> {
    llama::only_silu(config)?;
    let spec = llama::base(architecture, config, &DEFAULTS)?;
    let windows = windows(config, &spec)?;
    let attention = AttentionSpec { qkv_bias: true, ..spec.attention };
    Ok(ModelSpec { attention, ..spec }.with_windows(&windows))
}

/// The windows of Qwen's blocks: by `layer_types`, else from block `max_window_layers` on; none without
/// `use_sliding_window`.
pub(super) fn windows(config: &Config<'_>, spec: &ModelSpec) -> Result<Vec<Option<usize>>> {
    let slides = config.flag_or("use_sliding_window", false)?;
    let window = llama::sliding_window(config, Some(4096))?.filter(|_| slides);
    let first = config.get("max_window_layers").and_then(Value::as_u64).map_or(28, |first| first as usize);
    if config.get("layer_types").is_some() {
        return llama::windows(config, spec, window);
    }
    Ok((0..spec.blocks.len()).map(|layer| window.filter(|_| layer >= first)).collect())
}
