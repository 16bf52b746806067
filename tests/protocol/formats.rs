//! Datasets of older versions.

use std::collections::BTreeMap;
use std::path::Path;

use harvestd::catalog::Catalog;
use harvestd::catalog::compact::compact;
use harvestd::catalog::gc::{Policy, plan};
use harvestd::catalog::verify::verify;
use harvestd::dataset::config::KeepConfig;
use harvestd::dataset::decoder::decode_all;
use harvestd::error::ErrorKind;
use harvestd::sink::SinkOptions;
use harvestd::store::Location;
use harvestd::testing::datasets::{interleaved, units, write};
use harvestd::units::Count;
use serde_json::Value;

use crate::support::{files, harvestd, summary};
use crate::{joined, spec};

/// A dataset of format 1 that an older version wrote, and its rows as pyarrow read them then.
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/dataset-v1");

fn recorded() -> BTreeMap<String, Value> {
    serde_json::from_str(&std::fs::read_to_string(format!("{FIXTURE}.rows.json")).unwrap()).unwrap()
}

fn numbers<T: Copy>(values: &Value, of: impl Fn(&Value) -> T) -> Vec<T> {
    values.as_array().unwrap().iter().map(of).collect()
}

fn copy(from: &Path, to: &Path) {
    for (name, bytes) in files(from) {
        let place = to.join(name);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, bytes).unwrap();
    }
}

/// The rows of the dataset at `url` are those that were recorded.
async fn rows_are_as_recorded(url: &str) {
    let (sites, rows) = joined(&Location::open(url).unwrap()).await;
    let recorded = recorded();
    assert_eq!(numbers(&recorded["doc_id"], |v| v.as_u64().unwrap()), rows.doc_id);
    for (name, found) in [("unit", &rows.unit), ("seq", &rows.seq), ("pos", &rows.pos), ("token_id", &rows.token_id)] {
        assert_eq!(&numbers(&recorded[name], |v| v.as_u64().unwrap() as u32), found, "{name}");
    }
    assert_eq!(sites.len(), 2);
    for (site, found) in sites.iter().zip(&rows.sites) {
        let values =
            recorded[site].as_array().unwrap().iter().flat_map(|row| numbers(row, |v| v.as_f64().unwrap() as f32));
        assert!(values.eq(found.iter().copied()), "{site}");
    }
}

#[tokio::test]
async fn a_dataset_of_format_1_reads_as_it_was_written() {
    rows_are_as_recorded(FIXTURE).await;
    let catalog = Catalog::open(Location::open(FIXTURE).unwrap()).await.unwrap();
    assert_eq!((catalog.header().format, catalog.header().units), (1, 4));
    let report = verify(&catalog, |_, _| ()).await.unwrap();
    assert!(report.ok() && !report.complete(), "{report:?}");
    assert_eq!((report.shards, report.rows, report.units_done), (7, 150, 3));
}

/// A run goes on in the old format, and in the same shards; what old readers would not notice needs an upgrade.
#[tokio::test]
async fn format_1_is_added_to_as_it_is_and_changed_only_by_an_upgrade() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("acts");
    let url = place.to_str().unwrap();
    copy(Path::new(FIXTURE), &place);
    for name in ["000001-00002", "000001-00001"] {
        std::fs::remove_file(place.join(format!("commits/{name}.json"))).unwrap();
        std::fs::remove_file(place.join(format!("shards/{name}.parquet"))).unwrap();
    }
    let mut spec = spec();
    spec.sites[0].width = 8;
    let batches = interleaved(&units(&spec, &[&[17, 9, 30, 12], &[40, 1, 39, 2], &[]]), &[2]);
    let location = Location::open(url).unwrap();
    let options = SinkOptions { compact_after: Some(1), ..SinkOptions::default() };
    let (catalog, written) = write(&location, &spec, 4, &batches, options).await.unwrap();
    assert_eq!(written.len(), 2);
    let shards = |files: BTreeMap<String, Vec<u8>>| -> BTreeMap<_, _> {
        let shards = files.into_iter().filter(|(name, _)| name.ends_with(".parquet"));
        shards.map(|(name, bytes)| (name, decode_all(&bytes.into()).unwrap().1)).collect()
    };
    assert!(shards(files(&place)) == shards(files(Path::new(FIXTURE))), "the same rows in the same shards");
    let error = compact(&catalog, 1).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("harvestd upgrade"), "{error}");
    let keep = KeepConfig { rows: Some(Count(50)), ..KeepConfig::default() };
    let policy = Policy { keep, grace: std::time::Duration::ZERO, now: std::time::Duration::from_secs(2_000_000_000) };
    assert_eq!(plan(&catalog, &policy).await.unwrap_err().kind(), ErrorKind::Config);
    assert!(!harvestd(&["compact", url]).status.success());

    let done = summary(&harvestd(&["--json", "upgrade", url]));
    assert_eq!((&done["from"], &done["to"]), (&1.into(), &2.into()));
    let after = std::fs::read(place.join("dataset.json")).unwrap();
    assert_eq!(summary(&harvestd(&["--json", "upgrade", url]))["from"], 2);
    assert_eq!(std::fs::read(place.join("dataset.json")).unwrap(), after, "the second upgrade changes nothing");
    assert!(harvestd(&["compact", url, "--grace", "0s"]).status.success());
    assert_eq!(std::fs::read_dir(place.join("commits")).unwrap().count(), 0);
    rows_are_as_recorded(url).await;
    assert!(harvestd(&["verify", url]).status.success());
}
