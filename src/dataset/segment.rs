//! Segments of manifests: Parquet files with one row a covered part, in order of unit and part.
//!
//! A row is what the part's commit said, but for the mean rows of the statistics (the manifest has those of all parts
//! together), and besides it when the part was committed and when it was retired.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, PrimitiveArray, RecordBatch, StringArray, UInt32Array,
    UInt64Array,
};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, Float64Type, Schema, UInt32Type, UInt64Type};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use crate::dataset::commit::{Commit, PartMark, UnitCursor};
use crate::dataset::header::{PART_FORMAT, SiteHeader};
use crate::dataset::stats::SiteStatistics;
use crate::error::{Error, ErrorKind, Result};

/// In every segment: its bytes must not depend on the program's version.
const CREATED_BY: &str = "harvestd dataset format 2";
/// Columns that say where a unit stands; the first ones, in this order.
const MARK_COLUMNS: usize = 7;
/// Statistics of a site, behind its name and a slash.
const STATISTICS: [&str; 5] = ["count", "non_finite", "mean_norm", "sum_squares", "max_norm"];

/// A covered part.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What its commit said; the mean rows of its statistics are empty once a segment holds it.
    pub commit: Commit,
    /// When it was committed, in seconds since 1970-01-01 UTC, by the store's clock.
    pub committed_at: u64,
    /// When it was retired, if it was: its rows count as deleted.
    pub retired_at: Option<u64>,
}

/// Bytes of a row in memory, about, with `sites` sites.
pub fn row_bytes(sites: usize) -> u64 {
    200 + 40 * sites as u64
}

fn schema(sites: &[SiteHeader]) -> Schema {
    let column = |name: &str, data_type: DataType, nullable: bool| Field::new(name, data_type, nullable);
    let mut fields = vec![
        column("unit", DataType::UInt32, false),
        column("part", DataType::UInt32, false),
        column("seq_from", DataType::UInt32, false),
        column("seq_to", DataType::UInt32, false),
        column("next_batch", DataType::UInt32, false),
        column("done", DataType::Boolean, false),
        column("batches", DataType::UInt32, true),
        column("object", DataType::Utf8, false),
        column("rows", DataType::UInt64, false),
        column("bytes", DataType::UInt64, false),
        column("checksum", DataType::Utf8, false),
        column("documents", DataType::UInt64, false),
        column("tokens", DataType::UInt64, false),
        column("dropped", DataType::Utf8, false),
        column("committed_at", DataType::UInt64, false),
        column("retired_at", DataType::UInt64, true),
    ];
    for site in sites {
        for (i, name) in STATISTICS.into_iter().enumerate() {
            let data_type = if i < 2 { DataType::UInt64 } else { DataType::Float64 };
            fields.push(column(&format!("{}/{name}", site.name), data_type, false));
        }
    }
    Schema::new(fields)
}

