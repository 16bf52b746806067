//! One pipeline of many: its states, and the thread that runs it.
//!
//! ```text
//! pending ──► running ──► done
//!    ▲           │ fault that may pass: wait, twice as long each time
//!    ├───────────┤ fault that does not pass ──► failed
//!    │           ▼
//!    └──────  draining ──► paused | stopped | pending (its file changed)
//! ```

use std::sync::Arc;
use std::time::Duration;

use crate::admin::{Action, Board, Check, PipelineState, PipelineView, Refusal, Standing, Watched};
use crate::config::Loaded;
use crate::daemon::cell::{Cell, Start, fingerprint};
use crate::daemon::memory::Intent;
use crate::daemon::room::Room;
use crate::daemon::settle::Ending;
use crate::error::{ErrorKind, Result};
use crate::pipeline::status::{RunState, RunStatus};
use crate::runtime::clock::{Clock, Stopwatch};
use crate::runtime::monitor::Monitor;
use crate::runtime::retry::RetryPolicy;
use crate::runtime::rng::{Rng, Seed};
use crate::runtime::shutdown::Shutdown;
use crate::runtime::worker::catch;
use crate::telemetry::metrics::Metrics;

/// How long a pipeline sleeps when nothing is to be done; whatever is asked wakes it.
const SLEEP: Duration = Duration::from_secs(3600);

/// How often a pipeline that waits for memory looks for it.
const ROOM_EVERY: Duration = Duration::from_millis(250);

/// How pipelines are started again after a fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RestartPolicy {
    /// Wait after the first fault; doubles with each one.
    pub first_wait: Duration,
    /// Longest wait.
    pub longest_wait: Duration,
    /// A pipeline whose stages worked this long is healthy: the next fault is a first one.
    pub healthy_after: Duration,
}

impl RestartPolicy {
    /// The wait after fault number `attempt`, counted from 1.
    pub(super) fn wait(&self, attempt: u32, rng: &mut Rng) -> Duration {
        let Self { first_wait, longest_wait, .. } = *self;
        RetryPolicy { first_wait, longest_wait, budget: Duration::MAX }.wait(attempt, rng)
    }
}

/// What all pipelines share.
pub(super) struct Surroundings {
    pub(super) io: tokio::runtime::Handle,
    pub(super) clock: Clock,
    pub(super) board: Arc<Board>,
    pub(super) policy: RestartPolicy,
    pub(super) room: Room,
}

impl Surroundings {
    /// Show what of the memory is taken.
    fn show_room(&self) {
        self.board.show_memory(self.room.limit(), self.room.taken());
    }
}

/// One pipeline.
pub(super) struct Member {
    pub(super) name: String,
    shared: Arc<Surroundings>,
    cell: Monitor<Cell>,
}

impl Member {
    /// A pipeline that is not started yet.
    pub(super) fn new(loaded: Loaded, intent: Intent, shared: Arc<Surroundings>) -> Arc<Self> {
        let name = loaded.pipeline.name.clone();
        let metrics = Arc::new(Metrics::traced(&name, shared.board.traces()));
        let status = Arc::new(RunStatus::continuing(&name, Arc::clone(&metrics)));
        status.lenses.watch();
        let idle = Watched::of(&status, &Shutdown::new(loaded.pipeline.grace));
        let cell = Cell {
            fingerprint: fingerprint(&loaded),
            loaded: Arc::new(loaded),
            metrics,
            held: false,
            leaving: None,
            gone: false,
            state: PipelineState::Pending,
            reason: None,
            since: Stopwatch::start(),
            active: None,
            status,
            outdated: false,
            restarts: 0,
            faults: 0,
            retry: None,
            waits_for_room: false,
            jitter: Seed(std::process::id().into()).of_worker(&name).stream("restarts"),
            intent,
        };
        let member = Arc::new(Self { name, shared, cell: Monitor::new(cell) });
        member.cell.update(Cell::rest_as_intended);
        member.shared.board.put(&member.name, idle);
        member.shared.board.watch_standing(&member.name, Arc::clone(&member) as Arc<dyn Standing>);
        member
    }

    /// Run it whenever it is to run, until it leaves. Blocks its thread.
    pub(super) fn keep(&self) -> Result<()> {
        // at this level it is there whatever is logged
        let span = tracing::error_span!("run", pipeline = self.name);
        let _of_pipeline = span.enter();
        while let Some(start) = self.next() {
            let Start { loaded, status, shutdown } = &start;
            self.shared.board.put(&self.name, Watched::of(status, shutdown));
            tracing::info!("starts");
            let (io, clock) = (&self.shared.io, &self.shared.clock);
            // readers of the corpus start their transfers from wherever they are opened
            let entered = io.enter();
            let result = catch(|| crate::pipeline::run(loaded, status, shutdown, io, clock));
            drop(entered);
            if result.is_err() && status.state() != RunState::Failed {
                // it panicked outside of its stages, which catch and count their own
                status.metrics.run.fault(ErrorKind::Internal);
                status.enter(RunState::Failed);
            }
            self.shared.room.give_back(&self.name);
            self.shared.show_room();
            let ending = Ending::of(result, shutdown);
            let policy = &self.shared.policy;
            self.cell.update(|cell| cell.ended(ending, status, policy));
            self.log_state();
        }
        self.shared.board.remove(&self.name);
        Ok(())
    }

