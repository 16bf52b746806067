//! Orders of whole row groups: as the shards lie, or shuffled.
//!
//! Row groups are taken in some order, and a few of them make a window. Shuffled, shards come in a random order, some are
//! open at a time, each next row group is a random one of a random open shard, and a window's rows are permuted. The rows of an
//! epoch, window after window, are cut into batches of equal size. How many rows a row group has is known without reading
//! it, so a position is the batch's number alone: what lies before it is counted, not read.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::activation::ActivationBatch;
use crate::corpus::cursor::SourceCursor;
use crate::dataset::decoder::ShardRows;
use crate::error::{Error, Result};
use crate::replay::ahead::Ahead;
use crate::replay::rows::{About, Gathered, Split};
use crate::replay::shard::{OpenShard, Shards};
use crate::runtime::rng::{Rng, Seed};

/// How row groups and rows are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Windows {
    /// `None`: as they lie.
    pub(super) shuffle: Option<Shuffle>,
    /// Rows in a batch; an epoch's last has fewer.
    pub(super) batch_rows: u64,
    /// How often everything is gone through.
    pub(super) epochs: u64,
}

/// How rows are shuffled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shuffle {
    pub(super) seed: Seed,
    pub(super) open_shards: usize,
    /// Rows of a window, at least; the last of an epoch has fewer.
    pub(super) rows: u64,
}

/// Reads batches window by window.
#[derive(Debug)]
pub(super) struct ByWindow {
    shards: Arc<Shards>,
    windows: Windows,
    plan: Plan,
    ahead: Ahead,
    current: Window,
    /// Rows at the start of the next window that were handed out before.
    skip_rows: u64,
    next_batch: u64,
    /// Batches of one epoch.
    length: u64,
}

/// The windows that will be read, in order.
#[derive(Debug)]
struct Plan {
    shuffle: Option<Shuffle>,
    epoch: u64,
    epochs: u64,
    groups: GroupOrder,
    /// Index of the next window in its epoch.
    next_window: u64,
    /// Row groups that were not asked for yet.
    pending: VecDeque<Group>,
    /// Windows that were not loaded yet: (epoch, index in it, row groups).
    coming: VecDeque<(u64, u64, usize)>,
}

/// The row groups of an epoch in order.
#[derive(Debug)]
struct GroupOrder {
    rng: Option<Rng>,
    open_shards: usize,
    /// Parts that are not open yet, the next one last.
    waiting: Vec<usize>,
    open: Vec<OpenPart>,
}

#[derive(Debug)]
struct OpenPart {
    part: usize,
    shard: Arc<OpenShard>,
    /// Row groups that were not taken, the next one last.
    groups: Vec<u64>,
}

/// One row group.
#[derive(Debug)]
struct Group {
    shard: Arc<OpenShard>,
    group: u64,
    rows: u64,
}

/// Rows in the order in which they are handed out.
#[derive(Debug, Default)]
struct Window {
    groups: Vec<ShardRows>,
    /// Runs of rows that were not taken: (row group, rows of it).
    runs: VecDeque<(usize, Range<usize>)>,
}

impl ByWindow {
    /// Batches from number `start.next_batch` on; `prefetch` bytes may be held ahead.
    pub(super) fn new(shards: Arc<Shards>, windows: Windows, prefetch: u64, start: &SourceCursor) -> Result<Self> {
        if *start != at(start.next_batch) {
            return Err(Error::data("the saved position is not one of this order of rows: it was saved for another"));
        }
        let length = shards.source.rows().div_ceil(windows.batch_rows);
        let epoch = start.next_batch.checked_div(length).unwrap_or(0);
        let mut plan = Plan::new(&shards, windows, epoch);
        let skip_rows = plan.skip(&shards, (start.next_batch - epoch * length) * windows.batch_rows);
        let (ahead, current) = (Ahead::new(prefetch), Window::default());
        Ok(Self { shards, windows, plan, ahead, current, skip_rows, next_batch: start.next_batch, length })
    }

    /// Batches in all.
    pub(super) fn n_batches(&self) -> u64 {
        self.length * self.windows.epochs
    }

    /// The next batch; `None` at the end.
    pub(super) async fn next(&mut self, split: Split) -> Result<Option<ActivationBatch>> {
        if self.next_batch >= self.n_batches() {
            return Ok(None);
        }
        let index = self.next_batch;
        let (in_epoch, batch_rows) = (index % self.length, self.windows.batch_rows);
        let mut wanted = batch_rows.min(self.shards.source.rows() - in_epoch * batch_rows);
        let mut gathered = Gathered::new(self.shards.source.sites.len());
        while wanted > 0 {
            if self.current.runs.is_empty() {
                self.load().await?;
            }
            let sites = &self.shards.source.sites;
            wanted -= self.current.take(wanted, |rows, range| gathered.append(rows, range, sites, split));
        }
        self.next_batch += 1;
        let about = About {
            unit: 0,
            batch_in_unit: u32::try_from(in_epoch).unwrap_or(u32::MAX),
            first_seq: 0,
            n_sequences: 1,
            ends_unit: in_epoch + 1 == self.length,
            index,
            cursor_after: at(self.next_batch),
        };
        Ok(Some(gathered.finish(about, &self.shards.source.sites, split)))
    }

    /// Ask for as many row groups as there is room for.
    fn fill(&mut self) {
        let row_bytes = self.shards.source.row_bytes();
        while self.ahead.has_room() {
            let Some(group) = self.plan.next_group(&self.shards) else { return };
            let Group { shard, group, rows } = group;
            self.ahead.push(rows * row_bytes, async move { shard.group(group).await });
        }
    }

