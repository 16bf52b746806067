//! The pipelines of the process: which there are, what operators change, and the end of all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::admin::{Action, Board, Control, Desired, PipelineView, Refusal, Reloaded, Why};
use crate::config::edits::Edits;
use crate::config::{Loaded, Problems, Severity};
use crate::daemon::member::{Member, RestartPolicy, Surroundings};
use crate::daemon::memory::{Intent, Memory};
use crate::daemon::room::Room;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::clock::{Clock, Stopwatch};
use crate::runtime::worker::Worker;
use crate::units::ByteSize;

/// Pipelines of one process, at most: what is shown of them stays bounded.
const PIPELINES_MAX: usize = 256;
/// Trainers that may be added to one.
const ADDED_MAX: usize = 64;
/// How often the end of pipelines is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What a pipeline may need beyond its grace period: for stages to notice an abort, and to leave.
const MARGIN: Duration = Duration::from_secs(15);

/// Where pipelines come from.
pub trait Loader: Send + Sync {
    /// The files there are now.
    fn files(&self) -> Result<Vec<PathBuf>>;

    /// The pipeline of one, with all that can be checked before it runs.
    fn load(&self, file: &Path, edits: &Edits) -> Result<Loaded, Problems>;
}

/// The pipelines of this process.
pub struct Daemon {
    loader: Box<dyn Loader>,
    shared: Arc<Surroundings>,
    /// Held while something is changed: one change at a time.
    memory: Mutex<Memory>,
    seats: Mutex<BTreeMap<String, Seat>>,
}

struct Seat {
    member: Arc<Member>,
    worker: Worker<()>,
}

impl Daemon {
    /// Start every pipeline of `loader` that is to run, by what `memory` says. They are shown on `board`, and do their I/O on
    /// `io`; all that work at a time have no more than `memory_limit` together.
    ///
    /// # Errors
    /// `Config` with every problem if a pipeline is not valid; then none is started.
    pub fn start(
        loader: Box<dyn Loader>,
        memory: Memory,
        board: Arc<Board>,
        policy: RestartPolicy,
        memory_limit: Option<u64>,
        io: tokio::runtime::Handle,
    ) -> Result<Arc<Self>> {
        let room = Room::new(memory_limit);
        let shared = Surroundings { io, clock: Clock::system(), board, policy, room };
        let daemon = Self { loader, shared: Arc::new(shared), memory: Mutex::new(memory), seats: Mutex::default() };
        let memory = daemon.changing();
        let pipelines = daemon.read_all(&memory).map_err(|refusal| {
            let kind = if refusal.why == Why::Unavailable { ErrorKind::Unavailable } else { ErrorKind::Config };
            Error::new(kind, refusal.detail)
        })?;
        for (loaded, intent) in pipelines {
            daemon.seat(loaded, intent)?;
        }
        drop(memory);
        Ok(Arc::new(daemon))
    }

    /// One line on all pipelines: `2 running, 1 paused`.
    pub fn in_a_line(&self) -> String {
        let mut counts = BTreeMap::new();
        for view in self.pipelines() {
            *counts.entry(view.state.as_str()).or_insert(0) += 1;
        }
        let parts: Vec<String> = counts.iter().map(|(state, n)| format!("{n} {state}")).collect();
        if parts.is_empty() { "no pipelines".to_owned() } else { parts.join(", ") }
    }

    /// The longest time that [`Daemon::end`] may take.
    pub fn grace(&self) -> Duration {
        let grace = |seat: &Seat| seat.member.loaded().pipeline.grace;
        self.seats().values().map(grace).max().unwrap_or_default() + MARGIN
    }

