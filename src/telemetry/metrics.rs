//! Every metric: name, help, labels, and the handles that components hold.
//!
//! Names are `harvestd_<area>_<what>_<unit>[_total]`. A new metric is a [`Family`] in [`FAMILIES`], a field in the struct
//! of the component that writes it, a line in that struct's `add_to`, and a row in `docs/operations.md`. Counters count
//! since the process started; what a dataset or a checkpoint holds in all is written in them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::accounting::{DropCounts, DropReason};
use crate::error::ErrorKind;
use crate::telemetry::registry::{Counter, Family, Gauge, Histogram, Registry, Seconds, render};
use crate::telemetry::traces::{PipelineTraces, StageTraces, Traces};

mod process;
mod requests;

pub use process::{ProcessMetrics, processor_time, resident_bytes};
pub use requests::{RequestClass, StoreOperation};

// === names ===

macro_rules! families {
    ($($id:ident = $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(static $id: Family = Family { name: $name, help: $help, labels: &[$($label),*] };)*
        /// All metrics there are.
        pub static FAMILIES: &[&Family] = &[$(&$id),*];
    };
}

families! {
    STAGE_ITEMS_IN = "harvestd_stage_items_in_total" ["stage"] "Items that a stage received";
    STAGE_ITEMS_OUT = "harvestd_stage_items_out_total" ["stage"] "Items that a stage sent on";
    STAGE_BYTES = "harvestd_stage_bytes_total" ["stage"] "Bytes of the items that a stage sent on";
    STAGE_BUSY = "harvestd_stage_busy_seconds_total" ["stage"] "Time that a stage worked";
    STAGE_BLOCKED = "harvestd_stage_blocked_seconds_total" ["stage"] "Time that a stage waited for its neighbours";

    QUEUE_ITEMS = "harvestd_queue_items_total" ["queue"] "Items that entered a queue";
    QUEUE_DEPTH = "harvestd_queue_depth_items" ["queue"] "Items in a queue now";
    QUEUE_WEIGHT = "harvestd_queue_weight" ["queue"] "Weight in a queue now, in what its budget counts (bytes or rows)";
    QUEUE_BUDGET = "harvestd_queue_budget_weight" ["queue"] "Weight that a queue may hold, in what its budget counts (bytes or rows)";
    QUEUE_SEND_BLOCKED = "harvestd_queue_send_blocked_seconds_total" ["queue"] "Time that senders waited for room in a queue";
    QUEUE_RECEIVE_BLOCKED = "harvestd_queue_receive_blocked_seconds_total" ["queue"] "Time that receivers waited for items in a queue";

    STORE_REQUESTS = "harvestd_store_requests_total" ["store", "operation"] "Requests to an object store";
    STORE_LATENCY = "harvestd_store_request_seconds" ["store", "operation"] "Time that requests to an object store took";
    STORE_ERRORS = "harvestd_store_errors_total" ["store", "kind"] "Requests to an object store that failed, by kind of error";
    STORE_SENT = "harvestd_store_sent_bytes_total" ["store"] "Bytes written to an object store";
    STORE_RECEIVED = "harvestd_store_received_bytes_total" ["store"] "Bytes read from an object store";
    STORE_RETRIES = "harvestd_store_retries_total" ["store"] "Requests to an object store that were made again after a failure";
    STORE_ATTEMPTS = "harvestd_store_http_requests_total" ["store", "class"] "HTTP requests that were sent to an object store, those made again included, by what providers bill";

    TRAINER_LOSS = "harvestd_trainer_loss" ["trainer"] "Training loss of the last reported step";
    TRAINER_FVU = "harvestd_trainer_fvu_ratio" ["trainer"] "Fraction of variance unexplained on the training rows, in raw space (explained variance is 1 - FVU)";
    TRAINER_HELDOUT_FVU = "harvestd_trainer_heldout_fvu_ratio" ["trainer"] "Fraction of variance unexplained on held-out rows, in raw space";
    TRAINER_FVU_GAP = "harvestd_trainer_fvu_gap_ratio" ["trainer"] "Held-out FVU less that of the last training batches, at the last evaluation: it opens when rows are drawn too often";
    TRAINER_HELDOUT_L0 = "harvestd_trainer_heldout_l0_latents" ["trainer"] "Mean number of active latents in a held-out row";
    TRAINER_HELDOUT_DEAD = "harvestd_trainer_heldout_dead_latents_ratio" ["trainer"] "Fraction of latents that fired on none of the held-out rows";
    TRAINER_L0 = "harvestd_trainer_l0_latents" ["trainer"] "Mean number of active latents in a row";
    TRAINER_DEAD = "harvestd_trainer_dead_latents_ratio" ["trainer"] "Fraction of latents that did not fire within the dead window";
    TRAINER_GRAD_NORM = "harvestd_trainer_gradient_norm" ["trainer"] "Norm of the gradient before clipping";
    TRAINER_LEARNING_RATE = "harvestd_trainer_learning_rate" ["trainer"] "Learning rate of the last step";
    TRAINER_ROWS = "harvestd_trainer_rows_total" ["trainer"] "Rows that a trainer learnt from; a row drawn twice counts twice";
    TRAINER_WANTED = "harvestd_trainer_wanted_rows" ["trainer"] "Rows that a trainer is to learn from in all";
    TRAINER_STEPS = "harvestd_trainer_steps_total" ["trainer"] "Optimisation steps";
    TRAINER_SKIPPED = "harvestd_trainer_skipped_steps_total" ["trainer"] "Steps that were not applied because a gradient was not finite";
    TRAINER_BUFFERED = "harvestd_trainer_buffered_rows" ["trainer"] "Rows in the mixing buffer";
    TRAINER_BEHIND = "harvestd_trainer_behind_rows" ["trainer"] "Rows that wait in front of a trainer";
    TRAINER_MIX = "harvestd_trainer_batch_documents" ["trainer"] "Distinct documents in the last batch: how well the buffer mixes";
    TRAINER_CHECKPOINTS = "harvestd_trainer_checkpoints_total" ["trainer"] "Checkpoints that were written";

    DOCUMENTS = "harvestd_corpus_documents_total" [] "Documents that went through the forward pass";
    TOKENS = "harvestd_forward_tokens_total" [] "Tokens that the forward pass computed";
    ROWS = "harvestd_forward_rows_total" [] "Rows of activations that were kept";
    DROPPED = "harvestd_run_dropped_items_total" ["reason"] "Documents, files, tokens or rows (which, follows from the reason) that were read but not kept";
    UNITS_TOTAL = "harvestd_run_work_units" [] "Work units of the corpus";
    UNITS_DONE = "harvestd_run_done_units" [] "Work units that are done, those of earlier runs included";
    SHARDS = "harvestd_dataset_shards_total" [] "Shards that were committed";
    SHARDS_LOST = "harvestd_dataset_shards_lost_total" [] "Shards that another writer of the dataset committed first; ours were deleted";
    SHARD_ROWS = "harvestd_dataset_rows_total" [] "Rows in the shards that were committed";
    SHARD_BYTES = "harvestd_dataset_bytes_total" [] "Bytes of the shards that were committed";
    SCREENED = "harvestd_screen_rows_total" [] "Rows whose latents were selected by a screen at low precision";
    SCREEN_CANDIDATES = "harvestd_screen_candidates_total" [] "Pre-activations that a screen could not rule out and that were computed precisely";
    SCREEN_GIVEN_UP = "harvestd_screen_unscreened_rows_total" [] "Rows that no bound could be computed for (extreme norms, values that are no numbers): all their pre-activations were computed precisely";
    READY = "harvestd_run_ready" [] "1 when the model is loaded, the store reachable and the dataset open";
    FAULTS = "harvestd_run_faults_total" ["kind"] "Faults that stopped a stage, by kind of error";
    RESTARTS = "harvestd_run_restarts_total" [] "Times that the pipeline was started again after a fault";
    MEMORY_BUDGET = "harvestd_memory_budget_bytes" [] "The memory budget that buffers share";
    MEMORY_HELD = "harvestd_memory_held_bytes" [] "Bytes of the memory budget that are held";
    MEMORY_PEAK = "harvestd_memory_held_peak_bytes" [] "Most bytes of the memory budget that were held at once";

    STATE = "harvestd_run_state" ["state"] "1 for the state that the pipeline is in, 0 for every other";
    REMAINING = "harvestd_run_remaining_seconds" [] "Estimated time until all work units are done, by the pace since the run began; NaN while there is none";
    RESTART_WAIT = "harvestd_run_restart_wait_seconds" [] "Time until the pipeline is started again after a fault; 0 while nothing is waited for";

    HTTP_REQUESTS = "harvestd_http_requests_total" ["route", "code"] "Requests to this server that were answered, by route and status code";
    RELOADS = "harvestd_process_reloads_total" ["result"] "Times that the pipeline files were read again, by what came of it";
    MEMORY_LIMIT = "harvestd_process_memory_limit_bytes" [] "Memory that pipelines may take together (--memory); +Inf without a limit";
    MEMORY_RESERVED = "harvestd_process_memory_reserved_bytes" [] "Memory (limits.memory) of the pipelines that work";
    PROCESSOR = "harvestd_process_cpu_seconds_total" [] "Processor time that the process used";
    OPEN_FILES = "harvestd_process_open_files" [] "Files and sockets that the process has open";
    THREADS = "harvestd_process_threads" [] "Threads of the process";
    RESIDENT = "harvestd_process_resident_bytes" [] "Resident memory of the process";
    START_TIME = "harvestd_process_start_time_seconds" [] "Start of the process, in seconds since 1970-01-01 UTC";
    BUILD = "harvestd_process_build_info" ["version"] "Always 1; the label names the version that runs";
}

// === handles ===

/// The five numbers of a stage.
#[derive(Clone, Debug, Default)]
pub struct StageStats {
    /// Items received.
    pub items_in: Counter,
    /// Items sent on.
    pub items_out: Counter,
    /// Bytes of the items sent on.
    pub bytes: Counter,
    /// Time at work.
    pub busy: Seconds,
    /// Time waiting to receive or to send.
    pub blocked: Seconds,
    traces: StageTraces,
}

/// [`StageStats`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StageSnapshot {
    /// Items received.
    pub items_in: u64,
    /// Items sent on.
    pub items_out: u64,
    /// Bytes of the items sent on.
    pub bytes: u64,
    /// Time at work.
    pub busy_seconds: f64,
    /// Time waiting to receive or to send.
    pub blocked_seconds: f64,
}

