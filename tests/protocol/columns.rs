//! Sites that are added to a dataset later.

use std::path::{Path, PathBuf};
use std::time::Duration;

use harvestd::catalog::Catalog;
use harvestd::catalog::columns::View;
use harvestd::catalog::compact::{compact, delete_covered_commits};
use harvestd::catalog::verify::verify;
use harvestd::dataset::header::DatasetHeader;
use harvestd::dataset::paths;
use harvestd::dataset::schema::{ShardSpec, SiteColumn};
use harvestd::error::ErrorKind;
use harvestd::hooks::{HookPoint, Site};
use harvestd::sink::ParquetSink;
use harvestd::store::{Location, objects};
use harvestd::testing::datasets::{header, write};

use crate::support::{dataset_bytes, files, harvestd, start, summary, write_corpus};
use crate::{batches, bytes_of, joined, memory, spec};

fn of_sites(range: std::ops::Range<usize>) -> ShardSpec {
    let mut all = spec();
    all.sites = all.sites[range].to_vec();
    all
}

/// A dataset of the first site whose group has the second.
pub async fn with_group(location: &Location) -> (Catalog, Catalog) {
    let (base, _) = write(location, &of_sites(0..1), 3, &batches(), Default::default()).await.unwrap();
    let group = base.group(group_header()).await.unwrap().with_base(&base).await.unwrap();
    let mut sink = ParquetSink::new(group.clone(), of_sites(1..2), group.progress().await.unwrap()).await.unwrap();
    for batch in batches() {
        sink.write(&batch).await.unwrap();
    }
    sink.finish().await.unwrap();
    (base, group)
}

fn group_header() -> DatasetHeader {
    header(&of_sites(1..2), 3)
}

#[tokio::test]
async fn a_group_joins_to_the_rows_of_a_dataset_with_all_sites() {
    let (whole, grown) = (memory("all-sites"), memory("grown"));
    write(&whole, &spec(), 3, &batches(), Default::default()).await.unwrap();
    let (base, group) = with_group(&grown).await;
    assert!(
        group.location().shown.ends_with("/acts/columns/blocks.0.hook_mlp_out-38aa990e"),
        "{}",
        group.location().shown
    );
    assert_eq!(joined(&grown).await, joined(&whole).await);
    let names: Vec<_> = base.sites().await.unwrap().into_iter().map(|s| (s.site.name, s.source)).collect();
    assert_eq!(names, [("blocks.1.hook_resid_post".to_owned(), 0), ("blocks.0.hook_mlp_out".to_owned(), 1)]);
    for compacted in [false, true] {
        if compacted {
            for catalog in [&base, &group] {
                compact(catalog, 1).await.unwrap().unwrap();
                delete_covered_commits(catalog, Duration::MAX).await.unwrap();
            }
        }
        let report = verify(&base, |_, _| ()).await.unwrap();
        assert!(report.ok() && report.complete() && report.unreferenced.is_empty(), "{report:?}");
        assert!(report.columns.len() == 1 && report.columns[0].totals.complete && report.columns[0].totals.rows == 253);
        assert_eq!(joined(&grown).await, joined(&whole).await);
    }
}

#[tokio::test]
async fn other_rows_than_the_datasets_are_refused_and_found() {
    let location = memory("other-rows");
    let (base, group) = with_group(&location).await;
    // a part that has other rows, and one that the dataset does not have
    let mut commit = group.commits().await.unwrap().remove(1);
    commit.rows += 1;
    let error = group.commit(&commit).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Data && error.to_string().contains("has other rows than its dataset"),
        "{error}"
    );
    commit.unit = 7;
    assert!(group.commit(&commit).await.unwrap_err().to_string().contains("is not committed in"));
    // a shard of the right size whose rows are others: only the id columns tell
    let mut other = batches();
    other.iter_mut().for_each(|batch| batch.token_id.iter_mut().for_each(|id| *id += 1));
    let place = memory("other-rows-donor");
    let (donor, _) = write(&place, &of_sites(1..2), 3, &other, Default::default()).await.unwrap();
    let commit = donor.commits().await.unwrap().remove(0);
    let folder = group.location();
    objects::replace(&folder.child(&commit.object), bytes_of(&place, &commit.object).await.unwrap()).await.unwrap();
    objects::replace(&folder.child(&paths::commit(0, 0)), commit.to_json().into()).await.unwrap();
    let report = verify(&base, |_, _| ()).await.unwrap();
    let found: Vec<_> = report.problems.iter().map(|p| (p.object.as_str(), p.what.as_str())).collect();
    let name = format!("columns/{}/{}", group.header().column_group.as_deref().unwrap(), commit.object);
    assert_eq!(found, [(name.as_str(), "has other rows than the dataset's shard of the same part")]);
}

