//! The pipelines that the server tells of.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::admin::samples::Track;
use crate::pipeline::lens::Lenses;
use crate::pipeline::status::{RunStatus, StatusSnapshot};
use crate::runtime::budget::MemoryBudget;
use crate::runtime::clock::Clock;
use crate::runtime::readiness::{Latch, Readiness};
use crate::runtime::shutdown::Shutdown;
use crate::runtime::supervisor::Health;
use crate::telemetry::events::RecentEvents;
use crate::telemetry::metrics::{Metrics, ProcessMetrics};
use crate::telemetry::traces::Traces;

/// How long a stage may work on one item before its pipeline counts as standing still. A shard of a slow store, or a
/// batch of a large model on a CPU, takes minutes at worst.
const STANDSTILL_AFTER: Duration = Duration::from_secs(600);

/// Gives a pipeline's status as JSON; any `Fn() -> Value` does. Called for each request: it must not block.
pub trait StatusSource: Send + Sync {
    /// Where the pipeline stands.
    fn status(&self) -> Value;

    /// The same as a type, of a run.
    fn snapshot(&self) -> Option<StatusSnapshot> {
        None
    }

    /// What is seen of its coders.
    fn lenses(&self) -> Option<Arc<Lenses>> {
        None
    }

    /// Bring numbers up to date that nobody counts as they change.
    fn refresh(&self) {}
}

/// Says whether a pipeline runs, where not all do.
pub trait Standing: Send + Sync {
    /// What there is to say of it while it does not run; `None` while it does.
    fn at_rest(&self) -> Option<Check>;
}

impl<F: Fn() -> Value + Send + Sync> StatusSource for F {
    fn status(&self) -> Value {
        self()
    }
}

impl StatusSource for RunStatus {
    fn status(&self) -> Value {
        serde_json::to_value(RunStatus::snapshot(self)).unwrap_or_default()
    }

    fn snapshot(&self) -> Option<StatusSnapshot> {
        Some(RunStatus::snapshot(self))
    }

    fn lenses(&self) -> Option<Arc<Lenses>> {
        Some(Arc::clone(&self.lenses))
    }

    fn refresh(&self) {
        // the estimate is put where metrics find it
        self.remaining();
    }
}

/// What is watched of one run of a pipeline.
#[derive(Clone)]
pub struct Watched {
    /// Its numbers.
    pub metrics: Arc<Metrics>,
    /// Its stages.
    pub health: Health,
    /// What it waits for before it works.
    pub readiness: Readiness,
    /// Whether it ends early.
    pub shutdown: Shutdown,
    /// The budget that its buffers share.
    pub memory: Option<MemoryBudget>,
    /// Where it stands.
    pub status: Arc<dyn StatusSource>,
}

impl Watched {
    /// A run, as its status and its shutdown tell of it.
    pub fn of(status: &Arc<RunStatus>, shutdown: &Shutdown) -> Self {
        Self {
            metrics: Arc::clone(&status.metrics),
            health: status.health.clone(),
            readiness: status.readiness.clone(),
            shutdown: shutdown.clone(),
            memory: None,
            status: Arc::clone(status) as Arc<dyn StatusSource>,
        }
    }
}

/// The pipelines of this process.
pub struct Board {
    clock: Clock,
    process: ProcessMetrics,
    pipelines: Mutex<BTreeMap<String, Watched>>,
    standings: Mutex<BTreeMap<String, Arc<dyn Standing>>>,
    tracks: Mutex<BTreeMap<String, Track>>,
    events: RecentEvents,
    traces: Traces,
    ends: AtomicBool,
}

/// The answer of `/livez` and `/readyz`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Verdict {
    /// Whether all checks passed.
    pub ok: bool,
    /// By pipeline.
    pub pipelines: BTreeMap<String, Vec<Check>>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
}

impl Board {
    /// A board without pipelines.
    pub fn new(clock: Clock) -> Self {
        let process = ProcessMetrics::new(clock.since_epoch().as_secs_f64());
        let (pipelines, standings, tracks) = Default::default();
        let events = RecentEvents::default();
        let (traces, ends) = Default::default();
        Self { clock, process, pipelines, standings, tracks, events, traces, ends }
    }

    /// The same, which shows what is logged.
    pub fn with_events(self, events: &RecentEvents) -> Self {
        Self { events: events.clone(), ..self }
    }

    /// The same, of a process whose pipelines put spans into `traces`.
    pub fn with_traces(self, traces: &Traces) -> Self {
        Self { traces: traces.clone(), ..self }
    }

    /// Where spans go.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// Take note of how fast each pipeline is; to be called every [`crate::admin::samples::EVERY`].
    pub(super) fn sample(&self) {
        let (now, pipelines) = (self.clock.now(), self.lock().clone());
        let mut tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        tracks.retain(|name, _| pipelines.contains_key(name));
        for (name, watched) in pipelines {
            tracks.entry(name).or_default().take(now, &watched.metrics);
        }
    }

    /// What `look` makes of every pipeline and its samples.
    pub(super) fn each<T>(&self, mut look: impl FnMut(&str, &Watched, Option<&Track>) -> Option<T>) -> Vec<T> {
        let pipelines = self.lock().clone();
        let tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        pipelines.iter().filter_map(|(name, watched)| look(name, watched, tracks.get(name))).collect()
    }

