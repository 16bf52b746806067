//! The value between `forward` and everything downstream.

use crate::accounting::DropCounts;
use crate::corpus::cursor::SourceCursor;
use crate::hooks::HookPoint;

/// The kept rows of one token batch.
#[derive(Clone, Debug)]
pub struct ActivationBatch {
    /// Index of the token batch in the whole stream.
    pub index: u64,
    /// The unit.
    pub unit: u32,
    /// Index in the unit.
    pub batch_in_unit: u32,
    /// Index, in the unit, of the first sequence.
    pub first_seq: u32,
    /// One entry a captured site, in the order of the selection.
    pub sites: Vec<SiteRows>,
    /// `[n_rows]` hash of the document.
    pub doc_id: Vec<u64>,
    /// `[n_rows]` sequence, within the unit.
    pub seq: Vec<u32>,
    /// `[n_rows]` position in the sequence.
    pub pos: Vec<u32>,
    /// `[n_rows]` token id.
    pub token_id: Vec<u32>,
    /// `[n_sequences + 1]` row at which each sequence's kept rows start, and the number of rows.
    pub seq_starts: Vec<u32>,
    /// `[n_sequences]` everything dropped that belongs to each sequence: documents and tokens before the forward pass,
    /// rows after it.
    pub dropped: Vec<DropCounts>,
    /// What was dropped after the last sequence of the unit.
    pub dropped_at_end: DropCounts,
    /// Tokens that the forward pass computed.
    pub n_tokens: u32,
    /// Documents that end in this batch.
    pub documents: u32,
    /// Whether this is the unit's last batch.
    pub ends_unit: bool,
    /// The stream's state after this batch.
    pub cursor_after: SourceCursor,
}

/// One site's rows.
#[derive(Clone, Debug)]
pub struct SiteRows {
    /// The site.
    pub point: HookPoint,
    /// Values a row.
    pub width: usize,
    /// `[n_rows, width]`, row-major.
    pub data: Vec<f32>,
}

impl ActivationBatch {
    /// Kept rows.
    pub fn n_rows(&self) -> usize {
        self.token_id.len()
    }

    /// Sequences.
    pub fn n_sequences(&self) -> usize {
        self.seq_starts.len().saturating_sub(1)
    }

    /// The kept rows of sequence `i` of this batch.
    pub fn sequence_rows(&self, i: usize) -> std::ops::Range<usize> {
        self.seq_starts[i] as usize..self.seq_starts[i + 1] as usize
    }

    /// The rows of `point`, if it was captured.
    pub fn site(&self, point: HookPoint) -> Option<&SiteRows> {
        self.sites.iter().find(|s| s.point == point)
    }

    /// Memory held, about.
    pub fn bytes(&self) -> usize {
        self.sites.iter().map(|s| s.data.len() * 4).sum::<usize>() + self.n_rows() * 20 + self.n_sequences() * 64
    }
}
