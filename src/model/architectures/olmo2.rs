//! OLMo 2: norms follow attention and MLP instead of preceding them; queries and keys have norms over all heads.

use crate::error::Result;
use crate::hooks::{ModulePaths, Site};
use crate::model::ModelSpec;
use crate::model::architectures::llama::{self, DEFAULTS, Defaults};
use crate::model::architectures::{Architecture, LLAMA_TENSORS, TensorNames};
use crate::model::json::Config;
use crate::model::spec::{AttentionSpec, BlockForm, HeadNorm};

/// `model_type: olmo2`.
pub(super) static OLMO2: Architecture = Architecture {
    model_type: "olmo2",
    parse,
    tensors: TensorNames {
        ln1_post: "post_attention_layernorm",
        ln2_post: "post_feedforward_layernorm",
        ..LLAMA_TENSORS
    },
    paths: ModulePaths {
        blocks: &["model.layers", "layers"],
        in_block: &[
            ("", Site::ResidPost),
            (".input", Site::ResidPre),
            (".self_attn.q_proj", Site::Q),
            (".self_attn.k_proj", Site::K),
            (".self_attn.v_proj", Site::V),
            (".self_attn.q_norm", Site::QNormOut),
            (".self_attn.q_norm.input", Site::Q),
            (".self_attn.k_norm", Site::KNormOut),
            (".self_attn.k_norm.input", Site::K),
            (".self_attn", Site::AttnRaw),
            (".self_attn.input", Site::ResidPre),
            (".self_attn.o_proj", Site::AttnRaw),
            (".self_attn.o_proj.input", Site::Z),
            (".post_attention_layernorm", Site::AttnOut),
            (".post_attention_layernorm.input", Site::AttnRaw),
            (".mlp.gate_proj", Site::MlpPre),
            (".mlp.act_fn.input", Site::MlpPre),
            (".mlp.up_proj", Site::MlpPreLinear),
            (".mlp", Site::MlpRaw),
            (".mlp.input", Site::ResidMid),
            (".mlp.down_proj", Site::MlpRaw),
            (".mlp.down_proj.input", Site::MlpPost),
            (".post_feedforward_layernorm", Site::MlpOut),
            (".post_feedforward_layernorm.input", Site::MlpRaw),
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
    let spec = llama::base(architecture, config, &Defaults { eps: 1e-5, max_positions: 2048, ..DEFAULTS })?;
    llama::windows(config, &spec, None)?;
    let bias = config.flag_or("attention_bias", false)?;
    let attention = AttentionSpec { qkv_bias: bias, out_bias: bias, head_norm: HeadNorm::AllHeads, ..spec.attention };
    Ok(ModelSpec { form: BlockForm::PostNorm, attention, ..spec })
}
