//! What a run still waits for before it can work.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Something that must have happened once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latch {
    /// The model's weights are in memory.
    ModelLoaded,
    /// Every object store that the run writes to has answered.
    StoreReachable,
    /// The dataset was created or found, and its resume point read.
    DatasetOpen,
}

impl Latch {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ModelLoaded, Self::StoreReachable, Self::DatasetOpen];

    /// Name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ModelLoaded => "model_loaded",
            Self::StoreReachable => "store_reachable",
            Self::DatasetOpen => "dataset_open",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The latches of one run; it is ready when all are released. Clones share them.
#[derive(Clone, Default)]
pub struct Readiness(Arc<AtomicU8>);

impl Readiness {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// It happened, or this run does not need it.
    pub fn release(&self, latch: Latch) {
        self.0.fetch_or(latch.bit(), Ordering::AcqRel);
    }

    /// Whether it happened.
    pub fn is_released(&self, latch: Latch) -> bool {
        self.0.load(Ordering::Acquire) & latch.bit() != 0
    }

    /// Whether all happened.
    pub fn is_ready(&self) -> bool {
        Latch::ALL.iter().all(|&latch| self.is_released(latch))
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = Latch::ALL.iter().filter(|&&latch| !self.is_released(latch)).map(|latch| latch.as_str());
        write!(f, "Readiness(waits for {:?})", held.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_all_latches() {
        let readiness = Readiness::new();
        readiness.release(Latch::ModelLoaded);
        readiness.clone().release(Latch::DatasetOpen);
        assert!(!readiness.is_ready());
        assert_eq!(format!("{readiness:?}"), "Readiness(waits for [\"store_reachable\"])");
        readiness.release(Latch::StoreReachable);
        assert!(readiness.is_ready());
    }
}
