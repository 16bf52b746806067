//! Storing costs the same a row however many there are, and no more memory.
//!
//! Two million rows; `HARVESTD_LONG_TESTS=1` makes it fifty (2 GB on disk, deleted afterwards).

use std::time::Instant;

use harvestd::catalog::Catalog;
use harvestd::dataset::config::{CompressionConfig, Layout, StoredDtype};
use harvestd::dataset::schema::{ShardSpec, SiteColumn};
use harvestd::hooks::{HookPoint, Site};
use harvestd::sink::ParquetSink;
use harvestd::store::Location;
use harvestd::testing::SyntheticUnit;
use harvestd::testing::datasets::{header, small_spec};

const ROWS_A_UNIT: usize = 1_000_000;
const WIDTH: usize = 8;

/// Resident memory of this process, in MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[test]
fn rows_cost_the_same_from_the_first_million_to_the_last() {
    let units = if std::env::var_os("HARVESTD_LONG_TESTS").is_some() { 50 } else { 2 };
    let folder = tempfile::tempdir().unwrap();
    let spec = ShardSpec {
        sites: vec![SiteColumn { point: HookPoint::block(0, Site::ResidPost), width: WIDTH }],
        rows_per_shard: 262_144,
        rows_per_group: 16_384,
        ..small_spec(StoredDtype::Float16, Layout::Typed, CompressionConfig::None)
    };
    let sites = vec![(spec.sites[0].point, WIDTH)];
    let unit = SyntheticUnit { unit: 0, lengths: vec![1000; ROWS_A_UNIT / 1000], sites };
    let mut batches = unit.batches(&[8]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut rates, mut memory) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        let location = Location::open(folder.path().to_str().unwrap()).unwrap();
        let catalog = Catalog::create_or_open(location, header(&spec, units)).await.unwrap();
        let mut sink = ParquetSink::new(catalog.clone(), spec, Default::default()).await.unwrap();
        for unit in 0..units {
            let watch = Instant::now();
            for batch in &mut batches {
                batch.unit = unit;
                sink.write(batch).await.unwrap();
            }
            rates.push(ROWS_A_UNIT as f64 / watch.elapsed().as_secs_f64());
            memory.push(resident());
        }
        sink.finish().await.unwrap();
        let totals = catalog.totals().await.unwrap();
        assert!(totals.complete && totals.rows == u64::from(units) * ROWS_A_UNIT as u64, "{totals:?}");
    });
    let tenth = (rates.len() / 5).max(1);
    let (first, last) = (median(&rates[..tenth]), median(&rates[rates.len() - tenth..]));
    let n = units as usize;
    eprintln!("{n} million rows: {:.2} M rows/s at first, {:.2} at last", first / 1e6, last / 1e6);
    eprintln!(
        "resident after 1 M, in the middle, at last: {:.0}, {:.0}, {:.0} MiB",
        memory[0],
        memory[n / 2],
        memory[n - 1]
    );
    // other work on the machine shows in both; what grows with the rows would show in one
    assert!(last > 0.5 * first, "{first:.0} rows/s at first, {last:.0} at last");
    assert!(memory[n - 1] < memory[0] + 48.0, "memory grows: {memory:?}");
}
