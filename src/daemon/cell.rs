//! The states of a pipeline and what leads from one to another; no thread, no clock but for waiting times.

use std::sync::Arc;
use std::time::Duration;

use crate::admin::{Action, Desired, PipelineState, Refusal, Why};
use crate::config::Loaded;
use crate::daemon::member::RestartPolicy;
use crate::daemon::memory::Intent;
use crate::daemon::room::Room;
use crate::daemon::settle::{Ending, may_pass};
use crate::error::ErrorKind;
use crate::pipeline::status::{RunState, RunStatus};
use crate::runtime::clock::Stopwatch;
use crate::runtime::rng::Rng;
use crate::runtime::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;

/// What is known of a pipeline, and asked of it.
pub(super) struct Cell {
    pub(super) loaded: Arc<Loaded>,
    pub(super) fingerprint: String,
    pub(super) metrics: Arc<Metrics>,
    pub(super) intent: Intent,
    /// A drain that is not kept.
    pub(super) held: bool,
    /// It is to leave: its file is gone, or the process ends.
    pub(super) leaving: Option<&'static str>,
    /// Its thread has ended.
    pub(super) gone: bool,
    pub(super) state: PipelineState,
    pub(super) reason: Option<String>,
    pub(super) since: Stopwatch,
    pub(super) active: Option<Active>,
    /// Of the present run, or the last.
    pub(super) status: Arc<RunStatus>,
    /// The present run is of another configuration than `loaded`.
    pub(super) outdated: bool,
    pub(super) restarts: u64,
    /// Faults since it was healthy.
    pub(super) faults: u32,
    pub(super) retry: Option<(Stopwatch, Duration)>,
    /// It would work if there were memory for it.
    pub(super) waits_for_room: bool,
    pub(super) jitter: Rng,
}

pub(super) struct Active {
    pub(super) status: Arc<RunStatus>,
    pub(super) shutdown: Shutdown,
}

/// A run that begins.
pub(super) struct Start {
    pub(super) loaded: Arc<Loaded>,
    pub(super) status: Arc<RunStatus>,
    pub(super) shutdown: Shutdown,
}

impl Cell {
    pub(super) fn enter(&mut self, state: PipelineState, reason: Option<String>) {
        (self.state, self.reason, self.since) = (state, reason, Stopwatch::start());
        self.metrics.run.enter(state.as_str());
    }

    pub(super) fn retry_left(&self) -> Option<Duration> {
        self.retry.map(|(since, wait)| wait.saturating_sub(since.elapsed()))
    }

    /// What its thread does next: `Some(None)`: end.
    pub(super) fn step(&mut self, name: &str, room: &Room) -> Option<Option<Start>> {
        if self.leaving.is_some() {
            room.forget(name);
            self.gone = true;
            return Some(None);
        }
        if self.state != PipelineState::Pending || self.retry_left().is_some_and(|left| !left.is_zero()) {
            room.forget(name);
            self.waits_for_room = false;
            return None;
        }
        if let Err(why) = room.take(name, self.loaded.pipeline.memory_limit.0) {
            self.waits_for_room = true;
            self.reason = Some(why);
            return None;
        }
        self.waits_for_room = false;
        self.reason = None;
        if self.retry.take().is_some() {
            self.restarts += 1;
            self.metrics.run.restarts.inc();
        }
        let lenses = Arc::clone(&self.status.lenses);
        let status = Arc::new(RunStatus::seen_through(name, Arc::clone(&self.metrics), lenses));
        let shutdown = Shutdown::new(self.loaded.pipeline.grace);
        self.active = Some(Active { status: Arc::clone(&status), shutdown: shutdown.clone() });
        self.status = Arc::clone(&status);
        Some(Some(Start { loaded: Arc::clone(&self.loaded), status, shutdown }))
    }

    /// The run ended.
    pub(super) fn ended(&mut self, ending: Ending, status: &RunStatus, policy: &RestartPolicy) {
        self.active = None;
        if status.working_for().is_some_and(|span| span >= policy.healthy_after) {
            self.faults = 0;
        }
        let outdated = std::mem::take(&mut self.outdated);
        let asked_to_rest = self.held || self.intent.desired != Desired::Running;
        match ending {
            Ending::Done if !outdated => self.enter(PipelineState::Done, None),
            Ending::Failed(_, why) if asked_to_rest => {
                self.rest_as_intended();
                self.reason = Some(format!("its last run failed: {why}"));
            }
            Ending::Failed(kind, why) if !outdated => {
                self.failed(kind, why, policy);
            }
            Ending::Done | Ending::Drained | Ending::Failed(..) => self.rest_as_intended(),
        }
    }

