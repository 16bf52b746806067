//! Rows to the bytes of a shard, one row group at a time.
//!
//! The bytes are a function of the [`ShardSpec`], the part's place and its rows, not of the batches they came in: row
//! groups are cut by count, nothing in the file names a time, a machine or a version.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataWriter, RowGroupMetaData,
};
use parquet::file::writer::TrackedWrite;
use parquet::schema::types::SchemaDescPtr;
use xxhash_rust::xxh3::Xxh3;

use crate::activation::ActivationBatch;
use crate::dataset::commit::Checksum;
use crate::dataset::config::CompressionConfig;
use crate::dataset::decoder::ShardRows;
use crate::dataset::id_pages::{IdColumns, Ids, Units};
use crate::dataset::page_buffers::{PageBuffers, PageSink};
use crate::dataset::schema::{ID_COLUMNS, ShardSpec, SiteColumn, parquet_schema};
use crate::dataset::site_pages::SitePages;
use crate::dataset::stats::SiteStatistics;
use crate::error::{Error, ErrorKind, Result};

/// In every shard, whoever writes it: bytes must not depend on the program's version.
const CREATED_BY: &str = "harvestd dataset format 1";
/// Version of Parquet's file format: data pages of the second kind.
const PARQUET_VERSION: i32 = 2;
const MAGIC: &[u8] = b"PAR1";

/// Whether a sequence of `rows` rows goes into a part that already has `rows_in_part`: parts end at sequence borders, and
/// only a part that would otherwise be empty may exceed `rows_per_shard`.
pub fn fits(rows_in_part: u64, rows: u64, rows_per_shard: u64) -> bool {
    rows_in_part == 0 || rows_in_part + rows <= rows_per_shard
}

/// What a finished shard is.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardSummary {
    /// Rows.
    pub rows: u64,
    /// Size.
    pub bytes: u64,
    /// Checksum of all bytes.
    pub checksum: Checksum,
    /// Statistics of the stored values, by site.
    pub sites: BTreeMap<String, SiteStatistics>,
}

/// Encodes one shard. Holds at most one row group; complete groups wait in [`ShardEncoder::take_ready`].
pub struct ShardEncoder {
    columns: Vec<SiteColumn>,
    rows_per_group: usize,
    schema: SchemaDescPtr,
    metadata: Vec<KeyValue>,
    compression: CompressionConfig,
    sink: TrackedWrite<PageSink>,
    digest: Xxh3,
    ids: IdColumns,
    sites: Vec<SitePages>,
    statistics: Vec<SiteStatistics>,
    groups: Vec<RowGroupMetaData>,
    rows: u64,
}

impl ShardEncoder {
    /// An encoder for part `part` of `unit`.
    pub fn new(spec: &ShardSpec, unit: u32, part: u32) -> Result<Self> {
        Self::with_buffers(spec, unit, part, &PageBuffers::default())
    }

    /// As [`ShardEncoder::new`], with buffers that other encoders used before and will use again: the first touch of fresh
    /// memory costs several times what encoding does.
    pub fn with_buffers(spec: &ShardSpec, unit: u32, part: u32, buffers: &PageBuffers) -> Result<Self> {
        let headers = spec.site_headers(|_| String::new());
        let (schema, mut metadata) = parquet_schema(&headers)?;
        metadata.push(KeyValue::new("harvestd.unit".to_owned(), unit.to_string()));
        metadata.push(KeyValue::new("harvestd.part".to_owned(), part.to_string()));
        let sites = spec.sites.iter().map(|site| {
            if site.width == 0 {
                return Err(Error::internal(format!("site `{}` has no values", site.point)));
            }
            SitePages::new(site.width, spec.dtype, spec.layout, spec.compression, buffers.clone())
                .map_err(compression_error)
        });
        let sites = sites.collect::<Result<Vec<_>>>()?;
        let mut sink = TrackedWrite::new(PageSink::default());
        sink.write_all(MAGIC).expect("writing to memory does not fail");
        Ok(Self {
            columns: spec.sites.clone(),
            rows_per_group: spec.rows_per_group,
            schema: Arc::new(schema),
            metadata,
            compression: spec.compression,
            sink,
            digest: Xxh3::new(),
            ids: IdColumns::default(),
            statistics: vec![SiteStatistics::default(); sites.len()],
            sites,
            groups: Vec::new(),
            rows: 0,
        })
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Append rows of `batch`.
    pub fn push(&mut self, batch: &ActivationBatch, rows: Range<usize>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut values: Vec<&[f32]> = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let site = batch.site(column.point).filter(|site| site.width == column.width);
            let missing = || Error::internal(format!("a batch has no `{}` of width {}", column.point, column.width));
            values.push(&site.ok_or_else(missing)?.data);
        }
        let units = Units::One(batch.unit);
        let ids = Ids { doc_id: &batch.doc_id, units, seq: &batch.seq, pos: &batch.pos, token_id: &batch.token_id };
        self.append(&ids, &values, rows)
    }