#[tokio::test]
async fn a_group_of_another_dataset_is_refused() {
    let location = memory("not-a-group");
    let (base, _) = with_group(&location).await;
    let mut other = group_header();
    other.sample = harvestd::units::Percent::from_share(0.5);
    let error = base.group(other).await.unwrap_err();
    assert!(
        error.to_string().contains("is not a column group of its dataset") && error.to_string().contains("sample was"),
        "{error}"
    );
    let name = base.groups().await.unwrap()[0].header().column_group.clone().unwrap();
    let place = location.child(&format!("columns/{name}/dataset.json"));
    let mut header = DatasetHeader::from_json(&objects::read(&place).await.unwrap().unwrap()).unwrap();
    header.fingerprints.model = "another".into();
    objects::replace(&place, header.to_json().into()).await.unwrap();
    assert!(View::open(location).await.unwrap_err().to_string().contains("fingerprints.model"));
    assert!(!verify(&base, |_, _| ()).await.unwrap().ok());
}

pub const BASE: [&str; 2] = ["blocks.1.hook_resid_post", "blocks.2.hook_mlp_out"];
pub const ADDED: [&str; 2] = ["blocks.0.hook_resid_post", "blocks.3.attn.hook_z"];

/// Sites that a model of eight blocks may have besides.
fn group_of(layers: &[u16]) -> DatasetHeader {
    let mut spec = of_sites(0..1);
    spec.sites = layers
        .iter()
        .map(|&layer| SiteColumn { point: HookPoint::block(layer.into(), Site::AttnOut), width: 5 })
        .collect();
    header(&spec, 3)
}

#[tokio::test]
async fn no_two_groups_have_the_same_site() {
    let location = memory("apart");
    let (base, _) = write(&location, &of_sites(0..1), 3, &batches(), Default::default()).await.unwrap();
    let group = base.group(group_of(&[0, 1])).await.unwrap();
    base.group(group_of(&[0, 1])).await.unwrap();
    base.group(group_of(&[2])).await.unwrap();
    for refused in [&[1, 3][..], &[3, 2], &[1]] {
        let error = base.group(group_of(refused)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("capture all of") && error.to_string().contains("another run"), "{error}");
    }
    // a run that was killed before it wrote the header has entered its group all the same
    objects::delete(&group.location().child(paths::HEADER)).await.unwrap();
    assert!(base.group(group_of(&[1, 3])).await.is_err());
    base.group(group_of(&[0, 1])).await.unwrap();
    // groups of older versions have no entry
    for entry in [1, 2] {
        objects::delete(&location.child(&paths::register_entry(entry))).await.unwrap();
    }
    assert!(base.group(group_of(&[1, 3])).await.is_err());
    assert_eq!(base.groups().await.unwrap().len(), 2);
}

