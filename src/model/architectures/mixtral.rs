//! Mixtral: Mistral with a mixture of experts in every block.

use crate::error::Result;
use crate::hooks::{ModulePaths, Site};
use crate::model::ModelSpec;
use crate::model::architectures::llama::{self, DEFAULTS, Defaults};
use crate::model::architectures::{Architecture, ExpertNames, LLAMA_TENSORS, TensorNames, qwen3_moe};
use crate::model::json::Config;
use crate::model::rope::RopeDefaults;

/// `model_type: mixtral`.
pub(super) static MIXTRAL: Architecture = Architecture {
    model_type: "mixtral",
    parse,
    tensors: TensorNames {
        experts: ExpertNames {
            router: "block_sparse_moe.gate",
            experts: "block_sparse_moe.experts",
            matrices: ["w1", "w3", "w2"],
        },
        ..LLAMA_TENSORS
    },
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
            (".self_attn", Site::AttnOut),
            (".self_attn.input", Site::Ln1Out),
            (".self_attn.o_proj", Site::AttnOut),
            (".self_attn.o_proj.input", Site::Z),
            (".post_attention_layernorm", Site::Ln2Out),
            (".post_attention_layernorm.input", Site::ResidMid),
            (".block_sparse_moe.gate", Site::RouterLogits),
            (".block_sparse_moe.gate.input", Site::Ln2Out),
            (".block_sparse_moe", Site::MlpOut),
            (".block_sparse_moe.input", Site::Ln2Out),
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
    let rope = RopeDefaults { theta: ("rope_theta", 1e6), share: None };
    let spec = llama::base(
        architecture,
        config,
        &Defaults { eps: 1e-5, max_positions: 131_072, rope: Some(rope), ..DEFAULTS },
    )?;
    let window = llama::sliding_window(config, None)?;
    let windows = match config.get("layer_types") {
        Some(_) => llama::windows(config, &spec, window)?,
        None => vec![window; spec.blocks.len()],
    };
    let experts = Some(qwen3_moe::experts(config, "num_local_experts", spec.d_mlp, 2)?);
    let mut spec = ModelSpec { experts, ..spec }.with_windows(&windows);
    spec.blocks.iter_mut().for_each(|block| block.experts = true);
    Ok(spec)
}
