//! Metadata of a GGUF file to Hugging Face's `config.json`.
//!
//! Every key of the architecture is either translated or known to change nothing; another one is an error that names it.
//! What files do not say (activation, Gemma's attention scale, window patterns) is what llama.cpp has built in for the
//! architecture, given as Hugging Face names it.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result};
use crate::model::gguf::metadata::{Metadata, Value};
use crate::model::gguf::{Gguf, rope};

/// Keys that say nothing about what is computed.
const HARMLESS: [&str; 6] =
    ["vocab_size", "tensor_data_layout", "block_count", "context_length", "embedding_length", "attention.causal"];

/// The keys of one architecture, and which of them were looked at.
pub(super) struct View<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
    seen: RefCell<BTreeSet<String>>,
}

impl View<'_> {
    fn key(&self, key: &str) -> String {
        let key = format!("{}.{key}", self.architecture);
        self.seen.borrow_mut().insert(key.clone());
        key
    }

    /// `key` may be there and changes nothing.
    pub(super) fn ignore(&self, key: &str) {
        self.key(key);
    }

    pub(super) fn count(&self, key: &str) -> Result<Option<u64>> {
        self.metadata.count(&self.key(key))
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.metadata.number(&self.key(key))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>> {
        self.metadata.text(&self.key(key))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.metadata.flag(&self.key(key))
    }

    fn require<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| Error::data(format!("metadata `{}.{key}` is missing", self.architecture)))
    }

    fn needed(&self, key: &str) -> Result<u64> {
        self.require(key, self.count(key)?)
    }

    /// Each key of the architecture was looked at.
    fn all_seen(&self) -> Result<()> {
        let prefix = format!("{}.", self.architecture);
        let seen = self.seen.borrow();
        let is_unknown = |key: &&str| key.starts_with(&prefix) && !seen.contains(*key);
        match self.metadata.keys().find(is_unknown) {
            Some(key) => Err(Error::data(format!("metadata `{key}` is not supported for this architecture"))),
            None => Ok(()),
        }
    }
}

/// What all architectures share.
struct Common {
    layers: u64,
    d_model: u64,
    heads: u64,
    kv_heads: u64,
    d_head: u64,
    d_rotated: u64,
    d_mlp: u64,
    positions: u64,
    vocab: usize,
}

/// The configuration of the model in `gguf`.
pub(super) fn config(gguf: &Gguf) -> Result<Json> {
    let architecture = gguf.architecture()?;
    if gguf.metadata.count("split.count")?.is_some_and(|n| n > 1) {
        return Err(Error::data(
            "the model is split over several GGUF files: join them first (llama-gguf-split --merge)",
        ));
    }
    let view = View { metadata: &gguf.metadata, architecture, seen: RefCell::default() };
    HARMLESS.iter().for_each(|key| view.ignore(key));
    let common = common(gguf, &view)?;
    let mut config = shared(gguf, &common)?;
    let rope = if architecture == "gpt2" { Map::new() } else { rope::parameters(gguf, &view, common.d_rotated)? };
    let own = match architecture {
        "llama" => llama(gguf, &view)?,
        "qwen2" => qwen("qwen2", &view)?,
        "qwen3" => qwen("qwen3", &view)?,
        "qwen3moe" => qwen3_moe(&view)?,
        "gemma" => gemma(&view)?,
        "gemma2" => gemma2(&view, &common)?,
        "gemma3" => gemma3(&view, &common, &rope)?,
        "olmo2" => olmo2(&view)?,
        "phi2" => phi2(&view)?,
        "gptneox" => gpt_neox(&view)?,
        "gpt2" => gpt2(&view)?,
        _ => return Err(Error::data(format!("GGUF architecture `{architecture}` is not supported"))),
    };
    if architecture != "gpt2" {
        let rotates_all = common.d_rotated == common.d_head;
        config.insert("rope_parameters".to_owned(), Json::Object(rope));
        if ["phi2", "gptneox"].contains(&architecture) {
            config["rope_parameters"]["partial_rotary_factor"] = json!(common.d_rotated as f64 / common.d_head as f64);
        } else if !rotates_all {
            let wrong = format!("{} of {} values of a head are rotated", common.d_rotated, common.d_head);
            return Err(Error::data(format!("{wrong}: not supported for GGUF architecture {architecture}")));
        }
    }
    config.extend(own);
    view.all_seen()?;
    Ok(Json::Object(config))
}

