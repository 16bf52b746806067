//! A resumable position in the stream of token batches.
//!
//! The stream is a pure function of (units, seed, interleave): units are visited in a seeded permutation, `interleave`
//! of them are open at a time, and batches are taken from the open units in turn. A cursor is that function's state
//! *after* a batch, so whoever holds it continues with the very next one.

use serde::{Deserialize, Serialize};

/// State of the visiting order after some batch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCursor {
    /// Index, in the whole stream, of the next batch.
    pub next_batch: u64,
    /// Rank, in the seeded permutation, of the next unit to open.
    pub next_rank: u32,
    /// The units that are open, by slot.
    pub open: Vec<OpenUnit>,
    /// The slot whose turn it is.
    pub turn: u32,
}

/// An open unit and how far it has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenUnit {
    /// The unit.
    pub unit: u32,
    /// Index, in the unit, of the next batch.
    pub next_batch: u32,
}
