//! Qwen 3 with a mixture of experts in some or all blocks.

use crate::error::Result;
use crate::hooks::{ModulePaths, Site};
use crate::model::ModelSpec;
use crate::model::architectures::llama::{self, DEFAULTS};
use crate::model::architectures::{Architecture, LLAMA_TENSORS};
use crate::model::json::Config;
use crate::model::spec::{AttentionSpec, ExpertsSpec, HeadNorm};

/// `model_type: qwen3_moe`.
pub(super) static QWEN3_MOE: Architecture = Architecture {
    model_type: "qwen3_moe",
    parse,
    tensors: LLAMA_TENSORS,
    paths: ModulePaths {
        blocks: &["model.layers", "layers"],
        in_block: &[
            ("", Site::ResidPost),
            (".input", Site::ResidPre),
            (".input_layernorm", Site::Ln1Out),
            (".input_layernorm.input", Site::ResidPre),
            (".self_attn.q_proj", Site::Q),
            (".self_attn.k_proj", Site::K),
            (".self_attn.v_proj", Site::V),
            (".self_attn.q_norm", Site::QNormOut),
            (".self_attn.q_norm.input", Site::Q),
            (".self_attn.k_norm", Site::KNormOut),
            (".self_attn.k_norm.input", Site::K),
            (".self_attn", Site::AttnOut),
            (".self_attn.input", Site::Ln1Out),
            (".self_attn.o_proj", Site::AttnOut),
            (".self_attn.o_proj.input", Site::Z),
            (".post_attention_layernorm", Site::Ln2Out),
            (".post_attention_layernorm.input", Site::ResidMid),
            (".mlp.gate", Site::RouterLogits),
            (".mlp.gate.input", Site::Ln2Out),
            (".mlp", Site::MlpOut),
            (".mlp.input", Site::Ln2Out),
            (".mlp.experts", Site::MlpOut),
        ],
        outside: &[
            ("model.embed_tokens", Site::Embed),
            ("embed_tokens", Site::Embed),
            ("model.norm", Site::LnFinalOut),
            ("norm", Site::LnFinalOut),
            ("lm_head.input", Site::LnFinalOut),
        ],
    },
};

fn parse(architecture: &'static Architecture, config: &Config<'_>) -> Result<ModelSpec> {
    llama::only_silu(config)?;
    let spec = llama::base(architecture, config, &DEFAULTS)?;
    if config.flag_or("use_sliding_window", false)? {
        return Err(config.wrong("use_sliding_window", "is not supported for this architecture"));
    }
    config.get("sliding_window");
    llama::windows(config, &spec, None)?;
    let bias = config.flag_or("attention_bias", false)?;
    let attention = AttentionSpec { qkv_bias: bias, out_bias: bias, head_norm: HeadNorm::EachHead, ..spec.attention };
    let experts = experts(config, "num_experts", config.count_or("moe_intermediate_size", 768)?, 8)?;
    let renormalise = config.flag_or("norm_topk_prob", false)?;
    let mut spec = ModelSpec { attention, experts: Some(ExpertsSpec { renormalise, ..experts }), ..spec };
    let dense = dense_layers(config)?;
    let step = config.count_or("decoder_sparse_step", 1)?;
    for (layer, block) in spec.blocks.iter_mut().enumerate() {
        block.experts = !dense.contains(&layer) && (layer + 1).is_multiple_of(step);
    }
    Ok(spec)
}

/// `num_experts` (`key`; both names occur) and `num_experts_per_tok`.
pub(super) fn experts(config: &Config<'_>, key: &str, d_expert: usize, chosen: usize) -> Result<ExpertsSpec> {
    let other = if key == "num_experts" { "num_local_experts" } else { "num_experts" };
    let key = if config.get(key).is_none() && config.get(other).is_some() { other } else { key };
    let count = config.count(key)?;
    let chosen = config.count_or("num_experts_per_tok", chosen)?;
    if chosen > count || count > 4096 {
        return Err(
            config.wrong("num_experts_per_tok", &format!("must be at most the {count} experts, they at most 4096"))
        );
    }
    Ok(ExpertsSpec { count, chosen, d_expert, renormalise: true })
}

/// Blocks without experts.
fn dense_layers(config: &Config<'_>) -> Result<Vec<usize>> {
    let Some(layers) = config.get("mlp_only_layers") else { return Ok(Vec::new()) };
    let layers = layers.as_array().and_then(|layers| {
        layers.iter().map(|layer| layer.as_u64().map(|layer| layer as usize)).collect::<Option<Vec<_>>>()
    });
    layers.ok_or_else(|| config.wrong("mlp_only_layers", "must be a list of layers"))
}
