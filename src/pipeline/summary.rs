//! What a run ends with: one object, printed as a table or as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::ErrorKind;
use crate::evaluation::Evaluation;
use crate::pipeline::status::RowsFrom;
use crate::store::prices::Spent;

/// The result of `harvestd run`.
#[derive(Clone, Debug, Serialize)]
pub struct RunSummary {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Whether a signal ended the run before everything was done; running it again continues.
    pub interrupted: bool,
    /// Why the run ended by itself before everything was done: `limits.store_bytes` was reached. With more room, running
    /// it again continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// Where its rows came from: of a dataset, there are no documents and tokens to compute.
    pub rows_from: RowsFrom,
    /// Documents computed by this run.
    pub documents: u64,
    /// Tokens computed by this run.
    pub tokens: u64,
    /// Rows kept by this run; of a replay, rows read and not dropped.
    pub rows: u64,
    /// Shards committed by this run.
    pub shards: u64,
    /// Bytes of the shards committed by this run.
    pub bytes: u64,
    /// Shards that another run of a shared dataset committed first; ours were deleted.
    pub shards_lost: u64,
    /// Seconds from the first to the last batch, preparation and evaluation left out.
    pub seconds: f64,
    /// `tokens / seconds`.
    pub tokens_per_second: f64,
    /// `rows / seconds`.
    pub rows_per_second: f64,
    /// What this run dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// The whole dataset, earlier runs included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetSummary>,
    /// What this run asked of remote stores, and what it cost.
    pub stores: Spent,
    /// One entry a trainer.
    pub trainers: Vec<TrainerSummary>,
    /// The five numbers of each stage.
    pub stages: Vec<StageSummary>,
}

/// The stored dataset.
#[derive(Clone, Debug, Serialize)]
pub struct DatasetSummary {
    /// Where.
    pub url: String,
    /// Rows.
    pub rows: u64,
    /// Shards.
    pub shards: u64,
    /// Bytes.
    pub bytes: u64,
    /// Whether every unit of the corpus is in it.
    pub complete: bool,
    /// Its column groups that the run wrote to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<DatasetSummary>,
}

/// One trainer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TrainerSummary {
    /// Name.
    pub name: String,
    /// The site.
    pub site: String,
    /// Rows trained on.
    pub rows: u64,
    /// Loss of the last step.
    pub loss: f64,
    /// Fraction of variance unexplained: on held-out text if it was evaluated, else of the last step.
    pub fvu: f64,
    /// Mean active latents a row; as `fvu`.
    pub l0: f64,
    /// Share of latents that fired for none of the last `dead_after_tokens` rows.
    pub dead_fraction: f64,
    /// Newest checkpoint.
    pub checkpoint: String,
    /// Folder with the exported coder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exported: Option<String>,
    /// Folder with a cross-layer transcoder as circuit-tracer reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_tracer: Option<String>,
    /// Why there is no exported coder: what SAELens lacks for this coder, whose checkpoint is the coder then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_in_saelens: Option<String>,
    /// Metrics on held-out text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What kind of error it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<ErrorKind>,
}

/// One stage's five numbers.
#[derive(Clone, Debug, Serialize)]
pub struct StageSummary {
    /// Name.
    pub stage: String,
    /// Items in.
    pub items_in: u64,
    /// Items out.
    pub items_out: u64,
    /// Bytes handled.
    pub bytes: u64,
    /// Seconds of work.
    pub busy_seconds: f64,
    /// Seconds waiting for a full or empty queue.
    pub blocked_seconds: f64,
}