    /// Let every pipeline drain, each within its own grace period, and wait for them. Those that did not end are named.
    pub fn end(&self) -> Vec<String> {
        let grace = self.grace();
        self.seats().values().for_each(|seat| seat.member.leave("the process ends"));
        let watch = Stopwatch::start();
        loop {
            let running = self.running();
            if running.is_empty() || watch.elapsed() >= grace {
                return running;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Stop every pipeline at once.
    pub fn abort(&self) {
        self.seats().values().for_each(|seat| seat.member.abort("a second signal"));
    }

    fn running(&self) -> Vec<String> {
        let seats = self.seats();
        seats.iter().filter(|(_, seat)| !seat.worker.is_finished()).map(|(name, _)| name.clone()).collect()
    }

    /// Give `loaded` a thread.
    fn seat(&self, loaded: Loaded, intent: Intent) -> Result<()> {
        for note in &loaded.notes {
            tracing::warn!("{}", note.line(&loaded.source.display().to_string()));
        }
        let member = Member::new(loaded, intent, Arc::clone(&self.shared));
        let keeper = Arc::clone(&member);
        let worker = Worker::start(&format!("run {}", member.name), move || keeper.keep())?;
        self.seats().insert(member.name.clone(), Seat { member, worker });
        Ok(())
    }

    /// Every pipeline there is now, checked, each and all together.
    fn read_all(&self, memory: &Memory) -> Result<Vec<(Loaded, Intent)>, Refusal> {
        let files = self.loader.files().map_err(|e| Refusal::new(Why::Unavailable, e.to_string()))?;
        let (mut pipelines, mut wrong) = (Vec::<(Loaded, Intent)>::new(), Vec::new());
        for file in files {
            match self.read(&file, memory) {
                Ok(found) => pipelines.push(found),
                Err(problems) => wrong.push(problems),
            }
        }
        if pipelines.len() > PIPELINES_MAX {
            return Err(Refusal::new(
                Why::Invalid,
                format!("more than {PIPELINES_MAX} pipelines: run several processes"),
            ));
        }
        wrong.extend(clashes(&pipelines));
        wrong.extend(pipelines.iter().filter_map(|(loaded, _)| self.too_large(loaded)));
        if wrong.is_empty() { Ok(pipelines) } else { Err(refused(&wrong)) }
    }

    /// What is wrong with a pipeline that wants more memory than there is.
    fn too_large(&self, loaded: &Loaded) -> Option<Problems> {
        let (wanted, limit) = (loaded.pipeline.memory_limit, self.shared.room.limit()?);
        let rule = format!("is more than all pipelines may take together ({}: --memory)", ByteSize(limit));
        let problem = loaded.problem(Severity::Error, "limits.memory", rule);
        (wanted.0 > limit).then(|| Problems::new(&loaded.source.display().to_string(), vec![problem]))
    }

    fn read(&self, file: &Path, memory: &Memory) -> Result<(Loaded, Intent), Problems> {
        let loaded = self.loader.load(file, &Edits::default())?;
        let intent = memory.intent(&loaded.pipeline.name);
        match intent.trainers.is_empty() {
            true => Ok((loaded, intent)),
            false => Ok((self.loader.load(file, &intent.trainers)?, intent)),
        }
    }

    fn member(&self, name: &str) -> Result<Arc<Member>, Refusal> {
        let seats = self.seats();
        let seat = seats.get(name).filter(|seat| !seat.worker.is_finished());
        let unknown = || {
            let known: Vec<&str> = seats.keys().map(String::as_str).collect();
            Refusal::new(Why::Unknown, format!("there is no pipeline `{name}`; there are: {}", known.join(", ")))
        };
        seat.map(|seat| Arc::clone(&seat.member)).ok_or_else(unknown)
    }

    /// Change the trainers of `member` to what `intent` says: checked, kept, then done.
    fn edit(&self, member: &Member, intent: Intent, memory: &mut Memory) -> Result<(), Refusal> {
        if member.is_leaving() {
            return Err(Refusal::new(Why::Conflict, "the pipeline ends"));
        }
        let loaded = self.loader.load(&member.loaded().source, &intent.trainers).map_err(|p| refused(&[p]))?;
        if loaded.pipeline.name != member.name {
            let what = format!("its file now holds the pipeline `{}`: reload first", loaded.pipeline.name);
            return Err(Refusal::new(Why::Conflict, what));
        }
        memory.keep(&member.name, intent.clone()).map_err(unavailable)?;
        member.replace(loaded, intent);
        Ok(())
    }

    fn apply(&self, pipelines: Vec<(Loaded, Intent)>) -> Result<Reloaded> {
        let mut report = Reloaded::default();
        let names: BTreeSet<String> = pipelines.iter().map(|(loaded, _)| loaded.pipeline.name.clone()).collect();
        let before: BTreeMap<String, Arc<Member>> = {
            let mut seats = self.seats();
            seats.retain(|_, seat| !seat.worker.is_finished());
            seats.iter().map(|(name, seat)| (name.clone(), Arc::clone(&seat.member))).collect()
        };
        for (name, member) in before.iter().filter(|(name, member)| !names.contains(*name) && !member.is_leaving()) {
            member.leave("it is in no file any more");
            report.removed.push(name.clone());
        }
        for (loaded, intent) in pipelines {
            let name = loaded.pipeline.name.clone();
            match before.get(&name).filter(|member| member.stay()) {
                None => {
                    let gone = self.seats().remove(&name);
                    // it is about to end: what it still takes off the board must not be the new one's
                    gone.map(|seat| seat.worker.join()).transpose()?;
                    self.seat(loaded, intent)?;
                    report.added.push(name);
                }
                Some(member) if member.replace(loaded, intent) => report.changed.push(name),
                Some(member) => {
                    member.try_again();
                    report.unchanged.push(name);
                }
            }
        }
        Ok(report)
    }

    /// Taken before [`Daemon::seats`].
    fn changing(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seats(&self) -> MutexGuard<'_, BTreeMap<String, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Control for Daemon {
    fn pipelines(&self) -> Vec<PipelineView> {
        let members: Vec<Arc<Member>> = {
            let seats = self.seats();
            let there = seats.values().filter(|seat| !seat.worker.is_finished());
            there.map(|seat| Arc::clone(&seat.member)).collect()
        };
        members.iter().map(|member| member.view()).collect()
    }

    fn pipeline(&self, name: &str) -> Result<PipelineView, Refusal> {
        Ok(self.member(name)?.view())
    }

    fn act(&self, name: &str, action: Action) -> Result<PipelineView, Refusal> {
        let mut memory = self.changing();
        let member = self.member(name)?;
        member.allows(action)?;
        let desired = match action {
            Action::Pause => Some(Desired::Paused),
            Action::Resume => Some(Desired::Running),
            Action::Stop => Some(Desired::Stopped),
            Action::Drain | Action::Checkpoint => None,
        };
        if let Some(desired) = desired {
            memory.keep(name, Intent { desired, ..member.intent() }).map_err(unavailable)?;
        }
        member.act(action);
        Ok(member.view())
    }

    fn reload(&self) -> Result<Reloaded, Refusal> {
        let mut memory = self.changing();
        let read = self.read_all(&memory);
        self.shared.board.reloaded(read.is_ok());
        let pipelines = read.inspect_err(|refusal| tracing::error!(reason = refusal.detail, "reload refused"))?;
        let names: BTreeSet<String> = pipelines.iter().map(|(loaded, _)| loaded.pipeline.name.clone()).collect();
        let report = self.apply(pipelines).map_err(unavailable)?;
        memory.forget_others(|name| names.contains(name)).map_err(unavailable)?;
        let Reloaded { added, changed, removed, unchanged } = &report;
        tracing::info!(?added, ?changed, ?removed, ?unchanged, "reloaded");
        Ok(report)
    }

    fn add_trainer(&self, name: &str, trainer: Value) -> Result<PipelineView, Refusal> {
        let mut memory = self.changing();
        let member = self.member(name)?;
        let mut intent = member.intent();
        let Some(called) = trainer["name"].as_str().map(str::to_owned) else {
            return Err(Refusal::new(Why::Invalid, "a trainer needs a `name`"));
        };
        if member.loaded().pipeline.trainers.iter().any(|t| t.name == called) {
            return Err(Refusal::new(Why::Conflict, format!("the pipeline has a trainer `{called}` already")));
        }
        if intent.trainers.stopped.contains(&called) {
            let how = format!("trainer `{called}` was stopped: POST .../trainers/{called}/resume lets it go on");
            return Err(Refusal::new(Why::Conflict, how));
        }
        if intent.trainers.added.len() >= ADDED_MAX {
            let how = format!("{ADDED_MAX} trainers were added: put them into the pipeline's file and reload");
            return Err(Refusal::new(Why::Conflict, how));
        }
        intent.trainers.added.push(trainer);
        self.edit(&member, intent, &mut memory)?;
        tracing::info!(pipeline = name, trainer = called, "trainer added");
        Ok(member.view())
    }

    fn set_trainer(&self, name: &str, trainer: &str, trains: bool) -> Result<PipelineView, Refusal> {
        let mut memory = self.changing();
        let member = self.member(name)?;
        let mut intent = member.intent();
        let loaded = member.loaded();
        let is_there = loaded.pipeline.trainers.iter().any(|t| t.name == trainer);
        let stopped = intent.trainers.stopped.iter().position(|name| name == trainer);
        match (trains, stopped) {
            (true, Some(at)) => drop(intent.trainers.stopped.remove(at)),
            (false, None) if is_there => {
                if loaded.pipeline.trainers.len() == 1 && loaded.pipeline.dataset.is_none() {
                    let how = "it is all that the pipeline does: pause or stop the pipeline instead";
                    return Err(Refusal::new(Why::Conflict, how));
                }
                intent.trainers.stopped.push(trainer.to_owned());
            }
            // it is so already
            (true, None) if is_there => return Ok(member.view()),
            (false, Some(_)) => return Ok(member.view()),
            _ => return Err(Refusal::new(Why::Unknown, format!("the pipeline has no trainer `{trainer}`"))),
        }
        self.edit(&member, intent, &mut memory)?;
        tracing::info!(pipeline = name, trainer, trains, "trainer changed");
        Ok(member.view())
    }
}

fn unavailable(error: Error) -> Refusal {
    Refusal::new(Why::Unavailable, error.to_string())
}

/// A refusal that lists what is wrong.
fn refused(wrong: &[Problems]) -> Refusal {
    let lists = wrong.iter().map(Problems::to_json);
    let problems = lists.flat_map(|list| list.as_array().cloned().unwrap_or_default()).collect();
    let stops = wrong.iter().flat_map(|p| &p.problems).filter(|p| p.severity == Severity::Error).count();
    let lines: Vec<String> = wrong.iter().map(Problems::to_string).collect();
    let noun = if stops == 1 { "problem" } else { "problems" };
    let detail = format!("nothing was changed, because of {stops} {noun}:\n{}", lines.join("\n"));
    Refusal { why: Why::Invalid, detail, problems }
}

/// Pipelines that would be in each other's way.
fn clashes(pipelines: &[(Loaded, Intent)]) -> Vec<Problems> {
    let mut taken = BTreeMap::<String, String>::new();
    let mut wrong = Vec::new();
    for (loaded, _) in pipelines {
        let pipeline = &loaded.pipeline;
        let source = loaded.source.display().to_string();
        let mut places = vec![("name".to_owned(), format!("the name `{}`", pipeline.name))];
        if let Some(dataset) = pipeline.dataset.as_ref().filter(|dataset| !dataset.shared) {
            places.push(("dataset.url".to_owned(), format!("the dataset `{}`", crate::store::redact(&dataset.url))));
        }
        for (i, trainer) in pipeline.trainers.iter().enumerate() {
            let url = crate::store::redact(&trainer.checkpoint.url);
            places.push((format!("trainers[{i}].checkpoint.url"), format!("the checkpoints `{url}`")));
        }
        let mut found = Vec::new();
        for (path, what) in places {
            match taken.get(&what) {
                Some(other) if *other != source || path == "name" => {
                    let rule = format!("{what} belongs to `{other}` already");
                    found.push(loaded.problem(Severity::Error, &path, rule));
                }
                _ => drop(taken.insert(what, source.clone())),
            }
        }
        if !found.is_empty() {
            wrong.push(Problems::new(&source, found));
        }
    }
    wrong
}
