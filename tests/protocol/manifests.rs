//! Manifests: what they say is what the commits said, at any size, whatever happens to them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use harvestd::catalog::Catalog;
use harvestd::catalog::compact::{compact, delete_covered_commits};
use harvestd::catalog::inspect::inspect;
use harvestd::catalog::verify::verify;
use harvestd::dataset::commit::{Checksum, Commit};
use harvestd::dataset::manifest::{CoveredTotals, Manifest, SegmentRef};
use harvestd::dataset::paths;
use harvestd::dataset::segment::{self, Entry};
use harvestd::error::ErrorKind;
use harvestd::sink::SinkOptions;
use harvestd::store::objects;
use harvestd::telemetry::metrics::{StoreOperation, StoreStats};
use harvestd::testing::datasets::{header, write};

use crate::{batches, bytes_of, dataset, joined, made_up_commit, memory, names, spec, sum};

fn without_means(mut commits: Vec<Commit>) -> Vec<Commit> {
    commits.iter_mut().flat_map(|c| c.sites.values_mut()).for_each(|s| s.mean.clear());
    commits
}

#[tokio::test]
async fn a_manifest_says_what_the_commits_said() {
    let location = memory("says");
    let catalog = dataset(&location).await;
    let (commits, progress, totals) =
        (catalog.commits().await.unwrap(), catalog.progress().await.unwrap(), catalog.totals().await.unwrap());
    let (rows, summary) = (joined(&location).await, inspect(&catalog).await.unwrap());
    // a gap: what comes after it is not covered
    let gap = bytes_of(&location, &paths::commit(0, 3)).await.unwrap();
    objects::delete(&location.child(&paths::commit(0, 3))).await.unwrap();
    let first = compact(&catalog, 1).await.unwrap().unwrap();
    assert_eq!((first.generation, first.newly_covered, first.segments), (1, 7, 1));
    objects::create(&location.child(&paths::commit(0, 3)), gap).await.unwrap();
    let second = compact(&catalog, 1).await.unwrap().unwrap();
    assert_eq!((second.generation, second.newly_covered, second.covered, second.segments), (2, 3, 10, 1));
    assert_eq!(compact(&catalog, 1).await.unwrap(), None);
    for delete in [false, true] {
        if delete {
            assert_eq!(delete_covered_commits(&catalog, Duration::ZERO).await.unwrap(), 0, "none is old enough");
            assert_eq!(delete_covered_commits(&catalog, Duration::MAX).await.unwrap(), 10);
            assert!(names(&location, "commits").await.is_empty());
        }
        let catalog = Catalog::open(location.clone()).await.unwrap();
        assert_eq!(without_means(catalog.commits().await.unwrap()), without_means(commits.clone()));
        assert_eq!(catalog.progress().await.unwrap(), progress);
        assert_eq!(catalog.totals().await.unwrap(), totals);
        assert_eq!(joined(&location).await, rows);
        let found = inspect(&catalog).await.unwrap();
        assert_eq!(
            (found.documents, found.tokens, &found.dropped),
            (summary.documents, summary.tokens, &summary.dropped)
        );
        for (a, b) in found.sites.iter().zip(&summary.sites) {
            assert_eq!(a.statistics.difference(&b.statistics, 1e-12), None, "means are merged");
        }
        let report = verify(&catalog, |_, _| ()).await.unwrap();
        assert!(report.ok() && report.complete() && report.unreferenced.is_empty(), "{report:?}");
        assert_eq!((report.shards, report.rows), (10, 253));
    }
    // a run that goes on finds everything done
    let (_, again) = write(&location, &spec(), 3, &batches(), SinkOptions::default()).await.unwrap();
    assert!(again.is_empty());
}

/// A writer that compacts all the time writes the same shards and the same progress.
#[tokio::test]
async fn a_writer_compacts_as_it_goes() {
    let (plain, compacting) = (memory("plain"), memory("compacting"));
    dataset(&plain).await;
    let options = SinkOptions { compact_after: Some(2), ..SinkOptions::default() };
    let (catalog, _) = write(&compacting, &spec(), 3, &batches(), options).await.unwrap();
    assert_eq!(names(&plain, "manifests").await.len(), 0);
    let generations = names(&compacting, "manifests").await.iter().filter(|name| name.ends_with(".json")).count();
    assert!(generations >= 3, "{generations}");
    assert_eq!(names(&plain, "shards").await, names(&compacting, "shards").await);
    assert_eq!(joined(&plain).await, joined(&compacting).await);
    let plain = Catalog::open(plain).await.unwrap();
    assert_eq!(plain.progress().await.unwrap(), catalog.progress().await.unwrap());
    assert_eq!(plain.totals().await.unwrap(), catalog.totals().await.unwrap());
}

