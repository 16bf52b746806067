//! What can be asked of, and done to, the pipelines of a process that runs many: the vocabulary of `/v1/pipelines`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::pipeline::status::StatusSnapshot;

/// Where a pipeline stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PipelineState {
    /// It will work: it loads its model, or waits to be started again after a fault.
    Pending,
    /// Its stages work.
    Running,
    /// It finishes what is in flight and writes checkpoints.
    Draining,
    /// It reached the end of its corpus.
    Done,
    /// It cannot go on until somebody changes something; `reason` says what.
    Failed,
    /// It was paused or drained; everything is saved.
    Paused,
    /// It was stopped at once; what was not committed is computed again when it is resumed.
    Stopped,
}

impl PipelineState {
    /// Label value in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// What an operator wants of a pipeline. It is kept when the process ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Work.
    #[default]
    Running,
    /// Keep everything saved, and wait.
    Paused,
    /// Do nothing.
    Stopped,
}

/// What can be done to a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Finish what is in flight, save, and wait; kept over restarts.
    Pause,
    /// Work again: after a pause, a drain, a stop or a failure.
    Resume,
    /// As a pause, but not kept over restarts.
    Drain,
    /// Stop at once; kept over restarts.
    Stop,
    /// Write a checkpoint of every trainer at its next batch.
    Checkpoint,
}

/// A pipeline, as it is shown.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PipelineView {
    /// Its name.
    pub name: String,
    /// The file that it is from.
    pub source: String,
    /// Where it stands.
    pub state: PipelineState,
    /// Why it stands there, where that is not obvious.
    pub reason: Option<String>,
    /// Since when, RFC 3339 in UTC.
    pub since: String,
    /// What an operator wants of it.
    pub desired: Desired,
    /// Whether it is loaded, reaches its stores, and has its dataset open.
    pub ready: bool,
    /// Times that it was started again after a fault.
    pub restarts: u64,
    /// Seconds until it is started again after a fault.
    pub restarts_in_seconds: Option<f64>,
    /// A digest of the resolved pipeline: as long as it is the same, a reload changes nothing.
    pub fingerprint: String,
    /// Trainers that were added through this interface.
    pub trainers_added: Vec<String>,
    /// Trainers that were stopped through this interface.
    pub trainers_stopped: Vec<String>,
    /// What its present or last run has done.
    pub run: Option<StatusSnapshot>,
}

/// All pipelines.
#[derive(Serialize, JsonSchema)]
pub(super) struct PipelineList {
    /// One entry each, by name.
    pub(super) pipelines: Vec<PipelineView>,
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Reloaded {
    /// Pipelines that are new.
    pub added: Vec<String>,
    /// Pipelines that drain, and start again as they are now.
    pub changed: Vec<String>,
    /// Pipelines that drain and leave.
    pub removed: Vec<String>,
    /// Pipelines that were left alone.
    pub unchanged: Vec<String>,
}

/// Why something was not done.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What kind of reason.
    pub why: Why,
    /// For people.
    pub detail: String,
    /// One entry for each thing that is wrong with a pipeline file: `{severity, source, line, path, value, rule, hint}`.
    pub problems: Vec<Value>,
}

/// Kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is no such thing: 404.
    Unknown,
    /// It cannot be done as things stand: 409.
    Conflict,
    /// What was sent, or what the files hold, is wrong: 422.
    Invalid,
    /// The process cannot do it now: 503.
    Unavailable,
}

impl Refusal {
    /// A refusal without a list of problems.
    pub fn new(why: Why, detail: impl Into<String>) -> Self {
        Self { why, detail: detail.into(), problems: Vec::new() }
    }
}

/// A process that runs many pipelines. Calls may block for some seconds: they are made on threads that may.
pub trait Control: Send + Sync {
    /// All pipelines, by name.
    fn pipelines(&self) -> Vec<PipelineView>;

    /// One of them.
    fn pipeline(&self, name: &str) -> Result<PipelineView, Refusal>;

    /// Do something to one. What it leads to comes later: the state shows it.
    fn act(&self, name: &str, action: Action) -> Result<PipelineView, Refusal>;

    /// Read the pipeline files again. Nothing changes unless all of them are valid.
    fn reload(&self) -> Result<Reloaded, Refusal>;

    /// Add a trainer, written as it would be in the pipeline's file.
    fn add_trainer(&self, name: &str, trainer: Value) -> Result<PipelineView, Refusal>;

    /// Stop a trainer, or let a stopped one go on.
    fn set_trainer(&self, name: &str, trainer: &str, trains: bool) -> Result<PipelineView, Refusal>;
}
