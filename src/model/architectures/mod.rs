//! The families of models: of each, how `config.json` reads, what its tensors are called, and its module paths.
//!
//! One file each. The forward pass is one for all (`model/decoder.rs`): a family says with a [`ModelSpec`] which pieces its
//! blocks have, and with [`TensorNames`] where their weights are. `docs/adding-a-model.md` is the recipe.

mod gemma;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neo;
mod gpt_neox;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod phi;
mod qwen2;
mod qwen3;
mod qwen3_moe;

use std::fmt;

use crate::error::{Error, Result};
use crate::hooks::ModulePaths;
use crate::model::ModelSpec;
use crate::model::json::Config;

/// A family of models.
pub struct Architecture {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Reads `config.json`.
    pub(in crate::model) parse: fn(&'static Architecture, &Config<'_>) -> Result<ModelSpec>,
    /// Names of tensors in files.
    pub(in crate::model) tensors: TensorNames,
    /// Hugging Face module paths, and the sites that they name.
    pub paths: ModulePaths,
}

/// Every family, in the order of names.
pub static ARCHITECTURES: [&Architecture; 14] = [
    &gemma::GEMMA,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &gpt2::GPT2,
    &gpt_neo::GPT_NEO,
    &gpt_neox::GPT_NEOX,
    &llama::LLAMA,
    &mistral::MISTRAL,
    &mixtral::MIXTRAL,
    &olmo2::OLMO2,
    &phi::PHI,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &qwen3_moe::QWEN3_MOE,
];

impl Architecture {
    /// The architecture that `config.json` names.
    pub fn from_model_type(model_type: &str) -> Result<&'static Self> {
        let found = ARCHITECTURES.iter().find(|architecture| architecture.model_type == model_type);
        found.copied().ok_or_else(|| {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|architecture| architecture.model_type).collect();
            Error::data(format!(
                "config.json: `model_type` {model_type} is not supported: there are {}",
                known.join(", ")
            ))
        })
    }
}

impl PartialEq for Architecture {
    fn eq(&self, other: &Self) -> bool {
        self.model_type == other.model_type
    }
}

impl fmt::Debug for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type)
    }
}

/// Names of tensors, without the base model's prefix, and those in a block without the block's. `.weight` and `.bias` follow.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct TensorNames {
    /// The token embedding.
    pub(in crate::model) embed: &'static str,
    /// The position embedding, if positions are learned.
    pub(in crate::model) positions: &'static str,
    /// What stands before `.{layer}.`.
    pub(in crate::model) blocks: &'static str,
    /// The norm before attention.
    pub(in crate::model) ln1: &'static str,
    /// The norm after attention.
    pub(in crate::model) ln1_post: &'static str,
    /// The norm before the MLP.
    pub(in crate::model) ln2: &'static str,
    /// The norm after the MLP.
    pub(in crate::model) ln2_post: &'static str,
    /// Queries, keys and values.
    pub(in crate::model) qkv: QkvNames,
    /// Norms of queries and keys.
    pub(in crate::model) qk_norm: [&'static str; 2],
    /// Attention's output projection.
    pub(in crate::model) out: &'static str,
    /// A dense MLP's matrices: gate, up, down, or first and last.
    pub(in crate::model) mlp: &'static [&'static str],
    /// The mixture of experts.
    pub(in crate::model) experts: ExpertNames,
    /// The final norm.
    pub(in crate::model) ln_final: &'static str,
    /// The head, if it is not tied.
    pub(in crate::model) head: &'static str,
    /// Whether matrices are stored transposed, `[n_in, n_out]` (gpt2's `Conv1D`).
    pub(in crate::model) transposed: bool,
}

/// How queries, keys and values are stored.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) enum QkvNames {
    /// A matrix each.
    Separate([&'static str; 3]),
    /// One matrix: all queries, then all keys, then all values.
    Thirds(&'static str),
    /// One matrix: of each head its query, key and value.
    ByHead(&'static str),
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct ExpertNames {
    /// The router.
    pub(in crate::model) router: &'static str,
    /// What stands before an expert's number.
    pub(in crate::model) experts: &'static str,
    /// Gate, up and down of an expert.
    pub(in crate::model) matrices: [&'static str; 3],
}

/// Llama's names, which most families share.
pub(in crate::model) const LLAMA_TENSORS: TensorNames = TensorNames {
    embed: "embed_tokens",
    positions: "",
    blocks: "layers",
    ln1: "input_layernorm",
    ln1_post: "",
    ln2: "post_attention_layernorm",
    ln2_post: "",
    qkv: QkvNames::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    qk_norm: ["self_attn.q_norm", "self_attn.k_norm"],
    out: "self_attn.o_proj",
    mlp: &["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
    experts: ExpertNames {
        router: "mlp.gate",
        experts: "mlp.experts",
        matrices: ["gate_proj", "up_proj", "down_proj"],
    },
    ln_final: "norm",
    head: "lm_head",
    transposed: false,
};
