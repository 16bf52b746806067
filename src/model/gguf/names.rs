//! llama.cpp's names of tensors to those of published Hugging Face models, and what its converter did to values, undone.

use crate::error::{Error, Result};
use crate::model::gguf::{Gguf, TensorInfo, rope};
use crate::model::weights::{Layout, Tensor};

/// How an architecture names its tensors.
pub(super) struct Naming {
    /// Outside of blocks: stored name, Hugging Face's name, both without `.weight` and `.bias`.
    outside: &'static [(&'static str, &'static str)],
    /// What stands before a block's number.
    blocks: &'static str,
    /// In a block.
    inside: &'static [(&'static str, &'static str, Change)],
}

/// Experts of a block, at most.
const EXPERTS_MAX: usize = 4096;

/// What the converter did to a tensor.
#[derive(Clone, Copy)]
enum Change {
    /// Nothing.
    None,
    /// Rows of rotary pairs side by side, in the query heads.
    PairedQ,
    /// The same in the key heads.
    PairedK,
    /// Transposed, if it is a matrix (`Conv1D`).
    Transposed,
    /// Queries, keys and values of all heads, one after the other.
    SplitHeads,
    /// Three tensors, one after the other: the name has `{}` for `q`, `k`, `v`.
    Thirds,
    /// One tensor for each expert, one after the other: the name has `{}` for its number.
    Experts,
}

use Change::{Experts, None as Same, PairedK, PairedQ, SplitHeads, Thirds, Transposed};

const OUTSIDE: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

const LLAMA: Naming = Naming {
    outside: OUTSIDE,
    blocks: "model.layers",
    inside: &[
        ("attn_norm", "input_layernorm", Same),
        ("attn_q", "self_attn.q_proj", PairedQ),
        ("attn_k", "self_attn.k_proj", PairedK),
        ("attn_v", "self_attn.v_proj", Same),
        ("attn_output", "self_attn.o_proj", Same),
        ("ffn_norm", "post_attention_layernorm", Same),
        ("ffn_gate", "mlp.gate_proj", Same),
        ("ffn_up", "mlp.up_proj", Same),
        ("ffn_down", "mlp.down_proj", Same),
        ("ffn_gate_inp", "block_sparse_moe.gate", Same),
        ("ffn_gate_exps", "block_sparse_moe.experts.{}.w1", Experts),
        ("ffn_down_exps", "block_sparse_moe.experts.{}.w2", Experts),
        ("ffn_up_exps", "block_sparse_moe.experts.{}.w3", Experts),
    ],
};

const QWEN: Naming = Naming {
    outside: OUTSIDE,
    blocks: "model.layers",
    inside: &[
        ("attn_norm", "input_layernorm", Same),
        ("attn_q", "self_attn.q_proj", Same),
        ("attn_k", "self_attn.k_proj", Same),
        ("attn_v", "self_attn.v_proj", Same),
        ("attn_q_norm", "self_attn.q_norm", Same),
        ("attn_k_norm", "self_attn.k_norm", Same),
        ("attn_output", "self_attn.o_proj", Same),
        ("ffn_norm", "post_attention_layernorm", Same),
        ("ffn_gate", "mlp.gate_proj", Same),
        ("ffn_up", "mlp.up_proj", Same),
        ("ffn_down", "mlp.down_proj", Same),
        ("ffn_gate_inp", "mlp.gate", Same),
        ("ffn_gate_exps", "mlp.experts.{}.gate_proj", Experts),
        ("ffn_up_exps", "mlp.experts.{}.up_proj", Experts),
        ("ffn_down_exps", "mlp.experts.{}.down_proj", Experts),
    ],
};

/// Gemma 2 and 3; Gemma has no norms after attention and MLP, so that `ffn_norm` is another one there.
const GEMMA2: Naming = Naming {
    outside: OUTSIDE,
    blocks: "model.layers",
    inside: &[
        ("attn_norm", "input_layernorm", Same),
        ("attn_q", "self_attn.q_proj", Same),
        ("attn_k", "self_attn.k_proj", Same),
        ("attn_v", "self_attn.v_proj", Same),
        ("attn_q_norm", "self_attn.q_norm", Same),
        ("attn_k_norm", "self_attn.k_norm", Same),
        ("attn_output", "self_attn.o_proj", Same),
        ("post_attention_norm", "post_attention_layernorm", Same),
        ("ffn_norm", "pre_feedforward_layernorm", Same),
        ("ffn_gate", "mlp.gate_proj", Same),
        ("ffn_up", "mlp.up_proj", Same),
        ("ffn_down", "mlp.down_proj", Same),
        ("post_ffw_norm", "post_feedforward_layernorm", Same),
    ],
};