fn common(gguf: &Gguf, view: &View<'_>) -> Result<Common> {
    let d_model = view.needed("embedding_length")?;
    let heads = view.needed("attention.head_count")?;
    let embedding = gguf.info("token_embd.weight").ok_or_else(|| Error::data("`token_embd.weight` is missing"))?;
    let &[vocab, _] = embedding.shape.as_slice() else {
        return Err(Error::data(format!("`token_embd.weight` has shape {:?}", embedding.shape)));
    };
    let by_width = d_model.checked_div(heads).unwrap_or(0);
    let rotated = view.count("rope.dimension_count")?;
    // llama's own key came later than the rotated width, which is all of a head there
    let d_head = match view.count("attention.key_length")? {
        Some(width) => width,
        None if view.architecture == "llama" => rotated.unwrap_or(by_width),
        None => by_width,
    };
    if view.count("attention.value_length")?.is_some_and(|width| width != d_head) {
        return Err(Error::data(format!("values of a head that are not {d_head} wide as its keys are not supported")));
    }
    Ok(Common {
        layers: view.needed("block_count")?,
        d_model,
        heads,
        kv_heads: view.count("attention.head_count_kv")?.unwrap_or(heads),
        d_head,
        d_rotated: rotated.unwrap_or(d_head),
        d_mlp: view.needed("feed_forward_length")?,
        positions: view.needed("context_length")?,
        vocab,
    })
}

/// Keys of all architectures; GPT-2 has its own names of dimensions.
fn shared(gguf: &Gguf, common: &Common) -> Result<Map<String, Json>> {
    let dimensions = if gguf.architecture()? == "gpt2" {
        json!({
            "n_layer": common.layers,
            "n_embd": common.d_model,
            "n_head": common.heads,
            "n_inner": common.d_mlp,
            "n_positions": common.positions,
        })
    } else {
        json!({
            "num_hidden_layers": common.layers,
            "hidden_size": common.d_model,
            "num_attention_heads": common.heads,
            "num_key_value_heads": common.kv_heads,
            "head_dim": common.d_head,
            "intermediate_size": common.d_mlp,
            "max_position_embeddings": common.positions,
        })
    };
    let mut config = object(dimensions);
    let mut set = |key: &str, value: Json| config.insert(key.to_owned(), value);
    set("vocab_size", json!(common.vocab));
    set("tie_word_embeddings", json!(gguf.info("output.weight").is_none()));
    for (key, stored) in [("bos", "bos"), ("eos", "eos"), ("pad", "padding")] {
        let id = gguf.metadata.count(&format!("tokenizer.ggml.{stored}_token_id"))?;
        // some writers say "none" by a number past all ids
        let id = id.filter(|&id| id < common.vocab as u64);
        set(&format!("{key}_token_id"), json!(id));
    }
    Ok(config)
}

// === architectures ===

fn object(value: Json) -> Map<String, Json> {
    match value {
        Json::Object(map) => map,
        _ => Map::new(),
    }
}

fn rms_eps(view: &View<'_>) -> Result<f64> {
    let key = "attention.layer_norm_rms_epsilon";
    view.require(key, view.number(key)?)
}

fn layer_eps(view: &View<'_>) -> Result<f64> {
    let key = "attention.layer_norm_epsilon";
    view.require(key, view.number(key)?)
}

/// Llama, Mistral and Mixtral, which llama.cpp tells apart by the experts alone. A window is in no file of theirs.
fn llama(gguf: &Gguf, view: &View<'_>) -> Result<Map<String, Json>> {
    let (experts, used) = (view.count("expert_count")?.unwrap_or(0), view.count("expert_used_count")?);
    let window = view.count("attention.sliding_window")?;
    let mut config = object(json!({"hidden_act": "silu", "rms_norm_eps": rms_eps(view)?}));
    if experts > 0 {
        let used = view.require("expert_used_count", used)?;
        let own = json!({"model_type": "mixtral", "num_local_experts": experts, "num_experts_per_tok": used,
            "sliding_window": window});
        config.extend(object(own));
    } else if let Some(window) = window {
        config.extend(object(json!({"model_type": "mistral", "sliding_window": window})));
    } else {
        let has = |name: &str| gguf.info(name).is_some();
        let own = json!({"model_type": "llama", "attention_bias": has("blk.0.attn_q.bias"),
            "mlp_bias": has("blk.0.ffn_up.bias")});
        config.extend(object(own));
    }
    Ok(config)
}

fn qwen(model_type: &str, view: &View<'_>) -> Result<Map<String, Json>> {
    Ok(object(json!({"model_type": model_type, "hidden_act": "silu", "rms_norm_eps": rms_eps(view)?,
        "use_sliding_window": false})))
}

