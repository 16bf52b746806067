//! How a run ends early: drain, then abort.
//!
//! Draining means that the source stops and everything downstream finishes what is in flight, in data order, and makes it
//! durable. Aborting means that stages stop at once; what is not yet committed is computed again by the next run. A run
//! that reaches the end of its corpus ends by itself and never drains.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::error::{ErrorKind, Result, ResultExt};
use crate::runtime::clock::Stopwatch;
use crate::runtime::monitor::Monitor;

/// How far a run is in ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Working.
    Running,
    /// No new work; what is in flight is finished.
    Draining,
    /// Stop at once.
    Aborting,
}

/// The handle that everybody holds. Clones share it.
#[derive(Clone)]
pub struct Shutdown(Arc<Shared>);

struct Shared {
    /// [`Phase`] as a number, for checks in inner loops; the monitor holds the truth.
    phase: AtomicU8,
    grace: Duration,
    state: Monitor<State>,
}

struct State {
    phase: Phase,
    reason: Option<String>,
    /// Since draining began.
    since: Option<Stopwatch>,
}

impl Shutdown {
    /// A run that works. Draining may take `grace`.
    pub fn new(grace: Duration) -> Self {
        let state = State { phase: Phase::Running, reason: None, since: None };
        Self(Arc::new(Shared { phase: AtomicU8::new(Phase::Running as u8), grace, state: Monitor::new(state) }))
    }

    /// Where the run is. Cheap: one atomic load.
    pub fn phase(&self) -> Phase {
        match self.0.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Draining,
            _ => Phase::Aborting,
        }
    }

    /// Whether no new work should be started (also while aborting). Cheap.
    pub fn is_draining(&self) -> bool {
        self.phase() >= Phase::Draining
    }

    /// Whether everything should stop at once. Cheap.
    pub fn is_aborting(&self) -> bool {
        self.phase() == Phase::Aborting
    }

    /// Start to drain. The first reason stays.
    pub fn drain(&self, reason: &str) {
        self.advance(Phase::Draining, reason);
    }

    /// Stop at once.
    pub fn abort(&self, reason: &str) {
        self.advance(Phase::Aborting, reason);
    }

    /// Why the run drains or aborts: the first reason that was given.
    pub fn reason(&self) -> Option<String> {
        self.0.state.read(|s| s.reason.clone())
    }

    /// What is left of the grace period; `None` while running.
    pub fn grace_left(&self) -> Option<Duration> {
        self.0.state.read(|s| s.since).map(|since| self.0.grace.saturating_sub(since.elapsed()))
    }

    /// Whether half of the grace period is over: who still has much in flight puts it down now, to be in time. Cheap while
    /// running.
    pub fn is_urgent(&self) -> bool {
        self.is_draining() && self.grace_left().is_some_and(|left| left <= self.0.grace / 2)
    }

    /// Wait until draining (or aborting) begins. Cancel-safe.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Wait until aborting begins. Cancel-safe.
    pub async fn aborting(&self) {
        self.reached(Phase::Aborting).await;
    }

    /// Sleep, blocking the thread, for `span` or until draining begins; `true` if it began.
    pub fn sleep(&self, span: Duration) -> bool {
        self.0.state.wait_for(span, |s| (s.phase >= Phase::Draining).then_some(())).is_some()
    }

    /// Drain at the first SIGTERM or SIGINT, abort at the second. Needs a tokio runtime; ends with it.
    pub fn listen_for_signals(&self) -> Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let install = |kind| signal(kind).or_kind(ErrorKind::Internal, || "cannot install a signal handler".to_owned());
        let mut terminate = install(SignalKind::terminate())?;
        let mut interrupt = install(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if shutdown.is_draining() {
                    tracing::warn!(signal = name, "second signal, stopping at once");
                    shutdown.abort(name);
                } else {
                    tracing::info!(signal = name, grace = ?shutdown.0.grace, "draining; a second signal stops at once");
                    shutdown.drain(name);
                }
            }
        });
        Ok(())
    }

    async fn reached(&self, phase: Phase) {
        self.0.state.wait_async(|s| (s.phase >= phase).then_some(())).await;
    }

    fn advance(&self, to: Phase, reason: &str) {
        self.0.state.update(|s| {
            if to > s.phase {
                s.phase = to;
                s.reason.get_or_insert_with(|| reason.to_owned());
                s.since.get_or_insert_with(Stopwatch::start);
                self.0.phase.store(to as u8, Ordering::Release);
            }
        });
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown").field("phase", &self.phase()).field("reason", &self.reason()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_only_go_forward_and_the_first_reason_stays() {
        let shutdown = Shutdown::new(Duration::from_secs(60));
        assert_eq!((shutdown.phase(), shutdown.grace_left()), (Phase::Running, None));
        shutdown.abort("disk on fire");
        shutdown.drain("SIGTERM");
        assert_eq!((shutdown.phase(), shutdown.reason().as_deref()), (Phase::Aborting, Some("disk on fire")));
        assert!(shutdown.grace_left().unwrap() <= Duration::from_secs(60));
    }

    #[test]
    fn it_is_urgent_when_half_of_the_grace_is_over() {
        let (long, none) = (Shutdown::new(Duration::from_secs(600)), Shutdown::new(Duration::ZERO));
        assert!(!long.is_urgent() && !none.is_urgent());
        long.drain("test");
        none.drain("test");
        assert!(!long.is_urgent() && none.is_urgent());
    }

    #[test]
    fn sleepers_and_tasks_wake_when_draining_begins() {
        let shutdown = Shutdown::new(Duration::ZERO);
        assert!(!shutdown.sleep(Duration::from_millis(1)));
        let (a, b) = (shutdown.clone(), shutdown.clone());
        let sleeper = std::thread::spawn(move || a.sleep(Duration::from_secs(600)));
        let task = std::thread::spawn(move || futures::executor::block_on(b.draining()));
        shutdown.drain("test");
        assert!(sleeper.join().unwrap());
        task.join().unwrap();
        assert!(!shutdown.is_aborting());
    }

    #[test]
    fn the_first_signal_drains_and_the_second_aborts() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let shutdown = Shutdown::new(Duration::from_secs(1));
            shutdown.listen_for_signals().unwrap();
            let line = format!("kill -TERM {}", std::process::id());
            let kill = || std::process::Command::new("sh").args(["-c", &line]).status();
            assert!(kill().unwrap().success());
            shutdown.draining().await;
            assert_eq!((shutdown.phase(), shutdown.reason().as_deref()), (Phase::Draining, Some("SIGTERM")));
            assert!(kill().unwrap().success());
            shutdown.aborting().await;
        });
    }
}