/// Numbers of a queue ([`crate::runtime::channel`]).
#[derive(Clone, Debug, Default)]
pub struct QueueStats {
    /// Items that entered.
    pub items: Counter,
    /// Items in it now.
    pub depth: Gauge,
    /// Their weight.
    pub weight: Gauge,
    /// The weight that it may hold.
    pub budget: Gauge,
    /// Time that senders waited for room.
    pub send_blocked: Seconds,
    /// Time that receivers waited for items.
    pub receive_blocked: Seconds,
}

/// Numbers of one use of an object store.
#[derive(Clone, Debug, Default)]
pub struct StoreStats {
    attempts: [Counter; RequestClass::ALL.len()],
    /// Requests that were made again.
    pub retries: Counter,
    /// Bytes of the bodies that remote stores sent: what providers bill as read.
    pub remote_bytes: Counter,
    requests: [Counter; StoreOperation::ALL.len()],
    latency: [Histogram; StoreOperation::ALL.len()],
    errors: [Counter; ErrorKind::ALL.len()],
    /// Bytes written.
    pub sent_bytes: Counter,
    /// Bytes read.
    pub received_bytes: Counter,
}

impl StoreStats {
    /// Count a request that took `span`.
    pub fn request(&self, operation: StoreOperation, span: std::time::Duration) {
        self.requests[operation as usize].inc();
        self.latency[operation as usize].observe(span);
    }

