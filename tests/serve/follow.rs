//! Corpora that grow while they are harvested.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::process::{Server, write_long_pipeline};
use crate::support::*;

/// Put the next file where the corpus is looked for, whole at once.
fn appears(prepared: &Path, corpus: &Path, n: usize) {
    let name = format!("part-{n:03}.jsonl");
    std::fs::copy(prepared.join(&name), corpus.join("coming")).unwrap();
    std::fs::rename(corpus.join("coming"), corpus.join(name)).unwrap();
}

fn instalments(out: &Path) -> usize {
    std::fs::read_dir(out.join("acts/corpus")).map_or(0, |entries| entries.count())
}

/// Wait until `n` files were found and all of their units went through.
fn until_all_is_done(server: &mut Server, out: &Path, n: usize) {
    let mut last = (0, Instant::now());
    server.until(&format!("{n} files are done"), |server| {
        let view = server.pipeline("endless");
        let number = |key: &str| view["run"][key].as_u64().unwrap();
        if number("tokens") != last.0 {
            last = (number("tokens"), Instant::now());
        }
        // units that a trainer goes through again count again
        let through = number("units_total") > 0 && number("units") >= number("units_total");
        instalments(out) == n && through && last.1.elapsed() > Duration::from_secs(5)
    });
}

/// The newest checkpoint of the trainer: name of each file, and its bytes.
fn newest_checkpoint(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let all = files(&out.join("coder"));
    let folder = |name: &String| name.split_once('/').map(|(folder, _)| folder.to_owned());
    let newest = all.keys().filter_map(folder).filter(|folder| folder.starts_with("step")).max().unwrap();
    let own = |(name, bytes): (String, Vec<u8>)| Some((name.strip_prefix(&format!("{newest}/"))?.to_owned(), bytes));
    all.into_iter().filter_map(own).collect()
}

fn write_endless_pipeline(corpus: &Path, out: &Path) -> PathBuf {
    let path = write_long_pipeline(corpus, out, "endless");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("holdout: 15%}", "holdout: 15%, follow: 200ms}")).unwrap();
    path
}

/// Files come one after the other; between and beside them the process is killed, told to end and started again: every unit
/// is stored once, and the trainer is the same as if nothing had happened.
#[test]
fn files_that_appear_are_read_once_through_every_interruption() {
    if std::env::var_os("HARVESTD_PATIENT").is_none() {
        eprintln!("SKIPPED: KNOWN TO FAIL, the checkpoint differs after interruptions; HARVESTD_PATIENT=1 runs it");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let prepared = scratch.path().join("prepared");
    write_corpus(&prepared, 24, 8);
    let stored = |disturbed: bool| {
        let folder = scratch.path().join(if disturbed { "disturbed" } else { "undisturbed" });
        let (corpus, out) = (folder.join("corpus"), folder.join("out"));
        std::fs::create_dir_all(&corpus).unwrap();
        let pipeline = write_endless_pipeline(&corpus, &out);
        let mut server = Server::start(&folder, &[&pipeline]);
        if disturbed {
            // nothing is there yet: it waits, and can be told to end
            server.until("it waits for files", |server| server.text().contains("waiting for the first file"));
            assert!(server.end(libc::SIGTERM).0.success());
            appears(&prepared, &corpus, 0);
            server = Server::start(&folder, &[&pipeline]);
            server.until("the file was found", |_| instalments(&out) == 1);
            assert!(!server.end(libc::SIGKILL).0.success());
            server = Server::start(&folder, &[&pipeline]);
        } else {
            appears(&prepared, &corpus, 0);
        }
        until_all_is_done(&mut server, &out, 1);
        appears(&prepared, &corpus, 1);
        if disturbed {
            server.until("the next file is read", |_| instalments(&out) == 2);
            assert!(!server.end(libc::SIGKILL).0.success());
            server = Server::start(&folder, &[&pipeline]);
        }
        until_all_is_done(&mut server, &out, 2);
        if disturbed {
            // what is done may go; what appears while nobody looks is found later
            std::fs::remove_file(corpus.join("part-000.jsonl")).unwrap();
            assert!(server.end(libc::SIGTERM).0.success());
            appears(&prepared, &corpus, 2);
            server = Server::start(&folder, &[&pipeline]);
        } else {
            appears(&prepared, &corpus, 2);
        }
        until_all_is_done(&mut server, &out, 3);
        assert!(server.end(libc::SIGTERM).0.success());
        let verified = harvestd(&["verify", out.join("acts").to_str().unwrap(), "--json"]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        let mut dataset = dataset_bytes(&out);
        // when they were found, and by whom, differs
        dataset.retain(|name, _| !name.starts_with("corpus/"));
        (dataset, newest_checkpoint(&out))
    };
    let (undisturbed, disturbed) = (stored(false), stored(true));
    assert!(undisturbed.0.len() > 6, "{:?}", undisturbed.0.keys());
    assert_eq!(undisturbed.0.keys().collect::<Vec<_>>(), disturbed.0.keys().collect::<Vec<_>>());
    assert!(undisturbed.0 == disturbed.0, "the dataset differs");
    assert_eq!(undisturbed.1.keys().collect::<Vec<_>>(), disturbed.1.keys().collect::<Vec<_>>());
    assert!(undisturbed.1 == disturbed.1, "the checkpoint differs");
}
