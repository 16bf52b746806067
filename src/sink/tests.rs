//! Exactly once: parts by rule, resume from anywhere, races, faults.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use proptest::prelude::*;

use super::{ParquetSink, SinkOptions};
use crate::accounting::DropReason;
use crate::catalog::Catalog;
use crate::catalog::verify::verify;
use crate::dataset::config::{CompressionConfig, Layout, StoredDtype};
use crate::dataset::decoder::decode_all;
use crate::dataset::schema::ShardSpec;
use crate::error::ErrorKind;
use crate::store::Location;
use crate::store::objects;
use crate::store::upload::UploadOptions;
use crate::testing::datasets::{interleaved, small_spec, units, write};
use crate::testing::{Fails, FaultyStore};
use crate::units::Percent;

/// Sequence lengths of three units; the last has no rows at all.
const LENGTHS: [&[u32]; 3] = [&[17, 9, 30, 12, 0, 28, 3, 3, 55, 14], &[40, 1, 39, 2], &[]];

fn spec() -> ShardSpec {
    small_spec(StoredDtype::Float16, Layout::Typed, CompressionConfig::None)
}

fn place(name: &str) -> Location {
    Location::open(&format!("memory://sink-{name}/acts")).unwrap()
}

/// Every object below `location`, by name.
async fn contents(location: &Location) -> BTreeMap<String, Bytes> {
    let mut all = BTreeMap::new();
    for object in objects::list(location).await.unwrap() {
        let at = Location { path: object.location.clone(), ..location.clone() };
        let name = object.location.as_ref().strip_prefix(location.path.as_ref()).unwrap().to_owned();
        all.insert(name, objects::read(&at).await.unwrap().unwrap());
    }
    all
}

async fn put(location: &Location, name: &str, bytes: Bytes) {
    objects::create(&location.child(name), bytes).await.unwrap();
}

#[tokio::test]
async fn parts_end_at_sequence_borders_by_the_rule() {
    let location = place("rule");
    let units = units(&spec(), &LENGTHS);
    let (catalog, committed) =
        write(&location, &spec(), 3, &interleaved(&units, &[3]), SinkOptions::default()).await.unwrap();
    let commits = catalog.commits().await.unwrap();
    let parts: Vec<_> = commits.iter().map(|c| (c.unit, c.part, c.sequences, c.rows, c.cursor.done)).collect();
    // 40 rows a shard: 17+9 | 30 | 12+0+28 | 3+3 | 55 alone | 14; 40 | 1+39 | 2; and the end of a unit without rows
    let expected = [
        (0, 0, [0, 2], 26, false),
        (0, 1, [2, 3], 30, false),
        (0, 2, [3, 6], 40, false),
        (0, 3, [6, 8], 6, false),
        (0, 4, [8, 9], 55, false),
        (0, 5, [9, 10], 14, true),
        (1, 0, [0, 1], 40, false),
        (1, 1, [1, 3], 40, false),
        (1, 2, [3, 4], 2, true),
        (2, 0, [0, 0], 0, true),
    ];
    assert_eq!(parts, expected);
    assert_eq!(committed.len(), commits.len());
    // the sequence after part 0 of unit 0 is in its first batch (of 3), that after part 3 in its third
    assert_eq!((commits[0].cursor.next_batch, commits[3].cursor.next_batch), (0, 2));
    assert_eq!((commits[5].cursor.batches, commits[9].cursor.batches), (Some(4), Some(1)));
    let sum = |f: fn(&crate::dataset::commit::Commit) -> u64| commits.iter().map(f).sum::<u64>();
    assert_eq!(sum(|c| c.documents), 14);
    assert_eq!(sum(|c| c.tokens), 171 + 82 + 14); // rows, and a dropped token a sequence
    assert_eq!(sum(|c| c.dropped.get(DropReason::SpecialToken)), 14);
    assert_eq!(sum(|c| c.dropped.get(DropReason::EmptyDocument)), 3); // one at each unit's end
    let report = verify(&catalog, |_, _| ()).await.unwrap();
    assert!(report.ok() && report.complete() && report.unreferenced.is_empty(), "{report:?}");
    let totals = catalog.totals().await.unwrap();
    assert_eq!((totals.rows, totals.shards, totals.complete), (253, 10, true));
}