    /// Count a failed request.
    pub fn error(&self, kind: ErrorKind) {
        self.errors[kind as usize].inc();
    }

    /// Count an HTTP request that is sent.
    pub fn attempt(&self, class: RequestClass) {
        self.attempts[class as usize].inc();
    }

    /// HTTP requests of one class so far.
    pub fn attempts(&self, class: RequestClass) -> u64 {
        self.attempts[class as usize].get()
    }

    /// Requests of one kind so far.
    pub fn requests(&self, operation: StoreOperation) -> u64 {
        self.requests[operation as usize].get()
    }

    /// Failed requests of one kind so far.
    pub fn errors(&self, kind: ErrorKind) -> u64 {
        self.errors[kind as usize].get()
    }
}

/// Numbers of a trainer.
#[derive(Clone, Debug, Default)]
pub struct TrainerStats {
    /// Training loss.
    pub loss: Gauge,
    /// Fraction of variance unexplained, training rows.
    pub fvu: Gauge,
    /// Fraction of variance unexplained, held-out rows.
    pub heldout_fvu: Gauge,
    /// That less the training rows', at the last evaluation.
    pub fvu_gap: Gauge,
    /// Mean active latents a row, held-out rows.
    pub heldout_l0: Gauge,
    /// Fraction of latents that fire on no held-out row.
    pub heldout_dead_fraction: Gauge,
    /// Mean active latents a row.
    pub l0: Gauge,
    /// Fraction of latents that are dead.
    pub dead_fraction: Gauge,
    /// Gradient norm before clipping.
    pub grad_norm: Gauge,
    /// Learning rate.
    pub learning_rate: Gauge,
    /// Rows learnt from.
    pub rows: Counter,
    /// Rows to learn from in all.
    pub rows_wanted: Gauge,
    /// Steps.
    pub steps: Counter,
    /// Steps not applied because a gradient was not finite.
    pub steps_skipped: Counter,
    /// Rows in the mixing buffer.
    pub rows_buffered: Gauge,
    /// Rows that wait in front of the trainer.
    pub rows_behind: Gauge,
    /// Distinct documents in the last batch.
    pub batch_documents: Gauge,
    /// Checkpoints written.
    pub checkpoints: Counter,
}

