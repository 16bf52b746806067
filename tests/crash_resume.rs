//! A process that is killed at any moment and started again ends with the bytes of an undisturbed run: the dataset's
//! shards and commits, and the trained coder.
//!
//! `HARVESTD_LONG_TESTS=1` kills more often.

mod support;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use support::*;

/// splitmix64: delays that differ between kills and repeat between runs.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn compare(reference: &BTreeMap<String, Vec<u8>>, found: &BTreeMap<String, Vec<u8>>, what: &str) {
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(reference), names(found), "{what}: other objects");
    for (name, bytes) in reference {
        assert!(bytes == &found[name], "{what}: `{name}` differs");
    }
}

#[test]
fn killed_runs_end_with_the_bytes_of_an_undisturbed_one() {
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus, 24, 4);
    let undisturbed = scratch.path().join("undisturbed");
    let pipeline = write_pipeline(&corpus, &undisturbed);
    let log = undisturbed.join("log");
    let watch = Instant::now();
    let status = start(&pipeline, &log, &[]).wait().unwrap();
    let whole_run = watch.elapsed();
    assert!(status.success(), "undisturbed run: {}", std::fs::read_to_string(&log).unwrap());
    let (reference, coder) = (dataset_bytes(&undisturbed), coder_bytes(&undisturbed));
    assert!(reference.len() > 10, "too few shards to be interesting: {}", reference.len());

    let kills_wanted = if std::env::var_os("HARVESTD_LONG_TESTS").is_some() { 100 } else { 24 };
    let (mut kills, mut terminations, mut seed, mut round) = (0, 0, 1u64, 0);
    while kills < kills_wanted || terminations == 0 {
        round += 1;
        let out = scratch.path().join(format!("killed-{round}"));
        let pipeline = write_pipeline(&corpus, &out);
        let log = out.join("log");
        let text = || std::fs::read_to_string(&log).unwrap_or_default();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut child = start(&pipeline, &log, &[]);
            // anywhere from the first moment to past the end; every fifth time a polite SIGTERM
            let delay = whole_run.mul_f64((random(&mut seed) % 1000) as f64 / 1000.0 * 0.9);
            std::thread::sleep(delay.max(Duration::from_millis(20)));
            if attempts > 6 {
                assert!(child.wait().unwrap().success(), "round {round}: {}", text());
                break;
            }
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "round {round}: {}", text());
                break;
            }
            if random(&mut seed).is_multiple_of(5) {
                terminations += 1;
                signal(&child, libc::SIGTERM);
                let status = child.wait().unwrap();
                // before the handlers are installed the signal simply ends the process
                let early = delay < Duration::from_millis(100) && status.code().is_none();
                assert!(status.success() || early, "SIGTERM must drain: {status}, {}", text());
            } else {
                kills += 1;
                signal(&child, libc::SIGKILL);
                child.wait().unwrap();
            }
        }
        compare(&reference, &dataset_bytes(&out), &format!("round {round}"));
        assert!(coder == coder_bytes(&out), "round {round}: the trained coder differs");
        let verify = Command::new(BINARY).arg("verify").arg(out.join("acts")).output().unwrap();
        assert!(verify.status.success(), "verify: {}", String::from_utf8_lossy(&verify.stdout));
    }
}
