//! What a dataset may be added to by, and what `verify` finds.

use std::time::Duration;

use bytes::Bytes;

use super::inspect::inspect;
use super::verify::{VerifyReport, remove_unreferenced, verify};
use super::{Catalog, Committed};
use crate::accounting::DropReason;
use crate::dataset::commit::Commit;
use crate::dataset::config::{CompressionConfig, Layout, StoredDtype};
use crate::dataset::encoder::ShardEncoder;
use crate::dataset::paths;
use crate::dataset::schema::ShardSpec;
use crate::error::ErrorKind;
use crate::sink::SinkOptions;
use crate::store::Location;
use crate::store::objects;
use crate::testing::datasets::{header, interleaved, small_spec, units, write};
use crate::testing::{Fails, FaultyStore};

fn spec() -> ShardSpec {
    small_spec(StoredDtype::Bfloat16, Layout::Typed, CompressionConfig::Zstd)
}

async fn dataset(name: &str) -> Catalog {
    let location = Location::open(&format!("memory://catalog-{name}/acts")).unwrap();
    let units = units(&spec(), &[&[17, 9, 30, 12], &[40, 1, 39, 2]]);
    write(&location, &spec(), 3, &interleaved(&units, &[3]), SinkOptions::default()).await.unwrap().0
}

async fn report(catalog: &Catalog) -> VerifyReport {
    verify(catalog, |_, _| ()).await.unwrap()
}

async fn overwrite(catalog: &Catalog, name: &str, bytes: Bytes) {
    let place = catalog.location().child(name);
    objects::delete(&place).await.unwrap();
    objects::create(&place, bytes).await.unwrap();
}

/// Change the commit of unit 1 part 0.
async fn change_commit(catalog: &Catalog, change: impl FnOnce(&mut Commit)) {
    let name = paths::commit(1, 0);
    let bytes = objects::read(&catalog.location().child(&name)).await.unwrap().unwrap();
    let mut commit = Commit::from_json(&bytes).unwrap();
    change(&mut commit);
    overwrite(catalog, &name, commit.to_json().into()).await;
}

#[tokio::test]
async fn a_dataset_is_begun_once_and_added_to_by_its_like() {
    let location = Location::open("memory://catalog-begin/acts").unwrap();
    let error = Catalog::open(location.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("no dataset at `memory://catalog-begin/acts`"), "{error}");
    assert_eq!(Catalog::read_header(&location).await.unwrap(), None);
    let mut first = header(&spec(), 3);
    first.norm_limits.insert("blocks.1.hook_resid_post".into(), 7.5);
    Catalog::create_or_open(location.clone(), first.clone()).await.unwrap();
    // the stored header counts
    let mut second = header(&spec(), 3);
    second.run_id = "second".into();
    let catalog = Catalog::create_or_open(location.clone(), second).await.unwrap();
    assert_eq!(catalog.header(), &first);
    let error = Catalog::create_or_open(location.clone(), header(&spec(), 4)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("units was 3, now 4"), "{error}");
    overwrite(&catalog, paths::HEADER, Bytes::from_static(b"{\"format\": 7}")).await;
    let error = Catalog::create_or_open(location, first).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Data && error.to_string().contains("format 7"), "{error}");
}

#[tokio::test]
async fn a_whole_dataset_verifies() {
    let catalog = dataset("whole").await;
    let found = report(&catalog).await;
    assert!(found.ok() && !found.complete() && found.unreferenced.is_empty(), "{found:?}");
    assert_eq!((found.shards, found.rows, found.units, found.units_done), (6, 150, 3, 2));
}

#[tokio::test]
async fn every_kind_of_damage_is_found() {
    let shard = paths::shard(1, 0, None);
    let cases = ["is missing", "bytes instead of", "has checksum"];
    for (i, expected) in cases.into_iter().enumerate() {
        let catalog = dataset(&format!("damage-{i}")).await;
        let place = catalog.location().child(&shard);
        let whole = objects::read(&place).await.unwrap().unwrap();
        match i {
            0 => objects::delete(&place).await.unwrap(),
            1 => overwrite(&catalog, &shard, whole.slice(..whole.len() - 1)).await,
            _ => {
                let mut bytes = whole.to_vec();
                bytes[1000] ^= 1;
                overwrite(&catalog, &shard, bytes.into()).await;
            }
        }
        let found = report(&catalog).await;
        assert_eq!(found.problems.len(), 1, "{found:?}");
        assert!(found.problems[0].object == shard && found.problems[0].what.contains(expected), "{found:?}");
    }
}

#[tokio::test]
async fn commits_that_do_not_fit_their_shards_are_found() {
    type Change = fn(&mut Commit);
    let cases: [(Change, &str); 6] = [
        (|c| c.rows += 1, "has 40 rows instead of 41"),
        (|c| c.sites.values_mut().for_each(|s| s.mean[0] += 1e-3), "another mean of"),
        (|c| c.sites.clear(), "no statistics of"),
        (|c| c.sequences = [0, 0], "outside what its commit covers"),
        (|c| c.checksum.algorithm = "md5".into(), "unknown algorithm"),
        (|c| c.object = paths::shard(0, 0, None), "is named by two commits"),
    ];
    for (i, (change, expected)) in cases.into_iter().enumerate() {
        let catalog = dataset(&format!("commit-{i}")).await;
        change_commit(&catalog, change).await;
        let found = report(&catalog).await;
        assert!(found.problems.iter().any(|p| p.what.contains(expected)), "{expected}: {found:?}");
    }
}

