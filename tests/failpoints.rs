//! The process ends at every border between two stages and between two requests, as `kill -9` would end it; run again, it
//! ends with the bytes of an undisturbed run. Needs `--features failpoints`.

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use harvestd::testing::FAILPOINTS;
use support::reliability::{Difference, Rows, record};
use support::*;

/// Places that `compact` passes.
const COMPACT: [&str; 1] = ["segments_uploaded"];
/// Places that `shuffle` passes.
const SHUFFLE: [&str; 4] = ["piece_written", "piece_indexed", "bucket_written", "bucket_committed"];
/// How often a place is passed before the process ends there.
const PASSES: [u32; 3] = [1, 2, 5];

#[test]
fn every_failpoint_is_survived() {
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus, 10, 2);
    let undisturbed = scratch.path().join("undisturbed");
    let pipeline = write_pipeline(&corpus, &undisturbed);
    // small parts are still larger than the small pipeline's shards: wider rows
    let more = ["--set", "dataset.dtype=float32"];
    let log = undisturbed.join("log");
    assert!(start(&pipeline, &log, &more).wait().unwrap().success(), "{}", std::fs::read_to_string(&log).unwrap());
    let (reference, coder) = (dataset_bytes(&undisturbed), coder_bytes(&undisturbed));
    let rows = Rows::of_folder(&undisturbed.join("acts"));

    let cases: Vec<(&str, u32)> = FAILPOINTS
        .iter()
        .filter(|name| !COMPACT.contains(name) && !SHUFFLE.contains(name))
        .flat_map(|name| PASSES.map(|nth| (*name, nth)))
        .collect();
    let (next, total) = (AtomicUsize::new(0), Mutex::new((0, Difference::default())));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(&(name, nth)) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let out = scratch.path().join(format!("{name}-{nth}"));
                    let pipeline = write_pipeline(&corpus, &out);
                    let stop = format!("{name}:{nth}");
                    let mut command = Command::new(BINARY);
                    command.arg("run").arg(&pipeline).args(more).env("HARVESTD_FAILPOINT", &stop);
                    let killed = command.output().unwrap();
                    let said = String::from_utf8_lossy(&killed.stderr);
                    // some are passed once or twice only: then the run ends well
                    let ended = killed.status.success() && nth > 1;
                    assert!(said.contains("failpoint reached") != ended, "{stop}: {} {said}", killed.status);
                    let log = out.join("log");
                    let again = start(&pipeline, &log, &more).wait().unwrap();
                    assert!(again.success(), "{stop}: {}", std::fs::read_to_string(&log).unwrap());
                    let found = dataset_bytes(&out);
                    assert_eq!(found.keys().collect::<Vec<_>>(), reference.keys().collect::<Vec<_>>(), "{stop}");
                    assert!(found == reference, "{stop}: other bytes");
                    assert!(coder == coder_bytes(&out), "{stop}: another coder");
                    let verify = Command::new(BINARY).arg("verify").arg(out.join("acts")).output().unwrap();
                    assert!(verify.status.success(), "{stop}: {}", String::from_utf8_lossy(&verify.stdout));
                    let mut total = total.lock().unwrap();
                    total.0 += u64::from(!ended);
                    total.1.add(Rows::of_folder(&out.join("acts")).against(&rows));
                    std::fs::remove_dir_all(&out).unwrap();
                }
            });
        }
    });
    let (runs, difference) = total.into_inner().unwrap();
    record("kill at a stage border", runs, difference);
}

/// A command that ends at a place, and then the same command again. Gives what `verify` needs: the dataset is whole.
fn end_at(stop: &str, args: &[&str], dataset: &Path) {
    let ended = Command::new(BINARY).args(args).env("HARVESTD_FAILPOINT", stop).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains("failpoint reached"), "{stop}: {} {said}", ended.status);
    let again = harvestd(args);
    assert!(again.status.success(), "{stop}: {}", String::from_utf8_lossy(&again.stderr));
    let verify = harvestd(&["verify", dataset.to_str().unwrap()]);
    assert!(verify.status.success(), "{stop}: {}", String::from_utf8_lossy(&verify.stdout));
}

#[test]
fn shuffles_and_compactions_survive_theirs() {
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus, 4, 2);
    let pipeline = write_pipeline(&corpus, scratch.path());
    let log = scratch.path().join("log");
    assert!(start(&pipeline, &log, &["--set", "trainers=[]"]).wait().unwrap().success());
    let source = scratch.path().join("acts");
    let rows = Rows::of_folder(&source);

    let shuffle_to = |to: &Path| {
        let to = to.display().to_string();
        ["shuffle", source.to_str().unwrap(), &to, "--memory", "16MiB", "--seed", "4"].map(str::to_owned)
    };
    let whole = scratch.path().join("whole");
    assert!(harvestd(&shuffle_to(&whole).each_ref().map(String::as_str)).status.success());
    for (name, nth) in SHUFFLE.iter().flat_map(|name| [1, 3].map(|nth| (name, nth))) {
        let to = scratch.path().join(format!("{name}-{nth}"));
        end_at(&format!("{name}:{nth}"), &shuffle_to(&to).each_ref().map(String::as_str), &to);
        assert!(files(&to) == files(&whole), "{name}:{nth}: other bytes");
    }
    for name in COMPACT {
        end_at(name, &["compact", source.to_str().unwrap()], &source);
        let difference = Rows::of_folder(&source).against(&rows);
        assert_eq!(difference, Difference::default(), "{name}");
    }
}