    /// Append rows of any units, whose sites are in the order of the columns.
    pub fn push_rows(&mut self, rows: &ShardRows) -> Result<()> {
        let n = rows.seq.len();
        let fits = self.columns.len() == rows.sites.len()
            && self.columns.iter().zip(&rows.sites).all(|(column, values)| values.len() == n * column.width);
        if !fits {
            return Err(Error::internal("rows of other sites than the shard's"));
        }
        let values: Vec<&[f32]> = rows.sites.iter().map(Vec::as_slice).collect();
        let units = Units::Each(&rows.unit);
        let ids = Ids { doc_id: &rows.doc_id, units, seq: &rows.seq, pos: &rows.pos, token_id: &rows.token_id };
        self.append(&ids, &values, 0..n)
    }

    fn append(&mut self, ids: &Ids<'_>, values: &[&[f32]], rows: Range<usize>) -> Result<()> {
        let mut from = rows.start;
        while from < rows.end {
            let to = rows.end.min(from + self.rows_per_group - self.ids.len());
            self.ids.push(ids, from..to);
            for ((site, column), values) in self.sites.iter_mut().zip(&self.columns).zip(values) {
                site.push(&values[from * column.width..to * column.width]).map_err(compression_error)?;
            }
            self.rows += (to - from) as u64;
            from = to;
            if self.ids.len() == self.rows_per_group {
                self.close_group().map_err(encode_error)?;
            }
        }
        Ok(())
    }

    /// The bytes that are final and were not taken yet, in order.
    pub fn take_ready(&mut self) -> Vec<Bytes> {
        self.sink.flush().expect("writing to memory does not fail");
        let ready = self.sink.inner_mut().take();
        ready.iter().for_each(|bytes| self.digest.update(bytes));
        ready
    }

    /// Finish the file: its last bytes, and what it is.
    pub fn finish(mut self) -> Result<(Vec<Bytes>, ShardSummary)> {
        self.close_group().map_err(encode_error)?;
        let file = FileMetaData::new(
            PARQUET_VERSION,
            self.rows as i64,
            Some(CREATED_BY.to_owned()),
            Some(std::mem::take(&mut self.metadata)),
            Arc::clone(&self.schema),
            None,
        );
        let metadata = ParquetMetaData::new(file, std::mem::take(&mut self.groups));
        let mut footer = Vec::new();
        ParquetMetaDataWriter::new(&mut footer, &metadata).finish().map_err(encode_error)?;
        self.sink.write_all(&footer).expect("writing to memory does not fail");
        let last = self.take_ready();
        let names = self.columns.iter().map(|column| column.point.to_string());
        let summary = ShardSummary {
            rows: self.rows,
            bytes: self.sink.bytes_written() as u64,
            checksum: Checksum::xxh3_128(self.digest.digest128()),
            sites: names.zip(self.statistics).collect(),
        };
        Ok((last, summary))
    }

    /// Encode the rows of the current group, if there are any.
    fn close_group(&mut self) -> Result<(), ParquetError> {
        let rows = self.ids.len();
        if rows == 0 {
            return Ok(());
        }
        let start = self.sink.bytes_written() as i64;
        let mut chunks = self.ids.write(&self.schema, self.compression, &mut self.sink)?;
        for (i, site) in self.sites.iter_mut().enumerate() {
            let (chunk, statistics) = site.write(self.schema.column(ID_COLUMNS.len() + i), &mut self.sink)?;
            chunks.push(chunk);
            self.statistics[i].merge(&statistics);
        }
        let group = RowGroupMetaData::builder(Arc::clone(&self.schema))
            .set_num_rows(rows as i64)
            .set_total_byte_size(chunks.iter().map(ColumnChunkMetaData::uncompressed_size).sum())
            .set_ordinal(self.groups.len() as i32)
            .set_file_offset(start)
            .set_column_metadata(chunks)
            .build()?;
        self.groups.push(group);
        Ok(())
    }
}

/// Lowercase hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn encode_error(error: ParquetError) -> Error {
    Error::with_source(ErrorKind::Internal, "cannot encode a shard", error)
}

fn compression_error(error: std::io::Error) -> Error {
    Error::with_source(ErrorKind::Internal, "cannot compress a page", error)
}
