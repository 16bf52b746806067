//! Text to token ids to packed sequences to batches.
//!
//! Packing is pure and restarts at every unit's start, so the sequences of a unit do not depend on who computes them.
//! Batches are cut from one unit's sequences in order: the rows that a batch holds, and so the arithmetic done on them,
//! are the same in every run.

mod added;
pub mod batch;
pub mod chat;
pub mod config;
pub mod estimate;
pub mod packer;
pub mod pieces;
pub mod schedule;
pub mod special;
pub mod stream;
pub mod tokenizer;
pub mod unit_batcher;

pub use batch::{Segment, TokenBatch};
pub use pieces::Pieces;
pub use special::SpecialIds;
pub use stream::{HoldoutStream, TokenStream};
pub use tokenizer::Tokenizer;