/// Every state of a pipeline, as it is called in metrics.
pub const STATES: [&str; 7] = ["pending", "running", "draining", "done", "failed", "paused", "stopped"];

/// Numbers of a whole pipeline.
#[derive(Clone, Debug, Default)]
pub struct RunStats {
    /// Documents through the forward pass.
    pub documents: Counter,
    /// Tokens through the forward pass.
    pub tokens: Counter,
    /// Rows kept.
    pub rows: Counter,
    /// Work units in all.
    pub units_total: Gauge,
    /// Work units done.
    pub units_done: Gauge,
    /// Shards committed.
    pub shards: Counter,
    /// Their rows.
    pub shard_rows: Counter,
    /// Their bytes.
    pub shard_bytes: Counter,
    /// Shards that another writer committed first.
    pub shards_lost: Counter,
    /// Rows whose selection was screened.
    pub screened_rows: Counter,
    /// Pre-activations of them that were computed precisely.
    pub screen_candidates: Counter,
    /// Rows of which all were.
    pub unscreened_rows: Counter,
    /// 1 when ready.
    pub ready: Gauge,
    /// Starts after a fault.
    pub restarts: Counter,
    /// Time until all units are done.
    pub remaining: Gauge,
    /// Time until the next start after a fault.
    pub restart_wait: Gauge,
    /// Budget of memory that buffers share.
    pub memory_budget: Gauge,
    /// Bytes of it held.
    pub memory_held: Gauge,
    /// Most bytes held at once.
    pub memory_peak: Gauge,
    states: [Gauge; STATES.len()],
    dropped: [Counter; DropReason::ALL.len()],
    faults: [Counter; ErrorKind::ALL.len()],
}

impl RunStats {
    /// Count `n` things not kept.
    pub fn drop_n(&self, reason: DropReason, n: u64) {
        self.dropped[reason as usize].add(n);
    }

    /// Count everything in `counts`.
    pub fn drop_all(&self, counts: &DropCounts) {
        counts.iter().for_each(|(reason, n)| self.drop_n(reason, n));
    }

    /// What was dropped so far.
    pub fn dropped(&self) -> DropCounts {
        let mut counts = DropCounts::new();
        DropReason::ALL.iter().for_each(|&reason| counts.add(reason, self.dropped[reason as usize].get()));
        counts
    }

    /// Show that the pipeline is in the state of this name, one of [`STATES`].
    pub fn enter(&self, state: &str) {
        STATES.iter().zip(&self.states).for_each(|(name, gauge)| gauge.set(f64::from(u8::from(*name == state))));
    }

    /// Count a fault that stopped a stage.
    pub fn fault(&self, kind: ErrorKind) {
        self.faults[kind as usize].inc();
    }
}

// === from handles to names ===

/// A group of handles that is shown under one set of label values.
trait Group: Clone + Default {
    /// Show every handle of the group in `registry`, under `name`.
    fn add_to(&self, registry: &Registry, name: &str);
}

