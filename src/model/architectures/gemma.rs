//! Gemma: llama with a GELU, norms whose files hold the weight minus 1, and a scaled embedding.

use crate::compute::model_ops::Activation;
use crate::error::Result;
use crate::model::ModelSpec;
use crate::model::architectures::llama::{self, DEFAULTS, Defaults, LLAMA_PATHS};
use crate::model::architectures::{Architecture, LLAMA_TENSORS};
use crate::model::json::Config;
use crate::model::spec::{AttentionSpec, MlpSpec, NormSpec};

/// `model_type: gemma`.
pub(super) static GEMMA: Architecture =
    Architecture { model_type: "gemma", parse, tensors: LLAMA_TENSORS, paths: LLAMA_PATHS };

fn parse(architecture: &'static Architecture, config: &Config<'_>) -> Result<ModelSpec> {
    // the first releases say `gelu` and mean the tanh form, as `hidden_activation` then made clear
    let key = if config.get("hidden_activation").is_some() { "hidden_activation" } else { "hidden_act" };
    config.get("hidden_act");
    config.one_of(key, "gelu_pytorch_tanh", &["gelu_pytorch_tanh", "gelu"])?;
    base(architecture, config, &Defaults { max_positions: 8192, ..GEMMA_DEFAULTS })
}

/// What all Gemmas assume.
pub(super) const GEMMA_DEFAULTS: Defaults = Defaults { tied: true, d_head: Some(256), ..DEFAULTS };

/// What all Gemmas share.
pub(super) fn base(architecture: &'static Architecture, config: &Config<'_>, defaults: &Defaults) -> Result<ModelSpec> {
    config.all_off(&["use_bidirectional_attention"])?;
    let spec = llama::base(architecture, config, defaults)?;
    let bias = config.flag_or("attention_bias", false)?;
    Ok(ModelSpec {
        norm: NormSpec { stored_minus_one: true, ..spec.norm },
        attention: AttentionSpec { qkv_bias: bias, out_bias: bias, ..spec.attention },
        mlp: MlpSpec { activation: Activation::GeluTanh, ..spec.mlp },
        embed_scale: Some((spec.d_model as f64).sqrt()),
        ..spec
    })
}
