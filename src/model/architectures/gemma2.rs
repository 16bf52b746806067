//! Gemma 2: norms before and after attention and MLP, soft caps of scores and logits, a window in every second block.

use crate::error::Result;
use crate::hooks::{ModulePaths, Site};
use crate::model::ModelSpec;
use crate::model::architectures::gemma::{self, GEMMA_DEFAULTS};
use crate::model::architectures::llama::{self, Defaults};
use crate::model::architectures::{Architecture, LLAMA_TENSORS, TensorNames};
use crate::model::json::Config;
use crate::model::spec::{AttentionSpec, BlockForm};

/// `model_type: gemma2`.
pub(super) static GEMMA2: Architecture = Architecture {
    model_type: "gemma2",
    parse,
    tensors: GEMMA2_TENSORS,
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
            (".self_attn", Site::AttnRaw),
            (".self_attn.input", Site::Ln1Out),
            (".self_attn.o_proj", Site::AttnRaw),
            (".self_attn.o_proj.input", Site::Z),
            (".post_attention_layernorm", Site::AttnOut),
            (".post_attention_layernorm.input", Site::AttnRaw),
            (".pre_feedforward_layernorm", Site::Ln2Out),
            (".pre_feedforward_layernorm.input", Site::ResidMid),
            (".mlp.gate_proj", Site::MlpPre),
            (".mlp.act_fn.input", Site::MlpPre),
            (".mlp.up_proj", Site::MlpPreLinear),
            (".mlp", Site::MlpRaw),
            (".mlp.input", Site::Ln2Out),
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

/// Names of a block with four norms.
pub(super) const GEMMA2_TENSORS: TensorNames = TensorNames {
    ln1_post: "post_attention_layernorm",
    ln2: "pre_feedforward_layernorm",
    ln2_post: "post_feedforward_layernorm",
    ..LLAMA_TENSORS
};

fn parse(architecture: &'static Architecture, config: &Config<'_>) -> Result<ModelSpec> {
    config.one_of("hidden_activation", "gelu_pytorch_tanh", &["gelu_pytorch_tanh"])?;
    config.get("hidden_act"); // written by older versions, read by none
    let spec = gemma::base(architecture, config, &Defaults { max_positions: 8192, ..GEMMA_DEFAULTS })?;
    let window = llama::sliding_window(config, Some(4096))?;
    let windows = match config.get("layer_types") {
        Some(_) => llama::windows(config, &spec, window)?,
        None => (0..spec.blocks.len()).map(|layer| window.filter(|_| layer % 2 == 0)).collect(),
    };
    let attention = AttentionSpec {
        scale: 1.0 / config.number_or("query_pre_attn_scalar", 256.0)?.sqrt(),
        softcap: softcap(config, "attn_logit_softcapping", Some(50.0))?,
        ..spec.attention
    };
    let logit_softcap = softcap(config, "final_logit_softcapping", Some(30.0))?;
    Ok(ModelSpec { form: BlockForm::PreAndPostNorm, attention, logit_softcap, ..spec }.with_windows(&windows))
}

/// A soft cap; `default` if the key is absent, none if it is null.
pub(super) fn softcap(config: &Config<'_>, key: &str, default: Option<f64>) -> Result<Option<f64>> {
    if !config.mentions(key) {
        return Ok(default);
    }
    config.get(key).map(|_| config.number(key)).transpose()
}
