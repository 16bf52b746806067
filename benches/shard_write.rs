//! Rows to the bytes of a shard on one core: the encoder beside what bounds it, pass by pass, and beside other writers.
//!
//! All figures are GB of stored values a second of processor time (`rows * width * bytes of a value`), medians of rounds in which everything
//! is timed once, one after the other. `HARVESTD_PYTHON` with pyarrow and `datasets` adds their writers to every third round.

use std::hint::black_box;
use std::process::Command;

use half::f16;
use half::slice::HalfFloatSliceExt;
use harvestd::activation::ActivationBatch;
use harvestd::compute::cpu::stored::{BLOCK_ROWS, BlockSums, Format};
use harvestd::dataset::PageBuffers;
use harvestd::dataset::config::{CompressionConfig, Layout, StoredDtype};
use harvestd::dataset::encoder::ShardEncoder;
use harvestd::dataset::schema::{ShardSpec, SiteColumn};
use harvestd::hooks::{HookPoint, Site};
use harvestd::testing::SyntheticUnit;
use harvestd::units::Percent;

const WIDTH: usize = 768;
const ROWS: usize = 32_768;
const ROUNDS: usize = 9;
const KINDS: [(&str, StoredDtype, Layout, CompressionConfig); 6] = [
    ("f16 typed", StoredDtype::Float16, Layout::Typed, CompressionConfig::None),
    ("f16 raw", StoredDtype::Float16, Layout::Raw, CompressionConfig::None),
    ("f32 typed", StoredDtype::Float32, Layout::Typed, CompressionConfig::None),
    ("bf16 raw", StoredDtype::Bfloat16, Layout::Raw, CompressionConfig::None),
    ("f16 typed zstd", StoredDtype::Float16, Layout::Typed, CompressionConfig::Zstd),
    ("bf16 raw zstd", StoredDtype::Bfloat16, Layout::Raw, CompressionConfig::Zstd),
];

/// Time that this thread has computed: other work on the machine counts only by what it takes from caches and memory.
fn cpu_seconds() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec that the call fills in.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    assert_eq!(rc, 0, "the thread's clock");
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// One line of the table: what it is, and GB/s of each round.
struct Line {
    name: String,
    rates: Vec<f64>,
}

/// The lines, in the order of their first appearance.
#[derive(Default)]
struct Table(Vec<Line>);

impl Table {
    fn add(&mut self, name: &str, rate: f64) {
        match self.0.iter_mut().find(|line| line.name == name) {
            Some(line) => line.rates.push(rate),
            None => self.0.push(Line { name: name.to_owned(), rates: vec![rate] }),
        }
    }

    fn time(&mut self, name: &str, bytes: usize, work: impl FnOnce()) {
        let since = cpu_seconds();
        work();
        self.add(name, bytes as f64 / (cpu_seconds() - since) / 1e9);
    }

    fn median(&self, name: &str) -> f64 {
        let mut rates = self.0.iter().find(|line| line.name == name).expect("the line was timed").rates.clone();
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    }
}

fn spec(point: HookPoint, width: usize, kind: (&str, StoredDtype, Layout, CompressionConfig)) -> ShardSpec {
    ShardSpec {
        sites: vec![SiteColumn { point, width }],
        dtype: kind.1,
        layout: kind.2,
        compression: kind.3,
        rows_per_shard: ROWS as u64,
        rows_per_group: 8192,
        sample: Percent::from_share(1.0),
    }
}

/// Encode `batches` as one shard; bytes are dropped as soon as they are final, as an upload drops them.
fn encode(spec: &ShardSpec, buffers: &PageBuffers, batches: &[ActivationBatch]) -> usize {
    let mut encoder = ShardEncoder::with_buffers(spec, 0, 0, buffers).expect("the specification is valid");
    let mut bytes = 0;
    for batch in batches {
        encoder.push(batch, 0..batch.n_rows()).expect("the batch has the site");
        bytes += encoder.take_ready().iter().map(bytes::Bytes::len).sum::<usize>();
    }
    let (last, _) = encoder.finish().expect("the rows can be encoded");
    bytes + last.iter().map(bytes::Bytes::len).sum::<usize>()
}

/// What bounds an encoder, each pass alone, over buffers that were touched before.
struct Passes {
    values: Vec<f32>,
    half: Vec<f16>,
    copy: Vec<f16>,
    wide: Vec<f32>,
    out: Vec<u8>,
}

impl Passes {
    fn new(batches: &[ActivationBatch]) -> Self {
        let values: Vec<f32> = batches.iter().flat_map(|batch| batch.sites[0].data.iter().copied()).collect();
        let mut half = vec![f16::ZERO; values.len()];
        half.convert_from_f32_slice(&values);
        Self { copy: half.clone(), wide: values.clone(), out: vec![0; values.len() * 2], values, half }
    }

