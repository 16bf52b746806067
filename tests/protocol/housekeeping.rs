//! Retention, garbage, quotas.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use harvestd::catalog::Catalog;
use harvestd::catalog::compact::compact;
use harvestd::catalog::gc::{Policy, Reason, collect, plan};
use harvestd::catalog::verify::{remove_unreferenced, verify};
use harvestd::dataset::config::KeepConfig;
use harvestd::dataset::paths;
use harvestd::sink::{ParquetSink, Quota, SinkOptions};
use harvestd::store::objects;
use harvestd::testing::datasets::write;
use harvestd::units::Count;

use crate::support::{dataset_bytes, harvestd, summary, write_corpus, write_pipeline};
use crate::{batches, dataset, joined, memory, names, spec};

pub const DAY: Duration = Duration::from_secs(86_400);

pub fn now() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()
}

fn keep_rows(rows: u64) -> KeepConfig {
    KeepConfig { rows: Some(Count(rows)), ..KeepConfig::default() }
}

#[tokio::test]
async fn retention_retires_the_oldest_and_deletes_after_the_grace_period() {
    let location = memory("retire");
    let catalog = dataset(&location).await;
    let before = (catalog.progress().await.unwrap(), joined(&location).await);
    let policy = Policy { keep: keep_rows(150), grace: DAY, now: now() };
    let planned = plan(&catalog, &policy).await.unwrap();
    assert_eq!(catalog.totals().await.unwrap().rows, 253, "a plan changes nothing");
    let done = collect(&catalog, &policy).await.unwrap();
    assert_eq!(done.retired, planned.retired);
    assert!(done.objects.is_empty() && !done.retired.is_empty());
    let gone: u64 = done.retired.iter().map(|part| part.rows).sum();
    let totals = catalog.totals().await.unwrap();
    assert!(totals.rows <= 150 && totals.rows + gone == 253 && totals.complete, "{totals:?}");
    // a unit loses its beginning, so what it has is without holes
    for unit in 0..3 {
        let retired: Vec<u32> = done.retired.iter().filter(|p| p.unit == unit).map(|p| p.part).collect();
        assert!(retired.iter().enumerate().all(|(i, part)| *part == i as u32), "{retired:?}");
    }
    // readers skip, progress stays, nothing is computed again
    let (_, rows) = joined(&location).await;
    assert_eq!(rows.seq.len() as u64, totals.rows);
    assert_eq!(catalog.progress().await.unwrap(), before.0);
    let (_, again) = write(&location, &spec(), 3, &batches(), SinkOptions::default()).await.unwrap();
    assert!(again.is_empty());
    let report = verify(&catalog, |_, _| ()).await.unwrap();
    assert!(report.ok() && report.retired_shards == done.retired.len() as u64, "{report:?}");
    assert!(report.unreferenced.is_empty(), "retired shards are not unreferenced");
    // the objects go when the parts have been retired for a day; then commits and all but the newest manifest too
    assert_eq!(names(&location, "shards").await.len(), 10);
    let later = Policy { now: now() + 2 * DAY, ..policy.clone() };
    let collected = collect(&catalog, &later).await.unwrap();
    let by = |reason| collected.objects.iter().filter(|object| object.reason == reason).count();
    assert_eq!((by(Reason::Retired), by(Reason::Covered)), (done.retired.len(), 10), "{collected:?}");
    assert_eq!(names(&location, "shards").await.len(), 10 - done.retired.len());
    assert!(names(&location, "commits").await.is_empty());
    assert!(collect(&catalog, &later).await.unwrap().is_empty());
    assert!(verify(&catalog, |_, _| ()).await.unwrap().ok());
    assert_eq!(joined(&location).await.1, rows);
}

