//! Several processes on one dataset.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use harvestd::sink::WriterLock;
use harvestd::store::Location;
use serde_json::Value;

use crate::support::reliability::{Difference, Rows, record};
use crate::support::*;

/// splitmix64.
pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An undisturbed run of a small corpus: where the corpus is, and what came of it.
pub struct Undisturbed {
    pub scratch: tempfile::TempDir,
    pub corpus: PathBuf,
    pub out: PathBuf,
    pub rows: Rows,
    pub parts: usize,
}

impl Undisturbed {
    /// Run with `more` arguments.
    pub fn run(documents: usize, more: &[&str]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let (corpus, out) = (scratch.path().join("corpus"), scratch.path().join("undisturbed"));
        write_corpus(&corpus, documents, 2);
        let pipeline = write_pipeline(&corpus, &out);
        let output = Command::new(BINARY).arg("run").arg(&pipeline).args(more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rows = Rows::of_folder(&out.join("acts"));
        let parts = files(&out.join("acts/commits")).len();
        Self { scratch, corpus, out, rows, parts }
    }

    /// A pipeline for another folder.
    pub fn pipeline(&self, name: &str) -> (PathBuf, PathBuf) {
        let out = self.scratch.path().join(name);
        (write_pipeline(&self.corpus, &out), out)
    }
}

/// `harvestd verify` must be green and the dataset complete.
pub fn verify(dataset: &Path) {
    let output = Command::new(BINARY).arg("verify").arg(dataset).arg("--json").output().unwrap();
    assert!(output.status.success(), "verify: {}", String::from_utf8_lossy(&output.stdout));
}

fn spawn(pipeline: &Path, sets: &[String], log: &Path) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    let mut command = Command::new(BINARY);
    command.arg("run").arg(pipeline).arg("--json");
    sets.iter().for_each(|set| _ = command.args(["--set", set]));
    command.stdout(Stdio::piped()).stderr(log).spawn().unwrap()
}

/// The summary of a run that must end well.
fn ended(child: Child, log: &Path) -> Value {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", std::fs::read_to_string(log).unwrap());
    summary(&output)
}

/// Commits without the names of their objects, which carry attempts. What a killed writer was about to rename (`NAME#1`) is
/// no object: others leave it alone, since its writer might live, and `harvestd gc` removes it.
fn commits(dataset: &Path) -> BTreeMap<String, Value> {
    let nameless = |bytes: Vec<u8>| {
        let mut commit: Value = serde_json::from_slice(&bytes).unwrap();
        commit["object"].take();
        commit
    };
    let objects = files(&dataset.join("commits")).into_iter().filter(|(name, _)| !name.contains('#'));
    objects.map(|(name, bytes)| (name, nameless(bytes))).collect()
}

/// With trainers both processes take the same batches in the same order, so they race for every part.
#[test]
fn two_processes_race_for_every_part() {
    let whole = Undisturbed::run(16, &[]);
    let (pipeline, out) = whole.pipeline("two");
    let log = out.join("log");
    let sets = |coder: &str| {
        let place = out.join(coder).display().to_string();
        vec!["dataset.shared=true".to_owned(), format!("trainers.0.checkpoint.url={place}")]
    };
    let two = ["a", "b"].map(|coder| spawn(&pipeline, &sets(coder), &log));
    let two = two.map(|child| ended(child, &log));
    let sum = |key: &str| two.iter().map(|s| s[key].as_u64().unwrap()).sum::<u64>() as usize;
    assert_eq!(sum("shards"), whole.parts, "each part is committed by one of them");
    eprintln!("{} parts, {} races lost", whole.parts, sum("shards_lost"));
    let acts = out.join("acts");
    verify(&acts);
    assert_eq!(files(&acts.join("shards")).len(), whole.parts, "the losers' objects are gone");
    assert_eq!(commits(&acts), commits(&whole.out.join("acts")));
    let coder = |folder: &str| std::fs::read(out.join(folder).join("saelens/sae_weights.safetensors")).unwrap();
    assert!(coder("a") == coder_bytes(&whole.out) && coder("b") == coder_bytes(&whole.out), "trainers see every batch");
    record("two processes", 2, Rows::of_folder(&acts).against(&whole.rows));
}

