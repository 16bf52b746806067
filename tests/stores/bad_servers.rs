//! Stores that do not hold what they promise: each is found out, or refused.

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use harvestd::runtime::clock::Clock;
use harvestd::store::{Stores, objects};

use crate::faults::Wanted;
use crate::support::BINARY;
use crate::support::reliability::record;
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

#[test]
fn ages_are_told_by_the_stores_clock() {
    let Some(server) = servers::gcs(&["--skew", "-7200"]) else { return };
    inside_of(&server, "clock", &server.options);
    // an object that is as old as a minute must not be taken for one of two hours
    let wanted = Wanted::new();
    let output = wanted.run(&server, "gs://acts/run", &server.options);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("clock"), "{said}");
    let stray = Command::new(BINARY)
        .args(["verify", "--json", "--gc", "--older-than", "1h", "gs://acts/run"])
        .args(server.arguments())
        .envs(server.variables.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap();
    assert!(stray.status.success(), "{}", String::from_utf8_lossy(&stray.stderr));
}