    fn next(&self) -> Option<Start> {
        loop {
            let wait = self.cell.read(|cell| match cell.retry_left() {
                Some(left) => left.max(Duration::from_millis(1)),
                None if cell.waits_for_room => ROOM_EVERY,
                None => SLEEP,
            });
            if let Some(step) = self.cell.wait_for(wait, |cell| cell.step(&self.name, &self.shared.room)) {
                self.shared.show_room();
                return step;
            }
        }
    }

    fn log_state(&self) {
        self.cell.read(|cell| match cell.state {
            PipelineState::Failed => tracing::error!(reason = cell.reason, "failed"),
            state => tracing::info!(state = state.as_str(), reason = cell.reason, "run ended"),
        });
    }

    /// The file that it is from.
    pub(super) fn loaded(&self) -> Arc<Loaded> {
        self.cell.read(|cell| Arc::clone(&cell.loaded))
    }

    /// What is asked of it.
    pub(super) fn intent(&self) -> Intent {
        self.cell.read(|cell| cell.intent.clone())
    }

    /// Whether it leaves or has left.
    pub(super) fn is_leaving(&self) -> bool {
        self.cell.read(|cell| cell.leaving.is_some())
    }

    /// Whether `action` would mean anything now; else why not.
    pub(super) fn allows(&self, action: Action) -> Result<(), Refusal> {
        self.cell.read(|cell| cell.allows(action))
    }

    /// Do what was asked. Whoever calls has kept it.
    pub(super) fn act(&self, action: Action) {
        tracing::info!(pipeline = self.name, ?action, "asked for");
        self.cell.update(|cell| cell.act(action));
    }

    /// Be `loaded` from now on. Whether that is a change: a run of another configuration drains first.
    pub(super) fn replace(&self, loaded: Loaded, intent: Intent) -> bool {
        self.cell.update(|cell| cell.replace(loaded, intent, &self.name))
    }

    /// Be a part again, if it was about to leave and its thread still runs.
    pub(super) fn stay(&self) -> bool {
        self.cell.update(|cell| {
            let stays = !cell.gone;
            if stays && cell.leaving.take().is_some() && cell.active.is_none() {
                cell.rest_as_intended();
            }
            stays
        })
    }

    /// Try again what failed for good: something may have changed that is not in its file.
    pub(super) fn try_again(&self) {
        self.cell.update(|cell| {
            if cell.state == PipelineState::Failed && cell.active.is_none() {
                cell.start_anew();
            }
        });
    }

    /// Drain, and end.
    pub(super) fn leave(&self, why: &'static str) {
        self.cell.update(|cell| {
            cell.leaving = Some(why);
            if let Some(active) = &cell.active {
                active.shutdown.drain(why);
            }
        });
    }

    /// End at once.
    pub(super) fn abort(&self, why: &'static str) {
        self.leave(why);
        self.cell.read(|cell| {
            if let Some(active) = &cell.active {
                active.shutdown.abort(why);
            }
        });
    }

    /// As it is shown.
    pub(super) fn view(&self) -> PipelineView {
        self.cell.read(|cell| {
            let (state, reason, for_) = cell.shown();
            let edits = &cell.intent.trainers;
            PipelineView {
                name: self.name.clone(),
                source: cell.loaded.source.display().to_string(),
                state,
                reason,
                since: self.shared.clock.timestamp_ago(for_),
                desired: cell.intent.desired,
                ready: cell.active.as_ref().is_some_and(|active| active.status.readiness.is_ready()),
                restarts: cell.restarts,
                restarts_in_seconds: cell.retry_left().map(|left| left.as_secs_f64()),
                fingerprint: cell.fingerprint.clone(),
                trainers_added: edits.added_names().map(str::to_owned).collect(),
                trainers_stopped: edits.stopped.clone(),
                run: Some(cell.status.snapshot()),
            }
        })
    }
}

impl Standing for Member {
    fn at_rest(&self) -> Option<Check> {
        self.cell.read(|cell| {
            cell.metrics.run.restart_wait.set(cell.retry_left().map_or(0.0, |left| left.as_secs_f64()));
            if cell.active.is_some() {
                return None;
            }
            let ok = !matches!(cell.state, PipelineState::Failed | PipelineState::Pending);
            let detail = match &cell.reason {
                Some(reason) => format!("{}: {reason}", cell.state.as_str()),
                None => cell.state.as_str().to_owned(),
            };
            Some(Check { name: "state".to_owned(), ok, detail })
        })
    }
}

#[cfg(test)]
mod tests;
