//! Phi-1, 1.5 and 2: attention and MLP read one layer norm of the same residual stream; biases everywhere.

use crate::compute::model_ops::{Activation, NormKind};
use crate::error::Result;
use crate::hooks::{ModulePaths, Site};
use crate::model::ModelSpec;
use crate::model::architectures::llama::{self, DEFAULTS, Defaults};
use crate::model::architectures::{Architecture, LLAMA_TENSORS, TensorNames};
use crate::model::json::Config;
use crate::model::rope::RopeDefaults;
use crate::model::spec::{AttentionSpec, BlockForm, HeadNorm, MlpSpec, NormSpec};

/// `model_type: phi`.
pub(super) static PHI: Architecture = Architecture {
    model_type: "phi",
    parse,
    tensors: TensorNames {
        out: "self_attn.dense",
        qk_norm: ["self_attn.q_layernorm", "self_attn.k_layernorm"],
        mlp: &["mlp.fc1", "mlp.fc2"],
        ln_final: "final_layernorm",
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
            (".self_attn.q_layernorm", Site::QNormOut),
            (".self_attn.q_layernorm.input", Site::Q),
            (".self_attn.k_layernorm", Site::KNormOut),
            (".self_attn.k_layernorm.input", Site::K),
            (".self_attn", Site::AttnOut),
            (".self_attn.input", Site::Ln1Out),
            (".self_attn.dense", Site::AttnOut),
            (".self_attn.dense.input", Site::Z),
            (".mlp.fc1", Site::MlpPre),
            (".mlp.fc1.input", Site::Ln1Out),
            (".mlp.activation_fn", Site::MlpPost),
            (".mlp.activation_fn.input", Site::MlpPre),
            (".mlp", Site::MlpOut),
            (".mlp.input", Site::Ln1Out),
            (".mlp.fc2", Site::MlpOut),
            (".mlp.fc2.input", Site::MlpPost),
        ],
        outside: &[
            ("model.embed_tokens", Site::Embed),
            ("embed_tokens", Site::Embed),
            ("model.final_layernorm", Site::LnFinalOut),
            ("final_layernorm", Site::LnFinalOut),
            ("lm_head.input", Site::LnFinalOut),
        ],
    },
};

fn parse(architecture: &'static Architecture, config: &Config<'_>) -> Result<ModelSpec> {
    let rope = RopeDefaults { theta: ("rope_theta", 10_000.0), share: Some(("partial_rotary_factor", 0.5)) };
    config.one_of("hidden_act", "gelu_new", &["gelu_new", "gelu_pytorch_tanh", "gelu_fast"])?;
    let spec = llama::base(architecture, config, &Defaults { max_positions: 2048, rope: Some(rope), ..DEFAULTS })?;
    let head_norm = if config.flag_or("qk_layernorm", false)? { HeadNorm::EachHead } else { HeadNorm::Absent };
    Ok(ModelSpec {
        norm: NormSpec {
            kind: NormKind::Layer,
            eps: config.number_or("layer_norm_eps", 1e-5)?,
            stored_minus_one: false,
        },
        form: BlockForm::ParallelSharedNorm,
        attention: AttentionSpec { qkv_bias: true, out_bias: true, head_norm, ..spec.attention },
        mlp: MlpSpec { gated: false, activation: Activation::GeluTanh, bias: true },
        head_bias: true,
        ..spec
    })
}
