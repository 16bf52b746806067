//! The `corpus:` section of a pipeline.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::corpus::Follow;
use crate::units::{ByteSize, Percent};

/// Where the text comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum CorpusConfig {
    /// One JSON object a line; `.gz` and `.zst` files are read as they are.
    Jsonl {
        /// Local paths or object-store URLs; globs (`*`, `**`, `?`, `[a-z]`, `{a,b}`) allowed.
        #[schemars(length(min = 1), inner(length(min = 1)))]
        paths: Vec<String>,
        /// The key that holds the text. At most one of `field`, `tokens_field` and `messages_field`; `text` if none is given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        field: Option<String>,
        /// The key that holds a list of token ids (pre-tokenised rows; the model then needs no tokenizer).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens_field: Option<String>,
        /// The key that holds a conversation: a list of messages `{role, content}` (or `{from, value}`), which the model's
        /// chat template renders (see `tokens.chat`). A list under the key `tools` goes with it. Instead of `field`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        messages_field: Option<String>,
        /// How much input one unit of work holds, about.
        #[serde(default = "default_unit_bytes")]
        #[schemars(extend("minimum" = 1))]
        unit_bytes: ByteSize,
        /// Share of documents set aside for evaluation, chosen by document hash.
        #[serde(default = "default_holdout")]
        holdout: Percent,
        /// Whether files that appear while the pipeline works, or between its runs, are read after those that were there:
        /// `true` looks every minute, a time such as `30s` as often. The pipeline then never ends by itself while it has a
        /// dataset, or a trainer that wants more rows. Local files are taken when they did not change for as long.
        #[serde(default, skip_serializing_if = "Follow::is_off")]
        follow: Follow,
    },
    /// Plain text files; `.gz` and `.zst` files are read as they are.
    Text {
        /// Local paths or object-store URLs; globs allowed.
        #[schemars(length(min = 1), inner(length(min = 1)))]
        paths: Vec<String>,
        /// What one document is.
        #[serde(default)]
        document: TextDocument,
        /// How much input one unit of work holds, about.
        #[serde(default = "default_unit_bytes")]
        #[schemars(extend("minimum" = 1))]
        unit_bytes: ByteSize,
        /// Share of documents set aside for evaluation, chosen by document hash.
        #[serde(default = "default_holdout")]
        holdout: Percent,
        /// Whether files that appear while the pipeline works, or between its runs, are read after those that were there:
        /// `true` looks every minute, a time such as `30s` as often. The pipeline then never ends by itself while it has a
        /// dataset, or a trainer that wants more rows. Local files are taken when they did not change for as long.
        #[serde(default, skip_serializing_if = "Follow::is_off")]
        follow: Follow,
    },
    /// Parquet files with a text column or a column of token id lists.
    Parquet {
        /// Local paths or object-store URLs; globs allowed.
        #[schemars(length(min = 1), inner(length(min = 1)))]
        paths: Vec<String>,
        /// The column that holds the text. At most one of `field`, `tokens_field` and `messages_field`; `text` if none is given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        field: Option<String>,
        /// The column that holds lists of token ids.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens_field: Option<String>,
        /// The column that holds conversations: lists of messages `{role, content}` (or `{from, value}`), or such lists as
        /// JSON in text. The model's chat template renders them (see `tokens.chat`). Instead of `field`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        messages_field: Option<String>,
        /// How much input one unit of work holds, about.
        #[serde(default = "default_unit_bytes")]
        #[schemars(extend("minimum" = 1))]
        unit_bytes: ByteSize,
        /// Share of documents set aside for evaluation, chosen by document hash.
        #[serde(default = "default_holdout")]
        holdout: Percent,
        /// Whether files that appear while the pipeline works, or between its runs, are read after those that were there:
        /// `true` looks every minute, a time such as `30s` as often. The pipeline then never ends by itself while it has a
        /// dataset, or a trainer that wants more rows. Local files are taken when they did not change for as long.
        #[serde(default, skip_serializing_if = "Follow::is_off")]
        follow: Follow,
    },
}

/// What one document of a plain text file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextDocument {
    /// The whole file, up to 16 MiB; a larger one is dropped and counted.
    #[default]
    File,
    /// Every line.
    Line,
    /// Text between blank lines.
    Paragraph,
}

fn default_unit_bytes() -> ByteSize {
    ByteSize(64 << 20)
}

fn default_holdout() -> Percent {
    Percent::from_share(0.01)
}

impl CorpusConfig {
    /// The paths and globs as written.
    pub fn paths(&self) -> &[String] {
        match self {
            Self::Jsonl { paths, .. } | Self::Text { paths, .. } | Self::Parquet { paths, .. } => paths,
        }
    }

    /// How much input one unit of work holds, about.
    pub fn unit_bytes(&self) -> ByteSize {
        match self {
            Self::Jsonl { unit_bytes, .. } | Self::Text { unit_bytes, .. } | Self::Parquet { unit_bytes, .. } => {
                *unit_bytes
            }
        }
    }

    /// Share of documents set aside for evaluation.
    pub fn holdout(&self) -> Percent {
        match self {
            Self::Jsonl { holdout, .. } | Self::Text { holdout, .. } | Self::Parquet { holdout, .. } => *holdout,
        }
    }

    /// Whether, and how often, new files are looked for.
    pub fn follow(&self) -> Follow {
        match self {
            Self::Jsonl { follow, .. } | Self::Text { follow, .. } | Self::Parquet { follow, .. } => *follow,
        }
    }

    /// Whether documents come as token ids.
    pub fn pre_tokenised(&self) -> bool {
        match self {
            Self::Jsonl { tokens_field, .. } | Self::Parquet { tokens_field, .. } => tokens_field.is_some(),
            Self::Text { .. } => false,
        }
    }

    /// The field of conversations, if the documents are conversations.
    pub fn messages_field(&self) -> Option<&str> {
        match self {
            Self::Jsonl { messages_field, .. } | Self::Parquet { messages_field, .. } => messages_field.as_deref(),
            Self::Text { .. } => None,
        }
    }
}
