//! What a run has done so far: written by the stages, read by the progress bars, `/v1/status` and the summary.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::hub::{Progress, ProgressSnapshot};
use crate::pipeline::lens::Lenses;
use crate::runtime::clock::Stopwatch;
use crate::runtime::readiness::Readiness;
use crate::runtime::supervisor::Health;
use crate::store::prices::{PricesConfig, Spent};
use crate::telemetry::metrics::Metrics;

/// Where a run stands in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
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

impl RunState {
    /// What metrics call it ([`crate::telemetry::metrics::STATES`]).
    pub fn in_metrics(self) -> &'static str {
        match self {
            Self::Preparing => "pending",
            Self::Running | Self::Evaluating => "running",
            Self::Draining => "draining",
            Self::Done => "done",
            Self::StorageFull | Self::Failed => "failed",
        }
    }
}

/// One trainer's line.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
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
    /// Rows that the mixing buffer can hold.
    pub buffer_rows: u64,
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
    /// What is seen of its coders while they train.
    pub lenses: Arc<Lenses>,
    state: Mutex<(RunState, Stopwatch)>,
    /// Since the stages work, and units that were done then.
    pace: Mutex<Option<(Stopwatch, f64)>>,
    checkpoints_asked: AtomicU64,
    stopped: Mutex<Option<String>>,
    rows_from: Mutex<RowsFrom>,
    trainers: Mutex<Vec<TrainerStatus>>,
    prices: Mutex<Option<PricesConfig>>,
}

/// Where a run's rows come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
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
#[derive(Clone, Debug, Serialize, JsonSchema)]
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
    /// Estimated seconds until all units are done, by the pace since the run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<f64>,
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
        Self::continuing(name, Arc::new(Metrics::new(name)))
    }

    /// The same, whose numbers go on from those of former runs.
    pub fn continuing(name: &str, metrics: Arc<Metrics>) -> Self {
        Self::seen_through(name, metrics, Arc::default())
    }

    /// The same, of which `lenses` show what they showed of former runs.
    pub fn seen_through(name: &str, metrics: Arc<Metrics>, lenses: Arc<Lenses>) -> Self {
        metrics.run.enter(RunState::Preparing.in_metrics());
        metrics.run.remaining.set(f64::NAN);
        Self {
            name: name.to_owned(),
            metrics,
            health: Health::default(),
            readiness: Readiness::new(),
            download: Progress::default(),
            lenses,
            state: Mutex::new((RunState::default(), Stopwatch::start())),
            pace: Mutex::default(),
            checkpoints_asked: AtomicU64::new(0),
            stopped: Mutex::default(),
            rows_from: Mutex::default(),
            trainers: Mutex::default(),
            prices: Mutex::default(),
        }
    }

    /// Enter a state.
    pub fn enter(&self, state: RunState) {
        if state == RunState::Running {
            *lock(&self.pace) = Some((Stopwatch::start(), self.metrics.run.units_done.get()));
        }
        self.metrics.run.enter(state.in_metrics());
        *lock(&self.state) = (state, Stopwatch::start());
    }

    /// Where the run stands.
    pub fn state(&self) -> RunState {
        lock(&self.state).0
    }

    /// How long it has stood there.
    pub fn in_state_for(&self) -> Duration {
        lock(&self.state).1.elapsed()
    }

    /// How long the stages have worked.
    pub fn working_for(&self) -> Option<Duration> {
        lock(&self.pace).map(|(since, _)| since.elapsed())
    }

    /// Estimated time until all units are done, by the pace since the stages work; shown in the metrics too.
    pub fn remaining(&self) -> Option<Duration> {
        let run = &self.metrics.run;
        let estimate = lock(&self.pace).and_then(|(since, before)| {
            let (done, total) = (run.units_done.get(), run.units_total.get());
            let seconds = since.elapsed().as_secs_f64() * (total - done) / (done - before);
            (done > before && total >= done).then(|| Duration::try_from_secs_f64(seconds).ok())?
        });
        run.remaining.set(estimate.map_or(f64::NAN, |left| left.as_secs_f64()));
        estimate
    }

    /// Ask every trainer to write a checkpoint at its next batch.
    pub fn ask_for_checkpoints(&self) {
        self.checkpoints_asked.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was asked.
    pub fn checkpoints_asked(&self) -> u64 {
        self.checkpoints_asked.load(Ordering::Relaxed)
    }

    /// How many trainers there are; 0 until they were opened.
    pub fn n_trainers(&self) -> usize {
        lock(&self.trainers).len()
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
        for trainer in &trainers {
            self.metrics.trainer(&trainer.name).rows_wanted.set(trainer.rows_total as f64);
        }
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
            remaining_seconds: self.remaining().map(|left| left.as_secs_f64()),
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