#[tokio::test]
async fn a_run_killed_between_any_two_commits_continues_to_the_same_objects() {
    let whole = place("whole");
    let units = units(&spec(), &LENGTHS);
    let batches = interleaved(&units, &[3, 2]);
    let (_, committed) = write(&whole, &spec(), 3, &batches, SinkOptions::default()).await.unwrap();
    let expected = contents(&whole).await;
    for killed_after in 0..=committed.len() {
        let location = place(&format!("killed-{killed_after}"));
        put(&location, "dataset.json", expected["/dataset.json"].clone()).await;
        for shard in &committed[..killed_after] {
            for name in [
                format!("shards/{:06}-{:05}.parquet", shard.unit, shard.part),
                format!("commits/{:06}-{:05}.json", shard.unit, shard.part),
            ] {
                put(&location, &name, expected[&format!("/{name}")].clone()).await;
            }
        }
        // an object that was uploaded but not committed, half of it something else
        if let Some(next) = committed.get(killed_after) {
            put(&location, &format!("shards/{:06}-{:05}.parquet", next.unit, next.part), Bytes::from_static(b"x"))
                .await;
        }
        // whoever resumes sends what the progress does not cover, from the batch that the cursor names
        let progress = Catalog::open(location.clone()).await.unwrap().progress().await.unwrap();
        let missing: Vec<_> = batches
            .iter()
            .filter(|batch| {
                let at = progress.get(&batch.unit).copied().unwrap_or_default();
                !at.done && batch.batch_in_unit >= at.next_batch
            })
            .cloned()
            .collect();
        let (_, again) = write(&location, &spec(), 3, &missing, SinkOptions::default()).await.unwrap();
        assert_eq!(again.len(), committed.len() - killed_after);
        assert!(contents(&location).await == expected, "killed after {killed_after}");
        // and whoever sends everything again changes nothing
        let (_, nothing) = write(&location, &spec(), 3, &batches, SinkOptions::default()).await.unwrap();
        assert!(nothing.is_empty());
        assert!(contents(&location).await == expected);
    }
}

#[tokio::test]
async fn what_is_not_whole_at_the_end_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::open(folder.path().to_str().unwrap()).unwrap();
    let units = units(&spec(), &LENGTHS);
    let batches = interleaved(&units, &[2]);
    // parts of 600 bytes: multipart uploads are under way when the stream ends
    let options =
        SinkOptions { upload: UploadOptions { part_bytes: 600, parts_in_flight: 2 }, ..SinkOptions::default() };
    let (catalog, _) = write(&location, &spec(), 3, &batches[..5], options.clone()).await.unwrap();
    let files = |folder: &std::path::Path| std::fs::read_dir(folder).unwrap().count();
    let commits = catalog.commits().await.unwrap();
    assert!(!commits.is_empty() && commits.len() < 10);
    assert_eq!(files(&folder.path().join("shards")), commits.len());
    assert_eq!(files(&folder.path().join("commits")), commits.len());
    // a killed writer's staging files are swept up by the next one, which ends as an undisturbed run does
    std::fs::write(folder.path().join("shards/000000-00003.parquet#1"), "x").unwrap();
    std::fs::write(folder.path().join("commits/000000-00003.json#7"), "x").unwrap();
    write(&location, &spec(), 3, &batches, options).await.unwrap();
    assert_eq!((files(&folder.path().join("shards")), files(&folder.path().join("commits"))), (10, 10));
    let undisturbed = place("undisturbed");
    write(&undisturbed, &spec(), 3, &batches, SinkOptions::default()).await.unwrap();
    assert!(contents(&location).await == contents(&undisturbed).await);
}

#[tokio::test]
async fn racing_workers_make_one_commit_a_part() {
    let location = place("race");
    let units = units(&spec(), &LENGTHS);
    let run = |attempt: &str, sizes: usize| {
        let (location, batches, attempt) = (location.clone(), interleaved(&units, &[sizes]), attempt.to_owned());
        async move {
            let options = SinkOptions { attempt: Some(attempt), ..SinkOptions::default() };
            write(&location, &spec(), 3, &batches, options).await.unwrap().1
        }
    };
    let (a, b, c) = tokio::join!(run("a", 2), run("b", 2), run("c", 2));
    let ours = a.iter().chain(&b).chain(&c).filter(|shard| !shard.theirs).count();
    assert_eq!(ours, 10);
    let catalog = Catalog::open(location).await.unwrap();
    assert_eq!(catalog.commits().await.unwrap().len(), 10);
    let report = verify(&catalog, |_, _| ()).await.unwrap();
    assert!(report.ok() && report.complete() && report.unreferenced.is_empty(), "{report:?}");
}

