//! `config.json` to [`ModelSpec`]: what a model computes, checked.
//!
//! An option that is known to change what a model of the family computes is either understood or refused by name, never
//! ignored. Options of training (dropout, initialisation) and of numerics alone (upcasting, tensor parallelism) are not read.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::hooks::{HookPoint, ModulePaths, PointShape, Site};
use crate::model::Architecture;

/// What a model computes.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The family.
    pub architecture: Architecture,
    /// Blocks.
    pub n_layers: u32,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Head width.
    pub d_head: usize,
    /// MLP width.
    pub d_mlp: usize,
    /// Token ids are below it.
    pub vocab_size: usize,
    /// Positions that the model was made for.
    pub max_positions: usize,
    /// The norms' epsilon.
    pub norm_eps: f64,
    /// Rotary position embedding, if the model has one.
    pub rope: Option<Rope>,
    /// Whether q, k, v and the output projection have biases.
    pub attention_bias: bool,
    /// Whether the MLP's matrices have biases.
    pub mlp_bias: bool,
    /// Whether the head is the token embedding.
    pub tied_head: bool,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence; the first one is written by a model that has several.
    pub eos: Vec<u32>,
    /// Padding.
    pub pad: Option<u32>,
}

/// Rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// How the wavelengths are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// Stretching of rotary wavelengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All by `factor`.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Long wavelengths by `factor`, short ones not at all, those between in between.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original_positions / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths below `original_positions / high_freq_factor` are short.
        high_freq_factor: f64,
        /// Context length before the stretching.
        original_positions: f64,
    },
}

impl ModelSpec {
    /// Read `config.json`'s contents.
    pub fn parse(config: &Value) -> Result<Self> {
        let config = Config::new(config)?;
        let architecture = Architecture::from_model_type(config.text("model_type")?)?;
        match architecture {
            Architecture::Llama => llama(&config),
            Architecture::Gpt2 => gpt2(&config),
        }
    }

    /// The points that the model has, along the forward pass. Attention patterns are as wide as `heads * context_length`.
    pub fn points(&self, context_length: usize) -> Vec<PointShape> {
        let own: &[Site] = match self.architecture {
            Architecture::Llama => &[Site::RotQ, Site::RotK, Site::MlpPreLinear],
            Architecture::Gpt2 => &[Site::PosEmbed],
        };
        let mut points = Vec::new();
        for site in Site::ALL.into_iter().filter(|site| COMMON_SITES.contains(site) || own.contains(site)) {
            let (width, heads) = self.shape(site, context_length);
            let layers = if site.in_block() { self.n_layers } else { 1 };
            let at = |layer| HookPoint { layer: site.in_block().then_some(layer), site, head: None };
            points.extend((0..layers).map(|layer| PointShape { point: at(layer), width, heads }));
        }
        points.sort_by_key(|shape| shape.point.forward_order());
        points
    }

    /// What Hugging Face calls the points.
    pub fn module_paths(&self) -> &'static ModulePaths {
        self.architecture.module_paths()
    }

    /// Values of a row at `site`, and the heads that it is made of.
    fn shape(&self, site: Site, context_length: usize) -> (usize, usize) {
        match site {
            Site::Q | Site::RotQ | Site::Z => (self.n_heads * self.d_head, self.n_heads),
            Site::K | Site::RotK | Site::V => (self.n_kv_heads * self.d_head, self.n_kv_heads),
            Site::Pattern => (self.n_heads * context_length, self.n_heads),
            Site::MlpPre | Site::MlpPreLinear | Site::MlpPost => (self.d_mlp, 1),
            _ => (self.d_model, 1),
        }
    }
}

/// What every architecture has.
const COMMON_SITES: [Site; 19] = [
    Site::Embed,
    Site::ResidPre,
    Site::Ln1Normalized,
    Site::Ln1Out,
    Site::Q,
    Site::K,
    Site::V,
    Site::Pattern,
    Site::Z,
    Site::AttnOut,
    Site::ResidMid,
    Site::Ln2Normalized,
    Site::Ln2Out,
    Site::MlpPre,
    Site::MlpPost,
    Site::MlpOut,
    Site::ResidPost,
    Site::LnFinalNormalized,
    Site::LnFinalOut,
];

// === architectures ===

/// Options of other models that also call themselves llama: refused unless they say "off".
const LLAMA_OFF: [&str; 20] = [
    "alibi",
    "attention_chunk_size",
    "attention_multiplier",
    "attn_logit_softcapping",
    "clip_qkv",
    "embedding_multiplier",
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "no_rope_layers",
    "num_experts",
    "num_local_experts",
    "partial_rotary_factor",
    "pruned_heads",
    "quantization_config",
    "qk_norm",
    "residual_multiplier",
    "rope_interleaved",
    "use_qk_norm",
    "use_sliding_window",
];