const OLMO2: Naming = Naming {
    outside: OUTSIDE,
    blocks: "model.layers",
    inside: &[
        ("attn_q", "self_attn.q_proj", Same),
        ("attn_k", "self_attn.k_proj", Same),
        ("attn_v", "self_attn.v_proj", Same),
        ("attn_q_norm", "self_attn.q_norm", Same),
        ("attn_k_norm", "self_attn.k_norm", Same),
        ("attn_output", "self_attn.o_proj", Same),
        ("post_attention_norm", "post_attention_layernorm", Same),
        ("ffn_gate", "mlp.gate_proj", Same),
        ("ffn_up", "mlp.up_proj", Same),
        ("ffn_down", "mlp.down_proj", Same),
        ("post_ffw_norm", "post_feedforward_layernorm", Same),
    ],
};

const PHI2: Naming = Naming {
    outside: &[("token_embd", "model.embed_tokens"), ("output_norm", "model.final_layernorm"), ("output", "lm_head")],
    blocks: "model.layers",
    inside: &[
        ("attn_norm", "input_layernorm", Same),
        ("attn_qkv", "self_attn.{}_proj", Thirds),
        ("attn_q", "self_attn.q_proj", Same),
        ("attn_k", "self_attn.k_proj", Same),
        ("attn_v", "self_attn.v_proj", Same),
        ("attn_output", "self_attn.dense", Same),
        ("ffn_up", "mlp.fc1", Same),
        ("ffn_down", "mlp.fc2", Same),
    ],
};

const GPT_NEOX: Naming = Naming {
    outside: &[
        ("token_embd", "gpt_neox.embed_in"),
        ("output_norm", "gpt_neox.final_layer_norm"),
        ("output", "embed_out"),
    ],
    blocks: "gpt_neox.layers",
    inside: &[
        ("attn_norm", "input_layernorm", Same),
        ("attn_qkv", "attention.query_key_value", SplitHeads),
        ("attn_output", "attention.dense", Same),
        ("ffn_norm", "post_attention_layernorm", Same),
        ("ffn_up", "mlp.dense_h_to_4h", Same),
        ("ffn_down", "mlp.dense_4h_to_h", Same),
    ],
};

const GPT2: Naming = Naming {
    outside: &[
        ("token_embd", "transformer.wte"),
        ("position_embd", "transformer.wpe"),
        ("output_norm", "transformer.ln_f"),
        ("output", "lm_head"),
    ],
    blocks: "transformer.h",
    inside: &[
        ("attn_norm", "ln_1", Same),
        ("attn_qkv", "attn.c_attn", Transposed),
        ("attn_output", "attn.c_proj", Transposed),
        ("ffn_norm", "ln_2", Same),
        ("ffn_up", "mlp.c_fc", Transposed),
        ("ffn_down", "mlp.c_proj", Transposed),
    ],
};

impl Naming {
    /// Of a llama.cpp architecture.
    fn of(architecture: &str) -> Option<&'static Self> {
        Some(match architecture {
            "llama" => &LLAMA,
            "qwen2" | "qwen3" | "qwen3moe" | "gemma" => &QWEN,
            "gemma2" | "gemma3" => &GEMMA2,
            "olmo2" => &OLMO2,
            "phi2" => &PHI2,
            "gptneox" => &GPT_NEOX,
            "gpt2" => &GPT2,
            _ => return None,
        })
    }
}

/// All tensors by Hugging Face's names.
pub(super) fn tensors(gguf: &Gguf, file: usize) -> Result<Vec<(String, Tensor)>> {
    let architecture = gguf.architecture()?;
    let naming = Naming::of(architecture)
        .ok_or_else(|| Error::data(format!("GGUF architecture `{architecture}` is not supported")))?;
    let heads = |key: &str| gguf.metadata.count(&format!("{architecture}.attention.{key}"));
    let n_heads = heads("head_count")?.unwrap_or(0) as usize;
    let heads = Heads { q: n_heads, kv: heads("head_count_kv")?.map_or(n_heads, |n| n as usize) };
    let plus_one = architecture.starts_with("gemma");
    let (mut named, mut unknown) = (Vec::new(), Vec::new());
    for info in gguf.infos().iter().filter(|info| info.name != rope::FACTORS) {
        match naming.place(info, heads, file)? {
            Some(found) => named.extend(found.into_iter().map(|(name, tensor)| {
                let norm = plus_one && name.ends_with("norm.weight");
                (name, Tensor { plus_one: norm, ..tensor })
            })),
            None => unknown.push(format!("`{}`", info.name)),
        }
    }
    if unknown.is_empty() {
        return Ok(named);
    }
    let n = unknown.len();
    unknown.truncate(8);
    Err(Error::data(format!("{n} tensors are not part of GGUF architecture {architecture}: {}", unknown.join(", "))))
}

