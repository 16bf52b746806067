//! The bytes of a shard back to rows, a row group at a time.
//!
//! The caller fetches bytes: first the footer, from the file's end ([`ShardFooter::parse`]), then any row group's range
//! ([`ShardFooter::group_range`], [`ShardFooter::decode`]). Damaged bytes are errors; compare the checksum before decoding.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Schema, UInt32Type, UInt64Type};
use bytes::{Buf, Bytes};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};

use crate::dataset::config::{Layout, StoredDtype};
use crate::dataset::header::SiteHeader;
use crate::dataset::schema::{DTYPE_KEY, ID_COLUMNS, SHAPE_KEY, dtype_name};
use crate::error::{Error, ErrorKind, Result};

/// Bytes from a shard's end that hold its footer in all but extreme cases.
pub const FOOTER_GUESS: u64 = 64 << 10;

/// A shard's footer: its columns and where its row groups are.
#[derive(Clone, Debug)]
pub struct ShardFooter {
    pub(super) metadata: ArrowReaderMetadata,
    pub(super) sites: Vec<SiteHeader>,
    pub(super) file_bytes: u64,
}

/// The answer to a footer that was looked for in a file's last bytes.
#[derive(Debug)]
pub enum Footer {
    /// It was there.
    Found(ShardFooter),
    /// This many last bytes are needed.
    Needs(u64),
}

/// Rows of a shard. Values are as stored, widened to f32.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardRows {
    /// `[n]` hash of the document.
    pub doc_id: Vec<u64>,
    /// `[n]` work unit.
    pub unit: Vec<u32>,
    /// `[n]` sequence in the unit.
    pub seq: Vec<u32>,
    /// `[n]` position in the sequence.
    pub pos: Vec<u32>,
    /// `[n]` token.
    pub token_id: Vec<u32>,
    /// Per site, in the order of the columns: `[n, width]`, row-major.
    pub sites: Vec<Vec<f32>>,
}

impl ShardFooter {
    /// Look for the footer in `tail`, the last bytes of a file of `file_bytes`.
    pub fn parse(tail: &Bytes, file_bytes: u64) -> Result<Footer> {
        let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Skip);
        match reader.try_parse_sized(tail, file_bytes) {
            Ok(()) => {}
            Err(ParquetError::NeedMoreData(needed)) if needed as u64 <= file_bytes => {
                return Ok(Footer::Needs(needed as u64));
            }
            Err(error) => return Err(damaged(error)),
        }
        let metadata = reader.finish().map_err(damaged)?;
        let metadata = ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new()).map_err(damaged)?;
        let sites = stored_sites(metadata.schema())?;
        Ok(Footer::Found(Self { metadata, sites, file_bytes }))
    }

    /// The sites, in the order of their columns (definitions are in the dataset's header).
    pub fn sites(&self) -> &[SiteHeader] {
        &self.sites
    }

    /// Rows of the whole shard.
    pub fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().max(0).cast_unsigned()
    }

    /// Row groups.
    pub fn n_groups(&self) -> usize {
        self.metadata.metadata().num_row_groups()
    }

    /// Where row group `group` lies in the file.
    pub fn group_range(&self, group: usize) -> Result<Range<u64>> {
        let impossible = || Error::data("the footer names impossible offsets");
        let (mut from, mut to) = (u64::MAX, 0);
        for column in self.metadata.metadata().row_group(group).columns() {
            let pages = column.data_page_offset();
            let start = column.dictionary_page_offset().map_or(pages, |dictionary| dictionary.min(pages));
            let end = start.checked_add(column.compressed_size()).ok_or_else(impossible)?;
            from = from.min(u64::try_from(start).map_err(|_| impossible())?);
            to = to.max(u64::try_from(end).map_err(|_| impossible())?);
        }
        if from > to || to > self.file_bytes {
            return Err(impossible());
        }
        Ok(from..to)
    }

    /// The rows of row group `group`; `bytes` are those of [`ShardFooter::group_range`].
    pub fn decode(&self, group: usize, bytes: Bytes) -> Result<ShardRows> {
        let at = self.group_range(group)?;
        if bytes.len() as u64 != at.end - at.start {
            return Err(Error::internal("the bytes given are not the row group's"));
        }
        let n = self.metadata.metadata().row_group(group).num_rows().max(1) as usize;
        let window = Window { start: at.start, bytes };
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(window, self.metadata.clone())
            .with_row_groups(vec![group])
            .with_batch_size(n)
            .build()
            .map_err(damaged)?;
        self.collect(reader)
    }

    fn collect(&self, reader: ParquetRecordBatchReader) -> Result<ShardRows> {
        let mut rows = ShardRows { sites: vec![Vec::new(); self.sites.len()], ..ShardRows::default() };
        for batch in reader {
            let batch = batch.map_err(|e| Error::with_source(ErrorKind::Data, "cannot decode a row group", e))?;
            rows.doc_id.extend_from_slice(batch.column(0).as_primitive::<UInt64Type>().values());
            let ids = [&mut rows.unit, &mut rows.seq, &mut rows.pos, &mut rows.token_id];
            for (i, out) in ids.into_iter().enumerate() {
                out.extend_from_slice(batch.column(1 + i).as_primitive::<UInt32Type>().values());
            }
            for (i, (site, out)) in self.sites.iter().zip(&mut rows.sites).enumerate() {
                site_values(&batch, ID_COLUMNS.len() + i, site, out)?;
            }
        }
        Ok(rows)
    }
}

