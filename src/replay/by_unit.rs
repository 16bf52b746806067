//! The order of the run that stored the rows: its units and batches, from its seed, its settings and the commits.
//!
//! A batch of the run was a fixed number of sequences of one unit, and the visiting order of units is a function of the seed
//! ([`Schedule`]). So the batches can be put together again from the rows' sequence numbers: one lane an open unit reads
//! its parts in order, and the lanes' batches are taken in turn. A unit that is not committed to its end (the dataset
//! still grows) ends with what it has.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use crate::activation::ActivationBatch;
use crate::corpus::cursor::SourceCursor;
use crate::dataset::decoder::ShardRows;
use crate::dataset::header::DatasetHeader;
use crate::error::{Error, Result};
use crate::replay::ahead::Ahead;
use crate::replay::rows::{About, Gathered, Split};
use crate::replay::shard::{OpenShard, Shards};
use crate::runtime::rng::Seed;
use crate::tokens::config::TokensConfig;
use crate::tokens::schedule::{Schedule, Turn};

/// How the run that stored a dataset went through its corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Visit {
    seed: Seed,
    interleave: u32,
    /// Sequences in a batch.
    sequences: u32,
}

impl Visit {
    /// What the header says of it; `None` if no run stored the rows, or not in this order.
    pub(super) fn of(header: &DatasetHeader) -> Option<Self> {
        if header.order.is_some() {
            return None;
        }
        let seed = header.tokens.get("seed").and_then(Value::as_u64)?;
        let policy: TokensConfig = serde_json::from_value(header.tokens.get("policy")?.clone()).ok()?;
        let sequences = u32::try_from(policy.batch_sequences()).ok()?;
        Some(Self { seed: Seed(seed), interleave: policy.interleave, sequences })
    }
}

/// Reads batches in the order of the run.
#[derive(Debug)]
pub(super) struct ByUnit {
    shards: Arc<Shards>,
    visit: Visit,
    units: Vec<Unit>,
    schedule: Schedule,
    epoch: u64,
    epochs: u64,
    /// Batches of one epoch.
    length: u64,
    lanes: HashMap<u32, Lane>,
    /// Bytes that one lane may hold ahead.
    lane_bytes: u64,
}

/// What is committed of a unit.
#[derive(Clone, Debug, Default)]
struct Unit {
    /// Indices of its parts.
    parts: Vec<usize>,
    sequences: u32,
    batches: u32,
}

/// One unit that is being read.
#[derive(Debug)]
struct Lane {
    parts: VecDeque<usize>,
    open: Option<(Arc<OpenShard>, u64, u64)>,
    ahead: Ahead,
    /// The first sequence that is wanted.
    from_seq: u32,
    rows: ShardRows,
    /// The first of `rows` that was not taken.
    at: usize,
}

impl ByUnit {
    /// Batches from `start` on; `prefetch` bytes may be held ahead in all.
    pub(super) fn new(
        shards: Arc<Shards>,
        visit: Visit,
        epochs: u32,
        prefetch: u64,
        start: &SourceCursor,
    ) -> Result<Self> {
        let units = units(&shards, visit.sequences)?;
        let length: u64 = units.iter().map(|unit| u64::from(unit.batches)).sum();
        let epoch = start.next_batch.checked_div(length).unwrap_or(0);
        let within = SourceCursor { next_batch: start.next_batch - epoch * length, ..start.clone() };
        let schedule = Schedule::new(units.len() as u32, visit.interleave, visit.seed, within)?;
        let fits = |open: &crate::corpus::cursor::OpenUnit| open.next_batch < units[open.unit as usize].batches;
        if !schedule.cursor().open.iter().all(fits) {
            return Err(Error::data("the saved position is not one of this dataset: it was saved for another"));
        }
        let lane_bytes = prefetch / (u64::from(visit.interleave) + 1);
        let lanes = HashMap::new();
        Ok(Self { shards, visit, units, schedule, epoch, epochs: u64::from(epochs), length, lanes, lane_bytes })
    }

    /// Batches in all.
    pub(super) fn n_batches(&self) -> u64 {
        self.length * self.epochs
    }

    /// The next batch; `None` at the end.
    pub(super) async fn next(&mut self, split: Split) -> Result<Option<ActivationBatch>> {
        let turn = loop {
            if self.epoch >= self.epochs {
                return Ok(None);
            }
            match self.schedule.turn() {
                Some(turn) => break turn,
                None => self.begin_epoch(self.epoch + 1)?,
            }
        };
        self.read_ahead(turn);
        let unit = &self.units[turn.unit as usize];
        let first_seq = turn.batch_in_unit * self.visit.sequences;
        let end_seq = unit.sequences.min(first_seq.saturating_add(self.visit.sequences));
        let ends_unit = turn.batch_in_unit + 1 == unit.batches;
        let mut gathered = Gathered::new(self.shards.source.sites.len());
        let lane = self.lanes.get_mut(&turn.unit).expect("read_ahead opens the lane whose turn it is");
        lane.take_until(&self.shards, end_seq, split, &mut gathered).await?;
        if ends_unit {
            self.lanes.remove(&turn.unit);
        }
        self.schedule.advance(ends_unit);
        let about = About {
            unit: turn.unit,
            batch_in_unit: turn.batch_in_unit,
            first_seq,
            n_sequences: end_seq - first_seq.min(end_seq),
            ends_unit,
            index: self.epoch * self.length + turn.index,
            cursor_after: self.cursor(),
        };
        Ok(Some(gathered.finish(about, &self.shards.source.sites, split)))
    }

