//! A process that is killed at any moment and started again ends with the bytes of an undisturbed run: the dataset's
//! shards and commits, and the trained coder.
//!
//! 20 kills; `HARVESTD_LONG_TESTS=1` makes it 200, `HARVESTD_KILLS=N` any number, from seed `HARVESTD_SEED` (1) on.

mod support;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use support::reliability::{Difference, Rows, record};
use support::*;

/// A number that the environment gives.
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{variable} is not a number")))
}

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

    let rows = Rows::of_folder(&undisturbed.join("acts"));
    let default = if std::env::var_os("HARVESTD_LONG_TESTS").is_some() { 200 } else { 20 };
    let kills_wanted = number("HARVESTD_KILLS").unwrap_or(default);
    let (mut kills, mut terminations, mut round) = (0, 0, 0);
    let mut seed = number("HARVESTD_SEED").unwrap_or(1);
    let mut difference = Difference::default();
    eprintln!("an undisturbed run takes {whole_run:?}; from seed {seed}");
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
        difference.add(Rows::of_folder(&out.join("acts")).against(&rows));
        std::fs::remove_dir_all(&out).unwrap();
    }
    eprintln!("{kills} kills, {terminations} polite ends, {round} datasets in {:?}", watch.elapsed());
    record("kill at random", kills, difference);
}
