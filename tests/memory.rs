//! Resident memory stays flat however long the corpus is.

mod support;

use std::path::Path;

use support::*;

/// Peak resident memory of one whole run, in KiB.
#[allow(clippy::zombie_processes, reason = "wait4 is the wait that also tells the peak")]
fn peak_of_run(corpus: &Path, out: &Path) -> i64 {
    let pipeline = write_pipeline(corpus, out);
    // no trainer rows limit reached early: the trainer sees the whole corpus in both runs
    let child = start(&pipeline, &out.join("log"), &["--set", "trainers.0.rows=100M", "--set", "evaluate.tokens=0"]);
    let mut status = 0;
    // SAFETY: an all-zero rusage is valid, and the pointers live through the call; the pid is our own child.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let pid = libc::wait4(child.id() as i32, &raw mut status, 0, &raw mut usage);
        assert_eq!(pid, child.id() as i32);
        usage
    };
    assert_eq!(status, 0, "{}", std::fs::read_to_string(out.join("log")).unwrap());
    usage.ru_maxrss
}

#[test]
fn twenty_times_the_corpus_needs_no_more_memory() {
    let scratch = tempfile::tempdir().unwrap();
    let (small, large) = (scratch.path().join("small"), scratch.path().join("large"));
    write_corpus(&small, 20, 4);
    write_corpus(&large, 400, 4);
    let small_peak = peak_of_run(&small, &scratch.path().join("out-small"));
    let large_peak = peak_of_run(&large, &scratch.path().join("out-large"));
    // the allocator's own slack differs a little from run to run
    assert!(large_peak < small_peak + small_peak / 8 + 8 * 1024, "peak grew from {small_peak} KiB to {large_peak} KiB");
}
