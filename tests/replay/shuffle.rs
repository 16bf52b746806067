//! `harvestd shuffle`: killed, shared among processes, and in bounded memory.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::*;

/// A `.npy` file of `rows` rows of `width` f32, none like another.
fn write_npy(file: &Path, rows: usize, width: usize) {
    let mut out = std::io::BufWriter::new(std::fs::File::create(file).unwrap());
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    out.write_all(b"\x93NUMPY\x01\x00").unwrap();
    out.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
    out.write_all(header.as_bytes()).unwrap();
    let mut state = rows as u32;
    for _ in 0..rows * width {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.write_all(&((state >> 8) as f32 / 8_388_608.0 - 1.0).to_le_bytes()).unwrap();
    }
}

/// A dataset of `files` files of `rows` rows each.
fn dataset(scratch: &Path, files: usize, rows: usize, width: usize, rows_per_shard: usize) -> String {
    let arrays = scratch.join("arrays");
    std::fs::create_dir_all(&arrays).unwrap();
    for i in 0..files {
        write_npy(&arrays.join(format!("{i}.npy")), rows + i, width);
    }
    let to = scratch.join("src").display().to_string();
    let shard = rows_per_shard.to_string();
    let args = ["import", arrays.to_str().unwrap(), &to, "--site", "made.up", "--rows-per-shard", &shard];
    let output = harvestd(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::remove_dir_all(arrays).unwrap();
    to
}

fn shuffle(from: &str, to: &Path, memory: &str, workers: &str) -> Child {
    Command::new(BINARY)
        .args(["shuffle", from, to.to_str().unwrap(), "--memory", memory, "--workers", workers, "--seed", "4"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Killed at random moments until it ends; how often.
fn until_done(whole: Duration, random: &mut u64, start: impl FnMut() -> Child) -> usize {
    let (kills, output) = killed_until_done(whole, random, usize::MAX, start);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    kills
}

#[test]
fn killed_and_shared_shuffles_end_in_the_same_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let from = dataset(scratch.path(), 3, 9000, 96, 4000);
    let whole = scratch.path().join("whole");
    let watch = Instant::now();
    finish(shuffle(&from, &whole, "16MiB", "1"));
    let took = watch.elapsed();
    let reference = files(&whole);
    assert!(
        reference.len() > 20 && reference.keys().all(|name| !name.starts_with("scratch")),
        "{:?}",
        reference.keys()
    );
    let verify = harvestd(&["verify", whole.to_str().unwrap()]);
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));

    for workers in ["2", "4"] {
        let to = scratch.path().join(format!("workers-{workers}"));
        finish(shuffle(&from, &to, "16MiB", workers));
        assert!(files(&to) == reference, "{workers} workers");
    }
    let to = scratch.path().join("processes");
    let pair = [shuffle(&from, &to, "16MiB", "1"), shuffle(&from, &to, "16MiB", "2")];
    pair.into_iter().for_each(finish);
    assert!(files(&to) == reference, "two processes");

    let rounds = if std::env::var_os("HARVESTD_LONG_TESTS").is_some() { 60 } else { 6 };
    let (mut kills, mut random) = (0, 12345u64);
    for round in 0..rounds {
        let to = scratch.path().join(format!("killed-{round}"));
        kills += until_done(took, &mut random, || shuffle(&from, &to, "16MiB", "2"));
        assert!(files(&to) == reference, "round {round}");
        std::fs::remove_dir_all(&to).unwrap();
    }
    assert!(kills >= rounds / 2, "{kills} kills");
}

#[test]
fn memory_stays_within_the_budget_for_a_dataset_many_times_as_large() {
    let scratch = tempfile::tempdir().unwrap();
    // 410 MB of rows in row groups of 4 MB
    let from = dataset(scratch.path(), 2, 200_000, 256, 4096);
    let to = scratch.path().join("dst");
    let mut child = shuffle(&from, &to, "64MiB", "2");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    finish(child);
    println!("peak {peak} KiB");
    // the program and parts of uploads come on top of the rows
    assert!(peak > 8 << 10 && peak < 104 << 10, "{peak} KiB");
    let verify = harvestd(&["verify", to.to_str().unwrap()]);
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
}

#[test]
fn killed_imports_end_in_the_same_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let arrays = scratch.path().join("arrays");
    std::fs::create_dir_all(&arrays).unwrap();
    write_npy(&arrays.join("1.npy"), 120_000, 64);
    write_npy(&arrays.join("2.npy"), 50_000, 64);
    let import = |to: &Path| {
        let args =
            ["import", arrays.to_str().unwrap(), to.to_str().unwrap(), "--site", "x", "--rows-per-shard", "20000"];
        Command::new(BINARY).args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let whole = scratch.path().join("whole");
    let watch = Instant::now();
    finish(import(&whole));
    let (took, reference) = (watch.elapsed(), files(&whole));
    let (mut kills, mut random) = (0, 99u64);
    for round in 0..3 {
        let to = scratch.path().join(format!("killed-{round}"));
        kills += until_done(took, &mut random, || import(&to));
        assert!(files(&to) == reference, "round {round}");
    }
    assert!(kills > 0);
}
