//! Mistral: llama with a sliding window in every block.

use crate::error::Result;
use crate::model::ModelSpec;
use crate::model::architectures::llama::{self, DEFAULTS, Defaults, LLAMA_PATHS};
use crate::model::architectures::{Architecture, LLAMA_TENSORS};
use crate::model::json::Config;

/// `model_type: mistral`.
pub(super) static MISTRAL: Architecture =
    Architecture { model_type: "mistral", parse, tensors: LLAMA_TENSORS, paths: LLAMA_PATHS };

fn parse(architecture: &'static Architecture, config: &Config<'_>) -> Result<ModelSpec> {
    llama::only_silu(config)?;
    let spec = llama::base(architecture, config, &Defaults { max_positions: 131_072, ..DEFAULTS })?;
    // null (v0.2 and later) means none; silence means the first version's
    let window = llama::sliding_window(config, Some(4096))?;
    // transformers gives every block the window and warns where `layer_types` says otherwise
    let windows = match config.get("layer_types") {
        Some(_) => llama::windows(config, &spec, window)?,
        None => vec![window; spec.blocks.len()],
    };
    if windows.iter().any(|w| *w != window) {
        return Err(config.wrong("layer_types", "must be the same throughout"));
    }
    Ok(spec.with_windows(&windows))
}
