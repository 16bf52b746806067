//! Everything that the page at `/` shows of all pipelines, in one answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use crate::admin::board::Board;
use crate::admin::control::{Control, PipelineView};
use crate::admin::samples::{Bottleneck, Rates, StageLoad, bottleneck};
use crate::pipeline::status::StatusSnapshot;
use crate::telemetry::events::LogEvent;
use crate::telemetry::metrics::Metrics;

/// The process and its pipelines.
#[derive(Serialize, JsonSchema)]
pub(super) struct Overview {
    /// The version that runs.
    version: &'static str,
    /// Seconds since 1970-01-01 UTC.
    now: f64,
    /// Seconds since the process began.
    uptime_seconds: f64,
    /// How pipelines are changed over HTTP, if they can be.
    changes: Changes,
    /// Of the process.
    process: ProcessView,
    /// By name.
    pipelines: Vec<PipelineOverview>,
    /// What was logged last, the newest first.
    events: Vec<LogEvent>,
}

/// How pipelines are changed over HTTP.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Changes {
    /// They are not: the process runs one pipeline to its end, or was started without token and authority.
    Never,
    /// By those who show the token.
    WithToken,
    /// By those who show a certificate.
    WithCertificate,
}

/// What the process uses.
#[derive(Serialize, JsonSchema)]
pub(super) struct ProcessView {
    /// Resident memory.
    resident_bytes: Option<u64>,
    /// Processor seconds so far.
    cpu_seconds: Option<f64>,
}

/// One pipeline.
#[derive(Serialize, JsonSchema)]
struct PipelineOverview {
    /// Its name.
    name: String,
    /// `pending`, `running`, `draining`, `done`, `failed`, `paused` or `stopped`.
    state: String,
    /// All that `/v1/pipelines` says of it but for its run, where there is such a route.
    control: Option<PipelineView>,
    /// What its present or last run has done.
    run: StatusSnapshot,
    /// How fast it was in the last half hour.
    rates: Rates,
    /// What its stages did in the last minute.
    stages: Vec<StageLoad>,
    /// Which of them the others wait for.
    bottleneck: Option<Bottleneck>,
    /// Its queues.
    queues: Vec<QueueView>,
    /// What was asked of its stores, by use: the corpus, the dataset, checkpoints.
    stores: BTreeMap<String, StoreView>,
}

/// A queue.
#[derive(Serialize, JsonSchema)]
struct QueueView {
    /// Its name: that of the stage behind it.
    queue: String,
    /// Items in it.
    items: f64,
    /// Their weight, in bytes or tokens.
    weight: f64,
    /// The weight that it may hold.
    budget: f64,
}

/// One use of a store.
#[derive(Serialize, JsonSchema)]
struct StoreView {
    /// Bytes written.
    sent_bytes: u64,
    /// Bytes read.
    received_bytes: u64,
    /// Requests that were made again.
    retries: u64,
}

impl Overview {
    pub(super) fn of(board: &Board, control: Option<&Arc<dyn Control>>, changes: Changes) -> Self {
        let mut views: BTreeMap<String, PipelineView> =
            control.iter().flat_map(|c| c.pipelines()).map(|view| (view.name.clone(), view)).collect();
        let pipelines = board.each(|name, watched, track| {
            let loads = track.map(|track| track.loads()).unwrap_or_default();
            let mut run = watched.status.snapshot()?;
            let mut view = views.remove(name);
            if let Some(of_view) = view.as_mut().and_then(|view| view.run.take()) {
                // the two may have been taken around a new start
                run = of_view;
            }
            let state = view.as_ref().map_or(run.state.in_metrics(), |view| view.state.as_str());
            Some(PipelineOverview {
                name: name.to_owned(),
                state: state.to_owned(),
                control: view,
                run,
                rates: track.map(|track| track.rates()).unwrap_or_default(),
                bottleneck: bottleneck(&loads),
                stages: loads,
                queues: queues(&watched.metrics),
                stores: stores(&watched.metrics),
            })
        });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            now: board.clock().since_epoch().as_secs_f64(),
            uptime_seconds: board.clock().now().as_secs_f64(),
            changes,
            process: ProcessView {
                resident_bytes: crate::telemetry::metrics::resident_bytes(),
                cpu_seconds: crate::telemetry::metrics::processor_time().map(|time| time.as_secs_f64()),
            },
            pipelines,
            events: board.events().all(),
        }
    }
}

fn queues(metrics: &Metrics) -> Vec<QueueView> {
    let view = |(queue, stats): (String, crate::telemetry::metrics::QueueStats)| QueueView {
        queue,
        items: stats.depth.get(),
        weight: stats.weight.get(),
        budget: stats.budget.get(),
    };
    metrics.queues().into_iter().map(view).collect()
}

fn stores(metrics: &Metrics) -> BTreeMap<String, StoreView> {
    let view = |stats: crate::telemetry::metrics::StoreStats| StoreView {
        sent_bytes: stats.sent_bytes.get(),
        received_bytes: stats.received_bytes.get(),
        retries: stats.retries.get(),
    };
    metrics.stores().into_iter().map(|(name, stats)| (name, view(stats))).collect()
}
