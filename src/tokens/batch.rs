//! The value between `tokenize` and `forward`: sequences of one unit, laid end to end without padding.

use crate::accounting::DropCounts;
use crate::corpus::cursor::SourceCursor;

/// A run of rows that attend to each other: a whole sequence, or one document of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First row in the batch.
    pub start: u32,
    /// Rows.
    pub len: u32,
}

/// Consecutive sequences of one unit. Rows are tokens; sequences are ragged, never padded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenBatch {
    /// Index in the whole stream.
    pub index: u64,
    /// The unit.
    pub unit: u32,
    /// Index in the unit.
    pub batch_in_unit: u32,
    /// Index, in the unit, of the first sequence.
    pub first_seq: u32,
    /// `[n_tokens]` token ids.
    pub ids: Vec<u32>,
    /// `[n_tokens]` position ids as the model sees them; they restart with each segment.
    pub positions: Vec<u32>,
    /// `[n_tokens]` hash of the document that each token belongs to (for BOS and separators: of the document they stand at).
    pub doc_ids: Vec<u64>,
    /// `[n_tokens]` whether a row lies outside what the configuration keeps of a conversation; empty if none can.
    pub outside: Vec<bool>,
    /// `[n_sequences + 1]` row at which each sequence starts, and the number of rows.
    pub seq_starts: Vec<u32>,
    /// Attention contexts in row order; they tile the rows.
    pub segments: Vec<Segment>,
    /// `[n_sequences]` what was dropped before the forward pass, since the previous sequence and up to this one's last token.
    pub dropped: Vec<DropCounts>,
    /// Documents that end in this batch's sequences.
    pub documents: u32,
    /// Whether this is the unit's last batch. A unit without sequences has one empty batch, so that its end is seen.
    pub ends_unit: bool,
    /// On the last batch: what was dropped after the last sequence.
    pub dropped_at_end: DropCounts,
    /// The stream's state after this batch.
    pub cursor_after: SourceCursor,
}

impl TokenBatch {
    /// Rows.
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// Sequences.
    pub fn n_sequences(&self) -> usize {
        self.seq_starts.len().saturating_sub(1)
    }

    /// The rows of sequence `i` of this batch.
    pub fn sequence_rows(&self, i: usize) -> std::ops::Range<usize> {
        self.seq_starts[i] as usize..self.seq_starts[i + 1] as usize
    }
}