/// A group that begins after its dataset lost parts never has them, and is complete without.
#[tokio::test]
async fn retired_parts_are_not_computed_for_a_group() {
    let location = memory("retired-group");
    let (mut first, mut second) = (spec(), spec());
    first.sites.truncate(1);
    second.sites.remove(0);
    let (base, _) = write(&location, &first, 3, &batches(), SinkOptions::default()).await.unwrap();
    let policy = Policy { keep: keep_rows(150), grace: DAY, now: now() };
    let gone = collect(&base, &policy).await.unwrap().retired.len();
    let group = base.group(harvestd::testing::datasets::header(&second, 3)).await.unwrap();
    let group = group.with_base(&base).await.unwrap();
    let progress = group.progress().await.unwrap();
    assert!(progress.values().map(|at| at.next_part as usize).sum::<usize>() == gone && gone > 2);
    let mut sink = ParquetSink::new(group.clone(), second, progress).await.unwrap();
    for batch in batches() {
        sink.write(&batch).await.unwrap();
    }
    sink.finish().await.unwrap();
    assert_eq!(names(group.location(), "shards").await.len(), 10 - gone);
    let report = verify(&base, |_, _| ()).await.unwrap();
    assert!(
        report.ok() && report.columns[0].totals.complete && report.columns[0].totals.rows == report.rows,
        "{report:?}"
    );
    let (sites, rows) = joined(&location).await;
    assert_eq!((sites.len(), rows.seq.len() as u64), (2, report.rows));
    // what goes later goes from both
    let less = Policy { keep: keep_rows(60), grace: Duration::ZERO, now: now() };
    collect(&base, &less).await.unwrap();
    let report = verify(&base, |_, _| ()).await.unwrap();
    assert!(report.ok() && report.rows <= 60 && report.columns[0].totals.rows == report.rows, "{report:?}");
    assert_eq!(names(&location, "shards").await.len(), names(group.location(), "shards").await.len());
}

#[tokio::test]
async fn garbage_is_collected_once_it_is_old() {
    let location = memory("garbage");
    let catalog = dataset(&location).await;
    compact(&catalog, 1).await.unwrap();
    let orphan = paths::shard(0, 1, Some("dead"));
    let segment = paths::segment(9, "00112233445566778899");
    for name in [&orphan, &segment] {
        objects::create(&location.child(name), Bytes::from_static(b"junk")).await.unwrap();
    }
    let policy = Policy { keep: KeepConfig::default(), grace: DAY, now: now() };
    let young = collect(&catalog, &policy).await.unwrap();
    assert!(young.is_empty() && young.young == 2, "{young:?}");
    let old = plan(&catalog, &Policy { now: now() + 2 * DAY, ..policy }).await.unwrap();
    let mut found: Vec<_> = old.objects.iter().map(|o| (o.object.clone(), o.reason)).collect();
    found.retain(|(_, reason)| *reason != Reason::Covered);
    assert_eq!(found, [(orphan, Reason::Uncommitted), (segment, Reason::Superseded)]);
    assert_eq!(old.objects.len(), 12);
}

#[tokio::test]
async fn age_and_bytes_are_limits_too() {
    let location = memory("age");
    let catalog = dataset(&location).await;
    let retired =
        async |keep: KeepConfig, now| plan(&catalog, &Policy { keep, grace: DAY, now }).await.unwrap().retired.len();
    let age = KeepConfig { age: Some(harvestd::units::HumanDuration(DAY)), ..KeepConfig::default() };
    assert_eq!(retired(age, now()).await, 0);
    assert_eq!(retired(age, now() + 2 * DAY).await, 10);
    let bytes = catalog.totals().await.unwrap().bytes;
    let keep = |bytes| KeepConfig { bytes: Some(harvestd::units::ByteSize(bytes)), ..KeepConfig::default() };
    assert_eq!(retired(keep(bytes), now()).await, 0);
    assert_eq!(retired(keep(bytes - 1), now()).await, 1);
    assert_eq!(retired(keep(0), now()).await, 10);
}

#[tokio::test]
async fn a_sink_stops_before_the_limit_and_goes_on_with_a_larger_one() {
    let (whole, limited) = (memory("unlimited"), memory("limited"));
    let all = dataset(&whole).await.totals().await.unwrap();
    let catalog =
        Catalog::create_or_open(limited.clone(), harvestd::testing::datasets::header(&spec(), 3)).await.unwrap();
    for limit in [all.bytes / 3, all.bytes / 2, all.bytes - 1, all.bytes] {
        let used = catalog.totals().await.unwrap().bytes;
        let quota = Quota::of(catalog.clone(), limit, false, None).await.unwrap();
        let options = SinkOptions { quota: Some(quota), ..SinkOptions::default() };
        let progress = catalog.progress().await.unwrap();
        let mut sink = ParquetSink::with_options(catalog.clone(), spec(), progress, options).await.unwrap();
        let mut stopped = None;
        for batch in batches() {
            if let Err(error) = sink.write(&batch).await {
                stopped = Some(error);
                break;
            }
        }
        sink.abort().await.unwrap();
        let found = catalog.totals().await.unwrap();
        assert!(found.bytes <= limit && found.bytes > used, "{found:?} of {limit}");
        assert_eq!(stopped.is_none(), limit == all.bytes);
        if let Some(error) = stopped {
            assert_eq!(error.kind(), harvestd::error::ErrorKind::Full);
        }
        let report = verify(&catalog, |_, _| ()).await.unwrap();
        assert!(report.ok() && report.unreferenced.is_empty(), "{report:?}");
    }
    assert_eq!(joined(&limited).await, joined(&whole).await);
}

