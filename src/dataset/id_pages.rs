//! Id columns as Parquet pages.
//!
//! Document, unit and sequence stay the same for many rows: each of their values stands once in a dictionary, and a page is
//! a few runs. Positions and tokens are plain numbers. The generic writer hashes every value of every column, which costs
//! as much as a row of activations does.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;

use bytemuck::NoUninit;
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::{ColumnDescPtr, SchemaDescPtr};

use crate::dataset::config::CompressionConfig;
use crate::dataset::page_buffers::PageSink;
use crate::dataset::site_pages::write_run;

/// Rows of a page of plain numbers, at most.
const PAGE_ROWS: usize = 1 << 18;

/// The id columns of the row group that is being filled.
#[derive(Default)]
pub(super) struct IdColumns {
    doc_id: Vec<u64>,
    unit: Vec<u32>,
    seq: Vec<u32>,
    pos: Vec<u32>,
    token_id: Vec<u32>,
}

/// What rows are, as slices over all rows of their owner.
pub(super) struct Ids<'a> {
    pub(super) doc_id: &'a [u64],
    pub(super) units: Units<'a>,
    pub(super) seq: &'a [u32],
    pub(super) pos: &'a [u32],
    pub(super) token_id: &'a [u32],
}

/// The units of rows.
pub(super) enum Units<'a> {
    One(u32),
    Each(&'a [u32]),
}

/// The pages of a column chunk and what is said of it.
struct Chunk {
    pages: Vec<CompressedPage>,
    rows: usize,
    compression: Compression,
    statistics: Statistics,
}

impl IdColumns {
    /// Rows so far.
    pub(super) fn len(&self) -> usize {
        self.seq.len()
    }

    /// Append these rows of `ids`.
    pub(super) fn push(&mut self, ids: &Ids<'_>, rows: Range<usize>) {
        self.doc_id.extend_from_slice(&ids.doc_id[rows.clone()]);
        match ids.units {
            Units::One(unit) => self.unit.resize(self.unit.len() + rows.len(), unit),
            Units::Each(units) => self.unit.extend_from_slice(&units[rows.clone()]),
        }
        self.seq.extend_from_slice(&ids.seq[rows.clone()]);
        self.pos.extend_from_slice(&ids.pos[rows.clone()]);
        self.token_id.extend_from_slice(&ids.token_id[rows]);
    }

    /// Write the column chunks of all rows, and start over.
    pub(super) fn write(
        &mut self,
        schema: &SchemaDescPtr,
        compression: CompressionConfig,
        sink: &mut TrackedWrite<PageSink>,
    ) -> Result<Vec<ColumnChunkMetaData>, ParquetError> {
        let chunks = [
            runs(&self.doc_id, u64s(&self.doc_id)),
            runs(&self.unit, u32s(&self.unit)),
            runs(&self.seq, u32s(&self.seq)),
            plain(&self.pos, compression)?,
            plain(&self.token_id, compression)?,
        ];
        self.doc_id.clear();
        [&mut self.unit, &mut self.seq, &mut self.pos, &mut self.token_id].into_iter().for_each(Vec::clear);
        chunks.into_iter().enumerate().map(|(i, chunk)| chunk.write(schema.column(i), sink)).collect()
    }
}

impl Chunk {
    fn write(
        self,
        column: ColumnDescPtr,
        sink: &mut TrackedWrite<PageSink>,
    ) -> Result<ColumnChunkMetaData, ParquetError> {
        let (mut dictionary, mut data) = (None, None);
        let (mut full_bytes, mut stored_bytes) = (0, 0);
        for page in self.pages {
            let place =
                if matches!(page.compressed_page(), Page::DictionaryPage { .. }) { &mut dictionary } else { &mut data };
            place.get_or_insert(sink.bytes_written() as i64);
            let spec = SerializedPageWriter::new(sink).write_page(page)?;
            full_bytes += spec.uncompressed_size;
            stored_bytes += spec.compressed_size;
        }
        let encodings = match dictionary {
            Some(_) => vec![Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY],
            None => vec![Encoding::PLAIN, Encoding::RLE],
        };
        ColumnChunkMetaData::builder(column)
            .set_encodings(encodings)
            .set_compression(self.compression)
            .set_num_values(self.rows as i64)
            .set_total_uncompressed_size(full_bytes as i64)
            .set_total_compressed_size(stored_bytes as i64)
            .set_dictionary_page_offset(dictionary)
            .set_data_page_offset(data.unwrap_or_default())
            .set_statistics(self.statistics)
            .build()
    }
}