    /// The next window becomes the current one.
    async fn load(&mut self) -> Result<()> {
        let too_few = || Error::internal("the row groups ended before the batches did");
        self.current = Window::default();
        self.fill();
        let (epoch, window, groups) = self.plan.coming.pop_front().ok_or_else(too_few)?;
        let mut read = Vec::with_capacity(groups);
        for _ in 0..groups {
            read.push(self.ahead.pop().await?.ok_or_else(too_few)?);
            self.fill();
        }
        self.current = Window::new(read, self.windows.shuffle, epoch, window);
        self.current.take(std::mem::take(&mut self.skip_rows), |_, _| ());
        Ok(())
    }
}

/// The position before batch `next_batch`.
fn at(next_batch: u64) -> SourceCursor {
    SourceCursor { next_batch, ..SourceCursor::default() }
}

impl Plan {
    fn new(shards: &Arc<Shards>, windows: Windows, epoch: u64) -> Self {
        let Windows { shuffle, epochs, .. } = windows;
        let groups = GroupOrder::new(shards, shuffle, epoch);
        let (pending, coming) = (VecDeque::new(), VecDeque::new());
        Self { shuffle, epoch, epochs, groups, next_window: 0, pending, coming }
    }

    /// The next row group to ask for; `None` at the end of the last epoch.
    fn next_group(&mut self, shards: &Arc<Shards>) -> Option<Group> {
        while self.pending.is_empty() {
            if self.window(shards) == 0 {
                if self.epoch + 1 >= self.epochs {
                    return None;
                }
                self.epoch += 1;
                self.next_window = 0;
                self.groups = GroupOrder::new(shards, self.shuffle, self.epoch);
            }
        }
        self.pending.pop_front()
    }

    /// Plan the next window of the epoch; gives its rows, 0 at the epoch's end.
    fn window(&mut self, shards: &Arc<Shards>) -> u64 {
        let least = self.shuffle.map_or(1, |shuffle| shuffle.rows.max(1));
        let (mut rows, before) = (0, self.pending.len());
        while rows < least
            && let Some(group) = self.groups.next(shards)
        {
            rows += group.rows;
            self.pending.push_back(group);
        }
        if rows > 0 {
            self.coming.push_back((self.epoch, self.next_window, self.pending.len() - before));
            self.next_window += 1;
        }
        rows
    }

    /// Pass whole windows of the first `rows` rows of the epoch; gives how many rows of the next window remain to be passed.
    fn skip(&mut self, shards: &Arc<Shards>, mut rows: u64) -> u64 {
        while rows > 0 {
            let window = self.window(shards);
            if window == 0 || rows < window {
                break;
            }
            rows -= window;
            self.pending.clear();
            self.coming.clear();
        }
        rows
    }
}

impl GroupOrder {
    fn new(shards: &Shards, shuffle: Option<Shuffle>, epoch: u64) -> Self {
        let with_rows = |part: &usize| shards.source.parts[*part].rows > 0;
        let mut waiting: Vec<usize> = (0..shards.source.parts.len()).filter(with_rows).collect();
        let mut rng = shuffle.map(|shuffle| shuffle.seed.stream(&format!("replay/groups/{epoch}")));
        match &mut rng {
            Some(rng) => rng.shuffle(&mut waiting),
            None => waiting.reverse(),
        }
        let open_shards = shuffle.map_or(1, |shuffle| shuffle.open_shards.max(1));
        Self { rng, open_shards, waiting, open: Vec::new() }
    }

    fn next(&mut self, shards: &Arc<Shards>) -> Option<Group> {
        let per_group = shards.source.rows_per_group();
        while self.open.len() < self.open_shards
            && let Some(part) = self.waiting.pop()
        {
            let mut groups: Vec<u64> = (0..shards.source.parts[part].groups(per_group)).collect();
            match &mut self.rng {
                Some(rng) => rng.shuffle(&mut groups),
                None => groups.reverse(),
            }
            self.open.push(OpenPart { part, shard: shards.open(part), groups });
        }
        if self.open.is_empty() {
            return None;
        }
        let slot = self.rng.as_mut().map_or(0, |rng| rng.below(self.open.len() as u64) as usize);
        let open = &mut self.open[slot];
        let group = open.groups.pop()?;
        let rows = shards.source.parts[open.part].group_rows(group, per_group);
        let shard = Arc::clone(&open.shard);
        if open.groups.is_empty() {
            self.open.swap_remove(slot);
        }
        Some(Group { shard, group, rows })
    }
}

impl Window {
    /// The rows of `groups`, permuted if they are to be.
    fn new(groups: Vec<ShardRows>, shuffle: Option<Shuffle>, epoch: u64, window: u64) -> Self {
        let whole = groups.iter().enumerate().map(|(g, rows)| (g, 0..rows.seq.len()));
        let runs = match shuffle {
            None => whole.collect(),
            Some(shuffle) => {
                let mut rows: Vec<(usize, Range<usize>)> =
                    whole.flat_map(|(g, rows)| rows.map(move |row| (g, row..row + 1))).collect();
                shuffle.seed.stream(&format!("replay/rows/{epoch}/{window}")).shuffle(&mut rows);
                rows.into()
            }
        };
        Self { groups, runs }
    }

    /// Take up to `n` rows, run after run; gives how many there were.
    fn take(&mut self, n: u64, mut give: impl FnMut(&ShardRows, Range<usize>)) -> u64 {
        let mut left = n;
        while left > 0
            && let Some((group, rows)) = self.runs.front_mut()
        {
            let taken = left.min(rows.len() as u64);
            let end = rows.start + taken as usize;
            give(&self.groups[*group], rows.start..end);
            rows.start = end;
            left -= taken;
            if rows.start >= rows.end {
                self.runs.pop_front();
            }
        }
        n - left
    }
}
