//! One thin file a stage: receive, call the module that does the work, send, report five numbers.
//!
//! ```text
//! tokenize -> forward -+-> fan_out -+-> deliver
//!              replay --+            +-> train (one for trainers that draw the same batches)
//! ```
//!
//! A stage ends when its input ends or its output is gone. Dropping the sender is the end-of-stream signal; whether the
//! stream was *complete* (the corpus ended, nothing failed, nobody asked to stop) travels beside it as a [`Completion`].

pub mod deliver;
pub mod fan_out;
pub mod forward;
pub mod replay;
pub mod tokenize;
pub mod train;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Says that everything before this point of the stream passed it. Set before the sender is dropped.
#[derive(Clone, Debug, Default)]
pub struct Completion(Arc<AtomicBool>);

impl Completion {
    /// Everything passed.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether everything passed.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