#[tokio::test]
async fn a_part_committed_with_other_rows_is_an_error() {
    let location = place("other-rows");
    let catalog =
        Catalog::create_or_open(location.clone(), crate::testing::datasets::header(&spec(), 3)).await.unwrap();
    let first = units(&spec(), &[&[10, 10]])[0].batches(&[2]);
    let second = units(&spec(), &[&[10, 11]])[0].batches(&[2]);
    let mut a = ParquetSink::new(catalog.clone(), spec(), Default::default()).await.unwrap();
    let options = SinkOptions { attempt: Some("b".into()), ..SinkOptions::default() };
    let mut b = ParquetSink::with_options(catalog, spec(), Default::default(), options).await.unwrap();
    a.write(&first[0]).await.unwrap();
    a.finish().await.unwrap();
    b.write(&second[0]).await.unwrap();
    let error = b.finish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("committed with other rows"), "{error}");
}

/// A link that is a little faster than the rows come is enough: finishing and committing a shard, three answers of the store
/// one after the other, goes on beside the uploads of the next.
#[tokio::test(start_paused = true)]
async fn whoever_makes_the_rows_never_waits_for_a_link_that_keeps_up() {
    let answer = Duration::from_millis(100);
    let slow = ThrottleConfig { wait_put_per_call: answer, ..ThrottleConfig::default() };
    let store = Arc::new(ThrottledStore::new(InMemory::new(), slow));
    let location = Location::in_store(store, "acts", "slow");
    let spec = ShardSpec { rows_per_shard: 2000, rows_per_group: 100, ..spec() };
    let unit = units(&spec, &[&[100; 600]]);
    let batches = interleaved(&unit, &[1]);
    let (_, shards) = write(&place("fast"), &spec, 1, &batches, SinkOptions::default()).await.unwrap();
    let bytes: u64 = shards.iter().map(|shard| shard.bytes).sum();
    // three parts of 6 kB in each answer's time
    let upload = UploadOptions { part_bytes: 6_000, parts_in_flight: 3 };
    let per_second = 3.0 * 6_000.0 / answer.as_secs_f64();
    let catalog = Catalog::create_or_open(location, crate::testing::datasets::header(&spec, 1)).await.unwrap();
    let options = SinkOptions { upload, ..SinkOptions::default() };
    let mut sink = ParquetSink::with_options(catalog.clone(), spec, Default::default(), options).await.unwrap();
    // a queue of half a shard, filled at 85% of the link's rate
    let (sender, mut queue) = tokio::sync::mpsc::channel(10);
    let size = Duration::from_secs_f64(bytes as f64 / batches.len() as f64 / (0.85 * per_second));
    let make = async move {
        let (mut made_for, mut waited) = (Duration::ZERO, Duration::ZERO);
        for batch in batches {
            tokio::time::sleep(size).await;
            made_for += size;
            let since = tokio::time::Instant::now();
            sender.send(batch).await.unwrap();
            waited += since.elapsed();
        }
        (made_for, waited)
    };
    let store = async move {
        while let Some(batch) = queue.recv().await {
            sink.write(&batch).await.unwrap();
        }
        sink.finish().await.unwrap();
    };
    let ((made_for, waited), ()) = tokio::join!(make, store);
    let totals = catalog.totals().await.unwrap();
    assert!(totals.complete && totals.shards == 30, "{totals:?}");
    assert!(waited < made_for / 100, "waited {waited:?} in {made_for:?}");
}

#[tokio::test]
async fn a_batch_out_of_order_is_an_error() {
    let catalog = Catalog::create_or_open(place("order"), crate::testing::datasets::header(&spec(), 3)).await.unwrap();
    let batches = units(&spec(), &[&[10, 10, 10]])[0].batches(&[1]);
    let mut sink = ParquetSink::new(catalog, spec(), Default::default()).await.unwrap();
    sink.write(&batches[0]).await.unwrap();
    assert_eq!(sink.write(&batches[2]).await.unwrap_err().kind(), ErrorKind::Internal);
    sink.abort().await.unwrap();
}