/// Whoever comes first: of groups with a site in common one is begun, however many runs race.
#[test]
fn racing_runs_never_give_a_site_to_two_groups() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for round in 0..20 {
        let location = memory(&format!("racing-groups-{round}"));
        runtime.block_on(write(&location, &of_sites(0..1), 3, &batches(), Default::default())).unwrap();
        let wanted: [&[u16]; 8] = [&[0, 1], &[1, 2], &[2, 3], &[3, 0], &[0, 1, 2, 3], &[4], &[0, 1], &[4, 5]];
        let barrier = std::sync::Barrier::new(wanted.len());
        let begun: Vec<bool> = std::thread::scope(|scope| {
            let begin = |layers: &'static [u16]| {
                let (location, barrier) = (location.clone(), &barrier);
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        let base = Catalog::open(location).await.unwrap();
                        barrier.wait();
                        base.group(group_of(layers)).await.is_ok()
                    })
                })
            };
            let threads: Vec<_> = wanted.iter().map(|layers| begin(layers)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let groups = runtime.block_on(async { Catalog::open(location).await.unwrap().groups().await.unwrap() });
        let mut sites: Vec<String> =
            groups.iter().flat_map(|group| group.header().sites.iter().map(|site| site.name.clone())).collect();
        let n = sites.len();
        sites.sort();
        sites.dedup();
        assert!(sites.len() == n && n > 1, "round {round}: {begun:?} {sites:?}");
    }
}

/// A pipeline that only stores.
pub fn pipeline(corpus: &Path, out: &Path, capture: &[&str], exclude: &str) -> PathBuf {
    let text = format!(
        r#"version: 1
name: columns
seed: 3
model: {{source: pipelines/quickstart/model}}
corpus: {{type: jsonl, paths: ["{corpus}/*.jsonl"], unit_bytes: 40KiB}}
tokens: {{context_length: 128, prepend_bos: true, batch_tokens: 1024, interleave: 3, exclude: {exclude}}}
capture: {capture}
dataset: {{url: "{out}/acts", rows_per_shard: 3000, rows_per_group: 1000}}
"#,
        corpus = corpus.display(),
        out = out.display(),
        capture = serde_json::to_string(capture).unwrap(),
    );
    std::fs::create_dir_all(out).unwrap();
    let path = out.join(format!("pipeline-{}.yaml", capture.len()));
    std::fs::write(&path, text).unwrap();
    path
}

