//! Writers, compactors, collectors and readers beside each other.

use std::time::Duration;

use harvestd::catalog::Catalog;
use harvestd::catalog::compact::{compact, delete_covered_commits};
use harvestd::catalog::gc::{Policy, collect};
use harvestd::catalog::verify::verify;
use harvestd::catalog::{Committed, Totals};
use harvestd::dataset::config::KeepConfig;
use harvestd::dataset::paths;
use harvestd::sink::SinkOptions;
use harvestd::testing::datasets::{header, write};

use crate::{batches, dataset, joined, made_up_commit, memory, names, spec};

/// Every part is covered exactly once, by exactly one chain of generations.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_compactors_and_writers_lose_nothing() {
    const UNITS: u32 = 24;
    const PARTS: u32 = 20;
    let location = memory("race");
    let catalog = Catalog::create_or_open(location.clone(), header(&spec(), UNITS)).await.unwrap();
    let mut tasks = Vec::new();
    // two writers commit every part, each with objects of its own
    for writer in ["a", "b"] {
        let catalog = Catalog::open(location.clone()).await.unwrap();
        tasks.push(tokio::spawn(async move {
            let mut ours = 0;
            for unit in 0..UNITS {
                for part in 0..PARTS {
                    let mut commit = made_up_commit(&catalog, unit, part, part + 1 == PARTS);
                    commit.object = paths::shard(unit, part, Some(writer));
                    ours += u64::from(catalog.commit(&commit).await.unwrap() == Committed::Ours);
                    tokio::task::yield_now().await;
                }
            }
            ours
        }));
    }
    for _ in 0..3 {
        let catalog = Catalog::open(location.clone()).await.unwrap();
        tasks.push(tokio::spawn(async move {
            let mut covered = 0;
            while !(catalog.totals().await.unwrap().complete && compact(&catalog, 1).await.unwrap().is_none()) {
                if let Some(made) = compact(&catalog, 1).await.unwrap() {
                    covered += made.newly_covered;
                }
                delete_covered_commits(&catalog, Duration::MAX).await.unwrap();
            }
            covered
        }));
    }
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    let all = u64::from(UNITS * PARTS);
    assert_eq!(results[0] + results[1], all, "each part counts for one writer: {results:?}");
    delete_covered_commits(&catalog, Duration::MAX).await.unwrap();
    assert!(names(&location, "commits").await.is_empty());
    let commits = catalog.commits().await.unwrap();
    assert_eq!(commits.len() as u64, all);
    assert_eq!(
        catalog.totals().await.unwrap(),
        Totals { rows: all * 10, shards: all, bytes: all * 1000, complete: true }
    );
}

/// A reader beside compactors that delete what they cover, and a collector, sees every part once, at any moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_beside_compaction_and_collection_sees_everything() {
    const PARTS: u32 = 300;
    let location = memory("beside");
    let catalog = Catalog::create_or_open(location.clone(), header(&spec(), 1)).await.unwrap();
    let writer = {
        let catalog = catalog.clone();
        tokio::spawn(async move {
            for part in 0..PARTS {
                catalog.commit(&made_up_commit(&catalog, 0, part, part + 1 == PARTS)).await.unwrap();
                if part % 7 == 0 {
                    compact(&catalog, 1).await.unwrap();
                    // with no grace at all: manifests, segments and commits vanish under the reader
                    let policy = Policy { keep: KeepConfig::default(), grace: Duration::ZERO, now: Duration::ZERO };
                    collect(&catalog, &policy).await.unwrap();
                }
                tokio::task::yield_now().await;
            }
        })
    };
    let (mut seen, mut reads) = (0, 0);
    while seen < PARTS as usize {
        let reader = Catalog::open(location.clone()).await.unwrap();
        let commits = reader.commits().await.unwrap();
        assert!(commits.len() >= seen, "{} after {seen}", commits.len());
        assert!(commits.iter().enumerate().all(|(i, commit)| commit.part == i as u32), "no gap, nothing twice");
        (seen, reads) = (commits.len(), reads + 1);
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    assert!(reads > 2);
}

/// Two workers write the same units under attempts of their own while a third compacts and deletes: the rows are those of
/// one undisturbed writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_sinks_beside_a_compactor_write_the_same_rows() {
    let (alone, together) = (memory("alone"), memory("together"));
    dataset(&alone).await;
    for round in 0..10 {
        let location = together.child(&round.to_string());
        let mut workers = Vec::new();
        for attempt in ["a", "b"] {
            let location = location.clone();
            let attempt = Some(format!("{attempt}{round}"));
            let options = SinkOptions { attempt, compact_after: Some(3), ..SinkOptions::default() };
            workers.push(std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(write(&location, &spec(), 3, &batches(), options)).map(drop)
            }));
        }
        for worker in workers {
            worker.join().unwrap().unwrap();
        }
        let catalog = Catalog::open(location.clone()).await.unwrap();
        compact(&catalog, 1).await.unwrap();
        delete_covered_commits(&catalog, Duration::MAX).await.unwrap();
        let report = verify(&catalog, |_, _| ()).await.unwrap();
        assert!(report.ok() && report.complete() && report.unreferenced.is_empty(), "round {round}: {report:?}");
        assert_eq!(joined(&location).await, joined(&alone).await, "round {round}");
    }
}
