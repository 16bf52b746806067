//! Counts of data that was read but not kept, by reason. Nothing is ever dropped without an entry here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Why something was not kept. The noun each reason counts is given by [`DropReason::counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// A document whose bytes are not UTF-8.
    InvalidUtf8,
    /// A line that is not JSON, or not a JSON object.
    BrokenJson,
    /// A record without the configured field.
    MissingField,
    /// The configured field holds another type than expected (or a token id outside the vocabulary).
    WrongType,
    /// A document without text or tokens.
    EmptyDocument,
    /// A line or document beyond the size that is read at all.
    OversizedDocument,
    /// A conversation whose messages are not messages, or that the chat template refuses.
    MalformedConversation,
    /// A document that the tokenizer refuses.
    Untokenizable,
    /// A file that ends in the middle of its compressed stream, or whose compressed data is damaged: counted once a file.
    DamagedFile,
    /// A file with nothing in it.
    EmptyFile,
    /// A document of the held-out split: set aside for evaluation, never trained on or stored.
    Holdout,
    /// Tokens beyond `context_length` under `packing: truncate`.
    Truncated,
    /// Rows at special tokens (BOS, EOS, padding, added special tokens).
    SpecialToken,
    /// Rows of a conversation outside what the assistant wrote, where only that is kept.
    OutsideAssistant,
    /// Rows at an excluded position.
    ExcludedPosition,
    /// Rows whose norm at a captured site is an outlier.
    OutlierNorm,
    /// Rows with a NaN or an infinity at a captured site.
    NonFinite,
    /// Rows that `sample` left out of the stored dataset (trainers still see them).
    Sampled,
    /// Rows that a slow trainer with `when_slow: drop` did not take.
    SlowTrainer,
    /// Rows of documents that a replay holds out for evaluation.
    HeldOutRow,
    /// Rows left in a mixing buffer when the run ended: fewer than a batch.
    BufferTail,
}

/// What a [`DropReason`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noun {
    /// Whole documents (or lines that would have been one).
    Documents,
    /// Whole files.
    Files,
    /// Tokens before the forward pass.
    Tokens,
    /// Rows of activations.
    Rows,
}

impl DropReason {
    /// All reasons, in the order of the data path.
    pub const ALL: [Self; 21] = [
        Self::InvalidUtf8,
        Self::BrokenJson,
        Self::MissingField,
        Self::WrongType,
        Self::EmptyDocument,
        Self::OversizedDocument,
        Self::MalformedConversation,
        Self::Untokenizable,
        Self::DamagedFile,
        Self::EmptyFile,
        Self::Holdout,
        Self::Truncated,
        Self::SpecialToken,
        Self::OutsideAssistant,
        Self::ExcludedPosition,
        Self::OutlierNorm,
        Self::NonFinite,
        Self::Sampled,
        Self::SlowTrainer,
        Self::HeldOutRow,
        Self::BufferTail,
    ];

    /// Name in commits, metrics and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidUtf8 => "invalid_utf8",
            Self::BrokenJson => "broken_json",
            Self::MissingField => "missing_field",
            Self::WrongType => "wrong_type",
            Self::EmptyDocument => "empty_document",
            Self::OversizedDocument => "oversized_document",
            Self::MalformedConversation => "malformed_conversation",
            Self::Untokenizable => "untokenizable",
            Self::DamagedFile => "damaged_file",
            Self::EmptyFile => "empty_file",
            Self::Holdout => "holdout",
            Self::Truncated => "truncated",
            Self::SpecialToken => "special_token",
            Self::OutsideAssistant => "outside_assistant",
            Self::ExcludedPosition => "excluded_position",
            Self::OutlierNorm => "outlier_norm",
            Self::NonFinite => "non_finite",
            Self::Sampled => "sampled",
            Self::SlowTrainer => "slow_trainer",
            Self::HeldOutRow => "held_out_row",
            Self::BufferTail => "buffer_tail",
        }
    }

    /// The noun it counts.
    pub fn counts(self) -> Noun {
        match self {
            Self::InvalidUtf8
            | Self::BrokenJson
            | Self::MissingField
            | Self::WrongType
            | Self::EmptyDocument
            | Self::OversizedDocument
            | Self::MalformedConversation
            | Self::Untokenizable
            | Self::Holdout => Noun::Documents,
            Self::DamagedFile | Self::EmptyFile => Noun::Files,
            Self::Truncated => Noun::Tokens,
            Self::SpecialToken
            | Self::OutsideAssistant
            | Self::ExcludedPosition
            | Self::OutlierNorm
            | Self::NonFinite
            | Self::Sampled
            | Self::SlowTrainer
            | Self::HeldOutRow
            | Self::BufferTail => Noun::Rows,
        }
    }
}

/// How much was dropped, by reason. Adding two is adding the counts: mergeable in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DropCounts(BTreeMap<DropReason, u64>);

impl DropCounts {
    /// Nothing dropped.
    pub fn new() -> Self {
        Self::default()
    }

    /// Count `n` more for `reason`.
    pub fn add(&mut self, reason: DropReason, n: u64) {
        if n > 0 {
            *self.0.entry(reason).or_default() += n;
        }
    }

    /// Add all counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (&reason, &n) in &other.0 {
            self.add(reason, n);
        }
    }

    /// The count for one reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(&reason).copied().unwrap_or(0)
    }

    /// Non-zero counts in the order of [`DropReason`].
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        self.0.iter().map(|(&r, &n)| (r, n))
    }

    /// Whether nothing was dropped.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
