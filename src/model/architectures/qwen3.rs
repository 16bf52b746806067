//! Qwen 3: Qwen 2 with norms of each head's queries and keys instead of biases.

use crate::error::Result;
use crate::hooks::{ModulePaths, Site};
use crate::model::ModelSpec;
use crate::model::architectures::llama::{self, DEFAULTS, Defaults};
use crate::model::architectures::{Architecture, LLAMA_TENSORS, qwen2};
use crate::model::json::Config;
use crate::model::spec::{AttentionSpec, HeadNorm};

/// `model_type: qwen3`.
pub(super) static QWEN3: Architecture = Architecture {
    model_type: "qwen3",
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
            (".mlp.gate_proj", Site::MlpPre),
            (".mlp.act_fn.input", Site::MlpPre),
            (".mlp.up_proj", Site::MlpPreLinear),
            (".mlp", Site::MlpOut),
            (".mlp.input", Site::Ln2Out),
            (".mlp.down_proj", Site::MlpOut),
            (".mlp.down_proj.input", Site::MlpPost),
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
    let spec = llama::base(architecture, config, &Defaults { d_head: Some(128), ..DEFAULTS })?;
    let windows = qwen2::windows(config, &spec)?;
    let bias = config.flag_or("attention_bias", false)?;
    let attention = AttentionSpec { qkv_bias: bias, out_bias: bias, head_norm: HeadNorm::EachHead, ..spec.attention };
    Ok(ModelSpec { attention, ..spec }.with_windows(&windows))
}