impl Group for StageStats {
    fn add_to(&self, registry: &Registry, name: &str) {
        registry.add(&STAGE_ITEMS_IN, &[name], &self.items_in);
        registry.add(&STAGE_ITEMS_OUT, &[name], &self.items_out);
        registry.add(&STAGE_BYTES, &[name], &self.bytes);
        registry.add(&STAGE_BUSY, &[name], &self.busy);
        registry.add(&STAGE_BLOCKED, &[name], &self.blocked);
    }
}

impl Group for QueueStats {
    fn add_to(&self, registry: &Registry, name: &str) {
        registry.add(&QUEUE_ITEMS, &[name], &self.items);
        registry.add(&QUEUE_DEPTH, &[name], &self.depth);
        registry.add(&QUEUE_WEIGHT, &[name], &self.weight);
        registry.add(&QUEUE_BUDGET, &[name], &self.budget);
        registry.add(&QUEUE_SEND_BLOCKED, &[name], &self.send_blocked);
        registry.add(&QUEUE_RECEIVE_BLOCKED, &[name], &self.receive_blocked);
    }
}

impl Group for StoreStats {
    fn add_to(&self, registry: &Registry, name: &str) {
        for operation in StoreOperation::ALL {
            registry.add(&STORE_REQUESTS, &[name, operation.as_str()], &self.requests[operation as usize]);
            registry.add(&STORE_LATENCY, &[name, operation.as_str()], &self.latency[operation as usize]);
        }
        for kind in ErrorKind::ALL {
            registry.add(&STORE_ERRORS, &[name, kind.as_str()], &self.errors[kind as usize]);
        }
        registry.add(&STORE_SENT, &[name], &self.sent_bytes);
        registry.add(&STORE_RECEIVED, &[name], &self.received_bytes);
        registry.add(&STORE_RETRIES, &[name], &self.retries);
        for class in RequestClass::ALL {
            registry.add(&STORE_ATTEMPTS, &[name, class.as_str()], &self.attempts[class as usize]);
        }
    }
}

impl Group for TrainerStats {
    fn add_to(&self, registry: &Registry, name: &str) {
        registry.add(&TRAINER_LOSS, &[name], &self.loss);
        registry.add(&TRAINER_FVU, &[name], &self.fvu);
        registry.add(&TRAINER_HELDOUT_FVU, &[name], &self.heldout_fvu);
        registry.add(&TRAINER_FVU_GAP, &[name], &self.fvu_gap);
        registry.add(&TRAINER_HELDOUT_L0, &[name], &self.heldout_l0);
        registry.add(&TRAINER_HELDOUT_DEAD, &[name], &self.heldout_dead_fraction);
        registry.add(&TRAINER_L0, &[name], &self.l0);
        registry.add(&TRAINER_DEAD, &[name], &self.dead_fraction);
        registry.add(&TRAINER_GRAD_NORM, &[name], &self.grad_norm);
        registry.add(&TRAINER_LEARNING_RATE, &[name], &self.learning_rate);
        registry.add(&TRAINER_ROWS, &[name], &self.rows);
        registry.add(&TRAINER_WANTED, &[name], &self.rows_wanted);
        registry.add(&TRAINER_STEPS, &[name], &self.steps);
        registry.add(&TRAINER_SKIPPED, &[name], &self.steps_skipped);
        registry.add(&TRAINER_BUFFERED, &[name], &self.rows_buffered);
        registry.add(&TRAINER_BEHIND, &[name], &self.rows_behind);
        registry.add(&TRAINER_MIX, &[name], &self.batch_documents);
        registry.add(&TRAINER_CHECKPOINTS, &[name], &self.checkpoints);
    }
}

