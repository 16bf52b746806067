//! Llama and its many relatives: RMS norm, rotary positions, grouped-query attention, gated SiLU MLP. Most other families
//! differ from it in a few fields: [`base`] reads what they share.

use crate::compute::model_ops::{Activation, NormKind};
use crate::error::Result;
use crate::hooks::{ModulePaths, Site};
use crate::model::ModelSpec;
use crate::model::architectures::{Architecture, LLAMA_TENSORS};
use crate::model::json::Config;
use crate::model::rope::{self, LLAMA_ROPE, RopeDefaults};
use crate::model::spec::{AttentionSpec, BlockForm, BlockSpec, HeadNorm, MlpSpec, NormSpec};

/// `model_type: llama`.
pub(super) static LLAMA: Architecture =
    Architecture { model_type: "llama", parse, tensors: LLAMA_TENSORS, paths: LLAMA_PATHS };

/// Llama's module paths, which other families share.
pub(super) const LLAMA_PATHS: ModulePaths = ModulePaths {
    blocks: &["model.layers", "layers"],
    in_block: &[
        ("", Site::ResidPost),
        (".input", Site::ResidPre),
        (".input_layernorm", Site::Ln1Out),
        (".input_layernorm.input", Site::ResidPre),
        (".self_attn", Site::AttnOut),
        (".self_attn.input", Site::Ln1Out),
        (".self_attn.q_proj", Site::Q),
        (".self_attn.k_proj", Site::K),
        (".self_attn.v_proj", Site::V),
        (".self_attn.o_proj", Site::AttnOut),
        (".self_attn.o_proj.input", Site::Z),
        (".post_attention_layernorm", Site::Ln2Out),
        (".post_attention_layernorm.input", Site::ResidMid),
        (".mlp", Site::MlpOut),
        (".mlp.input", Site::Ln2Out),
        (".mlp.gate_proj", Site::MlpPre),
        (".mlp.act_fn.input", Site::MlpPre),
        (".mlp.up_proj", Site::MlpPreLinear),
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
};

fn parse(architecture: &'static Architecture, config: &Config<'_>) -> Result<ModelSpec> {
    only_silu(config)?;
    let spec = base(architecture, config, &Defaults { max_positions: 2048, ..DEFAULTS })?;
    config.all_off(&["partial_rotary_factor"])?;
    let windows = windows(config, &spec, None)?;
    if windows.iter().any(Option::is_some) {
        return Err(config.wrong("layer_types", "must be full_attention throughout"));
    }
    // transformers ignores a window here, other readers of such files do not: whoever wrote it meant something
    if config.flag_or("use_sliding_window", true)? {
        config.all_off(&["sliding_window"])?;
    } else {
        config.get("sliding_window");
    }
    config.get("pretraining_tp");
    let bias = config.flag_or("attention_bias", false)?;
    Ok(ModelSpec {
        attention: AttentionSpec { qkv_bias: bias, out_bias: bias, ..spec.attention },
        mlp: MlpSpec { bias: config.flag_or("mlp_bias", false)?, ..spec.mlp },
        ..spec
    })
}

/// What a family assumes where `config.json` is silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    /// `rms_norm_eps`.
    pub(super) eps: f64,
    /// `max_position_embeddings`.
    pub(super) max_positions: usize,
    /// `tie_word_embeddings`.
    pub(super) tied: bool,
    /// `head_dim`, if it is not the residual width divided by the heads.
    pub(super) d_head: Option<usize>,
    /// The one rotary embedding; none if the family reads its own.
    pub(super) rope: Option<RopeDefaults>,
}

/// Those of most.
pub(super) const DEFAULTS: Defaults =
    Defaults { eps: 1e-6, max_positions: 32_768, tied: false, d_head: None, rope: Some(LLAMA_ROPE) };

/// What llama's relatives share: no biases, full attention, one rotary embedding, a SiLU (which they check: `hidden_act` is not
/// read here).
pub(super) fn base(architecture: &'static Architecture, config: &Config<'_>, defaults: &Defaults) -> Result<ModelSpec> {
    let n_heads = config.count("num_attention_heads")?;
    let d_model = config.count("hidden_size")?;
    let d_head = match defaults.d_head {
        Some(width) => config.count_or("head_dim", width)?,
        None => config.head_width(d_model, n_heads)?,
    };
    let max_positions = config.count_or("max_position_embeddings", defaults.max_positions)?;
    let n_layers = config.layers("num_hidden_layers")?;
    Ok(ModelSpec {
        architecture,
        d_model,
        n_heads,
        n_kv_heads: config.kv_heads(n_heads)?,
        d_head,
        d_mlp: config.count("intermediate_size")?,
        vocab_size: config.count("vocab_size")?,
        max_positions,
        norm: NormSpec {
            kind: NormKind::Rms,
            eps: config.number_or("rms_norm_eps", defaults.eps)?,
            stored_minus_one: false,
        },
        form: BlockForm::PreNorm,
        attention: AttentionSpec {
            scale: 1.0 / (d_head as f64).sqrt(),
            softcap: None,
            qkv_bias: false,
            out_bias: false,
            head_norm: HeadNorm::Absent,
        },
        mlp: MlpSpec { gated: true, activation: Activation::Silu, bias: false },
        experts: None,
        ropes: defaults.rope.iter().map(|r| rope::parse(config, d_head, max_positions, *r)).collect::<Result<_>>()?,
        blocks: vec![BlockSpec::default(); n_layers as usize],
        embed_scale: None,
        logit_softcap: None,
        head_bias: false,
        tied_head: config.flag_or("tie_word_embeddings", defaults.tied)?,
        bos: config.token("bos_token_id")?,
        eos: config.tokens("eos_token_id")?,
        pad: config.token("pad_token_id")?,
    })
}

/// Refuse an activation function other than SiLU.
pub(super) fn only_silu(config: &Config<'_>) -> Result<()> {
    config.one_of("hidden_act", "silu", &["silu", "swish"])
}

/// The window of each block: `window` where `layer_types` says `sliding_attention`; none if there are no `layer_types`.
pub(super) fn windows(config: &Config<'_>, spec: &ModelSpec, window: Option<usize>) -> Result<Vec<Option<usize>>> {
    let Some(types) = config.get("layer_types") else { return Ok(vec![None; spec.blocks.len()]) };
    let types = types.as_array().filter(|types| types.len() == spec.blocks.len());
    let types = types.ok_or_else(|| config.wrong("layer_types", "must be a list with an item for each layer"))?;
    let of = |kind: &serde_json::Value| match kind.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") => match window {
            Some(window) => Ok(Some(window)),
            None => Err(config.wrong("layer_types", "has sliding_attention, but there is no window for it")),
        },
        _ => Err(config.wrong("layer_types", "may hold full_attention and sliding_attention")),
    };
    types.iter().map(of).collect()
}

/// `sliding_window`; `default` if the key is absent, none if it is null.
pub(super) fn sliding_window(config: &Config<'_>, default: Option<usize>) -> Result<Option<usize>> {
    if !config.mentions("sliding_window") {
        return Ok(default);
    }
    config.get("sliding_window").map(|_| config.count("sliding_window")).transpose()
}

impl ModelSpec {
    /// With these windows.
    pub(super) fn with_windows(mut self, windows: &[Option<usize>]) -> Self {
        for (block, window) in self.blocks.iter_mut().zip(windows) {
            block.window = *window;
        }
        self
    }
}