/// A late worker's commit of a covered part counts for nobody.
#[tokio::test]
async fn a_commit_of_a_covered_part_never_counts() {
    let location = memory("late");
    let catalog = dataset(&location).await;
    let stored = catalog.commits().await.unwrap().remove(2);
    compact(&catalog, 1).await.unwrap().unwrap();
    let late = Commit { object: paths::shard(stored.unit, stored.part, Some("late")), ..stored.clone() };
    let place = location.child(&late.object);
    // while the covered commit is there, and when it was tidied away
    for tidied in [false, true] {
        if tidied {
            delete_covered_commits(&catalog, Duration::MAX).await.unwrap();
        }
        objects::create(&place, Bytes::from_static(b"late")).await.unwrap();
        match catalog.commit(&late).await.unwrap() {
            harvestd::catalog::Committed::Theirs(theirs) => assert_eq!(theirs.object, stored.object),
            ours => panic!("{ours:?}"),
        }
        assert_eq!(objects::read(&place).await.unwrap(), None, "the late object is gone");
        assert_eq!(names(&location, "commits").await.len(), if tidied { 0 } else { 10 }, "and its commit");
    }
    // a worker that was killed before it looked leaves a commit that readers do not see
    let dead = Commit { rows: 1, sequences: [7, 9], ..late };
    objects::create(&location.child(&paths::commit(dead.unit, dead.part)), dead.to_json().into()).await.unwrap();
    let catalog = Catalog::open(location).await.unwrap();
    assert_eq!(catalog.totals().await.unwrap().rows, 253);
    assert!(verify(&catalog, |_, _| ()).await.unwrap().ok());
}

#[tokio::test]
async fn damage_to_manifests_is_found_and_never_a_panic() {
    let cases = [
        "truncated segment",
        "changed segment",
        "missing segment",
        "truncated manifest",
        "changed totals",
        "changed mean",
    ];
    for what in cases {
        let location = memory(&format!("damage-{what}"));
        let catalog = dataset(&location).await;
        compact(&catalog, 1).await.unwrap().unwrap();
        let manifests = names(&location, "manifests").await;
        let find = |end: &str| format!("manifests/{}", manifests.iter().find(|name| name.ends_with(end)).unwrap());
        let name = if what.ends_with("segment") { find(".parquet") } else { find(".json") };
        let place = location.child(&name);
        let mut bytes = bytes_of(&location, &name).await.unwrap().to_vec();
        objects::delete(&place).await.unwrap();
        match what {
            "missing segment" => {}
            "truncated segment" | "truncated manifest" => bytes.truncate(bytes.len() / 2),
            "changed segment" => bytes[40] ^= 1,
            _ => {
                let mut manifest = Manifest::from_json(&bytes, 1).unwrap();
                match what {
                    "changed totals" => manifest.totals.rows += 1,
                    _ => manifest.sites.values_mut().for_each(|s| s.mean[0] += 0.01),
                }
                bytes = manifest.to_json();
            }
        }
        if what != "missing segment" {
            objects::create(&place, bytes.into()).await.unwrap();
        }
        let catalog = Catalog::open(location).await.unwrap();
        let report = verify(&catalog, |_, _| ()).await.unwrap();
        assert!(!report.ok(), "{what}: {report:?}");
        if !what.starts_with("changed ") || what == "changed segment" {
            let error = catalog.progress().await.unwrap_err();
            assert!(error.kind() == ErrorKind::Data && error.to_string().contains("manifests/"), "{what}: {error}");
            assert!(catalog.commits().await.is_err() && compact(&catalog, 1).await.is_err());
        }
    }
}

/// Whatever a segment holds whose checksum is right: an error or entries, never a panic.
#[tokio::test]
async fn mutated_segments_are_errors_or_entries() {
    let catalog = dataset(&memory("mutated")).await;
    let entry = |commit| Entry { commit, committed_at: 5, retired_at: None };
    let entries: Vec<Entry> = catalog.commits().await.unwrap().into_iter().map(entry).collect();
    let whole = segment::encode(&catalog.header().sites, &entries).unwrap();
    let (mut state, mut errors) = (0x2545_f491_4f6c_dd1d_u64, 0);
    for _ in 0..4000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + state % 3 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = (state >> 8) as usize % bytes.len();
            bytes[at] = [0, 0xff, bytes[at] ^ 1 << (state % 8), (state >> 40) as u8][(state >> 5) as usize % 4];
        }
        let bytes = Bytes::from(bytes);
        let found = segment::decode(bytes.clone(), entries.len() as u64);
        errors += u32::from(found.is_err() || segment::decode_marks(bytes, entries.len() as u64).is_err());
    }
    assert!(errors > 1000, "{errors}");
}