#[tokio::test]
async fn a_sample_is_stored_and_the_rest_counted() {
    let location = place("sample");
    let spec = ShardSpec { sample: Percent::from_share(0.3), ..spec() };
    let unit = units(&spec, &[&[200, 150, 250]]);
    let (catalog, committed) =
        write(&location, &spec, 1, &interleaved(&unit, &[2]), SinkOptions::default()).await.unwrap();
    let rows: u64 = committed.iter().map(|shard| shard.rows).sum();
    let left_out: u64 = committed.iter().map(|shard| shard.sampled_out).sum();
    assert_eq!(rows + left_out, 600);
    assert!((140..220).contains(&rows), "{rows}");
    let sample = crate::dataset::sample::Sample::new(spec.sample);
    for commit in catalog.commits().await.unwrap() {
        let bytes = objects::read(&location.child(&commit.object)).await.unwrap().unwrap();
        let rows = decode_all(&bytes).unwrap().1;
        assert!(rows.seq.iter().zip(&rows.pos).all(|(&seq, &pos)| sample.keeps(0, seq, pos)));
        assert_eq!(commit.dropped.get(DropReason::Sampled), committed[commit.part as usize].sampled_out);
    }
}

#[tokio::test]
async fn a_fault_at_any_write_costs_work_but_no_rows() {
    let units = units(&spec(), &LENGTHS);
    let batches = interleaved(&units, &[3]);
    let undisturbed = place("no-fault");
    write(&undisturbed, &spec(), 3, &batches, SinkOptions::default()).await.unwrap();
    let expected = contents(&undisturbed).await;
    // one header, then a shard and a commit for each of ten parts
    for (fails, puts) in [(Fails::Before, 21), (Fails::After, 21)] {
        for good in 0..puts {
            let location = place(&format!("fault-{fails:?}-{good}"));
            let faulty = FaultyStore::wrap(&location, fails, good, 1);
            let first = write(&faulty, &spec(), 3, &batches, SinkOptions::default()).await;
            if let Err(error) = &first {
                assert_eq!(error.kind(), ErrorKind::Unavailable);
            }
            // a lost answer to a put-if-absent is resolved by reading back
            let is_create = good == 0 || good % 2 == 0;
            assert_eq!(first.is_ok(), fails == Fails::After && is_create, "{fails:?} {good}");
            write(&faulty, &spec(), 3, &batches, SinkOptions::default()).await.unwrap();
            assert!(contents(&location).await == expected, "{fails:?} {good}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Objects are the same bytes however the rows were batched and uploaded.
    #[test]
    fn objects_do_not_depend_on_batches(
        lengths in prop::collection::vec(prop::collection::vec(0u32..50, 0..9), 1..4),
        a in prop::collection::vec(1usize..5, 1..3),
        b in prop::collection::vec(1usize..5, 1..3),
        rows_per_shard in 1u64..90,
        part_bytes in 200usize..5000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let spec = ShardSpec { rows_per_shard, ..spec() };
            let lengths: Vec<&[u32]> = lengths.iter().map(Vec::as_slice).collect();
            let units = units(&spec, &lengths);
            let mut results = Vec::new();
            for (sizes, part_bytes) in [(&a, part_bytes), (&b, 1 << 20)] {
                // a store of its own, that nobody else has opened
                let store = std::sync::Arc::new(object_store::memory::InMemory::new());
                let location = Location::in_store(store, "acts", "memory");
                let options = SinkOptions { upload: UploadOptions { part_bytes, parts_in_flight: 2 }, ..SinkOptions::default() };
                let batches = interleaved(&units, sizes);
                let (catalog, _) = write(&location, &spec, lengths.len() as u32, &batches, options).await.unwrap();
                let report = verify(&catalog, |_, _| ()).await.unwrap();
                assert!(report.ok() && report.complete(), "{report:?}");
                let mut objects = contents(&location).await;
                let commits = catalog.commits().await.unwrap();
                for commit in &commits {
                    let extra = commit.rows > rows_per_shard && commit.sequences[1] - commit.sequences[0] > 1;
                    let with_rows = |i: &u32| lengths[commit.unit as usize][*i as usize] > 0;
                    assert!(!extra || (commit.sequences[0]..commit.sequences[1]).filter(with_rows).count() == 1);
                }
                objects.retain(|name, _| name.ends_with(".parquet"));
                results.push((objects, commits.into_iter().map(|c| (c.sequences, c.rows, c.dropped, c.sites)).collect::<Vec<_>>()));
            }
            assert!(results[0] == results[1]);
        });
    }
}
