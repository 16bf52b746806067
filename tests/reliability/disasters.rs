//! What happens to local folders: no space, no permission, gone.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::races::{Undisturbed, verify};
use crate::support::reliability::{Rows, record};
use crate::support::*;

const ONLY: [&str; 2] = ["--set", "trainers=[]"];

/// Run `script` with `$BINARY`, `$PIPELINE` and `$OUT` where it may mount; `None`, loudly, where that is not allowed.
fn in_namespace(script: &str, pipeline: &Path, out: &Path) -> Option<Output> {
    let allowed = Command::new("unshare").args(["-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no namespaces for users and mounts here");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-euc", script]);
    Some(command.env("BINARY", BINARY).env("PIPELINE", pipeline).env("OUT", out).output().unwrap())
}

fn said(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The dataset must be that of an undisturbed run, byte for byte.
fn compare(whole: &Undisturbed, out: &Path) {
    verify(&out.join("acts"));
    assert!(dataset_bytes(out) == dataset_bytes(&whole.out), "other bytes than an undisturbed run's");
}

#[test]
fn a_full_disk_stops_a_run_and_loses_nothing() {
    let whole = Undisturbed::run(16, &ONLY);
    let mut difference = whole.rows.against(&whole.rows);
    let mut runs = 0;
    // files that may not grow are everywhere to be had
    let (pipeline, out) = whole.pipeline("limited");
    let limited = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" run \"$1\" --set trainers=[]", BINARY])
        .arg(&pipeline)
        .output()
        .unwrap();
    assert_eq!(limited.status.code(), Some(69), "{}", said(&limited));
    assert!(said(&limited).contains("rows_per_shard"), "{}", said(&limited));
    assert!(harvestd(&["run", pipeline.to_str().unwrap(), ONLY[0], ONLY[1]]).status.success());
    compare(&whole, &out);
    difference.add(Rows::of_folder(&out.join("acts")).against(&whole.rows));
    runs += 1;
    // a disk of some sizes, each too small for the whole; then there is room
    for kilobytes in [100, 600, 1100] {
        let (pipeline, out) = whole.pipeline(&format!("full-{kilobytes}"));
        let script = format!(
            "mkdir -p $OUT/acts && mount -t tmpfs -o size={kilobytes}k tmpfs $OUT/acts
             code=0; $BINARY run $PIPELINE --set trainers=[] 2>&1 || code=$?
             echo first run: $code; ls $OUT/acts/shards | grep -c '#' || true
             $BINARY verify $OUT/acts || test $? = 65 && mount -o remount,size=64m $OUT/acts
             $BINARY run $PIPELINE --set trainers=[] 2>&1
             cp -r $OUT/acts $OUT/kept"
        );
        let Some(output) = in_namespace(&script, &pipeline, &out) else { break };
        let text = said(&output);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("first run: 69") && text.contains("No space left on device"), "{text}");
        assert!(kilobytes == 100 || text.contains("make room"), "{text}");
        std::fs::remove_dir(out.join("acts")).unwrap();
        std::fs::rename(out.join("kept"), out.join("acts")).unwrap();
        compare(&whole, &out);
        difference.add(Rows::of_folder(&out.join("acts")).against(&whole.rows));
        runs += 1;
    }
    record("disk full", runs, difference);
}

#[test]
fn a_folder_that_may_not_be_written_to() {
    let whole = Undisturbed::run(12, &ONLY);
    let (pipeline, out) = whole.pipeline("read-only");
    // something is committed; then the file system is read-only; then it is not
    let script = "mkdir -p $OUT/acts && mount -t tmpfs -o size=64m tmpfs $OUT/acts
         $BINARY run $PIPELINE --set trainers=[] >/dev/null 2>&1 & run=$!
         while [ $(ls $OUT/acts/commits 2>/dev/null | wc -l) -lt 2 ]; do sleep 0.02; done
         kill -9 $run; wait $run || true
         mount -o remount,ro $OUT/acts
         code=0; $BINARY run $PIPELINE --set trainers=[] 2>&1 || code=$?
         echo second run: $code
         mount -o remount,rw $OUT/acts
         $BINARY run $PIPELINE --set trainers=[] 2>&1
         cp -r $OUT/acts $OUT/kept";
    let Some(output) = in_namespace(script, &pipeline, &out) else { return };
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("second run: 69") && text.contains("Read-only file system"), "{text}");
    std::fs::remove_dir(out.join("acts")).unwrap();
    std::fs::rename(out.join("kept"), out.join("acts")).unwrap();
    compare(&whole, &out);
    let rows = Rows::of_folder(&out.join("acts"));
    record("read-only folder", 1, rows.against(&whole.rows));
}

#[test]
fn a_folder_that_is_moved_away_while_a_run_writes() {
    let whole = Undisturbed::run(24, &ONLY);
    let (pipeline, out) = whole.pipeline("moved");
    let (acts, away, log) = (out.join("acts"), out.join("away"), out.join("log"));
    let mut child = start(&pipeline, &log, &ONLY);
    let since = Instant::now();
    while std::fs::read_dir(acts.join("commits")).map_or(0, Iterator::count) < 2 {
        assert!(since.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::rename(&acts, &away).unwrap();
    let status = child.wait().unwrap();
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(status.code(), Some(69), "{text}");
    assert!(text.contains("was moved or deleted while this run wrote to it: put it back"), "{text}");
    // the upload that was under way may have begun a folder of the name; nothing is committed in it
    assert_eq!(std::fs::read_dir(acts.join("commits")).map_or(0, Iterator::count), 0);
    std::fs::remove_dir_all(&acts).ok();
    std::fs::rename(&away, &acts).unwrap();
    assert!(start(&pipeline, &log, &ONLY).wait().unwrap().success());
    compare(&whole, &out);
    let rows = Rows::of_folder(&acts);
    record("folder gone", 1, rows.against(&whole.rows));
}
