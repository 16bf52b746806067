//! The order in which batches are taken: pure.
//!
//! Units come in a seeded permutation. `interleave` of them are open at a time, each in a slot; batches are taken from
//! the slots in turn. When a unit ends, the next of the permutation takes its slot. Given the number of batches of each
//! unit, the order is a pure function of (units, seed, interleave), and a [`SourceCursor`] is all of its state.
//!
//! A corpus that grows has *instalments* of units. Each has a permutation of its own, and all of its units end before the
//! first of the next begins: so the order of what is there does not depend on when more came.

use crate::corpus::cursor::{OpenUnit, SourceCursor};
use crate::error::{Error, Result};
use crate::runtime::rng::Seed;

/// A batch whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Index of the batch in the whole stream.
    pub index: u64,
    /// The unit.
    pub unit: u32,
    /// Index of the batch in the unit.
    pub batch_in_unit: u32,
}

/// The visiting order, at some point.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Units in the order in which they are opened.
    order: Vec<u32>,
    /// The rank after the last unit of each instalment.
    borders: Vec<u32>,
    interleave: usize,
    state: SourceCursor,
}

impl Schedule {
    /// The order of `n_units` units, continued at `start`.
    ///
    /// Errors: a cursor that cannot be one of this corpus.
    pub fn new(n_units: u32, interleave: u32, seed: Seed, start: SourceCursor) -> Result<Self> {
        Self::of(&[n_units], interleave, seed, start)
    }

    /// The order of the units of `instalments`, of so many each, continued at `start`.
    ///
    /// Errors: as [`Schedule::new`].
    pub fn of(instalments: &[u32], interleave: u32, seed: Seed, start: SourceCursor) -> Result<Self> {
        let (mut order, mut borders) = (Vec::<u32>::new(), Vec::new());
        for (i, &units) in instalments.iter().enumerate() {
            let first = order.len() as u32;
            order.extend(first..first + units);
            let stream = if i == 0 { "units".to_owned() } else { format!("units/{i}") };
            seed.stream(&stream).shuffle(&mut order[first as usize..]);
            borders.push(order.len() as u32);
        }
        let n_units = order.len() as u32;
        let turn_exists = (start.turn as usize) < start.open.len().max(1);
        if start.next_rank > n_units || !turn_exists || start.open.iter().any(|open| open.unit >= n_units) {
            let problem = "the saved position is not one of this corpus: it was saved for other files or settings";
            return Err(Error::data(problem));
        }
        let mut schedule = Self { order, borders, interleave: interleave.max(1) as usize, state: start };
        schedule.fill();
        Ok(schedule)
    }

    /// Open units until there are as many as are to be.
    fn fill(&mut self) {
        while self.state.open.len() < self.interleave
            && let Some(open) = self.open_next()
        {
            self.state.open.push(open);
        }
    }

    /// Whose turn it is; `None` at the stream's end.
    pub fn turn(&mut self) -> Option<Turn> {
        if self.state.open.is_empty() {
            // the next instalment begins. Not before: a position between two is the same whether the next is known or not
            self.fill();
        }
        let open = self.state.open.get(self.state.turn as usize)?;
        Some(Turn { index: self.state.next_batch, unit: open.unit, batch_in_unit: open.next_batch })
    }

    /// Take the batch whose turn it is; `ends_unit`: it is the unit's last.
    pub fn advance(&mut self, ends_unit: bool) {
        let slot = self.state.turn as usize;
        if slot >= self.state.open.len() {
            return;
        }
        self.state.next_batch += 1;
        if !ends_unit {
            self.state.open[slot].next_batch += 1;
            self.state.turn += 1;
        } else if let Some(open) = self.open_next() {
            self.state.open[slot] = open;
            self.state.turn += 1;
        } else {
            // the slots behind move up, so it is the turn of the same index
            self.state.open.remove(slot);
        }
        if self.state.turn as usize >= self.state.open.len() {
            self.state.turn = 0;
        }
    }

    /// The state: what is next.
    pub fn cursor(&self) -> &SourceCursor {
        &self.state
    }

    /// The units that will be opened after those that are open, in order.
    pub fn upcoming(&self) -> &[u32] {
        &self.order[self.state.next_rank as usize..]
    }

