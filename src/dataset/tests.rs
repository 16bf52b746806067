//! The format as a whole: what is encoded is decoded, and the bytes depend on the rows alone.

use bytes::Bytes;
use half::{bf16, f16};
use proptest::prelude::*;

use super::config::{CompressionConfig, Layout, StoredDtype};
use super::decoder::{Footer, ShardFooter, ShardRows, decode_all};
use super::encoder::{ShardEncoder, ShardSummary};
use super::schema::{ShardSpec, SiteColumn};
use crate::activation::ActivationBatch;
use crate::hooks::{HookPoint, Site};
use crate::testing::SyntheticUnit;
use crate::units::Percent;

fn spec(widths: &[usize], dtype: StoredDtype, layout: Layout, compression: CompressionConfig) -> ShardSpec {
    let column =
        |(i, &width): (usize, &usize)| SiteColumn { point: HookPoint::block(i as u32, Site::ResidPost), width };
    ShardSpec {
        sites: widths.iter().enumerate().map(column).collect(),
        dtype,
        layout,
        compression,
        rows_per_shard: 1000,
        rows_per_group: 16,
        sample: Percent::from_share(1.0),
    }
}

fn unit(spec: &ShardSpec, lengths: &[u32]) -> SyntheticUnit {
    SyntheticUnit { unit: 7, lengths: lengths.to_vec(), sites: spec.sites.iter().map(|s| (s.point, s.width)).collect() }
}

fn encode(spec: &ShardSpec, batches: &[ActivationBatch]) -> (Bytes, ShardSummary) {
    let mut encoder = ShardEncoder::new(spec, 7, 2).unwrap();
    let mut bytes: Vec<Bytes> = Vec::new();
    for batch in batches {
        for i in 0..batch.n_sequences() {
            encoder.push(batch, batch.sequence_rows(i)).unwrap();
            bytes.extend(encoder.take_ready());
        }
    }
    let (last, summary) = encoder.finish().unwrap();
    bytes.extend(last);
    (bytes.concat().into(), summary)
}

fn all_specs(widths: &[usize]) -> Vec<ShardSpec> {
    let mut specs = Vec::new();
    for dtype in [StoredDtype::Float16, StoredDtype::Float32, StoredDtype::Bfloat16] {
        for layout in [Layout::Typed, Layout::Raw] {
            for compression in [CompressionConfig::None, CompressionConfig::Zstd] {
                specs.push(spec(widths, dtype, layout, compression));
            }
        }
    }
    specs
}

fn rounded(dtype: StoredDtype, x: f32) -> f32 {
    match dtype {
        StoredDtype::Float16 => f16::from_f32(x).to_f32(),
        StoredDtype::Float32 => x,
        StoredDtype::Bfloat16 => bf16::from_f32(x).to_f32(),
    }
}

/// The rows of one batch that holds a whole unit, as they are stored.
fn expected(batch: &ActivationBatch, dtype: StoredDtype) -> ShardRows {
    ShardRows {
        doc_id: batch.doc_id.clone(),
        unit: vec![batch.unit; batch.n_rows()],
        seq: batch.seq.clone(),
        pos: batch.pos.clone(),
        token_id: batch.token_id.clone(),
        sites: batch.sites.iter().map(|s| s.data.iter().map(|&x| rounded(dtype, x)).collect()).collect(),
    }
}

#[test]
fn every_combination_reads_back_as_stored() {
    for spec in all_specs(&[5, 1, 24]) {
        let batch = &unit(&spec, &[3, 40, 0, 17]).batches(&[4])[0];
        let (bytes, summary) = encode(&spec, std::slice::from_ref(batch));
        let (footer, rows) = decode_all(&bytes).unwrap();
        assert_eq!(footer.n_groups(), 4); // 60 rows in groups of 16
        assert_eq!(footer.sites(), spec.site_headers(|_| String::new()));
        assert_eq!(rows, expected(batch, spec.dtype), "{spec:?}");
        assert_eq!((summary.rows, summary.bytes), (60, bytes.len() as u64));
        let sum = xxhash_rust::xxh3::xxh3_128(&bytes);
        assert_eq!(summary.checksum.to_string(), format!("xxh3_128:{sum:032x}"));
        let statistics = &summary.sites["blocks.0.hook_resid_post"];
        let mean = rows.sites[0].iter().step_by(5).map(|&x| f64::from(x)).sum::<f64>() / 60.0;
        assert_eq!(statistics.count, 60);
        assert!((statistics.mean[0] - mean).abs() < 1e-12);
    }
}