/// The bytes of a segment with these entries, in their order. An error ([`Data`](ErrorKind::Data)) if a commit lacks
/// statistics of one of `sites`, or has a checksum of an unknown algorithm.
pub fn encode(sites: &[SiteHeader], entries: &[Entry]) -> Result<Vec<u8>> {
    let u32s = |of: fn(&Entry) -> u32| -> ArrayRef { Arc::new(UInt32Array::from_iter_values(entries.iter().map(of))) };
    let u64s = |of: fn(&Entry) -> u64| -> ArrayRef { Arc::new(UInt64Array::from_iter_values(entries.iter().map(of))) };
    for Entry { commit, .. } in entries {
        if !commit.checksum.is_known() {
            return Err(Error::data(format!("`{}` has a checksum of unknown algorithm", commit.object)));
        }
    }
    let dropped = |entry: &Entry| serde_json::to_string(&entry.commit.dropped).expect("names and numbers serialise");
    let mut columns: Vec<ArrayRef> = vec![
        u32s(|e| e.commit.unit),
        u32s(|e| e.commit.part),
        u32s(|e| e.commit.sequences[0]),
        u32s(|e| e.commit.sequences[1]),
        u32s(|e| e.commit.cursor.next_batch),
        Arc::new(BooleanArray::from_iter(entries.iter().map(|e| Some(e.commit.cursor.done)))),
        Arc::new(UInt32Array::from_iter(entries.iter().map(|e| e.commit.cursor.batches))),
        Arc::new(StringArray::from_iter_values(entries.iter().map(|e| &e.commit.object))),
        u64s(|e| e.commit.rows),
        u64s(|e| e.commit.bytes),
        Arc::new(StringArray::from_iter_values(entries.iter().map(|e| e.commit.checksum.to_string()))),
        u64s(|e| e.commit.documents),
        u64s(|e| e.commit.tokens),
        Arc::new(StringArray::from_iter_values(entries.iter().map(dropped))),
        u64s(|e| e.committed_at),
        Arc::new(UInt64Array::from_iter(entries.iter().map(|e| e.retired_at))),
    ];
    for site in sites {
        columns.extend(statistics_columns(site, entries)?);
    }
    let schema = Arc::new(schema(sites));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)
        .map_err(|e| Error::with_source(ErrorKind::Internal, "cannot make a segment", e))?;
    let write = || -> Result<Vec<u8>, ParquetError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_created_by(CREATED_BY.to_owned())
            .build();
        let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties))?;
        writer.write(&batch)?;
        writer.into_inner()
    };
    write().map_err(|e| Error::with_source(ErrorKind::Internal, "cannot encode a segment", e))
}

fn statistics_columns(site: &SiteHeader, entries: &[Entry]) -> Result<Vec<ArrayRef>> {
    let of_entry = |entry: &Entry| {
        let commit = &entry.commit;
        let missing = || Error::data(format!("the commit of `{}` has no statistics of `{}`", commit.object, site.name));
        commit.sites.get(&site.name).cloned().ok_or_else(missing)
    };
    let found = entries.iter().map(|e| of_entry(e).map(|s| SiteStatistics { mean: Vec::new(), ..s }));
    let found = found.collect::<Result<Vec<SiteStatistics>>>()?;
    let u64s =
        |of: fn(&SiteStatistics) -> u64| -> ArrayRef { Arc::new(UInt64Array::from_iter_values(found.iter().map(of))) };
    let f64s =
        |of: fn(&SiteStatistics) -> f64| -> ArrayRef { Arc::new(Float64Array::from_iter_values(found.iter().map(of))) };
    Ok(vec![
        u64s(|s| s.count),
        u64s(|s| s.non_finite),
        f64s(|s| s.mean_norm),
        f64s(|s| s.sum_squares),
        f64s(|s| s.max_norm),
    ])
}

/// All entries of a segment that should have `rows`.
pub fn decode(bytes: Bytes, rows: u64) -> Result<Vec<Entry>> {
    contained(|| decode_entries(bytes, rows))
}

/// The libraries that read Parquet panic at some damage instead of saying so. A segment whose checksum is right has none,
/// unless somebody made it so: then it is an error like any other.
fn contained<T>(decode: impl FnOnce() -> Result<T>) -> Result<T> {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode));
    caught.unwrap_or_else(|_| Err(Error::data("a damaged segment")))
}

fn decode_entries(bytes: Bytes, rows: u64) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for batch in batches(bytes, Some(rows), None)? {
        let batch = batch.map_err(damaged)?;
        let columns = Columns(&batch);
        let marks = marks(&columns)?;
        let (objects, sums, dropped) = (columns.text("object")?, columns.text("checksum")?, columns.text("dropped")?);
        let (n_rows, n_bytes) = (columns.of::<UInt64Type>("rows")?, columns.of::<UInt64Type>("bytes")?);
        let (documents, tokens) = (columns.of::<UInt64Type>("documents")?, columns.of::<UInt64Type>("tokens")?);
        let (committed, retired) = (columns.of::<UInt64Type>("committed_at")?, columns.of::<UInt64Type>("retired_at")?);
        let sites = site_columns(&columns)?;
        for (i, PartMark { unit, part, sequences, cursor }) in marks.into_iter().enumerate() {
            let dropped =
                serde_json::from_str(dropped.value(i)).map_err(|e| Error::data(format!("a damaged segment: {e}")))?;
            let sites = sites.iter().map(|(name, site)| (name.clone(), site.at(i))).collect();
            let commit = Commit {
                format: PART_FORMAT,
                unit,
                part,
                object: objects.value(i).to_owned(),
                rows: n_rows.value(i),
                bytes: n_bytes.value(i),
                checksum: sums.value(i).parse().map_err(Error::data)?,
                sequences,
                documents: documents.value(i),
                tokens: tokens.value(i),
                dropped,
                cursor,
                sites,
            };
            let retired_at = retired.is_valid(i).then(|| retired.value(i));
            entries.push(Entry { commit, committed_at: committed.value(i), retired_at });
        }
    }
    Ok(entries)
}