/// A data page of `rows` rows without levels.
fn data_page(buf: Bytes, rows: usize, encoding: Encoding, full_bytes: usize, is_compressed: bool) -> CompressedPage {
    let page = Page::DataPageV2 {
        buf,
        num_values: rows as u32,
        encoding,
        num_nulls: 0,
        num_rows: rows as u32,
        def_levels_byte_len: 0,
        rep_levels_byte_len: 0,
        is_compressed,
        statistics: None,
    };
    CompressedPage::new(page, full_bytes)
}

/// A column that repeats itself: a dictionary of its values in the order of their first rows, and runs of their indices.
/// Never compressed: there is nothing left to shrink.
fn runs<T: NoUninit + Eq + Hash>(values: &[T], statistics: Statistics) -> Chunk {
    let (mut dictionary, mut index) = (Vec::new(), HashMap::new());
    let mut of_runs = Vec::new();
    for run in values.chunk_by(|a, b| a == b) {
        let i = *index.entry(run[0]).or_insert_with(|| {
            dictionary.push(run[0]);
            dictionary.len() - 1
        });
        of_runs.push((run.len(), i));
    }
    let bits = usize::BITS - dictionary.len().saturating_sub(1).leading_zeros();
    let mut body = vec![bits as u8];
    for (n, i) in of_runs {
        write_run(n, &(i as u64).to_le_bytes()[..bits.div_ceil(8) as usize], &mut body);
    }
    let entries = Bytes::copy_from_slice(bytemuck::cast_slice(&dictionary));
    let (entry_bytes, body_bytes) = (entries.len(), body.len());
    let num_values = dictionary.len() as u32;
    let first = Page::DictionaryPage { buf: entries, num_values, encoding: Encoding::PLAIN, is_sorted: false };
    Chunk {
        pages: vec![
            CompressedPage::new(first, entry_bytes),
            data_page(body.into(), values.len(), Encoding::RLE_DICTIONARY, body_bytes, false),
        ],
        rows: values.len(),
        compression: Compression::UNCOMPRESSED,
        statistics,
    }
}

/// A column of numbers as they are.
fn plain(values: &[u32], compression: CompressionConfig) -> Result<Chunk, ParquetError> {
    let page = |values: &[u32]| -> Result<CompressedPage, ParquetError> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let (buf, compressed) = match compression {
            CompressionConfig::None => (bytes.to_vec(), false),
            CompressionConfig::Zstd => (zstd::bulk::compress(bytes, 1)?, true),
        };
        Ok(data_page(buf.into(), values.len(), Encoding::PLAIN, bytes.len(), compressed))
    };
    Ok(Chunk {
        pages: values.chunks(PAGE_ROWS).map(page).collect::<Result<_, _>>()?,
        rows: values.len(),
        compression: match compression {
            CompressionConfig::None => Compression::UNCOMPRESSED,
            CompressionConfig::Zstd => Compression::ZSTD(ZstdLevel::try_new(1)?),
        },
        statistics: u32s(values),
    })
}

/// The range of unsigned values, as Parquet's signed integers of the same bits.
fn u32s(values: &[u32]) -> Statistics {
    let bits = |x: Option<&u32>| x.map(|x| x.cast_signed());
    Statistics::int32(bits(values.iter().min()), bits(values.iter().max()), None, Some(0), false)
}

fn u64s(values: &[u64]) -> Statistics {
    let bits = |x: Option<&u64>| x.map(|x| x.cast_signed());
    Statistics::int64(bits(values.iter().min()), bits(values.iter().max()), None, Some(0), false)
}