impl RunStats {
    fn add_to(&self, registry: &Registry) {
        registry.add(&DOCUMENTS, &[], &self.documents);
        registry.add(&TOKENS, &[], &self.tokens);
        registry.add(&ROWS, &[], &self.rows);
        registry.add(&UNITS_TOTAL, &[], &self.units_total);
        registry.add(&UNITS_DONE, &[], &self.units_done);
        registry.add(&SHARDS, &[], &self.shards);
        registry.add(&SHARDS_LOST, &[], &self.shards_lost);
        registry.add(&SCREENED, &[], &self.screened_rows);
        registry.add(&SCREEN_CANDIDATES, &[], &self.screen_candidates);
        registry.add(&SCREEN_GIVEN_UP, &[], &self.unscreened_rows);
        registry.add(&SHARD_ROWS, &[], &self.shard_rows);
        registry.add(&SHARD_BYTES, &[], &self.shard_bytes);
        registry.add(&READY, &[], &self.ready);
        registry.add(&RESTARTS, &[], &self.restarts);
        registry.add(&REMAINING, &[], &self.remaining);
        registry.add(&RESTART_WAIT, &[], &self.restart_wait);
        for (state, gauge) in STATES.iter().zip(&self.states) {
            registry.add(&STATE, &[state], gauge);
        }
        registry.add(&MEMORY_BUDGET, &[], &self.memory_budget);
        registry.add(&MEMORY_HELD, &[], &self.memory_held);
        registry.add(&MEMORY_PEAK, &[], &self.memory_peak);
        for reason in DropReason::ALL {
            registry.add(&DROPPED, &[reason.as_str()], &self.dropped[reason as usize]);
        }
        for kind in ErrorKind::ALL {
            registry.add(&FAULTS, &[kind.as_str()], &self.faults[kind as usize]);
        }
    }
}

// === one pipeline, one process ===

/// All numbers of one pipeline.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    traces: PipelineTraces,
    /// Numbers of the whole pipeline.
    pub run: RunStats,
    stages: Groups<StageStats>,
    queues: Groups<QueueStats>,
    trainers: Groups<TrainerStats>,
    stores: Groups<StoreStats>,
}

type Groups<G> = Mutex<BTreeMap<String, G>>;

impl Metrics {
    /// Metrics that carry the label `pipeline`.
    pub fn new(pipeline: &str) -> Self {
        Self::traced(pipeline, &Traces::default())
    }

    /// The same, whose stages put spans into `traces`.
    pub fn traced(pipeline: &str, traces: &Traces) -> Self {
        let registry = Registry::new(&[("pipeline", pipeline)]);
        let run = RunStats::default();
        run.add_to(&registry);
        let (stages, queues, trainers, stores) = Default::default();
        Self { registry, traces: traces.of_pipeline(pipeline), run, stages, queues, trainers, stores }
    }

    /// The numbers of stage `name`: the same handles for the same name.
    pub fn stage(&self, name: &str) -> StageStats {
        StageStats { traces: self.traces.of_stage(name), ..self.group(&self.stages, name) }
    }

    /// Where the pipeline's spans go.
    pub fn traces(&self) -> &PipelineTraces {
        &self.traces
    }

    /// The numbers of trainer `name`: the same handles for the same name.
    pub fn trainer(&self, name: &str) -> TrainerStats {
        self.group(&self.trainers, name)
    }

    /// The numbers of one use of a store ("corpus", "dataset", "checkpoints"): the same handles for the same name.
    pub fn store(&self, name: &str) -> StoreStats {
        self.group(&self.stores, name)
    }

    /// The numbers of every use of a store, by name.
    pub fn stores(&self) -> BTreeMap<String, StoreStats> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Show a queue's numbers.
    pub fn queue(&self, name: &str, stats: &QueueStats) {
        stats.add_to(&self.registry, name);
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), stats.clone());
    }

    /// The numbers of every queue, by name.
    pub fn queues(&self) -> BTreeMap<String, QueueStats> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every stage's five numbers now, by name.
    pub fn stages(&self) -> BTreeMap<String, StageSnapshot> {
        let stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        stages.iter().map(|(name, stats)| (name.clone(), stats.snapshot())).collect()
    }

    /// The registry, to be rendered together with others.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// These numbers alone in the Prometheus text format.
    pub fn render(&self) -> String {
        render([&self.registry])
    }

    fn group<G: Group>(&self, groups: &Groups<G>, name: &str) -> G {
        let mut groups = groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups
            .entry(name.to_owned())
            .or_insert_with(|| {
                let group = G::default();
                group.add_to(&self.registry, name);
                group
            })
            .clone()
    }
}

impl StageStats {
    /// The stage worked on a batch for `took`, until now.
    pub fn worked(&self, (batch, unit): (u64, u32), took: std::time::Duration) {
        self.busy.add(took);
        self.traces.batch(batch, unit, took);
    }

    /// The five numbers now.
    pub fn snapshot(&self) -> StageSnapshot {
        StageSnapshot {
            items_in: self.items_in.get(),
            items_out: self.items_out.get(),
            bytes: self.bytes.get(),
            busy_seconds: self.busy.get(),
            blocked_seconds: self.blocked.get(),
        }
    }
}

#[cfg(test)]
mod tests;
