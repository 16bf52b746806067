//! The `tokens:` section of a pipeline.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::tokens::chat::config::ChatConfig;

/// How documents become sequences, and which positions are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    /// Tokens in a sequence, at most.
    #[serde(default = "default_context_length")]
    #[schemars(range(min = 2, max = 1_048_576))]
    pub context_length: u32,
    /// `concat`: documents one after the other, cut every `context_length` tokens; `pad`: each document alone, cut into
    /// sequences of which the last is shorter; `truncate`: each document alone, its rest dropped (counted).
    #[serde(default)]
    pub packing: Packing,
    /// Put BOS at the start of every attention context: of each sequence, and of each document when
    /// `attend_across_documents` is false. `auto`: as the model's own tokenizer does, and not before rows that are token ids
    /// already; `validate` and `plan` show what that is.
    #[serde(default)]
    pub prepend_bos: PrependBos,
    /// What stands between two documents of a sequence.
    #[serde(default)]
    pub separator: Separator,
    /// How conversations (`corpus.messages_field`) become text, and whose rows are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<ChatConfig>,
    /// Whether tokens may attend to earlier documents of their sequence. If not, positions restart with each document.
    #[serde(default)]
    pub attend_across_documents: bool,
    /// Rows that are computed but not kept.
    #[serde(default)]
    pub exclude: ExcludeConfig,
    /// Tokens in one forward pass, about: a batch holds `max(1, batch_tokens / context_length)` sequences.
    #[serde(default = "default_batch_tokens")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub batch_tokens: u32,
    /// Units that are open at a time, so that neighbours in the stream come from different documents.
    #[serde(default = "default_interleave")]
    #[schemars(range(min = 1, max = 1024))]
    pub interleave: u32,
}

/// Whether BOS starts attention contexts: `auto`, `true` or `false`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrependBos {
    /// As the model's tokenizer does; see [`crate::tokens::special`].
    #[default]
    Auto,
    /// Yes.
    Yes,
    /// No.
    No,
}

impl From<bool> for PrependBos {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

impl Serialize for PrependBos {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Yes => serializer.serialize_bool(true),
            Self::No => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for PrependBos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl Visitor<'_> for Word {
            type Value = PrependBos;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("auto, true or false")
            }

            fn visit_bool<E: de::Error>(self, yes: bool) -> Result<PrependBos, E> {
                Ok(yes.into())
            }

            // variables (`${X}`) come as text
            fn visit_str<E: de::Error>(self, word: &str) -> Result<PrependBos, E> {
                match word {
                    "auto" => Ok(PrependBos::Auto),
                    "true" => Ok(PrependBos::Yes),
                    "false" => Ok(PrependBos::No),
                    _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }
        }
        deserializer.deserialize_any(Word)
    }
}

impl JsonSchema for PrependBos {
    fn schema_name() -> Cow<'static, str> {
        "PrependBos".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["boolean", "string"], "pattern": "^(auto|true|false)$", "x-rule": "must be auto, true or false",
            "description": "Whether BOS starts attention contexts."})
    }
}

/// How documents fill sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Documents one after the other, cut every `context_length` tokens.
    #[default]
    Concat,
    /// Each document alone, in as many sequences as it needs.
    Pad,
    /// Each document alone, in one sequence; the rest is dropped and counted.
    Truncate,
}

/// What stands between documents. It never starts a sequence: a document that ends exactly where its sequence does is
/// followed by none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Separator {
    /// The end-of-sequence token, as the last token of each document.
    #[default]
    Eos,
    /// The beginning-of-sequence token, as the last token of each document.
    Bos,
    /// Nothing.
    None,
}

/// Rows that are computed but not kept; each is counted with its reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExcludeConfig {
    /// Rows at special tokens: BOS, EOS, padding and the tokenizer's added special tokens.
    #[serde(default = "default_true")]
    pub special: bool,
    /// Rows at these positions, as the model sees them (they restart with each document unless documents attend across).
    #[serde(default)]
    pub positions: Vec<u32>,
    /// Rows whose norm at any captured site (attention patterns aside) is above this many times the site's median, which
    /// is measured once on the run's first batches. `null`: keep all. A few tokens of real models reach 100 times the
    /// median, and losses then measure little else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1.0))]
    pub norm_above_median: Option<f64>,
}

impl Default for ExcludeConfig {
    fn default() -> Self {
        Self { special: true, positions: Vec::new(), norm_above_median: None }
    }
}

impl Default for TokensConfig {
    fn default() -> Self {
        Self {
            context_length: default_context_length(),
            packing: Packing::default(),
            prepend_bos: PrependBos::Auto,
            separator: Separator::default(),
            chat: None,
            attend_across_documents: false,
            exclude: ExcludeConfig::default(),
            batch_tokens: default_batch_tokens(),
            interleave: default_interleave(),
        }
    }
}

impl TokensConfig {
    /// Sequences in one batch.
    pub fn batch_sequences(&self) -> usize {
        (self.batch_tokens / self.context_length).max(1) as usize
    }
}

fn default_context_length() -> u32 {
    1024
}

fn default_batch_tokens() -> u32 {
    4096
}

fn default_interleave() -> u32 {
    4
}

fn default_true() -> bool {
    true
}
