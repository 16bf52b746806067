//! GPT-2: layer norms, learned positions, one fused matrix for q, k and v, GELU MLP, biases everywhere.

use crate::compute::model_ops::{Activation, NormKind};
use crate::error::Result;
use crate::hooks::{ModulePaths, Site};
use crate::model::ModelSpec;
use crate::model::architectures::{Architecture, LLAMA_TENSORS, QkvNames, TensorNames};
use crate::model::json::Config;
use crate::model::spec::{AttentionSpec, BlockForm, BlockSpec, HeadNorm, MlpSpec, NormSpec};

/// `model_type: gpt2`.
pub(super) static GPT2: Architecture = Architecture {
    model_type: "gpt2",
    parse,
    tensors: TensorNames { qkv: QkvNames::Thirds("attn.c_attn"), out: "attn.c_proj", transposed: true, ..GPT_TENSORS },
    paths: ModulePaths {
        blocks: &["transformer.h", "h"],
        in_block: &[
            ("", Site::ResidPost),
            (".input", Site::ResidPre),
            (".ln_1", Site::Ln1Out),
            (".ln_1.input", Site::ResidPre),
            (".attn", Site::AttnOut),
            (".attn.input", Site::Ln1Out),
            (".attn.c_attn.input", Site::Ln1Out),
            (".attn.c_proj", Site::AttnOut),
            (".attn.c_proj.input", Site::Z),
            (".ln_2", Site::Ln2Out),
            (".ln_2.input", Site::ResidMid),
            (".mlp", Site::MlpOut),
            (".mlp.input", Site::Ln2Out),
            (".mlp.c_fc", Site::MlpPre),
            (".mlp.c_fc.input", Site::Ln2Out),
            (".mlp.act", Site::MlpPost),
            (".mlp.act.input", Site::MlpPre),
            (".mlp.c_proj", Site::MlpOut),
            (".mlp.c_proj.input", Site::MlpPost),
        ],
        outside: &[
            ("transformer.wte", Site::Embed),
            ("wte", Site::Embed),
            ("transformer.wpe", Site::PosEmbed),
            ("wpe", Site::PosEmbed),
            ("transformer.ln_f", Site::LnFinalOut),
            ("ln_f", Site::LnFinalOut),
            ("lm_head.input", Site::LnFinalOut),
        ],
    },
};

/// What gpt2 and gpt_neo share.
pub(super) const GPT_TENSORS: TensorNames = TensorNames {
    embed: "wte",
    positions: "wpe",
    blocks: "h",
    ln1: "ln_1",
    ln2: "ln_2",
    mlp: &["mlp.c_fc", "mlp.c_proj"],
    ln_final: "ln_f",
    ..LLAMA_TENSORS
};

fn parse(architecture: &'static Architecture, config: &Config<'_>) -> Result<ModelSpec> {
    config.all_off(&["add_cross_attention", "scale_attn_by_inverse_layer_idx"])?;
    if !config.flag_or("scale_attn_weights", true)? {
        return Err(config.wrong("scale_attn_weights", "must be true: unscaled attention is not supported"));
    }
    let d_model = config.count("n_embd")?;
    let sizes = Sizes {
        d_model,
        n_heads: config.count("n_head")?,
        n_layers: config.layers("n_layer")?,
        d_mlp: config.count_or("n_inner", 4 * d_model)?,
        max_positions: config.count_or("n_positions", 1024)?,
    };
    base(architecture, config, sizes)
}

/// Sizes, which the families name differently.
pub(super) struct Sizes {
    pub(super) d_model: usize,
    pub(super) n_heads: usize,
    pub(super) n_layers: u32,
    pub(super) d_mlp: usize,
    pub(super) max_positions: usize,
}

/// What gpt2 and gpt_neo share.
pub(super) fn base(architecture: &'static Architecture, config: &Config<'_>, sizes: Sizes) -> Result<ModelSpec> {
    let key = "activation_function";
    let activation = match config.get(key).map(|_| config.text(key)).transpose()? {
        None | Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Activation::GeluTanh,
        Some("gelu") => Activation::GeluErf,
        Some("relu") => Activation::Relu,
        Some(_) => {
            return Err(config.wrong(key, "is not supported: there are gelu_new, gelu_pytorch_tanh, gelu and relu"));
        }
    };
    let Sizes { d_model, n_heads, n_layers, d_mlp, max_positions } = sizes;
    let d_head = config.head_width(d_model, n_heads)?;
    Ok(ModelSpec {
        architecture,
        d_model,
        n_heads,
        n_kv_heads: n_heads,
        d_head,
        d_mlp,
        vocab_size: config.count("vocab_size")?,
        max_positions,
        norm: NormSpec {
            kind: NormKind::Layer,
            eps: config.number_or("layer_norm_epsilon", 1e-5)?,
            stored_minus_one: false,
        },
        form: BlockForm::PreNorm,
        attention: AttentionSpec {
            scale: 1.0 / (d_head as f64).sqrt(),
            softcap: None,
            qkv_bias: true,
            out_bias: true,
            head_norm: HeadNorm::Absent,
        },
        mlp: MlpSpec { gated: false, activation, bias: true },
        experts: None,
        ropes: Vec::new(),
        blocks: vec![BlockSpec::default(); n_layers as usize],
        embed_scale: None,
        logit_softcap: None,
        head_bias: false,
        tied_head: config.flag_or("tie_word_embeddings", true)?,
        bos: config.token("bos_token_id")?,
        eos: config.tokens("eos_token_id")?,
        pad: config.token("pad_token_id")?,
    })
}