    fn open_next(&mut self) -> Option<OpenUnit> {
        let rank = self.state.next_rank;
        if !self.state.open.is_empty() && self.borders.binary_search(&rank).is_ok() {
            return None;
        }
        let unit = *self.order.get(self.state.next_rank as usize)?;
        self.state.next_rank += 1;
        Some(OpenUnit { unit, next_batch: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Run to the end; every turn with the cursor before it.
    fn run(mut schedule: Schedule, lengths: &[u32]) -> Vec<(Turn, SourceCursor)> {
        let mut turns = Vec::new();
        while let Some(turn) = schedule.turn() {
            turns.push((turn, schedule.cursor().clone()));
            schedule.advance(turn.batch_in_unit + 1 == lengths[turn.unit as usize]);
        }
        turns
    }

    proptest! {
        #[test]
        fn every_batch_has_one_turn_and_any_cursor_continues(
            lengths in prop::collection::vec(1u32..6, 0..12), interleave in 1u32..6, seed: u64,
        ) {
            let n = lengths.len() as u32;
            let all = run(Schedule::new(n, interleave, Seed(seed), SourceCursor::default()).unwrap(), &lengths);
            let mut next = vec![0u32; lengths.len()];
            for (i, (turn, cursor)) in all.iter().enumerate() {
                prop_assert_eq!(turn.index, i as u64);
                prop_assert_eq!(turn.batch_in_unit, next[turn.unit as usize]);
                next[turn.unit as usize] += 1;
                prop_assert!(cursor.open.len() <= interleave as usize);
                let saved: SourceCursor = serde_json::from_str(&serde_json::to_string(cursor).unwrap()).unwrap();
                let rest = run(Schedule::new(n, interleave, Seed(seed), saved).unwrap(), &lengths);
                prop_assert_eq!(&rest[..], &all[i..]);
            }
            prop_assert_eq!(next, lengths);
        }
    }

    proptest! {
        #[test]
        fn what_comes_later_changes_nothing_of_what_is_there(
            instalments in prop::collection::vec(prop::collection::vec(1u32..4, 1..6), 1..4), interleave in 1u32..5, seed: u64,
        ) {
            let lengths: Vec<u32> = instalments.concat();
            let sizes: Vec<u32> = instalments.iter().map(|units| units.len() as u32).collect();
            let whole = run(Schedule::of(&sizes, interleave, Seed(seed), SourceCursor::default()).unwrap(), &lengths);
            prop_assert_eq!(whole.len() as u32, lengths.iter().sum::<u32>());
            for known in 1..=sizes.len() {
                // as far as it was known, then continued with all
                let before = Schedule::of(&sizes[..known], interleave, Seed(seed), SourceCursor::default()).unwrap();
                let mut at_the_end = before.clone();
                while let Some(turn) = at_the_end.turn() {
                    at_the_end.advance(turn.batch_in_unit + 1 == lengths[turn.unit as usize]);
                }
                let first: Vec<Turn> = run(before, &lengths).into_iter().map(|(turn, _)| turn).collect();
                let rest = Schedule::of(&sizes, interleave, Seed(seed), at_the_end.cursor().clone()).unwrap();
                let rest = run(rest, &lengths).into_iter().map(|(turn, _)| turn);
                let all: Vec<Turn> = first.into_iter().chain(rest).collect();
                prop_assert_eq!(all, whole.iter().map(|(turn, _)| *turn).collect::<Vec<_>>());
            }
            for (i, (_, cursor)) in whole.iter().enumerate() {
                let rest = run(Schedule::of(&sizes, interleave, Seed(seed), cursor.clone()).unwrap(), &lengths);
                prop_assert_eq!(&rest[..], &whole[i..]);
            }
        }
    }

    #[test]
    fn neighbours_come_from_different_units() {
        let turns = run(Schedule::new(8, 4, Seed(1), SourceCursor::default()).unwrap(), &[5; 8]);
        assert!(turns.windows(4).take(16).all(|w| {
            let mut units: Vec<u32> = w.iter().map(|(t, _)| t.unit).collect();
            units.sort_unstable();
            units.dedup();
            units.len() == 4
        }));
    }

    #[test]
    fn the_seed_sets_the_order() {
        let order = |seed| Schedule::new(20, 1, Seed(seed), SourceCursor::default()).unwrap().order;
        assert_eq!(order(7), order(7));
        assert_ne!(order(7), order(8));
    }

    #[test]
    fn a_cursor_of_another_corpus_is_refused() {
        let open = vec![OpenUnit { unit: 9, next_batch: 3 }];
        let cursor = SourceCursor { next_batch: 40, next_rank: 10, open, turn: 0 };
        assert!(Schedule::new(5, 4, Seed(1), cursor).is_err());
    }
}
