//! How many rows trainers that draw from one buffer still need, of those that were not computed yet: so that the source
//! stops when what is queued for them is enough, however much the queue would hold.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Shared by the stage that trains, which knows what it needs, and the source, which knows what it sent.
#[derive(Debug, Default)]
pub struct Demand {
    finished: AtomicBool,
    /// Rows after which all have their rows for certain, counted from what was consumed.
    needed: AtomicU64,
    /// Rows computed for them and not consumed yet.
    in_flight: AtomicU64,
}

impl Demand {
    /// Trainers that will have had enough after `needed` rows.
    pub fn of(needed: u64) -> Self {
        Self { needed: needed.into(), ..Self::default() }
    }

    /// Every trainer has its rows, or failed.
    pub fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }

    /// Whether [`Demand::finish`] was called.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// `rows` were computed for them.
    pub fn sent(&self, rows: u64) {
        self.in_flight.fetch_add(rows, Ordering::AcqRel);
    }

    /// `rows` of those will never arrive.
    pub fn lost(&self, rows: u64) {
        self.in_flight.fetch_sub(rows, Ordering::AcqRel);
    }

    /// `rows` arrived; after `needed` more they have enough.
    pub fn consumed(&self, rows: u64, needed: u64) {
        // in this order: in between, the source waits where it need not, which is better than the contrary
        self.needed.store(needed, Ordering::Release);
        self.in_flight.fetch_sub(rows, Ordering::AcqRel);
    }

    /// Whether what is in flight is enough.
    pub fn is_met(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) >= self.needed.load(Ordering::Acquire)
    }
}

/// Finishes the demand of a stage however the stage ends, by a panic too, so that the source never waits for nobody.
pub struct FinishAtEnd(pub std::sync::Arc<Demand>);

impl Drop for FinishAtEnd {
    fn drop(&mut self) {
        self.0.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_met_by_what_is_in_flight_and_opens_again_when_that_was_not_enough() {
        let demand = Demand::of(10);
        demand.sent(8);
        assert!(!demand.is_met());
        demand.sent(8);
        assert!(demand.is_met());
        demand.lost(8);
        assert!(!demand.is_met());
        demand.sent(8);
        demand.consumed(8, 9);
        assert!(!demand.is_met(), "8 in flight, 9 needed");
        demand.consumed(8, 1);
        assert!(!demand.is_met(), "whoever needs anything and has nothing coming is not met");
    }

    #[test]
    fn the_end_of_a_stage_finishes_it() {
        let demand = std::sync::Arc::new(Demand::of(10));
        drop(FinishAtEnd(std::sync::Arc::clone(&demand)));
        assert!(demand.is_finished());
    }
}
