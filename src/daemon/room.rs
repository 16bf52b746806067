//! Memory that the pipelines of a process may take together: whoever has its `limits.memory` works, the others wait in the order
//! in which they asked.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::units::ByteSize;

/// The memory of the process, as its pipelines share it.
#[derive(Debug)]
pub(super) struct Room {
    /// None: there is enough for all.
    limit: Option<u64>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    taken: BTreeMap<String, u64>,
    waiting: Vec<String>,
}

impl Room {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { limit, inner: Mutex::default() }
    }

    pub(super) fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// What is taken by all.
    pub(super) fn taken(&self) -> u64 {
        self.lock().taken.values().sum()
    }

    /// Take `bytes` for `name`, if it is its turn and there are as many.
    ///
    /// # Errors
    /// What it waits for.
    pub(super) fn take(&self, name: &str, bytes: u64) -> Result<(), String> {
        let mut inner = self.lock();
        let Some(limit) = self.limit else {
            inner.taken.insert(name.to_owned(), bytes);
            return Ok(());
        };
        if !inner.waiting.iter().any(|waits| waits == name) {
            inner.waiting.push(name.to_owned());
        }
        let free = limit.saturating_sub(inner.taken.values().sum());
        let before = inner.waiting.iter().position(|waits| waits == name).unwrap_or_default();
        if before > 0 || bytes > free {
            let (bytes, free, limit) = (ByteSize(bytes), ByteSize(free), ByteSize(limit));
            let behind = if before > 0 { format!(", behind `{}`", inner.waiting[0]) } else { String::new() };
            return Err(format!(
                "waits for memory: it may take {bytes}, and {free} of {limit} (--memory) are free{behind}"
            ));
        }
        inner.waiting.retain(|waits| waits != name);
        inner.taken.insert(name.to_owned(), bytes);
        Ok(())
    }

    /// `name` does not work any more.
    pub(super) fn give_back(&self, name: &str) {
        self.lock().taken.remove(name);
    }

    /// `name` does not wait any more.
    pub(super) fn forget(&self, name: &str) {
        self.lock().waiting.retain(|waits| waits != name);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_first_is_served_first_and_nobody_takes_more_than_there_is() {
        let room = Room::new(Some(10 << 30));
        assert!(room.take("a", 6 << 30).is_ok());
        let why = room.take("large", 8 << 30).unwrap_err();
        assert!(why.contains("8GiB") && why.contains("4GiB of 10GiB"), "{why}");
        // it would fit, but not before the one that waits
        let why = room.take("small", 1 << 30).unwrap_err();
        assert!(why.contains("behind `large`"), "{why}");
        room.give_back("a");
        assert!(room.take("small", 1 << 30).is_err() && room.take("large", 8 << 30).is_ok());
        assert!(room.take("small", 1 << 30).is_ok());
        assert_eq!(room.taken(), 9 << 30);
        // whoever stops waiting is in nobody's way
        assert!(room.take("b", 9 << 30).is_err() && room.take("c", 1 << 30).is_err());
        room.forget("b");
        assert!(room.take("c", 1 << 30).is_ok());
        assert!(Room::new(None).take("a", u64::MAX).is_ok());
    }
}
