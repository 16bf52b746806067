//! `limits.store_bytes`: what counts, whoever wrote it, and what makes room.

use std::sync::Arc;
use std::time::Duration;

use harvestd::catalog::Catalog;
use harvestd::catalog::gc::{Keeper, Policy, collect};
use harvestd::catalog::verify::verify;
use harvestd::dataset::config::KeepConfig;
use harvestd::error::ErrorKind;
use harvestd::runtime::clock::Clock;
use harvestd::sink::{ParquetSink, Quota, SinkOptions};
use harvestd::store::{Location, objects};
use harvestd::testing::datasets::header;
use harvestd::units::{ByteSize, HumanDuration};

use crate::columns::{ADDED, BASE, pipeline, with_group};
use crate::housekeeping::{DAY, now};
use crate::support::{dataset_bytes, harvestd, summary, write_corpus};
use crate::{batches, dataset, joined, memory, spec};

fn keep_bytes(bytes: u64, grace: Option<Duration>) -> KeepConfig {
    KeepConfig { bytes: Some(ByteSize(bytes)), grace: grace.map(HumanDuration), ..KeepConfig::default() }
}

/// Bytes of all shards that the store has below `location`.
async fn there(location: &Location) -> u64 {
    let shards = objects::list(location).await.unwrap();
    shards.iter().filter(|object| object.location.as_ref().contains("/shards/")).map(|object| object.size).sum()
}

#[tokio::test]
async fn groups_and_retired_shards_count_until_they_are_deleted() {
    let location = memory("counted");
    let (base, group) = with_group(&location).await;
    let all = base.totals().await.unwrap().bytes + group.totals().await.unwrap().bytes;
    assert_eq!(there(&location).await, all);
    let quota = Quota::of(base.clone(), all + 10, false, None).await.unwrap();
    assert!(quota.fits(10).await && !quota.fits(11).await, "the column group counts");
    let kept = base.totals().await.unwrap().bytes / 2;
    let policy = Policy { keep: keep_bytes(kept, None), grace: DAY, now: now() };
    let retired = collect(&base, &policy).await.unwrap().retired;
    let error = quota.make_room(11).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    let gone = ByteSize(retired.iter().map(|part| part.bytes).sum());
    assert!(error.to_string().contains(&format!("{gone} are of retired shards")), "{error}");
    // retired shards go by their own grace, other garbage does not
    let sooner = Policy { keep: keep_bytes(kept, Some(Duration::ZERO)), ..policy };
    let deleted = collect(&base, &sooner).await.unwrap();
    assert_eq!(deleted.objects.len(), 2 * retired.len(), "of the dataset and of its group: {deleted:?}");
    assert!(!quota.fits(11).await, "what is known");
    quota.make_room(10 + gone.0).await.unwrap();
    assert!(!quota.fits(11 + gone.0).await);
}

/// Two writers with a limit each on the bytes of both.
#[tokio::test]
async fn what_others_write_counts() {
    let (whole, location) = (memory("others-whole"), memory("others"));
    let all = dataset(&whole).await;
    let largest = all.commits().await.unwrap().iter().map(|commit| commit.bytes).max().unwrap();
    let limit = all.totals().await.unwrap().bytes * 2 / 3;
    let catalog = Catalog::create_or_open(location.clone(), header(&spec(), 3)).await.unwrap();
    let mut sinks = Vec::new();
    for attempt in ["a", "b"] {
        // as processes of their own have them
        let catalog = Catalog::open(location.clone()).await.unwrap();
        let quota = Quota::of(catalog.clone(), limit, true, None).await.unwrap();
        let options = SinkOptions { attempt: Some(attempt.into()), quota: Some(quota), ..SinkOptions::default() };
        sinks.push(ParquetSink::with_options(catalog, spec(), Default::default(), options).await.unwrap());
    }
    let mut stopped = [None, None];
    for i in 0..batches().len() {
        for (w, sink) in sinks.iter_mut().enumerate() {
            // one writes unit 0, the other the rest
            let batch = &batches()[i];
            if stopped[w].is_none() && (batch.unit == 0) == (w == 0) {
                stopped[w] = sink.write(batch).await.err();
            }
        }
    }
    for sink in &mut sinks {
        sink.abort().await.unwrap();
    }
    let found = catalog.totals().await.unwrap().bytes;
    assert!(found <= limit + largest, "{found} of {limit}");
    assert!(stopped.iter().flatten().all(|error| error.kind() == ErrorKind::Full));
    assert!(stopped.iter().flatten().count() > 0, "nobody was stopped at {found} of {limit}");
    // with room, others go on
    let mut sink = ParquetSink::new(catalog.clone(), spec(), catalog.progress().await.unwrap()).await.unwrap();
    for batch in batches() {
        sink.write(&batch).await.unwrap();
    }
    sink.finish().await.unwrap();
    assert_eq!(joined(&location).await, joined(&whole).await);
}

