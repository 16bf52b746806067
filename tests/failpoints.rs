//! The process ends at every border between two stages and between two requests, as `kill -9` would end it; run again, it
//! ends with the bytes of an undisturbed run. Needs `--features failpoints`.

mod support;

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use harvestd::testing::FAILPOINTS;
use support::reliability::{Difference, Rows, record};
use support::*;

/// Places that another command than `run` passes.
const ELSEWHERE: [&str; 5] =
    ["segments_uploaded", "piece_written", "piece_indexed", "bucket_written", "bucket_committed"];
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
        .filter(|name| !ELSEWHERE.contains(name))
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
