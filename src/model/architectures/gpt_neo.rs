//! GPT-Neo: GPT-2 with unscaled scores, separate matrices for q, k and v without biases, and a window in every second block.

use serde_json::Value;

use crate::error::Result;
use crate::hooks::{ModulePaths, Site};
use crate::model::ModelSpec;
use crate::model::architectures::gpt2::{self, GPT_TENSORS, Sizes};
use crate::model::architectures::{Architecture, QkvNames, TensorNames};
use crate::model::json::Config;
use crate::model::spec::AttentionSpec;

/// `model_type: gpt_neo`.
pub(super) static GPT_NEO: Architecture = Architecture {
    model_type: "gpt_neo",
    parse,
    tensors: TensorNames {
        qkv: QkvNames::Separate(["attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"]),
        out: "attn.attention.out_proj",
        ..GPT_TENSORS
    },
    paths: ModulePaths {
        blocks: &["transformer.h", "h"],
        in_block: &[
            ("", Site::ResidPost),
            (".input", Site::ResidPre),
            (".ln_1", Site::Ln1Out),
            (".ln_1.input", Site::ResidPre),
            (".attn.attention.q_proj", Site::Q),
            (".attn.attention.k_proj", Site::K),
            (".attn.attention.v_proj", Site::V),
            (".attn", Site::AttnOut),
            (".attn.input", Site::Ln1Out),
            (".attn.attention", Site::AttnOut),
            (".attn.attention.out_proj", Site::AttnOut),
            (".attn.attention.out_proj.input", Site::Z),
            (".ln_2", Site::Ln2Out),
            (".ln_2.input", Site::ResidMid),
            (".mlp.c_fc", Site::MlpPre),
            (".mlp.c_fc.input", Site::Ln2Out),
            (".mlp.act", Site::MlpPost),
            (".mlp.act.input", Site::MlpPre),
            (".mlp", Site::MlpOut),
            (".mlp.input", Site::Ln2Out),
            (".mlp.c_proj", Site::MlpOut),
            (".mlp.c_proj.input", Site::MlpPost),
        ],
        outside: &[
            ("transformer.wte", Site::Embed),
            ("wte", Site::Embed),
            ("transformer.wpe", Site::PosEmbed),
            ("wpe", Site::PosEmbed),
            ("transformer.ln_f", Site::LnFinalOut),
            ("ln_f", Site::LnFinalOut),
            ("lm_head.input", Site::LnFinalOut),
        ],
    },
};

fn parse(architecture: &'static Architecture, config: &Config<'_>) -> Result<ModelSpec> {
    let d_model = config.count("hidden_size")?;
    let sizes = Sizes {
        d_model,
        n_heads: config.count("num_heads")?,
        n_layers: config.layers("num_layers")?,
        d_mlp: config.count_or("intermediate_size", 4 * d_model)?,
        max_positions: config.count_or("max_position_embeddings", 2048)?,
    };
    let spec = gpt2::base(architecture, config, sizes)?;
    let windows = windows(config, spec.blocks.len())?;
    let attention = AttentionSpec { scale: 1.0, qkv_bias: false, ..spec.attention };
    Ok(ModelSpec { attention, ..spec }.with_windows(&windows))
}

/// The window of each `local` block.
fn windows(config: &Config<'_>, n_layers: usize) -> Result<Vec<Option<usize>>> {
    let window = config.count_or("window_size", 256)?;
    let kinds = match config.get("attention_types") {
        None => ["global", "local"].iter().copied().cycle().take(n_layers).collect(),
        Some(types) => expanded(types, n_layers).ok_or_else(|| {
            config.wrong(
                "attention_types",
                &format!("must be pairs of a list of kinds and a count, for {n_layers} layers"),
            )
        })?,
    };
    let of = |kind: &str| match kind {
        "global" => Ok(None),
        "local" => Ok(Some(window)),
        _ => Err(config.wrong("attention_types", "may hold global and local")),
    };
    kinds.into_iter().map(of).collect()
}

/// `[[["global", "local"], 2]]` is global, local, global, local.
fn expanded(types: &Value, n_layers: usize) -> Option<Vec<&str>> {
    let mut kinds = Vec::new();
    for pair in types.as_array()? {
        let [cycle, times] = pair.as_array()?.as_slice() else { return None };
        let cycle: Vec<&str> = cycle.as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?;
        let times = times.as_u64().filter(|times| *times <= n_layers as u64)?;
        (0..times).for_each(|_| kinds.extend_from_slice(&cycle));
    }
    (kinds.len() == n_layers).then_some(kinds)
}
