//! How far a download is: written by transfers, read by whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Counts of one download. The total grows while the hub is asked how large files are.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    bytes_total: AtomicU64,
    received: AtomicU64,
}

/// A readable copy of [`Progress`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct ProgressSnapshot {
    /// Bytes that are on disk, those of an earlier try included.
    pub bytes: u64,
    /// Bytes of the files that had to be downloaded, as far as they are known.
    pub bytes_total: u64,
    /// Bytes that came over the network.
    pub received: u64,
}

impl Progress {
    /// A copy.
    pub fn snapshot(&self) -> ProgressSnapshot {
        ProgressSnapshot {
            bytes: self.bytes.load(Ordering::Relaxed),
            bytes_total: self.bytes_total.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }

    /// A file of `size` bytes is to come.
    pub(super) fn expect(&self, size: u64) {
        self.bytes_total.fetch_add(size, Ordering::Relaxed);
    }

    /// `n` bytes came.
    pub(super) fn receive(&self, n: u64) {
        self.bytes.fetch_add(n, Ordering::Relaxed);
        self.received.fetch_add(n, Ordering::Relaxed);
    }

    /// `n` bytes were there already.
    pub(super) fn keep(&self, n: u64) {
        self.bytes.fetch_add(n, Ordering::Relaxed);
    }

    /// `n` bytes are of no use and come again.
    pub(super) fn lose(&self, n: u64) {
        self.bytes.fetch_sub(n, Ordering::Relaxed);
    }
}

impl ProgressSnapshot {
    /// Whether there is something to show.
    pub fn is_active(&self) -> bool {
        self.bytes < self.bytes_total
    }
}