#[tokio::test]
async fn retention_makes_room_before_a_run_is_stopped() {
    let whole = memory("room-whole");
    let all = dataset(&whole).await.totals().await.unwrap().bytes;
    for (name, grace) in [("room", Some(Duration::ZERO)), ("no-room", None)] {
        let location = memory(name);
        let catalog = Catalog::create_or_open(location.clone(), header(&spec(), 3)).await.unwrap();
        let (limit, keep) = (all / 2, keep_bytes(all / 4, grace));
        let keeper = Arc::new(Keeper::new(catalog.clone(), keep, DAY, Clock::system()).unwrap());
        let quota = Quota::of(catalog.clone(), limit, false, Some(keeper)).await.unwrap();
        let options = SinkOptions { quota: Some(quota), ..SinkOptions::default() };
        let mut sink = ParquetSink::with_options(catalog.clone(), spec(), Default::default(), options).await.unwrap();
        let mut stopped = None;
        for batch in batches() {
            stopped = sink.write(&batch).await.err();
            assert!(there(&location).await <= limit);
            if stopped.is_some() {
                break;
            }
        }
        sink.finish().await.unwrap();
        let (totals, report) = (catalog.totals().await.unwrap(), verify(&catalog, |_, _| ()).await.unwrap());
        assert!(report.ok() && report.retired_shards > 0, "{report:?}");
        match stopped {
            None => assert!(grace.is_some() && totals.complete && totals.bytes <= limit, "{totals:?}"),
            Some(error) => {
                assert!(grace.is_none() && error.kind() == ErrorKind::Full, "{error}");
                assert!(error.to_string().contains("retired shards"), "{error}");
            }
        }
    }
}

/// The program: a column group stops at a limit that the dataset's own shards nearly fill, and goes on with a larger one.
#[test]
fn a_run_that_adds_sites_stops_and_goes_on_exactly() {
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus, 24, 12);
    let all: Vec<&str> = BASE.iter().chain(&ADDED).copied().collect();
    let run = |out: &str, capture: &[&str], limit: &str| {
        let file = pipeline(&corpus, &scratch.path().join(out), capture, "{positions: [0]}");
        harvestd(&["--json", "run", file.to_str().unwrap(), "--set", &format!("limits.store_bytes={limit}")])
    };
    for out in ["whole", "limited"] {
        assert!(run(out, &BASE, "1GiB").status.success());
    }
    let whole = summary(&run("whole", &all, "1GiB"));
    let [base, group] = [&whole["dataset"], &whole["dataset"]["columns"][0]].map(|d| d["bytes"].as_u64().unwrap());
    let output = run("limited", &all, &(base + group / 2).to_string());
    let found = summary(&output);
    assert_eq!(output.status.code(), Some(73), "{found}");
    let stored = found["dataset"]["columns"][0]["bytes"].as_u64().unwrap();
    assert!(stored <= group / 2 && stored > 0, "{stored} of {group}");
    // a run that leaves the group out is bound by it all the same
    let output = run("limited", &BASE, &(base + stored - 1).to_string());
    assert!(output.status.success(), "it has nothing to write: {}", String::from_utf8_lossy(&output.stderr));
    assert!(run("limited", &all, &(base + group).to_string()).status.success());
    // headers tell of their pipelines
    let bytes = |out: &str| {
        let mut all = dataset_bytes(&scratch.path().join(out));
        all.retain(|name, _| !name.ends_with("dataset.json"));
        all
    };
    assert!(bytes("limited") == bytes("whole"));
}