/// The entries of a segment as far as they say where units stand: a fraction of the work.
pub fn decode_marks(bytes: Bytes, rows: u64) -> Result<Vec<PartMark>> {
    contained(|| collect_marks(bytes, Some(rows)))
}

/// The places of the parts of a segment that no manifest names any more, however many they are.
pub fn decode_unlisted_marks(bytes: Bytes) -> Result<Vec<PartMark>> {
    contained(|| collect_marks(bytes, None))
}

fn collect_marks(bytes: Bytes, rows: Option<u64>) -> Result<Vec<PartMark>> {
    let mut all = Vec::new();
    for batch in batches(bytes, rows, Some(MARK_COLUMNS))? {
        all.extend(marks(&Columns(&batch.map_err(damaged)?))?);
    }
    Ok(all)
}

/// The file's rows, of its first `columns` columns or of all; an error if it should have `rows` and has others.
fn batches(
    bytes: Bytes,
    rows: Option<u64>,
    columns: Option<usize>,
) -> Result<impl Iterator<Item = Result<RecordBatch, arrow::error::ArrowError>>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(damaged)?;
    let found = builder.metadata().file_metadata().num_rows();
    if let Some(rows) = rows.filter(|&rows| u64::try_from(found) != Ok(rows)) {
        return Err(Error::data(format!("has {found} rows instead of {rows}")));
    }
    let n_columns = builder.schema().fields().len();
    let mask = match columns {
        Some(columns) => ProjectionMask::roots(builder.parquet_schema(), 0..columns.min(n_columns)),
        None => ProjectionMask::all(),
    };
    builder.with_projection(mask).with_batch_size(8192).build().map_err(damaged)
}

fn marks(columns: &Columns<'_>) -> Result<Vec<PartMark>> {
    let u32s = |name| columns.of::<UInt32Type>(name);
    let (unit, part, from, to) = (u32s("unit")?, u32s("part")?, u32s("seq_from")?, u32s("seq_to")?);
    let (next_batch, batches) = (u32s("next_batch")?, u32s("batches")?);
    let done = columns.named("done")?.as_boolean_opt().ok_or_else(|| wrong_type("done"))?;
    let mark = |i: usize| PartMark {
        unit: unit.value(i),
        part: part.value(i),
        sequences: [from.value(i), to.value(i)],
        cursor: UnitCursor {
            next_seq: to.value(i),
            next_batch: next_batch.value(i),
            done: done.value(i),
            batches: batches.is_valid(i).then(|| batches.value(i)),
        },
    };
    Ok((0..unit.len()).map(mark).collect())
}

/// The columns of a batch by their names.
struct Columns<'a>(&'a RecordBatch);

impl<'a> Columns<'a> {
    fn named(&self, name: &str) -> Result<&'a ArrayRef> {
        self.0.column_by_name(name).ok_or_else(|| Error::data(format!("a segment has no column `{name}`")))
    }

    fn of<T: ArrowPrimitiveType>(&self, name: &str) -> Result<&'a PrimitiveArray<T>> {
        self.named(name)?.as_primitive_opt::<T>().ok_or_else(|| wrong_type(name))
    }

    fn text(&self, name: &str) -> Result<&'a StringArray> {
        self.named(name)?.as_string_opt::<i32>().ok_or_else(|| wrong_type(name))
    }
}