fn json(args: &[&str]) -> serde_json::Value {
    summary(&harvestd(args))
}

/// The program stops at the limit with a state of its own, goes on with a larger one, and keeps what it is told to keep.
#[test]
fn runs_stop_at_the_limit_and_keep_what_they_should() {
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus, 40, 20);
    let pipeline = |name: &str| write_pipeline(&corpus, &scratch.path().join(name));
    let run = |name: &str, more: &[&str]| {
        let file = pipeline(name);
        let args: Vec<&str> = ["--json", "run", file.to_str().unwrap(), "--set", "trainers=[]"]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        harvestd(&args)
    };
    let whole = summary(&run("whole", &[]));
    let bytes = whole["dataset"]["bytes"].as_u64().unwrap();
    for share in [2, 1] {
        let limit = format!("limits.store_bytes={}", if share == 1 { bytes } else { bytes / share });
        let output = run("limited", &["--set", &limit]);
        let (said, found) = (String::from_utf8_lossy(&output.stderr).into_owned(), summary(&output));
        let stored = found["dataset"]["bytes"].as_u64().unwrap();
        assert!(stored <= bytes / share && stored > 0, "{stored} of {bytes}");
        if share == 2 {
            assert_eq!(output.status.code(), Some(73), "{said}");
            assert!(said.contains("limits.store_bytes") && said.contains("raise the limit"), "{said}");
            assert!(found["stopped"].as_str().unwrap().contains("limits.store_bytes"), "{found}");
            assert!(found["dataset"]["complete"] == false && found["interrupted"] == false);
        } else {
            assert!(output.status.success() && found["dataset"]["complete"] == true, "{said}");
        }
        let url = scratch.path().join("limited/acts");
        assert!(json(&["--json", "verify", url.to_str().unwrap()])["ok"] == true);
    }
    let place = |name: &str| scratch.path().join(name);
    assert!(dataset_bytes(&place("limited")) == dataset_bytes(&place("whole")));

    let kept = summary(&run("kept", &["--set", "dataset.keep={rows: 5000}"]));
    let url = place("kept").join("acts");
    let rows = kept["dataset"]["rows"].as_u64().unwrap();
    assert!(rows <= 5000 && rows > 0 && kept["dataset"]["complete"] == true, "{kept}");
    let url = url.to_str().unwrap();
    check_gc(url, Path::new(url));
}

