//! Whether the millionth shard costs what the first one did: synthetic rows through the sink (encoding, checksums, commits,
//! manifests) to local disk. One line for each of some sizes: rows a second over the last million, the
//! processor time it took (which other work on the machine does not stretch as much), resident memory.
//!
//! `cargo bench --bench linear`; `HARVESTD_LINEAR_ROWS=50000000` for more than the 5 million that it takes by itself.

use std::time::{Duration, Instant};

use harvestd::catalog::Catalog;
use harvestd::compute::cpu::heap::{self, Heap};
use harvestd::dataset::config::{CompressionConfig, Layout, StoredDtype};
use harvestd::dataset::schema::{ShardSpec, SiteColumn};
use harvestd::hooks::{HookPoint, Site};
use harvestd::sink::ParquetSink;
use harvestd::store::Location;
use harvestd::testing::SyntheticUnit;
use harvestd::testing::datasets::header;
use harvestd::units::Percent;

const WIDTH: usize = 64;
/// Rows of a unit, which is one shard.
const UNIT: u64 = 15_625;
const MILLION: u64 = 1_000_000;

fn main() {
    heap::settle(Heap::Shared, &|variable| std::env::var_os(variable).is_some());
    let rows = std::env::var("HARVESTD_LINEAR_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(5 * MILLION);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    runtime.block_on(write(&folder.path().join("acts"), rows / UNIT));
    let before = Instant::now();
    let place = Location::open(&folder.path().join("acts").to_string_lossy()).expect("a path");
    let catalog = runtime.block_on(Catalog::open(place)).expect("a dataset");
    let totals = runtime.block_on(catalog.progress()).expect("its progress");
    println!("opened again with {} units in {:.3} s", totals.len(), before.elapsed().as_secs_f64());
}

async fn write(folder: &std::path::Path, units: u64) {
    let point = HookPoint::block(0, Site::ResidPost);
    let spec = ShardSpec {
        sites: vec![SiteColumn { point, width: WIDTH }],
        dtype: StoredDtype::Float16,
        layout: Layout::Typed,
        compression: CompressionConfig::None,
        rows_per_shard: UNIT,
        rows_per_group: 8192,
        sample: Percent::from_share(1.0),
    };
    let place = Location::open(&folder.to_string_lossy()).expect("a path");
    let catalog = Catalog::create_or_open(place, header(&spec, units as u32)).await.expect("a dataset");
    let mut sink = ParquetSink::new(catalog, spec, Default::default()).await.expect("a sink");
    // the same values in every unit: what is measured is what is done with them
    let mut batches = SyntheticUnit { unit: 0, lengths: vec![125; 125], sites: vec![(point, WIDTH)] }.batches(&[32]);
    let mut processor = processor_seconds();
    let (mut since, mut seconds) = (Instant::now(), Duration::ZERO);
    let per_million = MILLION / UNIT;
    for unit in 0..units {
        for batch in &mut batches {
            batch.unit = unit as u32;
            sink.write(batch).await.expect("rows are written");
        }
        if (unit + 1) % per_million == 0 {
            let million = since.elapsed();
            seconds += million;
            let rows = (unit + 1) * UNIT;
            let processor_now = processor_seconds();
            println!(
                "{:>3} M rows: {:.2} M rows/s over the last million ({:.2} s of processor time), {:.2} over all, {} MiB resident",
                rows / MILLION,
                1.0 / million.as_secs_f64(),
                processor_now - processor,
                rows as f64 / 1e6 / seconds.as_secs_f64(),
                resident() >> 20,
            );
            (since, processor) = (Instant::now(), processor_now);
        }
    }
    sink.finish().await.expect("the last rows are written");
}

/// Bytes resident now; 0 where the system does not say.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Processor time of this process so far; 0 where the system does not say.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}
