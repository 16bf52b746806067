//! Starts the threads of a run, notices when one fails or stands still, and waits for all of them.
//!
//! A stage is a named thread with a function. An error or a panic of a stage is a *fault*: the first one is the run's
//! result and makes the rest drain, except for stages that are isolated, which stop alone. Stages end because their queue
//! ended; nobody is interrupted from outside. While draining, whoever still runs is named every few seconds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::runtime::clock::Stopwatch;
use crate::runtime::monitor::Monitor;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::worker::catch;

/// How often those who still run are named while draining.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// How often the grace period is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long stages may take to notice that the run aborts, before their threads are left behind.
const ABORT_GRACE: Duration = Duration::from_secs(10);

/// What the fault of a stage means for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFault {
    /// The run drains, and its result is this fault if it was the first.
    StopRun,
    /// The stage stops alone; the fault is reported at the end.
    StopAlone,
}

/// A stage that ended with an error or a panic.
#[derive(Debug)]
pub struct Fault {
    /// The stage's name.
    pub stage: String,
    /// What happened.
    pub error: Error,
}

/// How a run ended.
#[derive(Debug, Default)]
pub struct Ending {
    /// The fault that stopped the run: the first that was not merely another stage's end of a queue.
    pub fault: Option<Fault>,
    /// Faults of isolated stages, in the order in which they came.
    pub isolated: Vec<Fault>,
}

/// A stage as an operator sees it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct StageHealth {
    /// Name.
    pub stage: String,
    /// Whether it still runs.
    pub running: bool,
    /// Whether it waits for a neighbour.
    pub waiting: bool,
    /// Time since it last showed that it works.
    pub seconds_since_beat: f64,
}

/// The threads of one run.
pub struct Supervisor {
    shutdown: Shutdown,
    threads: Vec<(Arc<Stage>, JoinHandle<()>)>,
    outcome: Arc<Monitor<Ending>>,
    health: Health,
}

/// Reads how the stages fare; outlives the supervisor. Clones share it.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<Vec<Arc<Stage>>>>);

/// A stage's way to show that it works.
pub struct Heartbeat(Arc<Stage>);

struct Stage {
    name: String,
    started: Stopwatch,
    /// Milliseconds after `started`.
    last_beat: AtomicU64,
    waiting: AtomicBool,
    running: AtomicBool,
}

