//! Who still needs which batch: the one place that decides what is computed after a restart, and when a run is over.
//!
//! A batch is wanted by the dataset if some of its sequences have no committed row yet, and by a trainer if it lies at or
//! after the trainer's position in the stream. A batch that nobody wants is neither tokenised nor computed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::dataset::commit::UnitProgress;
use crate::pipeline::demand::Demand;
use crate::pipeline::others::Others;
use crate::runtime::shutdown::Shutdown;

/// Between two looks at whether trainers still need rows.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What trainers that draw from one buffer still need.
#[derive(Clone, Debug)]
pub struct TrainerNeed {
    /// Index, in the stream, of the first batch that they have not seen.
    pub next_batch: u64,
    /// How many rows more, and whether each has trained on all its rows, or failed.
    pub demand: Arc<Demand>,
}

/// What the dataset, or a column group of it, still needs.
#[derive(Clone, Debug)]
pub struct DatasetNeed {
    /// What is committed, by unit.
    pub progress: HashMap<u32, UnitProgress>,
    /// Units that other writers finished since.
    pub others: Others,
    /// Units of the corpus.
    pub n_units: u32,
}

/// The needs of everybody downstream.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The needs of the dataset, if one is stored, and of its column groups.
    pub datasets: Vec<DatasetNeed>,
    /// The needs of each group of trainers, in the order of their stages.
    pub trainers: Vec<TrainerNeed>,
    /// Sequences in a full batch.
    pub batch_sequences: u32,
}

impl DatasetNeed {
    fn wants(&self, unit: u32, batch_in_unit: u32, batch_sequences: u32) -> bool {
        match self.progress.get(&unit) {
            _ if self.others.finished(unit) => false,
            None => true,
            Some(unit) if unit.done => false,
            Some(unit) => (u64::from(batch_in_unit) + 1) * u64::from(batch_sequences) > u64::from(unit.next_seq),
        }
    }

    fn complete(&self) -> bool {
        let done = |unit| self.progress.get(&unit).is_some_and(|p| p.done) || self.others.finished(unit);
        (0..self.n_units).all(done)
    }
}

impl TrainerNeed {
    fn wants(&self, index: u64) -> bool {
        index >= self.next_batch && !self.demand.is_finished()
    }
}

impl Wanted {
    /// Whether the dataset, or a column group of it, needs a batch.
    pub fn by_dataset(&self, unit: u32, batch_in_unit: u32) -> bool {
        self.datasets.iter().any(|d| d.wants(unit, batch_in_unit, self.batch_sequences))
    }

    /// Whether group `i` of trainers needs a batch.
    pub fn by_trainer(&self, i: usize, index: u64) -> bool {
        self.trainers[i].wants(index)
    }

    /// Whether anybody needs a batch.
    pub fn by_anyone(&self, index: u64, unit: u32, batch_in_unit: u32) -> bool {
        self.by_dataset(unit, batch_in_unit) || self.trainers.iter().any(|t| t.wants(index))
    }

    /// Wait while all who want a batch have enough rows coming already; then whether anybody needs it. A batch cannot be
    /// passed over and asked for later, since trainers take batches in order. Aborting ends the wait.
    pub fn is_needed(&self, index: u64, unit: u32, batch_in_unit: u32, shutdown: &Shutdown) -> bool {
        loop {
            let mut who = self.trainers.iter().filter(|t| t.wants(index)).peekable();
            if self.by_dataset(unit, batch_in_unit) {
                return true;
            }
            if who.peek().is_none() || shutdown.is_aborting() {
                return false;
            }
            if who.any(|t| !t.demand.is_met()) {
                return true;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// A batch of `rows` rows was computed for whoever wants it.
    pub fn computed(&self, index: u64, rows: usize) {
        self.trainers.iter().filter(|t| t.wants(index)).for_each(|t| t.demand.sent(rows as u64));
    }

    /// Whether nobody will need anything any more. (The dataset's part is judged by what was committed at the start
    /// and what others committed since: what this run commits ends with the stream itself.)
    pub fn nothing_left(&self) -> bool {
        self.trainers.iter().all(|t| t.demand.is_finished()) && self.datasets.iter().all(DatasetNeed::complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(next_seq: u32, done: bool) -> UnitProgress {
        UnitProgress { next_seq, done, ..UnitProgress::default() }
    }

    fn wanted() -> Wanted {
        Wanted {
            datasets: vec![DatasetNeed {
                progress: HashMap::from([(0, unit(7, false)), (1, unit(20, true))]),
                others: Others::default(),
                n_units: 3,
            }],
            trainers: vec![TrainerNeed { next_batch: 5, demand: Arc::new(Demand::of(100)) }],
            batch_sequences: 4,
        }
    }

    #[test]
    fn the_dataset_wants_what_is_not_committed() {
        let w = wanted();
        // sequences 0-3 are committed, 4-7 only up to 6
        assert!(!w.by_dataset(0, 0));
        assert!(w.by_dataset(0, 1));
        assert!(!w.by_dataset(1, 9));
        assert!(w.by_dataset(2, 0));
    }

    #[test]
    fn a_column_group_wants_what_the_dataset_has_already() {
        let mut w = wanted();
        let progress = HashMap::from([(0, unit(20, true))]);
        w.datasets.push(DatasetNeed { progress, others: Others::default(), n_units: 3 });
        assert!(w.by_dataset(0, 1) && w.by_dataset(1, 0) && w.by_dataset(1, 9));
        w.datasets.iter_mut().for_each(|d| d.progress = (0..3).map(|u| (u, unit(1, true))).collect());
        assert!(!w.by_dataset(0, 1) && w.datasets.iter().all(DatasetNeed::complete));
    }

    #[test]
    fn a_run_is_over_when_everybody_has_everything() {
        let mut w = wanted();
        assert!(w.by_anyone(5, 1, 0) && !w.by_anyone(4, 1, 0));
        w.trainers[0].demand.finish();
        assert!(!w.by_anyone(5, 1, 0) && !w.nothing_left());
        w.datasets[0].progress = (0..3).map(|u| (u, unit(1, true))).collect();
        assert!(w.nothing_left());
    }

    #[test]
    fn a_batch_waits_while_enough_is_coming() {
        let (w, shutdown) = (wanted(), Shutdown::new(Duration::from_secs(1)));
        assert!(w.is_needed(5, 1, 0, &shutdown), "a trainer needs rows");
        w.computed(4, 1000);
        assert!(w.is_needed(5, 1, 0, &shutdown), "batch 4 was not for it");
        w.computed(5, 1000);
        assert!(w.is_needed(6, 2, 0, &shutdown), "the dataset needs it, whatever is coming");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| w.is_needed(6, 1, 0, &shutdown));
            std::thread::sleep(Duration::from_millis(30));
            assert!(!waits.is_finished());
            w.trainers[0].demand.consumed(1000, 3);
            assert!(waits.join().unwrap(), "what came was not enough");
        });
        w.computed(6, 1000);
        w.trainers[0].demand.finish();
        assert!(!w.is_needed(7, 1, 0, &shutdown));
    }
}
