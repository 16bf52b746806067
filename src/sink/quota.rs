//! A limit on the bytes of a dataset, shared by everybody who writes to it in one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::units::ByteSize;

/// Bytes that may still be committed. Clones share them.
#[derive(Clone, Debug)]
pub struct Quota(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: u64,
    used: AtomicU64,
}

impl Quota {
    /// At most `limit` bytes, of which `used` are there already.
    pub fn new(limit: u64, used: u64) -> Self {
        Self(Arc::new(Inner { limit, used: AtomicU64::new(used) }))
    }

    /// Take `bytes` for a shard that is about to be committed; an error ([`Full`](ErrorKind::Full)) if there are not as
    /// many.
    pub fn take(&self, bytes: u64) -> Result<()> {
        let within = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.0.limit);
        self.0.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, within).map(drop).map_err(|_| self.full())
    }

    /// An error if `bytes` more would be too many.
    pub fn check(&self, bytes: u64) -> Result<()> {
        let sum = self.0.used.load(Ordering::Acquire).saturating_add(bytes);
        if sum <= self.0.limit { Ok(()) } else { Err(self.full()) }
    }

    fn full(&self) -> Error {
        let (limit, used) = (ByteSize(self.0.limit), ByteSize(self.0.used.load(Ordering::Acquire)));
        Error::new(
            ErrorKind::Full,
            format!(
                "the dataset would grow past limits.store_bytes ({limit}; {used} are committed): raise the limit, or \
                 make room with `harvestd gc`, and run it again to continue"
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_beyond_the_limit() {
        let quota = Quota::new(100, 30);
        let other = quota.clone();
        quota.take(40).unwrap();
        other.take(30).unwrap();
        quota.check(0).unwrap();
        let error = other.take(1).unwrap_err();
        assert_eq!(
            (error.kind(), quota.check(1).is_err(), other.take(u64::MAX).is_err()),
            (ErrorKind::Full, true, true)
        );
        assert!(error.to_string().contains("limits.store_bytes (100B; 100B are committed)"), "{error}");
        assert!(Quota::new(10, 20).take(0).is_err(), "a limit below what is there");
    }
}
