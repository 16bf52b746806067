//! The `replay:` section of a pipeline.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, Count, Percent};

/// Train from a stored dataset instead of from a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayConfig {
    /// The dataset: a local path or an object-store URL. What is committed when the run begins is read.
    #[schemars(length(min = 1))]
    pub url: String,
    /// The order of rows.
    #[serde(default)]
    pub order: Order,
    /// How often the whole dataset is gone through.
    #[serde(default = "default_epochs")]
    #[schemars(range(min = 1))]
    pub epochs: u32,
    /// Share of the stored documents (by hash) that trainers never see, and that coders are judged on at the end.
    #[serde(default = "default_holdout")]
    pub holdout: Percent,
    /// With `order: shuffled`: shards from which row groups are taken in turn.
    #[serde(default = "default_open_shards")]
    #[schemars(range(min = 1, max = 4096))]
    pub open_shards: u32,
    /// With `order: shuffled`: rows that are shuffled among each other, about; whole row groups of different shards.
    #[serde(default = "default_shuffle_rows")]
    #[schemars(extend("minimum" = 1, "maximum" = 1_073_741_824))]
    pub shuffle_rows: Count,
    /// Rows in a batch, where the order is not that of the run that stored them.
    #[serde(default = "default_batch_rows")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub batch_rows: u32,
    /// Bytes of decoded rows that are held ahead of the trainers, at most (but for one row group of each open unit).
    #[serde(default = "default_prefetch")]
    pub prefetch: ByteSize,
    /// Compare each shard's checksum before its rows are used: reads every shard twice, and whole.
    #[serde(default)]
    pub checksums: bool,
}

/// The order in which stored rows are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// That of the run that stored them, row for row; of a dataset that no run stored (imported, shuffled), that of its
    /// shards.
    #[default]
    Stream,
    /// Shards, row groups and rows in a random order, by the pipeline's seed; another in each epoch.
    Shuffled,
}

impl ReplayConfig {
    /// Everything at its default.
    pub fn of(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            order: Order::default(),
            epochs: default_epochs(),
            holdout: default_holdout(),
            open_shards: default_open_shards(),
            shuffle_rows: default_shuffle_rows(),
            batch_rows: default_batch_rows(),
            prefetch: default_prefetch(),
            checksums: false,
        }
    }
}

fn default_epochs() -> u32 {
    1
}

fn default_holdout() -> Percent {
    Percent::from_share(0.0)
}

fn default_open_shards() -> u32 {
    8
}

fn default_shuffle_rows() -> Count {
    Count(131_072)
}

fn default_batch_rows() -> u32 {
    4096
}

fn default_prefetch() -> ByteSize {
    ByteSize(256 << 20)
}