#[tokio::test]
async fn verify_goes_on_after_a_commit_that_cannot_be_read() {
    let location = memory("not-json");
    let catalog = dataset(&location).await;
    let name = paths::commit(0, 2);
    objects::replace(&location.child(&name), Bytes::from_static(b"{\"format\": 1, ")).await.unwrap();
    let shard = paths::shard(1, 0, None);
    objects::replace(&location.child(&shard), Bytes::from_static(b"x")).await.unwrap();
    let report = verify(&catalog, |_, _| ()).await.unwrap();
    let found: Vec<&str> = report.problems.iter().map(|p| p.object.as_str()).collect();
    assert_eq!(found, [name.as_str(), shard.as_str()], "{report:?}");
    assert_eq!(report.shards, 9);
}

/// Opening a dataset of a million shards takes a handful of requests.
#[tokio::test]
async fn a_million_commits_open_in_a_few_requests() {
    const UNITS: u32 = 1 << 14;
    const PARTS: u32 = 1 << 6;
    let location = memory("million");
    let spec = spec();
    let catalog = Catalog::create_or_open(location.clone(), header(&spec, UNITS)).await.unwrap();
    let mut manifest = Manifest { generation: 1, ..Manifest::empty() };
    let full = Manifest::segment_rows(segment::row_bytes(2));
    for units in (0..UNITS).collect::<Vec<_>>().chunks((full / u64::from(PARTS)) as usize) {
        let parts = units.iter().flat_map(|&unit| (0..PARTS).map(move |part| (unit, part)));
        let entries: Vec<Entry> = parts
            .map(|(unit, part)| {
                let mut commit = made_up_commit(&catalog, unit, part, part + 1 == PARTS);
                commit.sites.values_mut().for_each(|s| s.mean.clear());
                Entry { commit, committed_at: 1_700_000_000 + u64::from(part), retired_at: None }
            })
            .collect();
        let bytes = segment::encode(&catalog.header().sites, &entries).unwrap();
        let sum = sum(&bytes);
        let object = paths::segment(1, &sum);
        manifest.totals.merge(&CoveredTotals::of(&entries));
        let (rows, n) = (entries.len() as u64, bytes.len() as u64);
        manifest.segments.push(SegmentRef { object: object.clone(), rows, bytes: n, checksum: Checksum::sha256(sum) });
        objects::create(&location.child(&object), bytes.into()).await.unwrap();
    }
    objects::create(&location.child(&paths::manifest(1)), manifest.to_json().into()).await.unwrap();
    let bytes: u64 = manifest.segments.iter().map(|s| s.bytes).sum();

    let stats = StoreStats::default();
    let requests = || StoreOperation::ALL.iter().map(|&operation| stats.requests(operation)).sum::<u64>();
    let since = Instant::now();
    let catalog = Catalog::open(location.counted(stats.clone())).await.unwrap();
    let (progress, totals) = (catalog.progress().await.unwrap(), catalog.totals().await.unwrap());
    let (opened, seconds) = (requests(), since.elapsed().as_secs_f64());
    assert_eq!((totals.shards, totals.rows, totals.complete), (1 << 20, 10 << 20, true));
    assert!(progress.len() == UNITS as usize && progress.values().all(|at| at.done && at.next_part == PARTS));
    let segments = manifest.segments.len() as u64;
    assert!(opened <= 10 + segments, "{opened} requests");
    assert!(seconds < 20.0, "{seconds} s");
    let since = Instant::now();
    let commits = catalog.commits().await.unwrap();
    let all = since.elapsed().as_secs_f64();
    assert_eq!((commits.len(), commits[70].unit, commits[70].part), (1 << 20, 1, 6));
    println!(
        "{} commits: {segments} segments, {:.1} MB; opened with {opened} requests in {seconds:.2} s, all commits in {all:.2} s",
        commits.len(),
        bytes as f64 / 1e6
    );
}

/// Counts of drops in a manifest are those of its segments.
#[tokio::test]
async fn verify_compares_what_a_manifest_says_of_drops() {
    let location = memory("drops");
    let catalog = dataset(&location).await;
    compact(&catalog, 1).await.unwrap();
    assert!(verify(&catalog, |_, _| ()).await.unwrap().ok());
    let name = paths::manifest(1);
    let text = String::from_utf8(bytes_of(&location, &name).await.unwrap().to_vec()).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let dropped = value["dropped"].as_object_mut().unwrap();
    let (reason, n) = dropped.iter().next().map(|(reason, n)| (reason.clone(), n.as_u64().unwrap())).unwrap();
    dropped.insert(reason, (n + 1).into());
    objects::replace(&location.child(&name), serde_json::to_vec(&value).unwrap().into()).await.unwrap();
    // not by way of what was read before
    let catalog = Catalog::open(location).await.unwrap();
    let report = verify(&catalog, |_, _| ()).await.unwrap();
    let found: Vec<_> = report.problems.iter().map(|p| (p.object.as_str(), p.what.as_str())).collect();
    assert_eq!(found, [(name.as_str(), "says something else of drops than its segments")]);
}
