//! The `dataset:` section of a pipeline.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, Count, HumanDuration, Percent};

/// Store activations as a dataset of Parquet shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetConfig {
    /// Where: a local path or an object-store URL.
    #[schemars(length(min = 1))]
    pub url: String,
    /// How activations are stored.
    #[serde(default)]
    pub dtype: StoredDtype,
    /// How float16 values are laid out.
    #[serde(default)]
    pub layout: Layout,
    /// Rows in a shard, at most; shards end where sequences end.
    #[serde(default = "default_rows_per_shard")]
    #[schemars(extend("minimum" = 1, "maximum" = 16_777_216))]
    pub rows_per_shard: Count,
    /// Rows in a row group, at most: what is encoded, and read back, at a time.
    #[serde(default = "default_rows_per_group")]
    #[schemars(extend("minimum" = 1, "maximum" = 16_777_216))]
    pub rows_per_group: Count,
    /// Compression of the columns.
    #[serde(default)]
    pub compression: CompressionConfig,
    /// Share of the kept rows that is stored, chosen by hash of (unit, sequence, position); trainers see all rows.
    #[serde(default = "default_sample")]
    pub sample: Percent,
    /// Whether other runs may write this dataset at the same time, here or on other machines. Each then names its objects
    /// by an id of its own and passes units that others have finished. Without it a run must be the only writer.
    #[serde(default)]
    pub shared: bool,
    /// Retention: shards beyond the first of these limits that is reached are retired, oldest first; everything is kept
    /// if left out. Applied every ten minutes, at the end of a run, and before `limits.store_bytes` stops one.
    #[serde(default, skip_serializing_if = "KeepConfig::keeps_all")]
    pub keep: KeepConfig,
}

/// What is kept of a dataset: the newest shards that are within every limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeepConfig {
    /// Rows, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Count>,
    /// Bytes of the shards, at most, those of column groups included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<ByteSize>,
    /// Time since a shard was committed, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<HumanDuration>,
    /// How long retired shards stay, for those who still read them; a day if left out. Readers that began before a shard was
    /// retired fail if it is deleted under them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<HumanDuration>,
}

impl KeepConfig {
    /// Whether there is no limit.
    pub fn keeps_all(&self) -> bool {
        self.rows.is_none() && self.bytes.is_none() && self.age.is_none()
    }
}

/// Number format of stored activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoredDtype {
    /// IEEE half precision. Values beyond its range are stored as infinities and counted in the statistics.
    #[default]
    Float16,
    /// As computed.
    Float32,
    /// bfloat16, as fixed-size binary: Parquet has no such type.
    Bfloat16,
}

/// Column layout of float16 activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Typed lists that pyarrow, polars, duckdb and Hugging Face datasets understand.
    #[default]
    Typed,
    /// Fixed-size binary with dtype and shape in the field's metadata.
    Raw,
}

/// Compression of a dataset's columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CompressionConfig {
    /// None: activations shrink little.
    #[default]
    None,
    /// Zstandard, level 1.
    Zstd,
}

impl DatasetConfig {
    /// A dataset at `url`, everything else at its default.
    pub fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            dtype: StoredDtype::default(),
            layout: Layout::default(),
            rows_per_shard: default_rows_per_shard(),
            rows_per_group: default_rows_per_group(),
            compression: CompressionConfig::default(),
            sample: default_sample(),
            shared: false,
            keep: KeepConfig::default(),
        }
    }
}

fn default_rows_per_shard() -> Count {
    Count(262_144)
}

fn default_rows_per_group() -> Count {
    Count(16_384)
}

fn default_sample() -> Percent {
    Percent::from_share(1.0)
}