    fn begin_epoch(&mut self, epoch: u64) -> Result<()> {
        self.epoch = epoch;
        let start = SourceCursor::default();
        self.schedule = Schedule::new(self.units.len() as u32, self.visit.interleave, self.visit.seed, start)?;
        Ok(())
    }

    /// The state before the next batch. At the end of an epoch it is the start of the next one.
    fn cursor(&self) -> SourceCursor {
        let within = self.schedule.cursor();
        let next_batch = self.epoch * self.length + within.next_batch;
        match within.next_batch == self.length {
            true => SourceCursor { next_batch, ..SourceCursor::default() },
            false => SourceCursor { next_batch, ..within.clone() },
        }
    }

    /// Open the lanes of all open units and of the one that comes next, and let each fetch what it has room for.
    fn read_ahead(&mut self, turn: Turn) {
        let open = self.schedule.cursor().open.iter().map(|open| (open.unit, open.next_batch));
        let next = self.schedule.upcoming().first().map(|&unit| (unit, 0));
        for (unit, next_batch) in open.chain(next).collect::<Vec<_>>() {
            if !self.lanes.contains_key(&unit) {
                let first_seq = next_batch * self.visit.sequences;
                let lane = Lane::new(&self.shards, &self.units[unit as usize], first_seq, self.lane_bytes);
                self.lanes.insert(unit, lane);
            }
        }
        if let Some(lane) = self.lanes.get_mut(&turn.unit) {
            lane.fill(&self.shards);
        }
    }
}

impl Lane {
    /// The rows of `unit` from sequence `first_seq` on.
    fn new(shards: &Arc<Shards>, unit: &Unit, first_seq: u32, bytes: u64) -> Self {
        let starts_before_end = |&&part: &&usize| shards.source.parts[part].sequences[1] > first_seq;
        let parts = unit.parts.iter().filter(starts_before_end).copied().collect();
        let (ahead, rows) = (Ahead::new(bytes), ShardRows::default());
        let mut lane = Self { parts, open: None, ahead, from_seq: first_seq, rows, at: 0 };
        lane.fill(shards);
        lane
    }

    fn fill(&mut self, shards: &Arc<Shards>) {
        let (per_group, row_bytes) = (shards.source.rows_per_group(), shards.source.row_bytes());
        while self.ahead.has_room() {
            match &mut self.open {
                Some((shard, group, groups)) if *group < *groups => {
                    let rows = shard.part().group_rows(*group, per_group);
                    let (shard, index) = (Arc::clone(shard), *group);
                    self.ahead.push(rows * row_bytes, async move { shard.group(index).await });
                    *group += 1;
                }
                _ => {
                    let Some(part) = self.parts.pop_front() else { return };
                    let groups = shards.source.parts[part].groups(per_group);
                    self.open = Some((shards.open(part), 0, groups));
                }
            }
        }
    }

    /// Append the rows of all sequences before `end_seq`.
    async fn take_until(&mut self, shards: &Arc<Shards>, end_seq: u32, split: Split, out: &mut Gathered) -> Result<()> {
        loop {
            let end = self.rows.seq.partition_point(|&seq| seq < end_seq);
            out.append(&self.rows, self.at..end.max(self.at), &shards.source.sites, split);
            self.at = end.max(self.at);
            if self.at < self.rows.seq.len() {
                return Ok(());
            }
            self.fill(shards);
            let Some(rows) = self.ahead.pop().await? else { return Ok(()) };
            self.at = rows.seq.partition_point(|&seq| seq < self.from_seq);
            self.rows = rows;
        }
    }
}

/// What is committed, unit by unit. Parts that retention took away are passed like sequences without rows.
fn units(shards: &Shards, batch_sequences: u32) -> Result<Vec<Unit>> {
    let source = &shards.source;
    let mut units = vec![Unit::default(); source.header.units as usize];
    for (i, part) in source.parts.iter().enumerate() {
        let unit = &mut units[part.unit as usize];
        unit.parts.push(i);
        unit.sequences = unit.sequences.max(part.sequences[1]);
    }
    for (i, unit) in units.iter_mut().enumerate() {
        let progress = source.progress.get(&(i as u32)).filter(|progress| progress.done);
        unit.sequences = progress.map_or(unit.sequences, |progress| progress.next_seq);
        let batches = unit.sequences.div_ceil(batch_sequences).max(1);
        if let Some(said) = progress.and_then(|progress| progress.batches).filter(|said| *said != batches) {
            let problem = format!("unit {i} has {} sequences in {said} batches, not in {batches}", unit.sequences);
            return Err(Error::data(format!("{problem}: read it with `order: shuffled`")));
        }
        unit.batches = batches;
    }
    Ok(units)
}