    /// What is seen of the coders of a pipeline.
    pub(super) fn lenses(&self, name: &str) -> Option<Arc<Lenses>> {
        self.lock().get(name)?.status.lenses()
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn events(&self) -> &RecentEvents {
        &self.events
    }

    /// Show the pipeline `name`; a former run of it is replaced.
    pub fn put(&self, name: &str, watched: Watched) {
        self.lock().insert(name.to_owned(), watched);
    }

    /// Show the pipeline `name` no longer.
    pub fn remove(&self, name: &str) {
        self.lock().remove(name);
        self.lock_standings().remove(name);
    }

    /// Ask `standing` whether the pipeline `name` runs.
    pub fn watch_standing(&self, name: &str, standing: Arc<dyn Standing>) {
        self.lock_standings().insert(name.to_owned(), standing);
    }

    /// Count a reload of the configuration.
    pub fn reloaded(&self, taken: bool) {
        self.process.reloaded(taken);
    }

    /// Show what of the process's memory pipelines may take, and what they have reserved.
    pub fn show_memory(&self, limit: Option<u64>, taken: u64) {
        self.process.reserved(limit, taken);
    }

    /// Count an answer.
    pub fn answered(&self, route: &str, code: u16) {
        self.process.answers(route, &code.to_string()).inc();
    }

    /// The process ends: it is not ready from now on, whatever its pipelines do.
    pub fn ends(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }

    /// All numbers in the Prometheus text format.
    pub fn metrics(&self) -> String {
        let pipelines: Vec<Watched> = self.lock().values().cloned().collect();
        // they bring their waiting times up to date
        let standings: Vec<_> = self.lock_standings().values().cloned().collect();
        standings.iter().for_each(|standing| drop(standing.at_rest()));
        for watched in &pipelines {
            watched.status.refresh();
            let run = &watched.metrics.run;
            run.ready.set(f64::from(u8::from(watched.readiness.is_ready())));
            if let Some(memory) = &watched.memory {
                run.memory_budget.set(memory.limit() as f64);
                run.memory_held.set(memory.held() as f64);
                run.memory_peak.set(memory.high_water() as f64);
            }
        }
        self.process.render(pipelines.iter().map(|watched| &*watched.metrics))
    }

    /// Whether every pipeline makes progress.
    pub fn liveness(&self) -> Verdict {
        self.verdict(|watched, at_rest| {
            if let Some(check) = at_rest {
                // whoever waits is alive
                return vec![Check { ok: true, ..check }];
            }
            let mut checks: Vec<_> = watched
                .health
                .stages()
                .into_iter()
                .map(|stage| {
                    let doing = match (stage.running, stage.waiting) {
                        (false, _) => "ended",
                        (true, true) => "waits for a neighbour",
                        (true, false) => "works",
                    };
                    Check {
                        ok: !stage.stands_still(STANDSTILL_AFTER),
                        detail: format!("{doing}, last beat {:.1} s ago", stage.seconds_since_beat),
                        name: stage.stage,
                    }
                })
                .collect();
            let moves = watched.health.is_live(STANDSTILL_AFTER);
            let detail = if moves { "moves" } else { "stands still" };
            checks.push(Check { name: "progress".to_owned(), ok: moves, detail: detail.to_owned() });
            checks
        })
    }

    /// Whether every pipeline can work: nothing is waited for, and it does not end early.
    pub fn readiness(&self) -> Verdict {
        let mut verdict = self.verdict(|watched, at_rest| {
            if let Some(check) = at_rest {
                return vec![check];
            }
            let mut checks: Vec<_> = Latch::ALL
                .iter()
                .map(|&latch| {
                    let ok = watched.readiness.is_released(latch);
                    let detail = if ok { "done" } else { "waiting" };
                    Check { name: latch.as_str().to_owned(), ok, detail: detail.to_owned() }
                })
                .collect();
            let reason = watched.shutdown.reason();
            checks.push(Check {
                name: "not_draining".to_owned(),
                ok: reason.is_none(),
                detail: reason.map_or("running".to_owned(), |why| format!("ends because of {why}")),
            });
            checks
        });
        verdict.ok &= !self.ends.load(Ordering::Relaxed);
        verdict
    }

    /// `{version, uptime_seconds, pipelines: {name: {phase, ready, ...status}}}`.
    pub fn status(&self) -> Value {
        let pipelines = self.lock().clone();
        let shown = pipelines.into_iter().map(|(name, watched)| {
            let mut value = json!({"phase": watched.shutdown.phase(), "ready": watched.readiness.is_ready()});
            value["status"] = watched.status.status();
            (name, value)
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.clock.now().as_secs_f64(),
            "pipelines": shown.collect::<serde_json::Map<_, _>>(),
        })
    }

    fn verdict(&self, look: impl Fn(&Watched, Option<Check>) -> Vec<Check>) -> Verdict {
        let (watched, standings) = (self.lock().clone(), self.lock_standings().clone());
        let at_rest = |name: &str| standings.get(name)?.at_rest();
        let pipelines: BTreeMap<_, _> =
            watched.iter().map(|(name, watched)| (name.clone(), look(watched, at_rest(name)))).collect();
        Verdict { ok: pipelines.values().flatten().all(|check| check.ok), pipelines }
    }

    fn lock_standings(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<dyn Standing>>> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Watched>> {
        self.pipelines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