impl Supervisor {
    /// Nobody runs yet. Faults drain `shutdown`.
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            shutdown,
            threads: Vec::new(),
            outcome: Arc::new(Monitor::new(Ending::default())),
            health: Health::default(),
        }
    }

    /// Report to `health`, which somebody already watches.
    pub fn reporting_to(mut self, health: Health) -> Self {
        self.health = health;
        self
    }

    /// Run `work` on a thread called `name`. Start stages from the last to the first, so that each finds its queue served.
    pub fn spawn(
        &mut self,
        name: &str,
        on_fault: OnFault,
        work: impl FnOnce(&Heartbeat) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let stage = Arc::new(Stage::new(name));
        let heartbeat = Heartbeat(Arc::clone(&stage));
        let (outcome, shutdown) = (Arc::clone(&self.outcome), self.shutdown.clone());
        // what it logs is of the run that started it
        let span = tracing::Span::current();
        let body = move || {
            let _entered = span.enter();
            let result = catch(|| work(&heartbeat));
            if let Err(error) = &result {
                tracing::error!(stage = heartbeat.0.name, %error, "stage failed");
            }
            outcome.update(|ending| {
                if let Err(error) = result {
                    ending.record(Fault { stage: heartbeat.0.name.clone(), error }, on_fault, &shutdown);
                }
                heartbeat.0.running.store(false, Ordering::Release);
            });
        };
        #[allow(clippy::disallowed_methods)] // the one place where threads start
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .or_kind(ErrorKind::Internal, || format!("cannot start the thread `{name}`"))?;
        self.health.lock().push(Arc::clone(&stage));
        self.threads.push((stage, thread));
        Ok(())
    }

    /// Reads how the stages fare.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Wait, blocking the thread, until all stages ended. Draining that takes longer than the grace period becomes an
    /// abort; stages that do not even follow that are named in the fault and their threads left behind.
    pub fn join(self) -> Ending {
        let mut since_report = Stopwatch::start();
        let mut since_abort = None;
        while !self.wait_for_all(LOOK_EVERY) {
            let Some(left) = self.shutdown.grace_left() else { continue };
            if left.is_zero() && !self.shutdown.is_aborting() {
                tracing::warn!(running = ?self.running(), "the grace period is over, stopping at once");
                self.shutdown.abort("the grace period is over");
            }
            if self.shutdown.is_aborting() {
                if since_abort.get_or_insert_with(Stopwatch::start).elapsed() >= ABORT_GRACE {
                    return self.leave_behind();
                }
            } else if since_report.elapsed() >= REPORT_EVERY {
                tracing::info!(running = ?self.running(), ?left, "draining");
                since_report = Stopwatch::start();
            }
        }
        for (stage, thread) in self.threads {
            // the body catches panics, so this can only fail if a panic's payload panicked when it was dropped
            if thread.join().is_err() {
                tracing::error!(stage = stage.name, "stage died after it ended");
            }
        }
        self.outcome.update(std::mem::take)
    }

    fn wait_for_all(&self, timeout: Duration) -> bool {
        let ended = |_: &mut Ending| self.running().is_empty().then_some(());
        self.outcome.wait_for(timeout, ended).is_some()
    }

    fn running(&self) -> Vec<&str> {
        let is_running = |stage: &Stage| stage.running.load(Ordering::Acquire);
        self.threads.iter().filter(|(stage, _)| is_running(stage)).map(|(stage, _)| stage.name.as_str()).collect()
    }

    fn leave_behind(&self) -> Ending {
        let running = self.running();
        let message = format!("did not stop within {ABORT_GRACE:?} of the abort: {}", running.join(", "));
        tracing::error!("{message}");
        let mut ending = self.outcome.update(std::mem::take);
        let stage = running.first().copied().unwrap_or_default().to_owned();
        ending.fault.get_or_insert(Fault { stage, error: Error::internal(message) });
        ending
    }
}

impl Ending {
    /// The fault as a result.
    pub fn result(self) -> Result<()> {
        match self.fault {
            Some(fault) => Err(fault.error.context(format!("stage `{}` failed", fault.stage))),
            None => Ok(()),
        }
    }

    /// First fault wins; but a stage that found its neighbour gone only says that the neighbour failed, however early it
    /// says it.
    fn record(&mut self, fault: Fault, on_fault: OnFault, shutdown: &Shutdown) {
        match on_fault {
            OnFault::StopAlone => self.isolated.push(fault),
            OnFault::StopRun => {
                shutdown.drain(&format!("stage `{}` failed", fault.stage));
                let is_better =
                    |old: &Fault| old.error.kind() == ErrorKind::Closed && fault.error.kind() != ErrorKind::Closed;
                if self.fault.as_ref().is_none_or(is_better) {
                    self.fault = Some(fault);
                }
            }
        }
    }
}

impl StageHealth {
    /// Whether it works for longer than `limit` without a beat.
    pub fn stands_still(&self, limit: Duration) -> bool {
        self.running && !self.waiting && self.seconds_since_beat > limit.as_secs_f64()
    }
}

impl Health {
    /// All stages, in the order in which they were started.
    pub fn stages(&self) -> Vec<StageHealth> {
        self.lock().iter().map(|stage| stage.health()).collect()
    }

    /// Whether the run makes progress: no stage works for longer than `limit` without a beat, and not all that run
    /// have waited for each other that long.
    pub fn is_live(&self, limit: Duration) -> bool {
        let running: Vec<_> = self.stages().into_iter().filter(|s| s.running).collect();
        let nobody_hangs = !running.iter().any(|s| s.stands_still(limit));
        nobody_hangs && (running.is_empty() || running.iter().any(|s| s.seconds_since_beat <= limit.as_secs_f64()))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Stage>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heartbeat {
    /// Show that the stage works. Call it once an item.
    pub fn beat(&self) {
        let millis = u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last_beat.store(millis, Ordering::Release);
    }

    /// Wait for a neighbour: standing still in here is not standing still.
    pub fn while_waiting<R>(&self, wait: impl FnOnce() -> R) -> R {
        self.beat();
        self.0.waiting.store(true, Ordering::Release);
        let result = wait();
        self.beat();
        self.0.waiting.store(false, Ordering::Release);
        result
    }
}

impl Stage {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            started: Stopwatch::start(),
            last_beat: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            running: AtomicBool::new(true),
        }
    }

