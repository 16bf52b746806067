//! A reader that was written from `docs/dataset-format.md` alone sees what the library sees.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harvestd::catalog::compact::{compact, delete_covered_commits};
use harvestd::catalog::gc::{Policy, collect};
use harvestd::dataset::config::KeepConfig;
use harvestd::sink::{ParquetSink, SinkOptions};
use harvestd::store::Location;
use harvestd::testing::datasets::{header, write};
use harvestd::units::Count;
use serde_json::json;

use crate::support::{ask_python, python};
use crate::{batches, half_bytes, joined, spec, sum};

fn read(python: &str, folder: &Path) -> Result<serde_json::Value, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/read_by_the_book.py");
    let output = Command::new(python).arg(script).arg(folder).output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

async fn compare(python: &str, folder: &Path, what: &str) {
    let (sites, rows) = joined(&Location::open(folder.to_str().unwrap()).unwrap()).await;
    let found = read(python, folder).unwrap();
    assert_eq!(found["rows"], rows.seq.len(), "{what}");
    let u32s = |values: &[u32]| sum(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
    let doc_id: Vec<u8> = rows.doc_id.iter().flat_map(|v| v.to_le_bytes()).collect();
    let ids = [("unit", &rows.unit), ("seq", &rows.seq), ("pos", &rows.pos), ("token_id", &rows.token_id)];
    assert_eq!(found["columns"]["doc_id"], sum(&doc_id), "{what}");
    for (name, values) in ids {
        assert_eq!(found["columns"][name], u32s(values), "{what}: {name}");
    }
    for (site, values) in sites.iter().zip(&rows.sites) {
        assert_eq!(found["columns"][site], sum(&half_bytes(values)), "{what}: {site}");
    }
    assert_eq!(found["columns"].as_object().unwrap().len(), 5 + sites.len());
}

/// The data set for PyTorch reads the values that the library reads, in the same order.
async fn compare_torch(python: &str, folder: &Path, what: &str) {
    let (sites, rows) = joined(&Location::open(folder.to_str().unwrap()).unwrap()).await;
    for (site, values) in sites.iter().zip(&rows.sites) {
        let found = ask_python(python, "activation_dataset.py", &[], &json!({"dataset": folder, "site": site}));
        assert_eq!(found["rows"], rows.seq.len(), "{what}: {site}");
        assert_eq!(found["sha256"], sum(&half_bytes(values)), "{what}: {site}");
        assert!(found["rows_of_workers"] == rows.seq.len() && found["equal"] == true, "{what}: {found}");
    }
}

#[tokio::test]
async fn a_reader_by_the_book_sees_what_the_library_sees() {
    let Some(python) = python("a reader that was written from the format's document") else { return };
    compare(&python, Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/dataset-v1")), "format 1").await;
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("acts");
    let location = Location::open(folder.to_str().unwrap()).unwrap();
    let mut first = spec();
    let mut second = spec();
    first.sites.truncate(1);
    second.sites.remove(0);
    let (base, _) = write(&location, &first, 3, &batches()[..4], SinkOptions::default()).await.unwrap();
    compare(&python, &folder, "not finished").await;
    compact(&base, 1).await.unwrap().unwrap();
    write(&location, &first, 3, &batches(), SinkOptions::default()).await.unwrap();
    compare(&python, &folder, "a manifest and commits").await;
    compare_torch(&python, &folder, "a manifest and commits").await;
    delete_covered_commits(&base, Duration::MAX).await.unwrap();
    compare(&python, &folder, "covered commits deleted").await;
    let group = base.group(header(&second, 3)).await.unwrap().with_base(&base).await.unwrap();
    let mut sink = ParquetSink::new(group.clone(), second, Default::default()).await.unwrap();
    for batch in batches() {
        sink.write(&batch).await.unwrap();
    }
    sink.finish().await.unwrap();
    compare(&python, &folder, "a column group").await;
    compact(&group, 1).await.unwrap().unwrap();
    compact(&base, 1).await.unwrap().unwrap();
    compare(&python, &folder, "manifests everywhere").await;
    let keep = KeepConfig { rows: Some(Count(120)), ..KeepConfig::default() };
    collect(&base, &Policy { keep, grace: Duration::ZERO, now: Duration::from_secs(2_000_000_000) }).await.unwrap();
    assert!(joined(&location).await.1.seq.len() <= 120);
    compare(&python, &folder, "retired parts").await;
    compare_torch(&python, &folder, "retired parts").await;
    // and it sees damage
    let shard = std::fs::read_dir(folder.join("shards")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&shard).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    let said = read(&python, &folder).unwrap_err();
    assert!(said.contains("checksum"), "{said}");
}
