//! A stored dataset back to rows: this program's reader and pyarrow's on the same files, one after the other, in bytes of stored
//! values a second. `HARVESTD_PYTHON` names the Python with pyarrow and torch.

use std::process::Command;
use std::time::{Duration, Instant};

use harvestd::catalog::columns::View;
use harvestd::compute::cpu::heap::{self, Heap};
use harvestd::corpus::cursor::SourceCursor;
use harvestd::dataset::config::{CompressionConfig, Layout, StoredDtype};
use harvestd::dataset::schema::{ShardSpec, SiteColumn};
use harvestd::hooks::{HookPoint, Site};
use harvestd::replay::{Order, Reader, ReplayConfig, Source};
use harvestd::runtime::rng::Seed;
use harvestd::sink::SinkOptions;
use harvestd::store::Location;
use harvestd::testing::SyntheticUnit;
use harvestd::testing::datasets::write;
use harvestd::units::Percent;

const WIDTH: usize = 768;
const ROWS: u32 = 131_072;
const ROUNDS: usize = 5;

const PYTHON: &str = r#"
import glob, json, sys, time
import pyarrow.parquet as pq, torch
root, site, dtype, rounds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
shards = [f"{root}/" + json.load(open(c))["object"] for c in sorted(glob.glob(root + "/commits/*.json"))]
def values():
    for shard in shards:
        for batch in pq.ParquetFile(shard, memory_map=True).iter_batches(16384, columns=[site]):
            column = batch.column(0)
            column = column.flatten() if hasattr(column, "flatten") and column.type.num_fields else column
            yield torch.frombuffer(column.buffers()[1], dtype=getattr(torch, dtype))
for kind, use in [("as stored", lambda x: x[::4096].sum()), ("as f32", lambda x: x.float()[::4096].sum())]:
    best = 1e9
    for _ in range(rounds):
        start = time.perf_counter()
        for x in values(): use(x)
        best = min(best, time.perf_counter() - start)
    print(f"pyarrow, {kind}: {best:.4f}")
"#;

fn main() {
    // as `harvestd run` does with a pipeline that replays
    heap::settle(Heap::Kept, &|variable| std::env::var_os(variable).is_some());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let python = std::env::var("HARVESTD_PYTHON").ok();
    for (name, dtype, layout, compression) in [
        ("f16 typed", StoredDtype::Float16, Layout::Typed, CompressionConfig::None),
        ("f16 raw", StoredDtype::Float16, Layout::Raw, CompressionConfig::None),
        ("f32 typed", StoredDtype::Float32, Layout::Typed, CompressionConfig::None),
        ("f16 typed zstd", StoredDtype::Float16, Layout::Typed, CompressionConfig::Zstd),
    ] {
        let folder = std::env::temp_dir().join(format!("harvestd-bench-{}", std::process::id()));
        let place = Location::open(&folder.to_string_lossy()).expect("a path");
        let point = HookPoint::block(6, Site::ResidPost);
        let spec = ShardSpec {
            sites: vec![SiteColumn { point, width: WIDTH }],
            dtype,
            layout,
            compression,
            rows_per_shard: 65_536,
            rows_per_group: 16_384,
            sample: Percent::from_share(1.0),
        };
        let unit = SyntheticUnit { unit: 0, lengths: vec![1024; (ROWS / 1024) as usize], sites: vec![(point, WIDTH)] };
        let site = point.to_string();
        let source = runtime.block_on(async {
            let batches = unit.batches(&[8]);
            write(&place, &spec, 1, &batches, SinkOptions::default()).await.expect("a dataset is written");
            drop(batches);
            let view = View::open(place).await.expect("the dataset opens");
            Source::open(&view, std::slice::from_ref(&site)).await.expect("its site is there")
        });
        let bytes = u64::from(ROWS) * spec.row_bytes();
        let rate = |took: Duration| bytes as f64 / took.as_secs_f64() / 1e9;
        for order in [Order::Stream, Order::Shuffled] {
            let best = (0..ROUNDS).map(|_| runtime.block_on(read(source.clone(), order))).min().unwrap_or_default();
            println!("{name:15} harvestd, {order:?}, as f32: {:.2} GB/s", rate(best));
        }
        if let Some(python) = &python {
            let rounds = ROUNDS.to_string();
            let dtype = harvestd::dataset::schema::dtype_name(dtype);
            let root = folder.to_string_lossy();
            let output =
                Command::new(python).args(["-W", "ignore", "-c", PYTHON, &root, &site, dtype, &rounds]).output();
            let output = output.expect("python starts");
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                let Some((what, seconds)) = line.rsplit_once(": ") else { continue };
                let took = Duration::from_secs_f64(seconds.parse().unwrap_or(f64::MAX));
                println!("{name:15} {what}: {:.2} GB/s", rate(took));
            }
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
        }
        std::fs::remove_dir_all(&folder).expect("the folder is ours");
    }
}

/// Time to read everything once.
async fn read(source: Source, order: Order) -> Duration {
    let config = ReplayConfig { order, ..ReplayConfig::of("") };
    let start = Instant::now();
    let mut reader = Reader::new(source, &config, Seed(1), &SourceCursor::default()).expect("a new position");
    let mut rows = 0;
    while let Some(batch) = reader.next().await.expect("the dataset is whole") {
        rows += batch.n_rows();
    }
    assert_eq!(rows, ROWS as usize);
    start.elapsed()
}