fn llama(config: &Config<'_>) -> Result<ModelSpec> {
    config.all_off(&LLAMA_OFF)?;
    if config.get("use_sliding_window").is_none() {
        config.all_off(&["sliding_window"])?;
    }
    config.only_full_attention()?;
    config.one_of("hidden_act", "silu", &["silu", "swish"])?;
    let n_heads = config.count("num_attention_heads")?;
    let d_model = config.count("hidden_size")?;
    let d_head = config.head_width(d_model, n_heads)?;
    if !d_head.is_multiple_of(2) {
        return Err(config.wrong("head_dim", "must be even for rotary position embedding"));
    }
    let max_positions = config.count_or("max_position_embeddings", 2048)?;
    Ok(ModelSpec {
        architecture: Architecture::Llama,
        n_layers: config.layers("num_hidden_layers")?,
        d_model,
        n_heads,
        n_kv_heads: config.kv_heads(n_heads)?,
        d_head,
        d_mlp: config.count("intermediate_size")?,
        vocab_size: config.count("vocab_size")?,
        max_positions,
        norm_eps: config.number_or("rms_norm_eps", 1e-6)?,
        rope: Some(rope(config)?),
        attention_bias: config.flag_or("attention_bias", false)?,
        mlp_bias: config.flag_or("mlp_bias", false)?,
        tied_head: config.flag_or("tie_word_embeddings", false)?,
        bos: config.token("bos_token_id")?,
        eos: config.tokens("eos_token_id")?,
        pad: config.token("pad_token_id")?,
    })
}

fn gpt2(config: &Config<'_>) -> Result<ModelSpec> {
    config.all_off(&[
        "add_cross_attention",
        "scale_attn_by_inverse_layer_idx",
        "quantization_config",
        "pruned_heads",
    ])?;
    if !config.flag_or("scale_attn_weights", true)? {
        return Err(config.wrong("scale_attn_weights", "must be true: unscaled attention is not supported"));
    }
    config.one_of("activation_function", "gelu_new", &["gelu_new", "gelu_pytorch_tanh"])?;
    let n_heads = config.count("n_head")?;
    let d_model = config.count("n_embd")?;
    Ok(ModelSpec {
        architecture: Architecture::Gpt2,
        n_layers: config.layers("n_layer")?,
        d_model,
        n_heads,
        n_kv_heads: n_heads,
        d_head: config.head_width(d_model, n_heads)?,
        d_mlp: config.count_or("n_inner", 4 * d_model)?,
        vocab_size: config.count("vocab_size")?,
        max_positions: config.count("n_positions")?,
        norm_eps: config.number_or("layer_norm_epsilon", 1e-5)?,
        rope: None,
        attention_bias: true,
        mlp_bias: true,
        tied_head: config.flag_or("tie_word_embeddings", true)?,
        bos: config.token("bos_token_id")?,
        eos: config.tokens("eos_token_id")?,
        pad: config.token("pad_token_id")?,
    })
}

/// Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).
fn rope(config: &Config<'_>) -> Result<Rope> {
    let key = if config.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
    let empty = Value::Object(Map::new());
    let value = config.get(key).unwrap_or(&empty);
    let options = value.as_object().ok_or_else(|| config.wrong(key, "must be an object"))?;
    let options = Config { values: options, path: format!("{key}.") };
    let kind_key = if options.get("rope_type").is_some() { "rope_type" } else { "type" };
    let kind = if options.get(kind_key).is_some() { options.text(kind_key)? } else { "default" };
    let (scaling, known): (RopeScaling, &[&str]) = match kind {
        "default" => (RopeScaling::Default, &[]),
        "linear" => (RopeScaling::Linear { factor: options.number("factor")? }, &["factor"]),
        "llama3" => {
            let scaling = RopeScaling::Llama3 {
                factor: options.number("factor")?,
                low_freq_factor: options.number("low_freq_factor")?,
                high_freq_factor: options.number("high_freq_factor")?,
                original_positions: options.number("original_max_position_embeddings")?,
            };
            (scaling, &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"])
        }
        _ => return Err(options.wrong(kind_key, "is not supported: there are default, linear and llama3")),
    };
    options.all_off(&["partial_rotary_factor"])?;
    let common = ["rope_type", "type", "rope_theta", "partial_rotary_factor"];
    if let Some(key) =
        options.values.keys().find(|key| !known.contains(&key.as_str()) && !common.contains(&key.as_str()))
    {
        return Err(options.wrong(key, &format!("is not an option of rope type `{kind}`")));
    }
    let theta = if options.get("rope_theta").is_some() {
        options.number("rope_theta")?
    } else {
        config.number_or("rope_theta", 10_000.0)?
    };
    Ok(Rope { theta, scaling })
}

// === reading JSON ===

/// An object of the configuration; `null` counts as absent.
struct Config<'a> {
    values: &'a Map<String, Value>,
    /// What stands before a key in messages.
    path: String,
}