#[test]
fn four_processes_are_killed_and_started_again() {
    let only = ["--set", "trainers=[]"];
    let whole = Undisturbed::run(24, &only);
    let (pipeline, out) = whole.pipeline("four");
    let (log, acts) = (out.join("log"), out.join("acts"));
    let sets = ["trainers=[]".to_owned(), "dataset.shared=true".to_owned()];
    let mut seed = 11;
    let mut workers: Vec<Child> = (0..4).map(|_| spawn(&pipeline, &sets, &log)).collect();
    let (mut kills, mut shards) = (0, 0);
    while kills < 12 {
        std::thread::sleep(Duration::from_millis(100 + random(&mut seed) % 500));
        let victim = random(&mut seed) as usize % workers.len();
        let mut old = std::mem::replace(&mut workers[victim], spawn(&pipeline, &sets, &log));
        if old.try_wait().unwrap().is_none() {
            signal(&old, libc::SIGKILL);
        }
        old.wait().unwrap();
        kills += 1;
    }
    for worker in workers {
        shards += ended(worker, &log)["shards"].as_u64().unwrap();
    }
    eprintln!("{} parts, {shards} of them by those that lived to the end", whole.parts);
    verify(&acts);
    assert_eq!(commits(&acts), commits(&whole.out.join("acts")));
    record("four processes, killed", 4 + kills, Rows::of_folder(&acts).against(&whole.rows));
}

/// Whoever comes later passes what others finished: no part is computed by everybody.
#[test]
fn workers_share_the_units() {
    let only = ["--set", "trainers=[]"];
    let whole = Undisturbed::run(60, &only);
    let (pipeline, out) = whole.pipeline("shared");
    let log = out.join("log");
    let sets = ["trainers=[]".to_owned(), "dataset.shared=true".to_owned()];
    let two = [0, 1].map(|_| spawn(&pipeline, &sets, &log)).map(|child| ended(child, &log));
    let sum = |key: &str| two.iter().map(|s| s[key].as_u64().unwrap()).sum::<u64>() as usize;
    eprintln!(
        "{} parts, {} races lost, {} rows computed for {}",
        whole.parts,
        sum("shards_lost"),
        sum("rows"),
        whole.rows.len()
    );
    assert_eq!(sum("shards"), whole.parts);
    assert!(two.iter().all(|s| s["dataset"]["complete"] == true));
    assert_eq!(Rows::of_folder(&out.join("acts")).against(&whole.rows), Difference::default());
    verify(&out.join("acts"));
}

#[test]
fn a_second_writer_that_does_not_share_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let (corpus, out) = (scratch.path().join("corpus"), scratch.path().join("out"));
    write_corpus(&corpus, 4, 2);
    let pipeline = write_pipeline(&corpus, &out);
    let run = |sets: &[&str]| {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        Command::new(BINARY).arg("run").arg(&pipeline).args(["--set", "trainers=[]"]).args(sets).output().unwrap()
    };
    let place = Location::open(out.join("acts").to_str().unwrap()).unwrap();
    let alone = WriterLock::take(&place, false).unwrap();
    for sets in [&[][..], &["dataset.shared=true"]] {
        let refused = run(sets);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(69), "{said}");
        assert!(said.contains("another run writes to") && said.contains("dataset.shared: true"), "{said}");
    }
    drop(alone);
    let sharing = WriterLock::take(&place, true).unwrap();
    assert_eq!(run(&[]).status.code(), Some(69));
    assert!(run(&["dataset.shared=true"]).status.success());
    drop(sharing);
    assert!(run(&[]).status.success());
    verify(&out.join("acts"));
}
