//! Activations out: batches to committed shards.
//!
//! [`ParquetSink`] follows the stream, keeps one open shard a unit, and commits each as soon as its last row is known. It
//! knows nothing of models or queues. Whatever was not committed when it ends is computed again by the next run.

mod advice;
mod lock;
mod open_part;
mod quota;
mod writer;

pub use lock::WriterLock;
pub use quota::Quota;
pub use writer::{CommittedShard, ParquetSink, SinkOptions};

#[cfg(test)]
mod tests;
