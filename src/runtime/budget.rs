//! A memory budget that buffers share (`limits.memory`).
//!
//! Whoever is about to hold bytes acquires a [`Permit`] first and keeps it beside them; dropping it gives the bytes back.
//! A request larger than the whole budget is granted when nothing else is held, so that one huge item slows a run down
//! instead of stopping it forever. To stay free of deadlock, a stage must not wait for a second permit while the bytes
//! that would release the first one wait behind it.

use std::fmt;
use std::sync::Arc;

use crate::runtime::monitor::Monitor;

/// A number of bytes shared by several holders. Clones share it.
#[derive(Clone)]
pub struct MemoryBudget(Arc<Shared>);

struct Shared {
    limit: u64,
    state: Monitor<State>,
}

#[derive(Default)]
struct State {
    held: u64,
    high_water: u64,
}

/// Bytes held; dropping it gives them back.
pub struct Permit {
    budget: MemoryBudget,
    bytes: u64,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Shared { limit, state: Monitor::new(State::default()) }))
    }

    /// Wait, blocking the thread, until `bytes` are free and take them.
    pub fn acquire(&self, bytes: u64) -> Permit {
        self.0.state.wait(|s| self.grant(s, bytes))
    }

    /// As [`MemoryBudget::acquire`], for tasks. Cancel-safe: an unfinished wait holds nothing.
    pub async fn acquire_async(&self, bytes: u64) -> Permit {
        self.0.state.wait_async(|s| self.grant(s, bytes)).await
    }

    /// Take `bytes` if they are free now.
    pub fn try_acquire(&self, bytes: u64) -> Option<Permit> {
        self.0.state.attempt(|s| self.grant(s, bytes))
    }

    /// The whole budget, bytes.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// Bytes held now.
    pub fn held(&self) -> u64 {
        self.0.state.read(|s| s.held)
    }

    /// Most bytes that were ever held at once.
    pub fn high_water(&self) -> u64 {
        self.0.state.read(|s| s.high_water)
    }

    fn grant(&self, state: &mut State, bytes: u64) -> Option<Permit> {
        let fits = state.held.checked_add(bytes).is_some_and(|sum| sum <= self.0.limit);
        if !fits && state.held > 0 {
            return None;
        }
        state.held += bytes;
        state.high_water = state.high_water.max(state.held);
        Some(Permit { budget: self.clone(), bytes })
    }
}

impl Permit {
    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Give back what is more than `bytes`: the estimate was too high.
    pub fn shrink_to(&mut self, bytes: u64) {
        let back = self.bytes.saturating_sub(bytes);
        self.bytes -= back;
        self.budget.0.state.update(|s| s.held -= back);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.0.state.update(|s| s.held -= self.bytes);
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryBudget({} of {} bytes held)", self.held(), self.limit())
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({} bytes)", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn permits_are_given_back_and_the_high_water_mark_stays() {
        let budget = MemoryBudget::new(100);
        let mut a = budget.acquire(60);
        assert!(budget.try_acquire(41).is_none());
        a.shrink_to(50);
        let b = budget.try_acquire(50).unwrap();
        drop((a, b));
        assert_eq!((budget.held(), budget.high_water()), (0, 100));
    }

    #[test]
    fn a_request_beyond_the_budget_passes_alone() {
        let budget = MemoryBudget::new(10);
        let small = budget.acquire(1);
        assert!(budget.try_acquire(50).is_none());
        drop(small);
        assert_eq!(budget.acquire(50).bytes(), 50);
    }

    #[test]
    fn many_threads_and_tasks_never_exceed_the_limit() {
        let budget = MemoryBudget::new(64);
        let held = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for worker in 0..6u64 {
                let (budget, held) = (&budget, &held);
                scope.spawn(move || {
                    for i in 0..500 {
                        let bytes = 1 + (i * 7 + worker * 13) % 40;
                        let permit = if worker % 2 == 0 {
                            budget.acquire(bytes)
                        } else {
                            futures::executor::block_on(budget.acquire_async(bytes))
                        };
                        assert!(held.fetch_add(bytes, Ordering::SeqCst) + bytes <= 64);
                        held.fetch_sub(bytes, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(budget.held(), 0);
        assert!(budget.high_water() <= 64);
    }
}
