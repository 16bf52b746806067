//! Reading `config.json`.
//!
//! Every key that is read is remembered, so that a key which sounds as if it changed the numbers and which nobody reads is
//! refused instead of ignored.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Parts of names of options that change what a model computes.
const ARITHMETIC: [&str; 33] = [
    "act_fn",
    "activation",
    "alibi",
    "bias",
    "bidirectional",
    "capping",
    "chunk",
    "causal",
    "clip",
    "cross",
    "expert",
    "gate",
    "hidden_act",
    "logit",
    "ffn",
    "kv_lora",
    "lambda",
    "moe",
    "multiplier",
    "norm",
    "parallel",
    "position_embedding",
    "pruned",
    "qk_",
    "quant",
    "residual",
    "rope",
    "rotary",
    "scal",
    "sink",
    "softmax",
    "temperature",
    "window",
];

/// Options with such names that only training, generation or the way of computing reads.
const HARMLESS: [&str; 13] = [
    "activation_dropout",
    "attention_softmax_in_fp32",
    "chunk_size_feed_forward",
    "experts_implementation",
    "ffn_dropout",
    "output_router_logits",
    "pruning",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "_sliding_window_pattern",
    "summary_activation",
    "temperature",
    "top_p",
];

/// An object of the configuration; `null` counts as absent.
pub(in crate::model) struct Config<'a> {
    values: &'a Map<String, Value>,
    /// What stands before a key in messages.
    path: String,
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Config<'a> {
    pub(in crate::model) fn new(value: &'a Value) -> Result<Self> {
        let values = value.as_object().ok_or_else(|| Error::data("config.json must hold an object"))?;
        Ok(Self { values, path: String::new(), read: RefCell::default() })
    }

    /// The object at `key`, if there is one.
    pub(in crate::model) fn object(&self, key: &str) -> Result<Option<Config<'a>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let values = value.as_object().ok_or_else(|| self.wrong(key, "must be an object"))?;
        Ok(Some(Config { values, path: format!("{}{key}.", self.path), read: RefCell::default() }))
    }

    pub(in crate::model) fn get(&self, key: &str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(key.to_owned());
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, be it with `null`.
    pub(in crate::model) fn mentions(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The keys.
    pub(in crate::model) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.values.keys().map(String::as_str)
    }

    /// Refuse options that nobody read and that sound as if they changed the numbers, unless they say "off".
    pub(in crate::model) fn refuse_unread(&self) -> Result<()> {
        let read = self.read.borrow();
        let suspect = |key: &str| ARITHMETIC.iter().any(|part| key.contains(part)) && !HARMLESS.contains(&key);
        let mut unread = self.values.keys().filter(|key| !read.contains(*key) && suspect(key));
        match unread.find(|key| !is_off(self.values.get(*key))) {
            Some(key) => Err(self.wrong(
                key,
                "is not an option that is known for this `model_type`: it may change what the model computes",
            )),
            None => Ok(()),
        }
    }

    pub(in crate::model) fn require(&self, key: &str) -> Result<&'a Value> {
        self.get(key).ok_or_else(|| Error::data(format!("config.json: `{}{key}` is missing", self.path)))
    }

    pub(in crate::model) fn wrong(&self, key: &str, rule: &str) -> Error {
        let value = self.values.get(key).map_or_else(|| "absent".to_owned(), Value::to_string);
        Error::data(format!("config.json: `{}{key}` ({value}) {rule}", self.path))
    }

    pub(in crate::model) fn text(&self, key: &str) -> Result<&'a str> {
        self.require(key)?.as_str().ok_or_else(|| self.wrong(key, "must be a string"))
    }

    pub(in crate::model) fn number(&self, key: &str) -> Result<f64> {
        let number = self.require(key)?.as_f64().filter(|x| x.is_finite() && *x > 0.0);
        number.ok_or_else(|| self.wrong(key, "must be a positive number"))
    }

    pub(in crate::model) fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        if self.get(key).is_some() { self.number(key) } else { Ok(default) }
    }

    /// A dimension. The bound keeps products of three in 64 bits.
    pub(in crate::model) fn count(&self, key: &str) -> Result<usize> {
        let count = self.require(key)?.as_u64().filter(|n| (1..=1 << 20).contains(n));
        count.map(|n| n as usize).ok_or_else(|| self.wrong(key, "must be a whole number from 1 to 1048576"))
    }

    pub(in crate::model) fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.get(key).is_some() { self.count(key) } else { Ok(default) }
    }

    pub(in crate::model) fn layers(&self, key: &str) -> Result<u32> {
        let layers = self.count(key)?;
        if layers > 4096 { Err(self.wrong(key, "must be at most 4096")) } else { Ok(layers as u32) }
    }

    pub(in crate::model) fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "must be true or false")),
            None => Ok(default),
        }
    }

    pub(in crate::model) fn one_of(&self, key: &str, default: &str, known: &[&str]) -> Result<()> {
        let value = if self.get(key).is_some() { self.text(key)? } else { default };
        if known.contains(&value) {
            Ok(())
        } else {
            Err(self.wrong(key, &format!("is not supported: there is {}", known.join(", "))))
        }
    }

    /// Each of `keys` is absent or says that the option changes nothing: null, false, empty, or a factor of 1.
    pub(in crate::model) fn all_off(&self, keys: &[&str]) -> Result<()> {
        match keys.iter().find(|key| !is_off(self.get(key))) {
            Some(key) => Err(self.wrong(key, "is not supported for this architecture")),
            None => Ok(()),
        }
    }

    pub(in crate::model) fn head_width(&self, d_model: usize, n_heads: usize) -> Result<usize> {
        if self.get("head_dim").is_some() {
            return self.count("head_dim");
        }
        if d_model.is_multiple_of(n_heads) {
            Ok(d_model / n_heads)
        } else {
            Err(Error::data(format!("config.json: the width {d_model} is not a multiple of the {n_heads} heads")))
        }
    }

    pub(in crate::model) fn kv_heads(&self, n_heads: usize) -> Result<usize> {
        let kv_heads = self.count_or("num_key_value_heads", n_heads)?;
        if n_heads.is_multiple_of(kv_heads) {
            Ok(kv_heads)
        } else {
            Err(self.wrong("num_key_value_heads", &format!("must divide the {n_heads} query heads")))
        }
    }

    /// A token id; some configurations write -1 for "none".
    pub(in crate::model) fn token(&self, key: &str) -> Result<Option<u32>> {
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
    pub(in crate::model) fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        let Some(Value::Array(items)) = self.get(key) else { return Ok(self.token(key)?.into_iter().collect()) };
        let ids = items.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
        ids.collect::<Option<_>>().ok_or_else(|| self.wrong(key, "must be a list of token ids"))
    }
}

/// Whether a value says that an option changes nothing.
fn is_off(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::Number(n)) => n.as_f64() == Some(1.0),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(items)) => items.is_empty(),
        Some(_) => false,
    }
}
