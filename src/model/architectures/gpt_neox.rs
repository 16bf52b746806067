//! GPT-NeoX and Pythia: layer norms, partial rotary positions, one fused matrix for q, k and v, attention and MLP side by
//! side or one after the other.

use crate::compute::model_ops::{Activation, NormKind};
use crate::error::Result;
use crate::hooks::{ModulePaths, Site};
use crate::model::ModelSpec;
use crate::model::architectures::llama::{self, DEFAULTS, Defaults};
use crate::model::architectures::{Architecture, LLAMA_TENSORS, QkvNames, TensorNames};
use crate::model::json::Config;
use crate::model::rope::RopeDefaults;
use crate::model::spec::{AttentionSpec, BlockForm, MlpSpec, NormSpec};

/// `model_type: gpt_neox`.
pub(super) static GPT_NEOX: Architecture = Architecture {
    model_type: "gpt_neox",
    parse,
    tensors: TensorNames {
        embed: "embed_in",
        qkv: QkvNames::ByHead("attention.query_key_value"),
        out: "attention.dense",
        mlp: &["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"],
        ln_final: "final_layer_norm",
        head: "embed_out",
        ..LLAMA_TENSORS
    },
    paths: ModulePaths {
        blocks: &["gpt_neox.layers", "layers"],
        in_block: &[
            ("", Site::ResidPost),
            (".input", Site::ResidPre),
            (".input_layernorm", Site::Ln1Out),
            (".input_layernorm.input", Site::ResidPre),
            (".attention", Site::AttnOut),
            (".attention.input", Site::Ln1Out),
            (".attention.query_key_value.input", Site::Ln1Out),
            (".attention.dense", Site::AttnOut),
            (".attention.dense.input", Site::Z),
            (".post_attention_layernorm", Site::Ln2Out),
            (".mlp.dense_h_to_4h", Site::MlpPre),
            (".mlp.dense_h_to_4h.input", Site::Ln2Out),
            (".mlp.act", Site::MlpPost),
            (".mlp.act.input", Site::MlpPre),
            (".mlp", Site::MlpOut),
            (".mlp.input", Site::Ln2Out),
            (".mlp.dense_4h_to_h", Site::MlpOut),
            (".mlp.dense_4h_to_h.input", Site::MlpPost),
        ],
        outside: &[
            ("gpt_neox.embed_in", Site::Embed),
            ("embed_in", Site::Embed),
            ("gpt_neox.final_layer_norm", Site::LnFinalOut),
            ("final_layer_norm", Site::LnFinalOut),
            ("embed_out.input", Site::LnFinalOut),
            ("lm_head.input", Site::LnFinalOut),
        ],
    },
};

fn parse(architecture: &'static Architecture, config: &Config<'_>) -> Result<ModelSpec> {
    let activation = match config.get("hidden_act").map(|_| config.text("hidden_act")).transpose()? {
        None | Some("gelu") => Activation::GeluErf,
        Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh") => Activation::GeluTanh,
        Some("relu") => Activation::Relu,
        Some(_) => {
            return Err(config.wrong("hidden_act", "is not supported: there are gelu, gelu_new, gelu_fast and relu"));
        }
    };
    let rope = RopeDefaults { theta: ("rotary_emb_base", 10_000.0), share: Some(("rotary_pct", 0.25)) };
    let spec = llama::base(architecture, config, &Defaults { max_positions: 2048, rope: Some(rope), ..DEFAULTS })?;
    let bias = config.flag_or("attention_bias", true)?;
    let parallel = config.flag_or("use_parallel_residual", true)?;
    Ok(ModelSpec {
        norm: NormSpec {
            kind: NormKind::Layer,
            eps: config.number_or("layer_norm_eps", 1e-5)?,
            stored_minus_one: false,
        },
        form: if parallel { BlockForm::Parallel } else { BlockForm::PreNorm },
        attention: AttentionSpec { qkv_bias: bias, out_bias: bias, ..spec.attention },
        mlp: MlpSpec { gated: false, activation, bias: true },
        ..spec
    })
}