fn run(pipeline: &Path) -> serde_json::Value {
    let output = harvestd(&["--json", "run", pipeline.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    summary(&output)
}

fn verified(out: &Path) -> serde_json::Value {
    let output = harvestd(&["--json", "verify", out.join("acts").to_str().unwrap()]);
    let report = summary(&output);
    assert!(output.status.success() && report["complete"] == true, "{report}");
    assert_eq!(report["unreferenced"].as_array().unwrap().len(), 0, "{report}");
    report
}

/// The whole story with the real program: a site is added, runs are killed in between, and the joined rows are those of a
/// run that captured everything from the start.
#[tokio::test]
async fn runs_add_sites_and_survive_being_killed() {
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus, 60, 20);
    let all: Vec<&str> = BASE.iter().chain(&ADDED).copied().collect();
    let place = |name: &str| scratch.path().join(name);
    let location = |out: &Path| Location::open(out.join("acts").to_str().unwrap()).unwrap();
    let exclude = "{positions: [0]}";
    run(&pipeline(&corpus, &place("fresh"), &all, exclude));
    let fresh = joined(&location(&place("fresh"))).await;

    let grown = place("grown");
    run(&pipeline(&corpus, &grown, &BASE, exclude));
    let before = dataset_bytes(&grown);
    let added = run(&pipeline(&corpus, &grown, &all, exclude));
    assert!(added["dataset"]["columns"][0]["complete"] == true, "{added}");
    let after = dataset_bytes(&grown);
    assert!(before.iter().all(|(name, bytes)| after[name] == *bytes), "the dataset itself is as it was");
    let report = verified(&grown);
    assert_eq!(report["columns"][0]["sites"].as_array().unwrap().len(), 2);
    same_rows(&joined(&location(&grown)).await, &fresh);
    // an older pipeline finds its dataset done and leaves the group alone
    let older = run(&pipeline(&corpus, &grown, &BASE, exclude));
    assert!(older["shards"] == 0 && older["dataset"]["complete"] == true, "{older}");
    assert!(dataset_bytes(&grown) == after);

    // killed while the dataset was written, then again and again with more sites
    let killed = place("killed");
    let first = pipeline(&corpus, &killed, &BASE, exclude);
    let second = pipeline(&corpus, &killed, &all, exclude);
    for (round, delay) in [300u64, 500, 700, 900, 1200].into_iter().enumerate() {
        let mut child = start(if round < 1 { &first } else { &second }, &killed.join("log"), &[]);
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    run(&second);
    verified(&killed);
    let found = dataset_bytes(&killed);
    let without_headers = |mut all: std::collections::BTreeMap<String, Vec<u8>>| {
        all.retain(|name, _| !name.ends_with("dataset.json"));
        all
    };
    // killed before it began, the dataset was begun with all sites: then there is no group
    if found.keys().any(|name| name.starts_with("columns/")) {
        assert!(without_headers(found) == without_headers(after), "killed runs end with the same bytes");
    }
    same_rows(&joined(&location(&killed)).await, &fresh);
}

/// Sites may stand in another order.
fn same_rows(
    found: &(Vec<String>, harvestd::dataset::decoder::ShardRows),
    wanted: &(Vec<String>, harvestd::dataset::decoder::ShardRows),
) {
    let ids = |rows: &harvestd::dataset::decoder::ShardRows| {
        (rows.doc_id.clone(), rows.unit.clone(), rows.seq.clone(), rows.pos.clone(), rows.token_id.clone())
    };
    assert!(ids(&found.1) == ids(&wanted.1), "other rows: {} and {}", found.1.seq.len(), wanted.1.seq.len());
    assert_eq!(found.0.len(), wanted.0.len());
    for (name, values) in wanted.0.iter().zip(&wanted.1.sites) {
        let i = found.0.iter().position(|n| n == name).unwrap();
        assert!(found.1.sites[i] == *values, "`{name}` has other values");
    }
}

/// With norm limits in play the sites that the dataset was begun with decide, and go on deciding.
#[test]
fn the_first_sites_decide_which_rows_are_kept() {
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus, 20, 20);
    let out = scratch.path().join("out");
    let exclude = "{norm_above_median: 1.3}";
    let first = run(&pipeline(&corpus, &out, &BASE, exclude));
    assert!(first["dropped"]["outlier_norm"].as_u64().unwrap() > 100, "{first}");
    // a run of one new site alone does not even capture what decides: it is captured all the same
    let wanted: Vec<&str> = BASE.iter().copied().chain([ADDED[0]]).collect();
    let second = run(&pipeline(&corpus, &out, &wanted, exclude));
    assert_eq!(first["dropped"]["outlier_norm"], second["dropped"]["outlier_norm"]);
    let rows = first["dataset"]["rows"].clone();
    assert_eq!(second["dataset"]["columns"][0]["rows"], rows);
    verified(&out);
    // another site, in another group; then all at once
    let wanted: Vec<&str> = BASE.iter().chain(&ADDED).copied().collect();
    let third = run(&pipeline(&corpus, &out, &wanted, exclude));
    assert_eq!(third["dataset"]["columns"].as_array().unwrap().len(), 2);
    assert_eq!(verified(&out)["columns"].as_array().unwrap().len(), 2);
    let held = files(&out.join("acts"));
    assert_eq!(run(&pipeline(&corpus, &out, &wanted, exclude))["tokens"], 0, "nothing is left to compute");
    assert!(files(&out.join("acts")) == held);
    // what else differs is named as before
    let other = pipeline(&corpus, &out, &wanted, "{norm_above_median: 1.4}");
    let output = harvestd(&["run", other.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(78) && said.contains("norm_above_median was 1.3, now 1.4"), "{said}");
    let fewer = pipeline(&corpus, &out, &[BASE[0], ADDED[0]], exclude);
    let said = String::from_utf8_lossy(&harvestd(&["run", fewer.to_str().unwrap()]).stderr).into_owned();
    assert!(said.contains("begun with other settings") && said.contains("sites"), "{said}");
    // one head of a stored point is a site of its own
    let head: Vec<HookPoint> = vec!["blocks.3.attn.hook_z[0]".parse().unwrap()];
    let wanted: Vec<String> =
        wanted.iter().map(|s| (*s).to_owned()).chain(head.iter().map(ToString::to_string)).collect();
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    run(&pipeline(&corpus, &out, &wanted, exclude));
    verified(&out);
}
