//! Rows to shard bytes: encoding, rounding, statistics and checksum on one core, in bytes of stored values a second.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use harvestd::dataset::config::{CompressionConfig, Layout, StoredDtype};
use harvestd::dataset::encoder::ShardEncoder;
use harvestd::dataset::schema::{ShardSpec, SiteColumn};
use harvestd::hooks::{HookPoint, Site};
use harvestd::testing::SyntheticUnit;
use harvestd::units::Percent;

const WIDTH: usize = 768;
const ROWS: u32 = 16_384;

fn shard_write(c: &mut Criterion) {
    let point = HookPoint::block(6, Site::ResidPost);
    let unit = SyntheticUnit { unit: 0, lengths: vec![1024; (ROWS / 1024) as usize], sites: vec![(point, WIDTH)] };
    let batches = unit.batches(&[4]);
    let mut group = c.benchmark_group("shard_write");
    for (name, dtype, layout, compression) in [
        ("f16 typed", StoredDtype::Float16, Layout::Typed, CompressionConfig::None),
        ("f16 raw", StoredDtype::Float16, Layout::Raw, CompressionConfig::None),
        ("f32 typed", StoredDtype::Float32, Layout::Typed, CompressionConfig::None),
        ("bf16 raw", StoredDtype::Bfloat16, Layout::Raw, CompressionConfig::None),
        ("f16 typed zstd", StoredDtype::Float16, Layout::Typed, CompressionConfig::Zstd),
        ("bf16 raw zstd", StoredDtype::Bfloat16, Layout::Raw, CompressionConfig::Zstd),
    ] {
        let spec = ShardSpec {
            sites: vec![SiteColumn { point, width: WIDTH }],
            dtype,
            layout,
            compression,
            rows_per_shard: u64::from(ROWS),
            rows_per_group: 8192,
            sample: Percent::from_share(1.0),
        };
        group.throughput(Throughput::BytesDecimal(u64::from(ROWS) * spec.row_bytes()));
        group.sample_size(20);
        group.bench_with_input(BenchmarkId::from_parameter(name), &spec, |b, spec| {
            b.iter(|| {
                let mut encoder = ShardEncoder::new(spec, 0, 0).expect("the specification is valid");
                let mut bytes = 0;
                for batch in &batches {
                    encoder.push(batch, 0..batch.n_rows()).expect("the batch has the site");
                    bytes += encoder.take_ready().iter().map(bytes::Bytes::len).sum::<usize>();
                }
                bytes
                    + encoder.finish().expect("the rows can be encoded").0.iter().map(bytes::Bytes::len).sum::<usize>()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, shard_write);
criterion_main!(benches);