    fn health(&self) -> StageHealth {
        let since =
            self.started.elapsed().saturating_sub(Duration::from_millis(self.last_beat.load(Ordering::Acquire)));
        StageHealth {
            stage: self.name.clone(),
            running: self.running.load(Ordering::Acquire),
            waiting: self.waiting.load(Ordering::Acquire),
            seconds_since_beat: since.as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::channel::channel;

    fn supervisor(grace: Duration) -> (Supervisor, Shutdown) {
        let shutdown = Shutdown::new(grace);
        (Supervisor::new(shutdown.clone()), shutdown)
    }

    #[test]
    fn a_panic_is_the_fault_and_its_neighbours_closed_queues_are_not() {
        for _ in 0..20 {
            let (mut stages, shutdown) = supervisor(Duration::from_secs(60));
            let (tx, rx) = channel::<u64>("numbers", 1, |_| 1);
            stages
                .spawn("sum", OnFault::StopRun, move |_| {
                    assert_eq!(rx.recv(), Some(0));
                    panic!("the sum is too large");
                })
                .unwrap();
            stages.spawn("count", OnFault::StopRun, move |_| (0..).try_for_each(|i| tx.send(i))).unwrap();
            let ending = stages.join();
            let fault = ending.fault.unwrap();
            assert_eq!((fault.stage.as_str(), fault.error.kind()), ("sum", ErrorKind::Internal));
            assert_eq!(fault.error.to_string(), "panicked: the sum is too large");
            assert!(shutdown.is_draining());
        }
    }

    #[test]
    fn an_isolated_stage_stops_alone() {
        let (mut stages, shutdown) = supervisor(Duration::from_secs(60));
        stages.spawn("trainer", OnFault::StopAlone, |_| Err(Error::data("loss is NaN"))).unwrap();
        stages.spawn("reader", OnFault::StopRun, |_| Ok(())).unwrap();
        let ending = stages.join();
        assert_eq!(ending.isolated[0].stage, "trainer");
        assert!(ending.result().is_ok() && !shutdown.is_draining());
    }

    #[test]
    fn the_end_of_the_grace_period_aborts() {
        let (mut stages, shutdown) = supervisor(Duration::from_millis(50));
        let seen = shutdown.clone();
        let work = move |_: &Heartbeat| {
            while !seen.is_aborting() {
                seen.sleep(Duration::ZERO);
                std::thread::yield_now();
            }
            Ok(())
        };
        stages.spawn("slow", OnFault::StopRun, work).unwrap();
        shutdown.drain("test");
        assert!(stages.join().fault.is_none());
        assert!(shutdown.is_aborting());
    }

    #[test]
    fn standing_still_is_noticed_and_waiting_is_not() {
        let (mut stages, shutdown) = supervisor(Duration::from_secs(60));
        let (hung_until, waits_until) = (shutdown.clone(), shutdown.clone());
        let hang = |until: Shutdown| -> Result<()> {
            futures::executor::block_on(until.draining());
            Ok(())
        };
        stages.spawn("waits", OnFault::StopRun, move |h| h.while_waiting(|| hang(waits_until))).unwrap();
        let health = stages.health();
        assert!(health.is_live(Duration::from_secs(600)));
        std::thread::sleep(Duration::from_millis(30));
        assert!(!health.is_live(Duration::from_millis(10)), "everybody waits for each other");
        stages.spawn("hangs", OnFault::StopRun, move |_| hang(hung_until)).unwrap();
        assert!(health.is_live(Duration::from_secs(600)));
        std::thread::sleep(Duration::from_millis(30));
        assert!(!health.is_live(Duration::from_millis(10)), "one works without a beat");
        shutdown.drain("test");
        stages.join();
        assert!(health.is_live(Duration::ZERO), "nobody runs");
        assert!(health.stages().iter().all(|s| !s.running));
    }
}