    fn time(&mut self, table: &mut Table) {
        let (narrow, wide) = (self.half.len() * 2, self.half.len() * 4);
        table.time("copy, 2 bytes a value", narrow, || self.copy.copy_from_slice(black_box(&self.half)));
        table.time("copy, 4 bytes a value", wide, || self.wide.copy_from_slice(black_box(&self.values)));
        table.time("f32 to f16 (half)", narrow, || self.copy.convert_from_f32_slice(black_box(&self.values)));
        table.time("f32 to f16, with sums", narrow, || {
            let mut sums = BlockSums::new(WIDTH);
            let blocks = self.values.chunks(BLOCK_ROWS * WIDTH).zip(self.out.chunks_mut(BLOCK_ROWS * WIDTH * 2));
            blocks.for_each(|(rows, out)| sums.store(black_box(rows), Format::F16, out));
        });
        table.time("sums alone", narrow, || {
            let mut sums = BlockSums::new(WIDTH);
            self.values.chunks(BLOCK_ROWS * WIDTH).for_each(|rows| sums.sum(black_box(rows)));
        });
        table.time("XXH3-128", narrow, || _ = black_box(xxhash_rust::xxh3::xxh3_128(&self.out)));
        table.time("SHA-256", narrow, || _ = black_box(<sha2::Sha256 as sha2::Digest>::digest(&self.out)));
        table.time("fresh memory, touched", narrow, || _ = black_box(vec![1u8; narrow]));
        let mut packed = vec![0; zstd::zstd_safe::compress_bound(1 << 20)];
        let mut zstd = zstd::bulk::Compressor::new(1).expect("level 1 exists");
        table.time("zstd alone, f16", narrow, || {
            for page in self.out.chunks(1 << 20) {
                black_box(zstd.compress_to_buffer(page, &mut packed).expect("there is room"));
            }
        });
    }
}

/// Peers' writers, of the same number of rows of the same width.
fn peers(table: &mut Table) {
    let Ok(python) = std::env::var("HARVESTD_PYTHON") else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/shard_write.py");
    let output = Command::new(python).args([script, &ROWS.to_string(), &WIDTH.to_string()]).output();
    let output = output.expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some((name, rate)) = line.split_once('\t') {
            table.add(name, rate.parse().expect("a rate"));
        }
    }
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    name.trim_start_matches([' ', '\t', ':']).to_owned()
}

fn main() {
    if std::env::args().any(|arg| arg == "--test") {
        return; // `cargo test --benches` wants to see that it starts
    }
    let point = HookPoint::block(6, Site::ResidPost);
    let unit = |width| SyntheticUnit { unit: 0, lengths: vec![1024; ROWS / 1024], sites: vec![(point, width)] };
    let batches = unit(WIDTH).batches(&[4]);
    let narrow = unit(1).batches(&[4]);
    let mut passes = Passes::new(&batches);
    let mut table = Table::default();
    // kept from shard to shard, as a sink keeps them
    let buffers = PageBuffers::default();
    for round in 0..ROUNDS {
        passes.time(&mut table);
        let ids = spec(point, 1, KINDS[1]);
        // what the ids cost, said of rows of the usual width
        table.time("ids alone", ROWS * WIDTH * 2, || _ = black_box(encode(&ids, &buffers, &narrow)));
        for kind in KINDS {
            let spec = spec(point, WIDTH, kind);
            let bytes = ROWS * spec.row_bytes() as usize;
            table.time(&format!("harvestd {}", kind.0), bytes, || _ = black_box(encode(&spec, &buffers, &batches)));
        }
        if round % 3 == 0 {
            peers(&mut table);
        }
    }
    println!("{}; {ROWS} rows of {WIDTH}; GB of values/s, median of {ROUNDS} rounds (least, most)", cpu());
    for line in &table.0 {
        let most = line.rates.iter().copied().fold(0.0, f64::max);
        let least = line.rates.iter().copied().fold(f64::MAX, f64::min);
        println!("{:<34} {:>7.2}  ({least:.2}, {most:.2})", line.name, table.median(&line.name));
    }
    let both = |a: f64, b: f64| 1.0 / (1.0 / a + 1.0 / b);
    let floors = [
        ("harvestd f16 typed", "copy", table.median("copy, 2 bytes a value")),
        ("harvestd f32 typed", "copy", table.median("copy, 4 bytes a value")),
        (
            "harvestd f16 typed",
            "narrowing copy + checksum",
            both(table.median("f32 to f16 (half)"), table.median("XXH3-128")),
        ),
        ("harvestd f16 typed zstd", "zstd", table.median("zstd alone, f16")),
    ];
    for (name, limit, rate) in floors {
        println!("{name}: {:.0}% of {limit} ({rate:.2} GB/s)", 100.0 * table.median(name) / rate);
    }
}
