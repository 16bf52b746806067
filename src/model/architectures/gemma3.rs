//! Gemma 3, text: Gemma 2 with norms of queries and keys instead of soft caps, five blocks with a window to one without, and
//! a rotary embedding for either kind.

use crate::error::Result;
use crate::hooks::{ModulePaths, Site};
use crate::model::ModelSpec;
use crate::model::architectures::Architecture;
use crate::model::architectures::gemma::{self, GEMMA_DEFAULTS};
use crate::model::architectures::gemma2::{GEMMA2_TENSORS, softcap};
use crate::model::architectures::llama::{self, Defaults};
use crate::model::json::Config;
use crate::model::rope::{self, Rope, RopeDefaults};
use crate::model::spec::{AttentionSpec, BlockForm, HeadNorm};

/// `model_type: gemma3_text`.
pub(super) static GEMMA3: Architecture = Architecture {
    model_type: "gemma3_text",
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
            (".self_attn.q_norm", Site::QNormOut),
            (".self_attn.q_norm.input", Site::Q),
            (".self_attn.k_norm", Site::KNormOut),
            (".self_attn.k_norm.input", Site::K),
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

/// Rotary embedding of blocks without a window.
const GLOBAL: RopeDefaults = RopeDefaults { theta: ("rope_theta", 1e6), share: None };

/// Rotary embedding of blocks with one.
const LOCAL: RopeDefaults = RopeDefaults { theta: ("rope_local_base_freq", 1e4), share: None };

fn parse(architecture: &'static Architecture, config: &Config<'_>) -> Result<ModelSpec> {
    // transformers keeps this key for Gemma 3 and never applies it
    config.all_off(&["attn_logit_softcapping"])?;
    config.one_of("hidden_activation", "gelu_pytorch_tanh", &["gelu_pytorch_tanh"])?;
    let spec = gemma::base(architecture, config, &Defaults { max_positions: 131_072, rope: None, ..GEMMA_DEFAULTS })?;
    let window = llama::sliding_window(config, Some(4096))?;
    let period = config.count_or("sliding_window_pattern", config.count_or("_sliding_window_pattern", 6)?)?;
    let windows = match config.get("layer_types") {
        Some(_) => llama::windows(config, &spec, window)?,
        None => (0..spec.blocks.len()).map(|i| window.filter(|_| !(i + 1).is_multiple_of(period))).collect(),
    };
    let attention = AttentionSpec {
        scale: 1.0 / config.number_or("query_pre_attn_scalar", 256.0)?.sqrt(),
        head_norm: HeadNorm::EachHead,
        ..spec.attention
    };
    let logit_softcap = softcap(config, "final_logit_softcapping", None)?;
    let ropes = ropes(config, &spec)?;
    let spec = ModelSpec { form: BlockForm::PreAndPostNorm, attention, logit_softcap, ropes, ..spec };
    let mut spec = spec.with_windows(&windows);
    for block in &mut spec.blocks {
        block.rope = usize::from(block.window.is_some());
    }
    Ok(spec)
}

/// Without and with a window: an object each in `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` for
/// the one and `rope_local_base_freq` for the other (before).
fn ropes(config: &Config<'_>, spec: &ModelSpec) -> Result<Vec<Rope>> {
    let one = |options: Option<&Config<'_>>, defaults| {
        rope::parse_options(config, options, spec.d_head, spec.max_positions, defaults)
    };
    let Some(both) = config.object("rope_parameters")? else {
        let scaling = config.object("rope_scaling")?;
        return Ok(vec![one(scaling.as_ref(), GLOBAL)?, one(None, LOCAL)?]);
    };
    let (global, local) = (both.object("full_attention")?, both.object("sliding_attention")?);
    if let Some(key) = both.keys().find(|key| !["full_attention", "sliding_attention"].contains(key)) {
        return Err(both.wrong(key, "is not known: there are full_attention and sliding_attention"));
    }
    Ok(vec![one(global.as_ref(), GLOBAL)?, one(local.as_ref(), LOCAL)?])
}
