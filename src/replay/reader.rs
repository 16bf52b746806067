//! Batches of a stored dataset, one after the other.

use serde_json::{Value, json};

use crate::activation::ActivationBatch;
use crate::corpus::cursor::SourceCursor;
use crate::error::Result;
use crate::replay::by_unit::{ByUnit, Visit};
use crate::replay::by_window::{ByWindow, Shuffle, Windows};
use crate::replay::config::{Order, ReplayConfig};
use crate::replay::rows::Split;
use crate::replay::shard::Shards;
use crate::replay::source::Source;
use crate::runtime::rng::Seed;

/// Reads a stored dataset as batches.
///
/// Batches are numbered over all epochs; batch `n` holds the same rows whenever and from wherever it is reached. A batch's
/// `cursor_after` continues with the next one.
#[derive(Debug)]
pub struct Reader {
    order: Batches,
    split: Split,
}

#[derive(Debug)]
enum Batches {
    ByUnit(Box<ByUnit>),
    ByWindow(Box<ByWindow>),
}

impl Reader {
    /// All rows that are not held out and have neither NaN nor an infinity, from `start` on, as `config` says; `seed` is that of
    /// the shuffled order.
    ///
    /// # Errors
    /// `Data` for a position of another dataset or order.
    pub fn new(source: Source, config: &ReplayConfig, seed: Seed, start: &SourceCursor) -> Result<Self> {
        let split = Split::Training(config.holdout.share());
        let shards = Shards::new(source, config.checksums);
        let visit = match config.order {
            Order::Stream => Visit::of(&shards.source.header),
            Order::Shuffled => None,
        };
        let order = match visit {
            Some(visit) => {
                let (epochs, bytes) = (config.epochs, config.prefetch.0);
                Batches::ByUnit(Box::new(ByUnit::new(shards, visit, epochs, bytes, start)?))
            }
            None => {
                let windows = windows(config, seed);
                Batches::ByWindow(Box::new(ByWindow::new(shards, windows, config.prefetch.0, start)?))
            }
        };
        Ok(Self { order, split })
    }

    /// The held-out rows alone, once, shard after shard. Those with NaN or an infinity, which training counts, are not among
    /// them.
    pub fn held_out(source: Source, config: &ReplayConfig) -> Result<Self> {
        Self::shard_by_shard(source, config, Split::HeldOut(config.holdout.share()))
    }

    /// All rows, once, shard after shard, in batches of `batch_rows`; checksums are compared.
    pub fn as_stored(source: Source, batch_rows: u32) -> Result<Self> {
        let config = ReplayConfig { batch_rows, checksums: true, ..ReplayConfig::of("") };
        Self::shard_by_shard(source, &config, Split::All)
    }

    fn shard_by_shard(source: Source, config: &ReplayConfig, split: Split) -> Result<Self> {
        let windows = Windows { shuffle: None, batch_rows: u64::from(config.batch_rows.max(1)), epochs: 1 };
        let shards = Shards::new(source, config.checksums);
        let order = ByWindow::new(shards, windows, config.prefetch.0, &SourceCursor::default())?;
        Ok(Self { order: Batches::ByWindow(Box::new(order)), split })
    }

    /// The next batch; `None` at the end of the last epoch. Call it within the runtime that does the reading.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer; `Data` if a shard is not what its commit says. The reader is then
    /// unusable; one made anew at the last batch's cursor continues.
    pub async fn next(&mut self) -> Result<Option<ActivationBatch>> {
        match &mut self.order {
            Batches::ByUnit(order) => order.next(self.split).await,
            Batches::ByWindow(order) => order.next(self.split).await,
        }
    }

    /// Batches in all, over every epoch.
    pub fn n_batches(&self) -> u64 {
        match &self.order {
            Batches::ByUnit(order) => order.n_batches(),
            Batches::ByWindow(order) => order.n_batches(),
        }
    }
}

fn windows(config: &ReplayConfig, seed: Seed) -> Windows {
    let shuffle = match config.order {
        Order::Stream => None,
        Order::Shuffled => {
            Some(Shuffle { seed, open_shards: config.open_shards as usize, rows: config.shuffle_rows.0 })
        }
    };
    Windows { shuffle, batch_rows: u64::from(config.batch_rows.max(1)), epochs: u64::from(config.epochs) }
}

/// What the rows of a replay are and in which order: whatever changes it makes another stream, on which a checkpoint cannot
/// go on.
pub fn identity(source: &Source, config: &ReplayConfig, seed: Seed) -> Value {
    let by_unit = config.order == Order::Stream && Visit::of(source.header()).is_some();
    let order = match (config.order, by_unit) {
        (Order::Stream, true) => json!("stream"),
        (Order::Stream, false) => json!({"as_stored": {"batch_rows": config.batch_rows}}),
        (Order::Shuffled, _) => json!({"shuffled": {
            "seed": seed, "open_shards": config.open_shards, "shuffle_rows": config.shuffle_rows,
            "batch_rows": config.batch_rows,
        }}),
    };
    json!({"replay": {"snapshot": source.snapshot(), "order": order, "epochs": config.epochs, "holdout": config.holdout}})
}
