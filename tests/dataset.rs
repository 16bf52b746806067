//! Stored datasets as the world sees them.
//!
//! `HARVESTD_PYTHON` names a Python with pyarrow, polars, duckdb, datasets and torch. Without it the comparison is skipped,
//! unless `CI=true`: then its absence is a failure.

mod support;

use std::path::Path;
use std::process::Command;

use half::{bf16, f16};
use harvestd::activation::ActivationBatch;
use harvestd::catalog::verify::verify;
use harvestd::dataset::config::{CompressionConfig, Layout, StoredDtype};
use harvestd::dataset::schema::{ShardSpec, SiteColumn, dtype_name, effective_layout};
use harvestd::hooks::{HookPoint, Site};
use harvestd::sink::SinkOptions;
use harvestd::store::Location;
use harvestd::testing::datasets::{interleaved, small_spec, units, write};
use serde_json::{Value, json};

/// Sequence lengths; the last unit has no rows, so its only shard is empty.
const LENGTHS: [&[u32]; 3] = [&[17, 9, 30, 12, 0, 28], &[40, 1, 39, 2], &[]];

fn rounded(dtype: StoredDtype, x: f32) -> f32 {
    match dtype {
        StoredDtype::Float16 => f16::from_f32(x).to_f32(),
        StoredDtype::Float32 => x,
        StoredDtype::Bfloat16 => bf16::from_f32(x).to_f32(),
    }
}

/// What a reader must find in `folder`.
fn expected(folder: &Path, spec: &ShardSpec, batches: &[ActivationBatch]) -> Value {
    let all = |values: fn(&ActivationBatch) -> Vec<u64>| -> Vec<u64> { batches.iter().flat_map(values).collect() };
    let sites: Vec<Value> = spec
        .sites
        .iter()
        .map(|site| {
            let rows = batches.iter().filter_map(|batch| batch.site(site.point));
            let values: Vec<f32> = rows.flat_map(|s| s.data.iter().map(|&x| rounded(spec.dtype, x))).collect();
            let layout = match effective_layout(spec.dtype, spec.layout) {
                Layout::Typed => "typed",
                Layout::Raw => "raw",
            };
            json!({
                "name": site.point.to_string(), "dtype": dtype_name(spec.dtype), "layout": layout,
                "width": site.width, "values": values,
            })
        })
        .collect();
    json!({
        "folder": folder,
        "rows": {
            "doc_id": all(|b| b.doc_id.clone()),
            "unit": all(|b| vec![u64::from(b.unit); b.n_rows()]),
            "seq": all(|b| b.seq.iter().map(|&v| u64::from(v)).collect()),
            "pos": all(|b| b.pos.iter().map(|&v| u64::from(v)).collect()),
            "token_id": all(|b| b.token_id.iter().map(|&v| u64::from(v)).collect()),
        },
        "sites": sites,
    })
}

#[tokio::test]
async fn python_readers_see_what_was_stored() {
    let Some(python) = support::python("Python's readers of datasets") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for dtype in [StoredDtype::Float16, StoredDtype::Float32, StoredDtype::Bfloat16] {
        for layout in [Layout::Typed, Layout::Raw] {
            for compression in [CompressionConfig::None, CompressionConfig::Zstd] {
                let name = format!("{dtype:?}-{layout:?}-{compression:?}");
                let place = folder.path().join(name);
                let mut spec = small_spec(dtype, layout, compression);
                // brackets in a column's name, as heads of sites have them
                spec.sites.push(SiteColumn { point: HookPoint::block(1, Site::Z).at_head(3), width: 4 });
                let units = units(&spec, &LENGTHS);
                let location = Location::open(place.to_str().unwrap()).unwrap();
                let batches = interleaved(&units, &[2]);
                write(&location, &spec, 3, &batches, SinkOptions::default()).await.unwrap();
                let in_order: Vec<_> = units.iter().flat_map(|unit| unit.batches(&[100])).collect();
                cases.push(expected(&place, &spec, &in_order));
            }
        }
    }
    let file = folder.path().join("expected.json");
    std::fs::write(&file, json!({ "datasets": cases }).to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/read_dataset.py");
    let output = Command::new(python).arg(script).arg(&file).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert_eq!(out.lines().count(), cases.len() * 6, "{out}");
}

#[tokio::test]
async fn a_local_dataset_survives_being_moved() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    let spec = small_spec(StoredDtype::Float16, Layout::Typed, CompressionConfig::None);
    let batches = interleaved(&units(&spec, &LENGTHS), &[2]);
    let location = Location::open(old.to_str().unwrap()).unwrap();
    write(&location, &spec, 3, &batches[..4], SinkOptions::default()).await.unwrap();
    std::fs::rename(&old, &new).unwrap();
    let location = Location::open(&format!("file://{}", new.display())).unwrap();
    let (catalog, _) = write(&location, &spec, 3, &batches, SinkOptions::default()).await.unwrap();
    let report = verify(&catalog, |_, _| ()).await.unwrap();
    assert!(report.ok() && report.complete() && report.unreferenced.is_empty(), "{report:?}");
}