    pub(super) fn failed(&mut self, kind: ErrorKind, why: String, policy: &RestartPolicy) {
        if !may_pass(kind) {
            return self.enter(PipelineState::Failed, Some(why));
        }
        self.faults = self.faults.saturating_add(1);
        let wait = policy.wait(self.faults, &mut self.jitter);
        self.retry = Some((Stopwatch::start(), wait));
        let reason = format!("fault {}, to be started again {:.1} s later: {why}", self.faults, wait.as_secs_f64());
        self.enter(PipelineState::Pending, Some(reason));
    }

    /// Enter the state that was asked for; to be called while nothing runs.
    pub(super) fn rest_as_intended(&mut self) {
        match self.intent.desired {
            Desired::Paused => self.enter(PipelineState::Paused, None),
            Desired::Stopped => self.enter(PipelineState::Stopped, None),
            Desired::Running if self.held => {
                let reason = "drained; it works again when it is resumed or the process starts again".to_owned();
                self.enter(PipelineState::Paused, Some(reason));
            }
            Desired::Running => self.enter(PipelineState::Pending, None),
        }
    }

    pub(super) fn start_anew(&mut self) {
        (self.retry, self.faults) = (None, 0);
        self.rest_as_intended();
    }

    pub(super) fn allows(&self, action: Action) -> Result<(), Refusal> {
        let conflict = |why: &str| Err(Refusal::new(Why::Conflict, why));
        if let Some(why) = self.leaving {
            return conflict(&format!("the pipeline ends: {why}"));
        }
        let done = self.state == PipelineState::Done && self.active.is_none();
        match action {
            Action::Pause | Action::Drain | Action::Stop | Action::Resume if done => {
                conflict("the pipeline is done: change its file and reload to have it work again")
            }
            Action::Checkpoint if self.active.is_none() => conflict("the pipeline does not run: everything is saved"),
            Action::Checkpoint => match self.status.state() {
                RunState::Running if self.status.n_trainers() > 0 => Ok(()),
                RunState::Running => conflict("the pipeline has no trainers: its shards are committed as they fill"),
                _ => conflict("no trainer works now: the pipeline is being prepared or ends, which saves everything"),
            },
            _ => Ok(()),
        }
    }

    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Pause => self.intent.desired = Desired::Paused,
            Action::Stop => self.intent.desired = Desired::Stopped,
            Action::Drain => self.held = true,
            Action::Resume => (self.intent.desired, self.held) = (Desired::Running, false),
            Action::Checkpoint => self.status.ask_for_checkpoints(),
        }
        match (&self.active, action) {
            (_, Action::Checkpoint) | (Some(_), Action::Resume) => {}
            (Some(active), Action::Stop) => active.shutdown.abort("stopped on request"),
            (Some(active), Action::Pause) => active.shutdown.drain("paused on request"),
            (Some(active), Action::Drain) => active.shutdown.drain("drained on request"),
            (None, _) => self.start_anew(),
        }
    }

    pub(super) fn replace(&mut self, loaded: Loaded, intent: Intent, name: &str) -> bool {
        self.intent = intent;
        if loaded.pipeline == self.loaded.pipeline {
            // the file may have moved
            self.loaded = Arc::new(loaded);
            return false;
        }
        self.fingerprint = fingerprint(&loaded);
        self.loaded = Arc::new(loaded);
        // other trainers, other numbers
        self.metrics = Arc::new(Metrics::traced(name, self.metrics.traces().traces()));
        match &self.active {
            Some(active) => {
                active.shutdown.drain("its configuration changed");
                self.outdated = true;
            }
            None => self.start_anew(),
        }
        true
    }

    /// State, reason, and how long it has been so.
    pub(super) fn shown(&self) -> (PipelineState, Option<String>, Duration) {
        let Some(active) = &self.active else { return (self.state, self.reason.clone(), self.since.elapsed()) };
        let status = &active.status;
        let (state, reason) = match status.state() {
            _ if active.shutdown.is_draining() => (PipelineState::Draining, active.shutdown.reason()),
            RunState::Preparing => (PipelineState::Pending, Some("is being prepared".to_owned())),
            RunState::Evaluating => (PipelineState::Running, Some("judges its coders".to_owned())),
            _ => (PipelineState::Running, None),
        };
        (state, reason, status.in_state_for())
    }
}

/// A digest of what the pipeline is; it shows no secrets.
pub(super) fn fingerprint(loaded: &Loaded) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(loaded.published.to_string().as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