#[derive(Clone, Copy)]
struct Heads {
    q: usize,
    kv: usize,
}

impl Naming {
    /// The Hugging Face tensors that `info` stores; none if the architecture has no such tensor.
    fn place(&self, info: &TensorInfo, heads: Heads, file: usize) -> Result<Option<Vec<(String, Tensor)>>> {
        let Some((stem, kind)) = info.name.rsplit_once('.').filter(|(_, kind)| ["weight", "bias"].contains(kind))
        else {
            return Ok(None);
        };
        let tensor = Tensor::new(file, info.shape.clone(), info.encoding.clone(), info.offset);
        if let Some((_, name)) = self.outside.iter().find(|(stored, _)| *stored == stem) {
            return Ok(Some(vec![(format!("{name}.{kind}"), tensor)]));
        }
        let Some((layer, part)) = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
            return Ok(None);
        };
        if layer.is_empty() || !layer.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(None);
        }
        let layer = format!("{}.{layer}", self.blocks);
        // files from before 2024 store each expert by itself: `ffn_gate.3`
        let (part, expert) = match part.rsplit_once('.').filter(|(_, n)| n.parse::<u32>().is_ok()) {
            Some((part, expert)) => (format!("{part}_exps"), Some(expert)),
            None => (part.to_owned(), None),
        };
        let Some((_, name, change)) = self.inside.iter().find(|(stored, ..)| *stored == part) else {
            return Ok(None);
        };
        let name = format!("{layer}.{name}.{kind}");
        if let Some(expert) = expert {
            return Ok(Some(vec![(name.replace("{}", expert), tensor)]));
        }
        change.undo(name, tensor, heads).map(Some)
    }
}

impl Change {
    fn undo(self, name: String, tensor: Tensor, heads: Heads) -> Result<Vec<(String, Tensor)>> {
        let single = |name, layout: Layout, tensor: Tensor| {
            if layout.fits(tensor.shape.first().copied().unwrap_or(0)) {
                Ok(vec![(name, Tensor { layout, ..tensor })])
            } else {
                Err(Error::data(format!("`{name}` {:?} cannot have {} heads", tensor.shape, heads.q)))
            }
        };
        match self {
            Same => single(name, Layout::Same, tensor),
            PairedQ => single(name, Layout::PairedRows { heads: heads.q }, tensor),
            PairedK => single(name, Layout::PairedRows { heads: heads.kv }, tensor),
            SplitHeads => single(name, Layout::SplitHeads { heads: heads.q }, tensor),
            Transposed if tensor.shape.len() == 2 => {
                let shape = vec![tensor.shape[1], tensor.shape[0]];
                single(name, Layout::Transposed, Tensor { shape, ..tensor })
            }
            Transposed => single(name, Layout::Same, tensor),
            Thirds => match tensor.shape[..] {
                [rows, ref row @ ..] if rows.is_multiple_of(3) => {
                    let shape = [&[rows / 3], row].concat();
                    parts(&name, &tensor, &shape, ["q", "k", "v"].into_iter().map(str::to_owned))
                }
                _ => Err(Error::data(format!("`{name}` {:?} is not three tensors", tensor.shape))),
            },
            Experts => match tensor.shape[..] {
                [n @ ..=EXPERTS_MAX, rows, columns] => {
                    parts(&name, &tensor, &[rows, columns], (0..n).map(|expert| expert.to_string()))
                }
                _ => Err(Error::data(format!("`{name}` {:?} is not a matrix for each expert", tensor.shape))),
            },
        }
    }
}

/// The parts of `tensor`, each of `shape`, one after the other.
fn parts(
    name: &str,
    tensor: &Tensor,
    shape: &[usize],
    labels: impl Iterator<Item = String>,
) -> Result<Vec<(String, Tensor)>> {
    let values = shape.iter().product::<usize>() as u64;
    // where a type cannot be read, nobody looks at the offset
    let bytes = tensor.encoding.as_ref().map_or(Some(0), |encoding| encoding.bytes(values));
    let bytes = bytes.ok_or_else(|| Error::data(format!("`{name}` cannot be cut into parts of {shape:?}")))?;
    let part = |(i, label): (usize, String)| {
        let offset = tensor.offset + i as u64 * bytes;
        (name.replace("{}", &label), Tensor { shape: shape.to_vec(), offset, ..tensor.clone() })
    };
    Ok(labels.enumerate().map(part).collect())
}
