//! The states of one pipeline, driven by hand: its thread is not started, and runs end as the tests say.

use super::*;
use crate::admin::{Desired, Why};
use crate::error::Error;

const POLICY: RestartPolicy = RestartPolicy {
    first_wait: Duration::from_millis(40),
    longest_wait: Duration::from_millis(300),
    healthy_after: Duration::from_secs(3600),
};

struct Rig {
    member: Arc<Member>,
    _folder: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

fn load(folder: &std::path::Path, seed: u64) -> Loaded {
    let file = folder.join("p.yaml");
    let text = format!(
        "version: 1\nname: p\nseed: {seed}\nmodel: {{source: m}}\ncorpus: {{type: jsonl, paths: [c.jsonl]}}\n\
         capture: [blocks.0.hook_resid_post]\ndataset: {{url: out}}\n"
    );
    std::fs::write(&file, text).unwrap();
    crate::config::load(&file, &[]).unwrap()
}

fn rig(intent: Intent) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let board = Arc::new(Board::new(Clock::system()));
    let shared = Surroundings {
        io: runtime.handle().clone(),
        clock: Clock::system(),
        board,
        policy: POLICY,
        room: Room::new(None),
    };
    let member = Member::new(load(folder.path(), 1), intent, Arc::new(shared));
    Rig { member, _folder: folder, _runtime: runtime }
}

impl Rig {
    /// Begin the run that is due now.
    fn begin(&self) -> Start {
        self.member
            .cell
            .update(|cell| cell.step("p", &self.member.shared.room))
            .expect("a run is due")
            .expect("it does not leave")
    }

    fn nothing_is_due(&self) -> bool {
        self.member.cell.update(|cell| cell.step("p", &self.member.shared.room)).is_none()
    }

    fn end(&self, start: &Start, ending: Ending) {
        self.member.cell.update(|cell| cell.ended(ending, &start.status, &POLICY));
    }

    fn state(&self) -> PipelineState {
        self.member.view().state
    }
}

fn fault() -> Ending {
    Ending::Failed(ErrorKind::Unavailable, "the store is away".to_owned())
}

#[test]
fn faults_that_may_pass_are_waited_for_longer_and_longer_up_to_a_limit() {
    let rig = rig(Intent::default());
    let mut waits = Vec::new();
    for fault_number in 1..=6 {
        let start = rig.begin();
        rig.end(&start, fault());
        let view = rig.member.view();
        assert_eq!((view.state, view.restarts), (PipelineState::Pending, fault_number - 1));
        assert!(view.reason.unwrap().contains("the store is away"));
        let wait = rig.member.cell.read(|cell| cell.retry.unwrap().1);
        waits.push(wait);
        assert!(rig.nothing_is_due(), "it waits");
        rig.member.cell.update(|cell| cell.retry = Some((Stopwatch::start(), Duration::ZERO)));
    }
    // each is between half of the doubled wait and all of it
    for (i, wait) in waits.iter().enumerate() {
        let whole = (POLICY.first_wait * (1 << i)).min(POLICY.longest_wait);
        assert!(*wait >= whole / 2 && *wait <= whole, "{waits:?}");
    }
}

#[test]
fn a_fault_that_does_not_pass_waits_for_somebody() {
    let rig = rig(Intent::default());
    let start = rig.begin();
    rig.end(&start, Ending::Failed(ErrorKind::Data, "the model is damaged".to_owned()));
    assert_eq!(rig.state(), PipelineState::Failed);
    assert!(rig.nothing_is_due());
    assert!(!rig.member.at_rest().unwrap().ok, "a failed pipeline is not ready");
    rig.member.allows(Action::Resume).unwrap();
    rig.member.act(Action::Resume);
    rig.end(&rig.begin(), Ending::Done);
    assert_eq!(rig.state(), PipelineState::Done);
    assert!(rig.member.at_rest().unwrap().ok);
    assert_eq!(rig.member.allows(Action::Pause).unwrap_err().why, Why::Conflict);
}

#[test]
fn pauses_are_kept_and_drains_are_not() {
    let rig = rig(Intent { desired: Desired::Paused, ..Intent::default() });
    assert_eq!(rig.state(), PipelineState::Paused);
    assert!(rig.nothing_is_due());
    rig.member.act(Action::Resume);
    let start = rig.begin();
    rig.member.act(Action::Drain);
    assert!(start.shutdown.is_draining() && !start.shutdown.is_aborting());
    assert_eq!((rig.state(), rig.member.intent().desired), (PipelineState::Draining, Desired::Running));
    rig.end(&start, Ending::Drained);
    assert_eq!(rig.state(), PipelineState::Paused);
    rig.member.act(Action::Resume);
    let start = rig.begin();
    rig.member.act(Action::Stop);
    assert!(start.shutdown.is_aborting());
    rig.end(&start, Ending::Drained);
    assert_eq!((rig.state(), rig.member.intent().desired), (PipelineState::Stopped, Desired::Stopped));
    rig.member.act(Action::Resume);
    let start = rig.begin();
    // resumed before the pause was through: it goes on at once
    rig.member.act(Action::Pause);
    rig.member.act(Action::Resume);
    rig.end(&start, Ending::Drained);
    drop(rig.begin());
}

#[test]
fn a_changed_configuration_drains_and_an_unchanged_one_does_nothing() {
    let rig = rig(Intent::default());
    let start = rig.begin();
    let before = rig.member.view().fingerprint;
    assert!(!rig.member.replace(load(rig._folder.path(), 1), Intent::default()));
    assert!(!start.shutdown.is_draining());
    assert!(rig.member.replace(load(rig._folder.path(), 2), Intent::default()));
    assert!(start.shutdown.is_draining());
    assert_ne!(rig.member.view().fingerprint, before);
    // even if the old one came to its end, or failed, on the way
    rig.end(&start, Ending::Failed(ErrorKind::Data, "old".to_owned()));
    let start = rig.begin();
    assert_eq!(start.loaded.pipeline.seed, Seed(2));
    rig.member.leave("it is in no file any more");
    assert!(start.shutdown.is_draining() && rig.member.allows(Action::Pause).is_err());
    rig.end(&start, Ending::of(Err(Error::closed("the run")), &start.shutdown));
    assert!(rig.member.cell.update(|cell| cell.step("p", &rig.member.shared.room)).unwrap().is_none());
    assert!(!rig.member.stay(), "its thread has ended");
}

#[test]
fn checkpoints_are_written_by_trainers_that_work() {
    let rig = rig(Intent::default());
    assert_eq!(rig.member.allows(Action::Checkpoint).unwrap_err().why, Why::Conflict);
    let start = rig.begin();
    start.status.enter(RunState::Running);
    let refused = rig.member.allows(Action::Checkpoint).unwrap_err();
    assert!(refused.detail.contains("no trainers"), "{}", refused.detail);
    start.status.set_trainers(vec![crate::pipeline::status::TrainerStatus::default()]);
    rig.member.allows(Action::Checkpoint).unwrap();
    rig.member.act(Action::Checkpoint);
    assert_eq!(start.status.checkpoints_asked(), 1);
    assert!(!start.shutdown.is_draining());
}
