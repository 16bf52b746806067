//! What other writers of a shared dataset have finished, looked up again while a run goes on.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::catalog::Catalog;
use crate::dataset::commit::UnitProgress;
use crate::pipeline::build::Shared;
use crate::runtime::clock::{Clock, Stopwatch};

/// Least time between two looks.
const EVERY: Duration = Duration::from_millis(250);
/// At most one in so many parts of the time goes into looking.
const SHARE: u32 = 20;

/// Units that others finished since the run began, in the order in which they were noticed. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Others(Arc<RwLock<Finished>>);

#[derive(Debug, Default)]
struct Finished {
    order: Vec<u32>,
    /// Unit -> its number of batches.
    batches: HashMap<u32, u32>,
}

impl Others {
    /// Whether others finished `unit`.
    pub fn finished(&self, unit: u32) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).batches.contains_key(&unit)
    }

    /// Those that were noticed after the first `seen`, which then counts them too.
    pub fn finished_since(&self, seen: &mut usize) -> Vec<u32> {
        let finished = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let new = finished.order[*seen..].to_vec();
        *seen = finished.order.len();
        new
    }

    /// Note every unit of `progress` that is done; gives the new ones with their numbers of batches.
    fn note(&self, progress: &HashMap<u32, UnitProgress>) -> Vec<(u32, u32)> {
        let mut finished = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let done = progress.iter().filter_map(|(&unit, p)| Some((unit, p.batches.filter(|_| p.done)?)));
        let mut new: Vec<_> = done.filter(|(unit, _)| !finished.batches.contains_key(unit)).collect();
        new.sort_unstable();
        finished.order.extend(new.iter().map(|&(unit, _)| unit));
        finished.batches.extend(new.iter().copied());
        new
    }
}

/// Looks for units that others finished.
pub struct Lookout {
    catalog: Catalog,
    io: tokio::runtime::Handle,
    clock: Clock,
    others: Others,
    /// When to look again.
    next: Duration,
}

impl Lookout {
    /// Look at once, and then as often as is cheap.
    pub fn new(catalog: Catalog, others: Others, shared: &Shared<'_>) -> Self {
        Self { catalog, io: shared.io.clone(), clock: shared.clock.clone(), others, next: Duration::ZERO }
    }

    /// Look, if it is time to; gives units that are done and were not known to be, with their numbers of batches. Those
    /// that this run finished are among them. A store that does not answer is asked again later: nothing depends on it.
    pub fn look(&mut self) -> Vec<(u32, u32)> {
        if self.clock.now() < self.next {
            return Vec::new();
        }
        let watch = Stopwatch::start();
        let progress = self.io.block_on(self.catalog.progress());
        self.next = self.clock.now() + EVERY.max(watch.elapsed() * SHARE);
        match progress {
            Ok(progress) => self.others.note(&progress),
            Err(error) => {
                tracing::debug!(%error, "cannot look up what other runs have committed");
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_is_noticed_once_and_told_to_each_reader_once() {
        let others = Others::default();
        let done = UnitProgress { done: true, batches: Some(4), ..UnitProgress::default() };
        let progress = HashMap::from([(3, done), (5, UnitProgress::default())]);
        assert_eq!(others.note(&progress), [(3, 4)]);
        assert_eq!(others.note(&progress), []);
        assert!(others.finished(3) && !others.finished(5));
        let mut seen = 0;
        assert_eq!(others.clone().finished_since(&mut seen), [3]);
        assert_eq!(others.note(&HashMap::from([(1, done)])), [(1, 4)]);
        assert_eq!(others.finished_since(&mut seen), [1]);
        assert!(others.finished_since(&mut seen).is_empty());
    }
}