/// The statistics of one site.
struct SiteColumns<'a> {
    count: &'a UInt64Array,
    non_finite: &'a UInt64Array,
    mean_norm: &'a Float64Array,
    sum_squares: &'a Float64Array,
    max_norm: &'a Float64Array,
}

impl SiteColumns<'_> {
    fn at(&self, i: usize) -> SiteStatistics {
        SiteStatistics {
            count: self.count.value(i),
            non_finite: self.non_finite.value(i),
            mean: Vec::new(),
            mean_norm: self.mean_norm.value(i),
            sum_squares: self.sum_squares.value(i),
            max_norm: self.max_norm.value(i),
        }
    }
}

fn site_columns<'a>(columns: &Columns<'a>) -> Result<BTreeMap<String, SiteColumns<'a>>> {
    let suffix = format!("/{}", STATISTICS[0]);
    let schema = columns.0.schema();
    let names = schema.fields().iter().filter_map(|field| field.name().strip_suffix(&suffix));
    names
        .map(|site| {
            let [count, non_finite, mean_norm, sum_squares, max_norm] = STATISTICS.map(|name| format!("{site}/{name}"));
            let of_site = SiteColumns {
                count: columns.of::<UInt64Type>(&count)?,
                non_finite: columns.of::<UInt64Type>(&non_finite)?,
                mean_norm: columns.of::<Float64Type>(&mean_norm)?,
                sum_squares: columns.of::<Float64Type>(&sum_squares)?,
                max_norm: columns.of::<Float64Type>(&max_norm)?,
            };
            Ok((site.to_owned(), of_site))
        })
        .collect()
}

fn wrong_type(name: &str) -> Error {
    Error::data(format!("column `{name}` of a segment is of another type"))
}

fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with_source(ErrorKind::Data, "a damaged segment", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::commit::tests::commit;
    use crate::dataset::header::tests::header;

    fn entries(n: u32) -> Vec<Entry> {
        let site = header().sites[0].name.clone();
        let entry = |part: u32| {
            let mut commit = commit(3, part, [part * 2, part * 2 + 2], part + 1 == n);
            let statistics = SiteStatistics {
                count: 9,
                non_finite: 1,
                mean_norm: 1.5,
                sum_squares: f64::from(part),
                max_norm: 2.0,
                mean: Vec::new(),
            };
            commit.sites.insert(site.clone(), statistics);
            Entry { commit, committed_at: 1_700_000_000 + u64::from(part), retired_at: (part == 1).then_some(5) }
        };
        (0..n).map(entry).collect()
    }

    #[test]
    fn reads_back_what_it_writes() {
        for n in [0, 1, 3, 20_000] {
            let entries = entries(n);
            let bytes = Bytes::from(encode(&header().sites, &entries).unwrap());
            assert!(decode(bytes.clone(), u64::from(n)).unwrap() == entries, "{n}");
            let marks: Vec<PartMark> = entries.iter().map(|e| PartMark::from(&e.commit)).collect();
            assert!(decode_marks(bytes.clone(), u64::from(n)).unwrap() == marks);
            assert!(decode(bytes.clone(), u64::from(n) + 1).unwrap_err().to_string().contains("rows instead of"));
            assert_eq!(bytes, encode(&header().sites, &entries).unwrap(), "the same bytes every time");
        }
    }

    #[test]
    fn what_cannot_be_covered_is_refused() {
        let mut without = entries(2);
        without[1].commit.sites.clear();
        assert!(encode(&header().sites, &without).unwrap_err().to_string().contains("has no statistics"));
        let mut odd = entries(1);
        odd[0].commit.checksum.algorithm = "md5".into();
        assert!(encode(&header().sites, &odd).is_err());
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = encode(&header().sites, &entries(50)).unwrap();
        for cut in [0, 3, bytes.len() / 2, bytes.len() - 1] {
            assert_eq!(decode(Bytes::copy_from_slice(&bytes[..cut]), 50).unwrap_err().kind(), ErrorKind::Data);
        }
        let mut shard = bytes.clone();
        let at = bytes.windows(4).position(|w| w == b"unit").unwrap();
        shard[at] = b'x';
        assert!(decode(shard.into(), 50).is_err());
    }
}