fn qwen3_moe(view: &View<'_>) -> Result<Map<String, Json>> {
    for (key, off) in [("expert_group_count", 1), ("expert_group_used_count", 1), ("expert_shared_count", 0)] {
        if view.count(key)?.is_some_and(|n| n > off) {
            return Err(Error::data(format!("metadata `{}.{key}` is not supported", view.architecture)));
        }
    }
    let mut config = qwen("qwen3_moe", view)?;
    config.extend(object(json!({
        "num_experts": view.needed("expert_count")?,
        "num_experts_per_tok": view.needed("expert_used_count")?,
        "moe_intermediate_size": view.needed("expert_feed_forward_length")?,
        "norm_topk_prob": true,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    })));
    Ok(config)
}

fn gemma(view: &View<'_>) -> Result<Map<String, Json>> {
    let act = "gelu_pytorch_tanh";
    Ok(object(json!({"model_type": "gemma", "hidden_act": act, "hidden_activation": act,
        "rms_norm_eps": rms_eps(view)?})))
}

/// Attention scores are scaled by the width of a head, but in the one model of `largest` layers by width over heads.
fn query_scalar(common: &Common, largest: u64) -> u64 {
    if common.layers == largest { common.d_model.checked_div(common.heads).unwrap_or(0) } else { common.d_head }
}

fn gemma2(view: &View<'_>, common: &Common) -> Result<Map<String, Json>> {
    let types = (0..common.layers.min(4096)).map(|layer| if layer % 2 == 0 { SLIDING } else { FULL });
    Ok(object(json!({
        "model_type": "gemma2",
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": rms_eps(view)?,
        "attn_logit_softcapping": view.number("attn_logit_softcapping")?.unwrap_or(50.0),
        "final_logit_softcapping": view.number("final_logit_softcapping")?.unwrap_or(30.0),
        "sliding_window": view.count("attention.sliding_window")?.unwrap_or(4096),
        "layer_types": types.collect::<Vec<_>>(),
        "query_pre_attn_scalar": query_scalar(common, 46),
    })))
}

const SLIDING: &str = "sliding_attention";
const FULL: &str = "full_attention";

fn gemma3(view: &View<'_>, common: &Common, rope: &Map<String, Json>) -> Result<Map<String, Json>> {
    let window = view.count("attention.sliding_window")?;
    let pattern = view.key("attention.sliding_window_pattern");
    let types: Vec<&str> = match view.metadata.get(&pattern) {
        Some(Value::Numbers(slides)) if slides.iter().all(|slides| matches!(slides, Value::Bool(_))) => {
            slides.iter().map(|slides| if slides == Value::Bool(true) { SLIDING } else { FULL }).collect()
        }
        _ => {
            let every = view.metadata.count(&pattern)?.unwrap_or(6).max(1);
            let is_full = |layer: u64| window.is_none() || (layer + 1).is_multiple_of(every);
            (0..common.layers.min(4096)).map(|layer| if is_full(layer) { FULL } else { SLIDING }).collect()
        }
    };
    let local = view.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
    Ok(object(json!({
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": rms_eps(view)?,
        "attn_logit_softcapping": view.number("attn_logit_softcapping")?,
        "final_logit_softcapping": view.number("final_logit_softcapping")?,
        "sliding_window": window,
        "layer_types": types,
        "query_pre_attn_scalar": query_scalar(common, 62),
        "rope_parameters": {FULL: rope, SLIDING: {"rope_type": "default", "rope_theta": local}},
    })))
}

fn olmo2(view: &View<'_>) -> Result<Map<String, Json>> {
    Ok(object(json!({"model_type": "olmo2", "hidden_act": "silu", "rms_norm_eps": rms_eps(view)?})))
}

fn phi2(view: &View<'_>) -> Result<Map<String, Json>> {
    Ok(object(json!({"model_type": "phi", "hidden_act": "gelu_new", "layer_norm_eps": layer_eps(view)?})))
}

/// llama.cpp computes the tanh form of GELU here; the models were made with the exact one.
fn gpt_neox(view: &View<'_>) -> Result<Map<String, Json>> {
    Ok(object(json!({
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "layer_norm_eps": layer_eps(view)?,
        "attention_bias": true,
        "use_parallel_residual": view.flag("use_parallel_residual")?.unwrap_or(true),
    })))
}

fn gpt2(view: &View<'_>) -> Result<Map<String, Json>> {
    Ok(object(json!({
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": layer_eps(view)?,
    })))
}
