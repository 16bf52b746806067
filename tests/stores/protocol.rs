//! The whole protocol of datasets and checkpoints in a store: create, race, resume, upload in parts, verify, collect.

use std::time::Duration;

use bytes::Bytes;
use harvestd::catalog::verify::{remove_unreferenced, verify};
use harvestd::catalog::{Catalog, checkpoints};
use harvestd::dataset::config::{CompressionConfig, Layout, StoredDtype};
use harvestd::dataset::paths;
use harvestd::dataset::schema::{ShardSpec, SiteColumn};
use harvestd::error::ErrorKind;
use harvestd::hooks::{HookPoint, Site};
use harvestd::sink::SinkOptions;
use harvestd::store::objects::{self, Created};
use harvestd::store::upload::UploadOptions;
use harvestd::store::{Stores, orphans, probe};
use harvestd::testing::datasets::{interleaved, small_spec, units, write};

/// Everything, in folders of their own below `url`.
pub async fn everything(stores: &Stores, url: &str) {
    exclusive_writes_hold(stores, url).await;
    racing_workers_and_a_late_one(stores, url).await;
    many_objects_are_listed_and_deleted(stores, url).await;
    large_shards_are_uploaded_in_parts(stores, url).await;
    checkpoints_are_kept(stores, url).await;
}

async fn exclusive_writes_hold(stores: &Stores, url: &str) {
    let location = stores.open(&format!("{url}/probed")).unwrap();
    probe::exclusive_writes(&location).await.unwrap();
    probe::exclusive_writes(&location).await.unwrap();
    assert!(objects::list(&location).await.unwrap().is_empty(), "what was tried out is gone");
    assert!(location.skew_seconds().unwrap().abs() < 5.0, "the server runs on this machine");
    let place = location.child("x");
    let contents: Vec<Bytes> = (0..16).map(|i| Bytes::from(format!("writer {i}"))).collect();
    let puts = contents.iter().map(|content| objects::create(&place, content.clone()));
    let results = futures::future::join_all(puts).await;
    let winners = results.iter().filter(|r| matches!(r, Ok(Created::Yes))).count();
    assert_eq!(winners, 1, "{results:?}");
}

async fn racing_workers_and_a_late_one(stores: &Stores, url: &str) {
    let location = stores.open(&format!("{url}/race")).unwrap();
    let spec = small_spec(StoredDtype::Float16, Layout::Typed, CompressionConfig::None);
    let units = units(&spec, &[&[17, 9, 30, 12, 0, 28], &[40, 1, 39, 2], &[]]);
    let run = |attempt: &'static str, sizes: usize| {
        let (location, spec, batches) = (&location, &spec, interleaved(&units, &[sizes]));
        async move {
            let options = SinkOptions { attempt: Some(attempt.into()), ..SinkOptions::default() };
            write(location, spec, 3, &batches, options).await.unwrap().1
        }
    };
    let (a, b) = tokio::join!(run("a", 2), run("b", 2));
    let ours = a.iter().chain(&b).filter(|shard| !shard.theirs).count();
    assert!(run("c", 2).await.is_empty());
    let catalog = Catalog::open(location.clone()).await.unwrap();
    assert_eq!(catalog.commits().await.unwrap().len(), ours);
    let stray = paths::shard(9, 9, None);
    objects::create(&location.child(&stray), Bytes::from_static(b"x")).await.unwrap();
    let report = verify(&catalog, |_, _| ()).await.unwrap();
    assert!(report.ok() && report.complete() && report.unreferenced.len() == 1, "{report:?}");
    assert_eq!(remove_unreferenced(&catalog, &report, Duration::MAX).await.unwrap(), [stray]);
    let other = ShardSpec { rows_per_shard: 41, ..spec.clone() };
    let error = write(&location, &other, 3, &[], SinkOptions::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Config);
}

async fn many_objects_are_listed_and_deleted(stores: &Stores, url: &str) {
    let location = stores.open(&format!("{url}/many")).unwrap();
    let names: Vec<String> = (0..55).map(|i| format!("{i:03}.json")).collect();
    for name in &names {
        objects::replace(&location.child(name), Bytes::from_static(b"{}")).await.unwrap();
    }
    // its name begins as the folder's does, but it is not below it
    objects::replace(&stores.open(&format!("{url}/many-more")).unwrap(), Bytes::from_static(b"{}")).await.unwrap();
    let listed = objects::list(&location).await.unwrap();
    assert_eq!(listed.iter().map(|o| o.location.filename().unwrap().to_owned()).collect::<Vec<_>>(), names);
    let mut gone = names.clone();
    gone.push("never-there.json".into());
    objects::delete_all(&location, gone).await.unwrap();
    assert!(objects::list(&location).await.unwrap().is_empty());
    objects::delete(&location.child("never-there.json")).await.unwrap();
}

/// A shard of some 13 MB, and one of 7 MB.
fn large() -> (ShardSpec, Vec<harvestd::activation::ActivationBatch>) {
    let spec = ShardSpec {
        sites: vec![SiteColumn { point: HookPoint::block(1, Site::ResidPost), width: 768 }],
        rows_per_shard: 8192,
        rows_per_group: 2048,
        ..small_spec(StoredDtype::Float16, Layout::Typed, CompressionConfig::None)
    };
    let units = units(&spec, &[&[1024; 12]]);
    (spec, interleaved(&units, &[2]))
}

fn in_parts() -> SinkOptions {
    SinkOptions { upload: UploadOptions { part_bytes: 5 << 20, parts_in_flight: 2 }, ..SinkOptions::default() }
}

async fn large_shards_are_uploaded_in_parts(stores: &Stores, url: &str) {
    let location = stores.open(&format!("{url}/large")).unwrap();
    let (spec, batches) = large();
    // stop with an upload under way: it is aborted
    let (catalog, committed) = write(&location, &spec, 1, &batches[..3], in_parts()).await.unwrap();
    assert!(committed.is_empty());
    assert_eq!(orphans::list(&location).await.unwrap(), []);
    write(&location, &spec, 1, &batches, in_parts()).await.unwrap();
    let report = verify(&catalog, |_, _| ()).await.unwrap();
    assert!(report.ok() && report.complete() && report.unreferenced.is_empty(), "{report:?}");
    assert_eq!((report.rows, report.shards), (12 * 1024, 2));
    assert_eq!(orphans::list(&location).await.unwrap(), []);
}

async fn checkpoints_are_kept(stores: &Stores, url: &str) {
    let location = stores.open(&format!("{url}/coder")).unwrap();
    let files = |step: u64| vec![("state".to_owned(), Bytes::from(vec![step as u8; 1000]))];
    for step in 1..5 {
        checkpoints::save(&location, step, files(step), 2).await.unwrap();
    }
    objects::delete(&location.child("step-000000004-000/state")).await.unwrap();
    let found = checkpoints::latest(&location).await.unwrap().unwrap();
    assert_eq!((found.step, found.files), (3, files(3)));
    assert_eq!(objects::list(&location).await.unwrap().len(), 3);
}

/// Shards in parts through a proxy where anything goes wrong: they are whole, whatever it took.
pub async fn parts_through_trouble(stores: &Stores, url: &str) {
    let location = stores.open(&format!("{url}/parts")).unwrap();
    let (spec, batches) = large();
    let (catalog, _) = write(&location, &spec, 1, &batches, in_parts()).await.unwrap();
    let report = verify(&catalog, |_, _| ()).await.unwrap();
    assert!(report.ok() && report.complete() && report.unreferenced.is_empty(), "{report:?}");
    assert_eq!((report.rows, report.shards), (12 * 1024, 2));
}