#[tokio::test]
async fn shards_of_another_schema_or_with_a_row_twice_are_found() {
    let other = ShardSpec { dtype: StoredDtype::Float32, ..spec() };
    for (i, (spec, twice, expected)) in
        [(other, false, "has sites ["), (spec(), true, "twice or out of order")].into_iter().enumerate()
    {
        let catalog = dataset(&format!("schema-{i}")).await;
        let batch = &units(&spec, &[&[], &[40]])[1].batches(&[1])[0];
        let mut encoder = ShardEncoder::new(&spec, 1, 0).unwrap();
        encoder.push(batch, 0..if twice { 39 } else { 40 }).unwrap();
        encoder.push(batch, if twice { 38..39 } else { 40..40 }).unwrap();
        let mut bytes = encoder.take_ready();
        let (last, summary) = encoder.finish().unwrap();
        bytes.extend(last);
        overwrite(&catalog, &paths::shard(1, 0, None), bytes.concat().into()).await;
        change_commit(&catalog, |commit| {
            commit.bytes = summary.bytes;
            commit.checksum = summary.checksum;
            commit.sites = summary.sites;
        })
        .await;
        let found = report(&catalog).await;
        assert!(found.problems.iter().any(|p| p.what.contains(expected)), "{expected}: {found:?}");
    }
}

#[tokio::test]
async fn missing_commits_are_found_and_stop_a_run_that_would_continue() {
    let catalog = dataset("gap").await;
    objects::delete(&catalog.location().child(&paths::commit(1, 1))).await.unwrap();
    let found = report(&catalog).await;
    assert!(found.problems.iter().any(|p| p.object == "unit 1" && p.what.contains("part 1 is missing")), "{found:?}");
    assert_eq!(found.unreferenced.len(), 1);
    let error = catalog.progress().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
}

#[tokio::test]
async fn only_old_unreferenced_objects_are_removed() {
    let catalog = dataset("gc").await;
    let name = paths::shard(2, 0, Some("lost"));
    objects::create(&catalog.location().child(&name), Bytes::from_static(b"junk")).await.unwrap();
    let found = report(&catalog).await;
    assert!(found.ok());
    assert_eq!(found.unreferenced.len(), 1);
    assert_eq!((found.unreferenced[0].object.as_str(), found.unreferenced[0].bytes), (name.as_str(), 4));
    let written = Duration::from_secs(found.unreferenced[0].written_at);
    assert!(remove_unreferenced(&catalog, &found, written).await.unwrap().is_empty());
    assert_eq!(remove_unreferenced(&catalog, &found, written + Duration::from_secs(1)).await.unwrap(), [name]);
    assert!(report(&catalog).await.unreferenced.is_empty());
}

#[tokio::test]
async fn a_lost_race_deletes_our_object_and_a_lost_answer_is_resolved() {
    let catalog = dataset("commit-race").await;
    let stored = catalog.commits().await.unwrap().remove(0);
    assert_eq!(catalog.commit(&stored).await.unwrap(), Committed::Ours);
    let mut theirs = stored.clone();
    theirs.object = paths::shard(0, 0, Some("b"));
    theirs.checksum.value = "other bits".into();
    let place = catalog.location().child(&theirs.object);
    objects::create(&place, Bytes::from_static(b"b")).await.unwrap();
    assert_eq!(catalog.commit(&theirs).await.unwrap(), Committed::Theirs(Box::new(stored.clone())));
    assert_eq!(objects::read(&place).await.unwrap(), None);
    // the same name with other bytes: the committed object is gone
    let overwritten = Commit { checksum: theirs.checksum.clone(), ..stored.clone() };
    assert_eq!(catalog.commit(&overwritten).await.unwrap_err().kind(), ErrorKind::Data);
    let lossy = Catalog { location: FaultyStore::wrap(catalog.location(), Fails::After, 0, 1), ..catalog.clone() };
    let next = Commit { unit: 2, ..stored };
    assert_eq!(lossy.commit(&next).await.unwrap(), Committed::Ours);
    let down = Catalog { location: FaultyStore::wrap(catalog.location(), Fails::Before, 0, 1), ..catalog };
    assert_eq!(down.commit(&Commit { unit: 2, part: 1, ..next }).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_summary_adds_up() {
    let catalog = dataset("inspect").await;
    let summary = inspect(&catalog).await.unwrap();
    assert_eq!((summary.rows, summary.shards, summary.units_done, summary.documents), (150, 6, 2, 8));
    assert_eq!(summary.dropped.get(DropReason::SpecialToken), 8);
    assert_eq!(summary.sites.len(), 2);
    for site in &summary.sites {
        assert_eq!((site.statistics.count, site.statistics.mean.len()), (150, site.site.width));
        assert!(site.variance > 0.0);
    }
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(json["sites"][0]["name"], "blocks.1.hook_resid_post");
    assert_eq!(json["header"]["units"], 3);
}