/// The command says what would go, and only `--apply` does it.
fn check_gc(url: &str, folder: &Path) {
    std::fs::write(folder.join("shards/000000-00000-dead.parquet"), "junk").unwrap();
    let shards = || std::fs::read_dir(folder.join("shards")).unwrap().count();
    let held = shards();
    let text = harvestd(&["gc", url, "--grace", "0s", "--keep-rows", "1000"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("would retire") && text.contains("no commit names it") && text.contains("--apply"), "{text}");
    assert_eq!(shards(), held);
    let verified = json(&["--json", "verify", url, "--gc"]);
    assert!(verified["ok"] == true && verified["young"] == 1, "{verified}");
    let done = json(&["--json", "gc", url, "--grace", "0s", "--keep-rows", "1000", "--apply"]);
    assert!(done["applied"] == true && shards() < held, "{done}");
    let inspected = json(&["--json", "inspect", url]);
    assert!(
        inspected["rows"].as_u64().unwrap() <= 1000 && inspected["retired_shards"].as_u64().unwrap() > 0,
        "{inspected}"
    );
    assert_eq!(inspected["shards"].as_u64().unwrap() as usize, shards());
    assert!(json(&["--json", "verify", url])["ok"] == true);
}

/// A manifest or a header that the store lost is said, and what only it named is not taken for garbage.
#[tokio::test]
async fn what_a_lost_manifest_named_is_no_garbage() {
    let location = memory("lost-manifest");
    let catalog = dataset(&location).await;
    compact(&catalog, 1).await.unwrap();
    let later = Policy { keep: KeepConfig::default(), grace: DAY, now: now() + 2 * DAY };
    collect(&catalog, &later).await.unwrap();
    assert!(names(&location, "commits").await.is_empty());
    let shards = names(&location, "shards").await;
    objects::delete(&location.child(&paths::manifest(1))).await.unwrap();

    let catalog = Catalog::open(location.clone()).await.unwrap();
    let report = verify(&catalog, |_, _| ()).await.unwrap();
    assert!(!report.ok() && report.problems[0].what.contains("a manifest was lost"), "{report:?}");
    assert!(report.unreferenced.is_empty(), "{report:?}");
    for refused in [plan(&catalog, &later).await, collect(&catalog, &later).await] {
        assert!(refused.unwrap_err().to_string().contains("a manifest was lost"));
    }
    assert_eq!(names(&location, "shards").await, shards);
}

#[tokio::test]
async fn a_lost_header_is_not_begun_anew() {
    let location = memory("lost-header");
    let catalog = dataset(&location).await;
    let header = catalog.header().clone();
    objects::delete(&location.child(paths::HEADER)).await.unwrap();
    let error = Catalog::create_or_open(location.clone(), header).await.unwrap_err();
    assert!(error.to_string().contains("it was lost"), "{error}");

    let location = memory("lost-group-header");
    let (mut first, mut second) = (spec(), spec());
    first.sites.truncate(1);
    second.sites.remove(0);
    let (base, _) = write(&location, &first, 3, &batches(), SinkOptions::default()).await.unwrap();
    let group = base.group(harvestd::testing::datasets::header(&second, 3)).await.unwrap();
    let group = group.with_base(&base).await.unwrap();
    let mut sink = ParquetSink::new(group.clone(), second, Default::default()).await.unwrap();
    for batch in batches() {
        sink.write(&batch).await.unwrap();
    }
    sink.finish().await.unwrap();
    assert!(verify(&base, |_, _| ()).await.unwrap().ok());
    // what its commits say besides is compared, too
    let name = paths::commit(1, 0);
    let bytes = objects::read(&group.location().child(&name)).await.unwrap().unwrap();
    let other = String::from_utf8(bytes.to_vec()).unwrap().replacen("\"special_token\": ", "\"special_token\": 7", 1);
    objects::replace(&group.location().child(&name), other.into()).await.unwrap();
    let report = verify(&base, |_, _| ()).await.unwrap();
    assert!(report.problems.len() == 1 && report.problems[0].object.ends_with(&name), "{report:?}");
    objects::delete(&group.location().child(paths::HEADER)).await.unwrap();
    let report = verify(&base, |_, _| ()).await.unwrap();
    assert!(report.problems.len() == 1 && report.problems[0].what.contains("is missing"), "{report:?}");
}

/// Whatever a killed writer was just putting into place: the next one sweeps it up, and so do the collectors.
#[tokio::test]
async fn half_written_files_go_wherever_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let location = harvestd::store::Location::open(folder.path().join("acts").to_str().unwrap()).unwrap();
    let catalog = dataset(&location).await;
    let left = ["dataset.json#1", "columns/000001.json#1", "shards/x#2", "commits/y#3", "manifests/z#4"];
    let leave = || {
        for name in left {
            let file = folder.path().join("acts").join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "half").unwrap();
        }
    };
    let found = || left.iter().filter(|name| folder.path().join("acts").join(name).exists()).count();
    leave();
    assert_eq!(found(), 5);
    write(&location, &spec(), 3, &[], SinkOptions::default()).await.unwrap();
    assert_eq!(found(), 0, "the next writer");
    leave();
    let policy = Policy { keep: KeepConfig::default(), grace: DAY, now: now() };
    collect(&catalog, &policy).await.unwrap();
    assert_eq!(found(), 5, "they are young");
    collect(&catalog, &Policy { grace: Duration::ZERO, ..policy }).await.unwrap();
    assert_eq!(found(), 0, "the collector");
    leave();
    let report = verify(&catalog, |_, _| ()).await.unwrap();
    let mut removed = remove_unreferenced(&catalog, &report, Duration::MAX).await.unwrap();
    let mut wanted = left.map(str::to_owned);
    removed.sort();
    wanted.sort();
    assert_eq!(removed, wanted, "verify --gc");
}