/// All rows of a shard that is in memory.
pub fn decode_all(bytes: &Bytes) -> Result<(ShardFooter, ShardRows)> {
    let Footer::Found(footer) = ShardFooter::parse(bytes, bytes.len() as u64)? else {
        return Err(Error::data("the shard ends too early"));
    };
    let mut all = ShardRows { sites: vec![Vec::new(); footer.sites.len()], ..ShardRows::default() };
    for group in 0..footer.n_groups() {
        let range = footer.group_range(group)?;
        let rows = footer.decode(group, bytes.slice(range.start as usize..range.end as usize))?;
        all.doc_id.extend(rows.doc_id);
        all.unit.extend(rows.unit);
        all.seq.extend(rows.seq);
        all.pos.extend(rows.pos);
        all.token_id.extend(rows.token_id);
        for (all, rows) in all.sites.iter_mut().zip(rows.sites) {
            all.extend(rows);
        }
    }
    Ok((footer, all))
}

/// The sites that a shard's schema declares; an error if it is not a shard of this format.
fn stored_sites(schema: &Schema) -> Result<Vec<SiteHeader>> {
    let ids = [DataType::UInt64, DataType::UInt32, DataType::UInt32, DataType::UInt32, DataType::UInt32];
    let fields = schema.fields();
    let named = ID_COLUMNS.iter().zip(&ids).enumerate();
    for (i, (name, data_type)) in named {
        if fields.get(i).is_none_or(|f| f.name() != name || f.data_type() != data_type || f.is_nullable()) {
            return Err(Error::data(format!("column {i} is not `{name}` ({data_type})")));
        }
    }
    fields[ID_COLUMNS.len()..].iter().map(|field| site_of(field)).collect()
}

fn site_of(field: &arrow::datatypes::Field) -> Result<SiteHeader> {
    let wrong = || Error::data(format!("column `{}` is not a site's: its type is {}", field.name(), field.data_type()));
    let dtype = match field.metadata().get(DTYPE_KEY).map(String::as_str) {
        Some("float16") => StoredDtype::Float16,
        Some("float32") => StoredDtype::Float32,
        Some("bfloat16") => StoredDtype::Bfloat16,
        _ => return Err(wrong()),
    };
    let shape = field.metadata().get(SHAPE_KEY).ok_or_else(wrong)?;
    let width: [usize; 1] = serde_json::from_str(shape).map_err(|_| wrong())?;
    let (layout, stored) = match field.data_type() {
        DataType::FixedSizeBinary(bytes) => (Layout::Raw, *bytes as usize / super::schema::value_bytes(dtype)),
        DataType::FixedSizeList(value, width) => match (value.data_type(), dtype) {
            (DataType::Float16, StoredDtype::Float16) | (DataType::Float32, StoredDtype::Float32) => {
                (Layout::Typed, *width as usize)
            }
            _ => return Err(wrong()),
        },
        _ => return Err(wrong()),
    };
    if stored != width[0] || stored == 0 {
        return Err(wrong());
    }
    Ok(SiteHeader { name: field.name().clone(), definition: String::new(), width: stored, dtype, layout })
}

/// Append the values of column `i`, widened to f32.
pub(super) fn site_values(batch: &RecordBatch, i: usize, site: &SiteHeader, out: &mut Vec<f32>) -> Result<()> {
    let wrong = || Error::data(format!("column `{}` does not hold {} values", site.name, dtype_name(site.dtype)));
    let column = batch.column(i);
    let n = column.len() * site.width;
    out.reserve(n);
    match column.data_type() {
        DataType::FixedSizeBinary(_) => {
            let at = out.len();
            out.resize(at + n, 0.0);
            let binary = column.as_fixed_size_binary();
            for (row, out) in binary.iter().zip(out[at..].chunks_exact_mut(site.width)) {
                widen(row.ok_or_else(wrong)?, site.dtype, out);
            }
        }
        DataType::FixedSizeList(..) => {
            let list = column.as_fixed_size_list();
            let values = list.values().slice(list.offset() * site.width, n);
            match site.dtype {
                StoredDtype::Float16 => {
                    let mut wide = [0.0; 4096];
                    for some in values.as_primitive_opt::<Float16Type>().ok_or_else(wrong)?.values().chunks(wide.len())
                    {
                        let wide = &mut wide[..some.len()];
                        some.convert_to_f32_slice(wide);
                        out.extend_from_slice(wide);
                    }
                }
                _ => out.extend_from_slice(values.as_primitive_opt::<Float32Type>().ok_or_else(wrong)?.values()),
            }
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

/// The numbers in `bytes` (little-endian, any alignment) as f32.
pub(super) fn widen(bytes: &[u8], dtype: StoredDtype, out: &mut [f32]) {
    match dtype {
        StoredDtype::Float32 => {
            for (out, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *out = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        StoredDtype::Float16 => {
            for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = f16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        StoredDtype::Bfloat16 => {
            for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = bf16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
    }
}

pub(super) fn damaged(error: ParquetError) -> Error {
    Error::with_source(ErrorKind::Data, "not a readable shard", error)
}

/// A part of a file, addressed by offsets in the whole.
struct Window {
    start: u64,
    bytes: Bytes,
}

impl Window {
    fn index(&self, offset: u64) -> parquet::errors::Result<usize> {
        offset
            .checked_sub(self.start)
            .and_then(|i| usize::try_from(i).ok())
            .filter(|&i| i <= self.bytes.len())
            .ok_or_else(|| ParquetError::EOF(format!("offset {offset} is outside the row group")))
    }
}

impl Length for Window {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkReader for Window {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(self.bytes.slice(self.index(start)?..).reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let start = self.index(start)?;
        match start.checked_add(length).filter(|&end| end <= self.bytes.len()) {
            Some(end) => Ok(self.bytes.slice(start..end)),
            None => Err(ParquetError::EOF(format!("{length} bytes reach beyond the row group"))),
        }
    }
}