#[test]
fn pages_of_many_rows_and_rows_larger_than_a_page_read_back() {
    // 3000 values of 2 bytes: 174 rows a page, 16 pages and a partial one; 600 000 values: more than a page a row
    for (width, rows) in [(3000, 700), (600_000, 3)] {
        let mut spec = spec(&[width], StoredDtype::Float16, Layout::Typed, CompressionConfig::None);
        spec.rows_per_group = 512;
        let batch = &unit(&spec, &[rows]).batches(&[1])[0];
        let (bytes, _) = encode(&spec, std::slice::from_ref(batch));
        let (_, read) = decode_all(&bytes).unwrap();
        assert!(read == expected(batch, spec.dtype), "width {width}");
        // levels cost next to nothing
        let payload = (rows as usize * width * 2) as f64;
        assert!((bytes.len() as f64) < payload * 1.02, "{} for {payload}", bytes.len());
    }
}

#[test]
fn a_shard_without_rows_is_a_shard() {
    for spec in all_specs(&[5]) {
        let (bytes, summary) = encode(&spec, &[]);
        let (footer, rows) = decode_all(&bytes).unwrap();
        assert_eq!((summary.rows, footer.rows(), rows.seq.len()), (0, 0, 0));
        assert_eq!(footer.sites(), spec.site_headers(|_| String::new()));
    }
}

#[test]
fn values_beyond_half_precision_are_stored_as_infinities_and_counted() {
    let spec = spec(&[4], StoredDtype::Float16, Layout::Typed, CompressionConfig::None);
    let mut batch = unit(&spec, &[3]).batches(&[1]).remove(0);
    batch.sites[0].data[5] = -1e6;
    let (bytes, summary) = encode(&spec, std::slice::from_ref(&batch));
    assert_eq!(decode_all(&bytes).unwrap().1.sites[0][5], f32::NEG_INFINITY);
    let statistics = &summary.sites["blocks.0.hook_resid_post"];
    assert_eq!((statistics.count, statistics.non_finite), (2, 1));
}

#[test]
fn sites_that_are_missing_or_of_another_width_are_refused() {
    let spec = spec(&[4], StoredDtype::Float16, Layout::Typed, CompressionConfig::None);
    let mut batch = unit(&spec, &[3]).batches(&[1]).remove(0);
    batch.sites[0].width = 3;
    assert!(ShardEncoder::new(&spec, 0, 0).unwrap().push(&batch, 0..3).is_err());
    batch.sites.clear();
    assert!(ShardEncoder::new(&spec, 0, 0).unwrap().push(&batch, 0..3).is_err());
}

#[test]
fn damaged_files_are_errors_not_panics() {
    let spec = spec(&[4], StoredDtype::Float16, Layout::Typed, CompressionConfig::None);
    let (bytes, _) = encode(&spec, &unit(&spec, &[30]).batches(&[1]));
    assert!(decode_all(&bytes.slice(..bytes.len() - 9)).is_err());
    assert!(decode_all(&Bytes::from_static(b"PAR1")).is_err());
    let tail = bytes.slice(bytes.len() - 12..);
    let Footer::Needs(needed) = ShardFooter::parse(&tail, bytes.len() as u64).unwrap() else {
        panic!("a footer in 12 bytes")
    };
    let tail = bytes.slice(bytes.len() - needed as usize..);
    assert!(matches!(ShardFooter::parse(&tail, bytes.len() as u64).unwrap(), Footer::Found(_)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Bytes and statistics are those of the rows, however these were batched.
    #[test]
    fn bytes_do_not_depend_on_batches(
        lengths in prop::collection::vec(0u32..30, 1..12),
        a in prop::collection::vec(1usize..5, 1..4),
        b in prop::collection::vec(1usize..5, 1..4),
        which in 0usize..12,
    ) {
        let spec = all_specs(&[3, 9]).remove(which);
        let unit = unit(&spec, &lengths);
        prop_assert_eq!(encode(&spec, &unit.batches(&a)), encode(&spec, &unit.batches(&b)));
    }
}
