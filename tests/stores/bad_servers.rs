//! Stores that do not hold what they promise: each is found out, or refused.

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use harvestd::runtime::clock::Clock;
use harvestd::store::{Stores, objects};

use crate::faults::Wanted;
use crate::support::http::Request;
use crate::support::reliability::record;
use crate::support::{BINARY, summary};
use crate::{inside_of, servers};

#[test]
fn a_store_that_ignores_conditions_is_refused_unless_there_is_one_writer() {
    let Some(server) = servers::gcs(&["--ignore-conditions"]) else { return };
    let wanted = Wanted::new();
    let output = wanted.run(&server, "gs://acts/run", &server.options);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("writes over objects") && said.contains("conditional_put: none"), "{said}");
    let options: Vec<String> = server.options.iter().cloned().chain(["conditional_put=none".into()]).collect();
    let output = wanted.run(&server, "gs://acts/run", &options);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    record("store: conditions ignored", 1, wanted.compare(&server, "gs://acts/run"));
}

#[test]
fn a_store_that_loses_what_it_accepted_is_found_out_before_the_commit() {
    let wanted = Wanted::new();
    let Some(server) = servers::gcs(&["--lose", "4"]) else { return };
    let mut runs = 0;
    // every fourth shard is lost, so each run gets a little further
    loop {
        runs += 1;
        assert!(runs < 40);
        let output = wanted.run(&server, "gs://acts/run", &server.options);
        if output.status.success() {
            break;
        }
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{said}");
        assert!(said.contains("the store accepted `gs://acts/run/shards/") && said.contains("is not there"), "{said}");
    }
    assert!(runs > 1);
    record("store: loses what it accepted", runs, wanted.compare(&server, "gs://acts/run"));
}

/// In the child: the store's clock is two hours behind.
pub async fn ages_by_the_stores_clock(stores: &Stores, url: &str) {
    let location = stores.open(&format!("{url}/x")).unwrap();
    objects::replace(&location, Bytes::from_static(b"x")).await.unwrap();
    let skew = location.skew_seconds().unwrap();
    assert!((-7203.0..-7197.0).contains(&skew), "{skew}");
    let listed = objects::list(&stores.open(url).unwrap()).await.unwrap();
    let written = Duration::from_secs(listed[0].last_modified.timestamp() as u64);
    let age = location.now(&Clock::system()).abs_diff(written);
    assert!(age < Duration::from_secs(5), "{age:?}");
}

/// What the stray object below `<url>/run/shards` is called.
const STRAY: &str = "shards/000000-00099-dead.parquet";

/// In the child: an upload whose commit never came.
pub async fn leave_a_stray(stores: &Stores, url: &str) {
    let place = stores.open(&format!("{url}/run/{STRAY}")).unwrap();
    objects::replace(&place, Bytes::from_static(b"dead")).await.unwrap();
}

/// The store's clock decides what is old, in both directions: what a live writer has just uploaded stays, and what is old
/// goes, however far this machine's clock is off.
#[test]
fn ages_are_told_by_the_stores_clock() {
    let wanted = Wanted::new();
    for skew in ["-7200", "7200"] {
        let Some(server) = servers::gcs(&["--skew", skew]) else { return };
        if skew.starts_with('-') {
            inside_of(&server, "clock", &server.options);
        }
        let output = wanted.run(&server, "gs://acts/run", &server.options);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("clock"), "{said}");
        inside_of(&server, "stray", &server.options);
        let verify = |age: &str| {
            let output = Command::new(BINARY)
                .args(["verify", "--json", "--gc", "--older-than", age, "gs://acts/run"])
                .args(server.arguments())
                .envs(server.variables.iter().map(|(name, value)| (name, value)))
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            summary(&output)
        };
        let gc = || {
            let output = Command::new(BINARY)
                .args(["gc", "--json", "--grace", "1h", "gs://acts/run"])
                .args(server.arguments())
                .envs(server.variables.iter().map(|(name, value)| (name, value)))
                .output()
                .unwrap();
            summary(&output)["objects"].as_array().unwrap().len()
        };
        let young = verify("1h");
        assert!(young["young"] == 1 && young["removed"].as_array().unwrap().is_empty(), "{skew}: {young}");
        assert_eq!(gc(), 0, "{skew}");
        // an hour and a half later
        let head = format!("PUT /clock/5400 HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", server.address);
        let request = Request { method: "PUT".into(), target: "/clock/5400".into(), head, body: Vec::new() };
        assert!(request.forward(&server.address).unwrap().0.starts_with("HTTP/1.1 200"));
        assert_eq!((verify("2h")["young"].as_u64(), gc()), (Some(1), 1), "{skew}");
        let old = verify("1h");
        assert_eq!((old["young"].as_u64(), &old["removed"][0]), (Some(0), &STRAY.into()), "{skew}: {old}");
        assert_eq!(verify("0s")["unreferenced"].as_array().unwrap().len(), 0, "{skew}");
        assert_eq!(wanted.compare(&server, "gs://acts/run"), Default::default(), "{skew}");
    }
}

/// A bucket that is not there is said to be missing, and not taken for one without a dataset.
#[test]
fn a_missing_bucket_is_no_missing_dataset() {
    let wanted = Wanted::new();
    let servers = [(servers::moto(), "s3"), (servers::azurite(), "az"), (servers::gcs(&[]), "gs")];
    for (server, scheme) in servers {
        let Some(server) = server else { continue };
        let url = format!("{scheme}://absent/run");
        let dataset = format!("dataset.url={url}");
        let pipeline = wanted.pipeline().display().to_string();
        let corpus = format!("corpus.paths=[\"{scheme}://absent/*.jsonl\"]");
        for command in [
            &["inspect", &url][..],
            &["verify", &url],
            &["gc", &url],
            &["run", &pipeline, "--set", "trainers=[]", "--set", &dataset],
            &["run", &pipeline, "--set", "trainers=[]", "--set", &corpus],
        ] {
            let output = Command::new(BINARY)
                .args(command)
                .args(server.arguments())
                .envs(server.variables.iter().map(|(name, value)| (name, value)))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{command:?}: {said}");
            assert!(said.contains("there is no such bucket or container"), "{command:?}: {said}");
        }
    }
}
