//! What a run has done so far: written by the stages, read by the progress bars, `/v1/status` and the summary.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde::Serialize;

use crate::hub::{Progress, ProgressSnapshot};
use crate::runtime::readiness::Readiness;
use crate::runtime::supervisor::Health;
use crate::store::prices::{PricesConfig, Spent};
use crate::telemetry::metrics::Metrics;

/// Where a run stands in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Loading the model, opening the dataset, restoring trainers.
    #[default]
    Preparing,
    /// The stages work.
    Running,
    /// A signal asked it to stop: what is in flight is finished in order.
    Draining,
    /// The stream is done; coders are judged on held-out text.
    Evaluating,
    /// Everything was written.
    Done,
    /// It stopped because `limits.store_bytes` was reached; what is committed is whole.
    StorageFull,
    /// It stopped with an error.
    Failed,
}

/// One trainer's line.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TrainerStatus {
    /// Name.
    pub name: String,
    /// Rows trained on.
    pub rows: u64,
    /// Rows to train on.
    pub rows_total: u64,
    /// Loss of the last step.
    pub loss: f64,
    /// Fraction of variance unexplained in the last step.
    pub fvu: f64,
    /// Mean number of active latents a row in the last step.
    pub l0: f64,
    /// Share of latents that are dead.
    pub dead_fraction: f64,
    /// Rows waiting in the mixing buffer.
    pub buffered: u64,
    /// Fraction of variance unexplained on held-out rows, when it was last judged on them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_fvu: Option<f64>,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A run's state, beside the numbers in its [`Metrics`].
pub struct RunStatus {
    /// Name of the pipeline.
    pub name: String,
    /// All numbers of the run.
    pub metrics: Arc<Metrics>,
    /// How its stages fare.
    pub health: Health,
    /// What it still waits for before it works.
    pub readiness: Readiness,
    /// The model on its way from a hub.
    pub download: Progress,
    state: Mutex<RunState>,
    stopped: Mutex<Option<String>>,
    rows_from: Mutex<RowsFrom>,
    trainers: Mutex<Vec<TrainerStatus>>,
    prices: Mutex<Option<PricesConfig>>,
}

/// Where a run's rows come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowsFrom {
    /// A model computes them from text.
    #[default]
    Corpus,
    /// They are stored, and are replayed.
    Dataset,
}

impl RowsFrom {
    /// What it is called: `corpus` or `dataset`.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Corpus => "corpus",
            Self::Dataset => "dataset",
        }
    }
}

/// A readable copy of [`RunStatus`].
#[derive(Clone, Debug, Serialize)]
pub struct StatusSnapshot {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Where the run stands.
    pub state: RunState,
    /// Why it stopped before its end, if it did by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// Where its rows come from.
    pub rows_from: RowsFrom,
    /// The model on its way from a hub.
    pub download: ProgressSnapshot,
    /// Documents computed.
    pub documents: u64,
    /// Tokens computed.
    pub tokens: u64,
    /// Rows kept.
    pub rows: u64,
    /// Shards committed.
    pub shards: u64,
    /// Bytes of committed shards.
    pub bytes: u64,
    /// Units that are through.
    pub units: u64,
    /// Units of the corpus.
    pub units_total: u64,
    /// What was dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// What was asked of remote stores, and what it cost.
    pub stores: Spent,
    /// One line a trainer.
    pub trainers: Vec<TrainerStatus>,
}

impl RunStatus {
    /// A run called `name` that prepares.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            metrics: Arc::new(Metrics::new(name)),
            health: Health::default(),
            readiness: Readiness::new(),
            download: Progress::default(),
            state: Mutex::default(),
            stopped: Mutex::default(),
            rows_from: Mutex::default(),
            trainers: Mutex::default(),
            prices: Mutex::default(),
        }
    }

    /// Enter a state.
    pub fn enter(&self, state: RunState) {
        *lock(&self.state) = state;
    }

    /// Where the run stands.
    pub fn state(&self) -> RunState {
        *lock(&self.state)
    }

    /// Say that the run stops before its end, and why. The first reason stays.
    pub fn stop(&self, reason: &str) {
        lock(&self.stopped).get_or_insert_with(|| reason.to_owned());
    }

    /// Why the run stopped before its end, if it did by itself.
    pub fn stopped(&self) -> Option<String> {
        lock(&self.stopped).clone()
    }

    /// Say where rows come from.
    pub fn set_rows_from(&self, rows_from: RowsFrom) {
        *lock(&self.rows_from) = rows_from;
    }

    /// Where rows come from.
    pub fn rows_from(&self) -> RowsFrom {
        *lock(&self.rows_from)
    }

    /// Announce the trainers.
    pub fn set_trainers(&self, trainers: Vec<TrainerStatus>) {
        *lock(&self.trainers) = trainers;
    }

    /// Change trainer `i`'s line.
    pub fn update_trainer(&self, i: usize, change: impl FnOnce(&mut TrainerStatus)) {
        if let Some(line) = lock(&self.trainers).get_mut(i) {
            change(line);
        }
    }

    /// A copy of everything.
    pub fn snapshot(&self) -> StatusSnapshot {
        let run = &self.metrics.run;
        StatusSnapshot {
            pipeline: self.name.clone(),
            state: self.state(),
            stopped: self.stopped(),
            rows_from: self.rows_from(),
            download: self.download.snapshot(),
            documents: run.documents.get(),
            tokens: run.tokens.get(),
            rows: run.rows.get(),
            shards: run.shards.get(),
            bytes: run.shard_bytes.get(),
            units: run.units_done.get() as u64,
            units_total: run.units_total.get() as u64,
            dropped: run.dropped().iter().map(|(reason, n)| (reason.as_str(), n)).collect(),
            stores: self.spent(),
            trainers: lock(&self.trainers).clone(),
        }
    }

    /// Count costs by these prices.
    pub fn set_prices(&self, prices: Option<PricesConfig>) {
        *lock(&self.prices) = prices;
    }

    /// What was asked of remote stores so far, and what it cost.
    pub fn spent(&self) -> Spent {
        Spent::so_far(self.metrics.stores().values(), lock(&self.prices).as_ref())
    }
}

/// The values are plain data: a panic while they were held leaves them usable.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