impl<'a> Config<'a> {
    fn new(value: &'a Value) -> Result<Self> {
        let values = value.as_object().ok_or_else(|| Error::data("config.json must hold an object"))?;
        Ok(Self { values, path: String::new() })
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    fn require(&self, key: &str) -> Result<&'a Value> {
        self.get(key).ok_or_else(|| Error::data(format!("config.json: `{}{key}` is missing", self.path)))
    }

    fn wrong(&self, key: &str, rule: &str) -> Error {
        let value = self.values.get(key).map_or_else(|| "absent".to_owned(), Value::to_string);
        Error::data(format!("config.json: `{}{key}` ({value}) {rule}", self.path))
    }

    fn text(&self, key: &str) -> Result<&'a str> {
        self.require(key)?.as_str().ok_or_else(|| self.wrong(key, "must be a string"))
    }

    fn number(&self, key: &str) -> Result<f64> {
        let number = self.require(key)?.as_f64().filter(|x| x.is_finite() && *x > 0.0);
        number.ok_or_else(|| self.wrong(key, "must be a positive number"))
    }

    fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        if self.get(key).is_some() { self.number(key) } else { Ok(default) }
    }

    /// A dimension. The bound keeps products of three in 64 bits.
    fn count(&self, key: &str) -> Result<usize> {
        let count = self.require(key)?.as_u64().filter(|n| (1..=1 << 20).contains(n));
        count.map(|n| n as usize).ok_or_else(|| self.wrong(key, "must be a whole number from 1 to 1048576"))
    }

    fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.get(key).is_some() { self.count(key) } else { Ok(default) }
    }

    fn layers(&self, key: &str) -> Result<u32> {
        let layers = self.count(key)?;
        if layers > 4096 { Err(self.wrong(key, "must be at most 4096")) } else { Ok(layers as u32) }
    }

    fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "must be true or false")),
            None => Ok(default),
        }
    }

    fn one_of(&self, key: &str, default: &str, known: &[&str]) -> Result<()> {
        let value = if self.get(key).is_some() { self.text(key)? } else { default };
        if known.contains(&value) {
            Ok(())
        } else {
            Err(self.wrong(key, &format!("is not supported: there is {}", known.join(", "))))
        }
    }

    /// Each of `keys` is absent or says that the option changes nothing: null, false, empty, or a factor of 1.
    fn all_off(&self, keys: &[&str]) -> Result<()> {
        for key in keys {
            let off = match self.get(key) {
                None | Some(Value::Bool(false)) => true,
                Some(Value::Number(n)) => n.as_f64() == Some(1.0),
                Some(Value::Array(items)) => items.is_empty(),
                Some(Value::Object(items)) => items.is_empty(),
                Some(_) => false,
            };
            if !off {
                return Err(self.wrong(key, "is not supported for this architecture"));
            }
        }
        Ok(())
    }

    fn only_full_attention(&self) -> Result<()> {
        let Some(types) = self.get("layer_types") else { return Ok(()) };
        let full = types.as_array().is_some_and(|types| types.iter().all(|t| t == "full_attention"));
        if full { Ok(()) } else { Err(self.wrong("layer_types", "must be full_attention throughout")) }
    }

    fn head_width(&self, d_model: usize, n_heads: usize) -> Result<usize> {
        if self.get("head_dim").is_some() {
            return self.count("head_dim");
        }
        if d_model.is_multiple_of(n_heads) {
            Ok(d_model / n_heads)
        } else {
            Err(Error::data(format!("config.json: the width {d_model} is not a multiple of the {n_heads} heads")))
        }
    }

    fn kv_heads(&self, n_heads: usize) -> Result<usize> {
        let kv_heads = self.count_or("num_key_value_heads", n_heads)?;
        if n_heads.is_multiple_of(kv_heads) {
            Ok(kv_heads)
        } else {
            Err(self.wrong("num_key_value_heads", &format!("must divide the {n_heads} query heads")))
        }
    }

    /// A token id; some configurations write -1 for "none".
    fn token(&self, key: &str) -> Result<Option<u32>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) if value.as_i64().is_some_and(|id| id < 0) => Ok(None),
            Some(value) => value
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .map(Some)
                .ok_or_else(|| self.wrong(key, "must be a token id")),
        }
    }

    /// A token id or a list of them.
    fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        let Some(Value::Array(items)) = self.get(key) else { return Ok(self.token(key)?.into_iter().collect()) };
        let ids = items.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
        ids.collect::<Option<_>>().ok_or_else(|| self.wrong(key, "must be a list of token ids"))
    }
}

#[cfg(test)]
mod tests;
