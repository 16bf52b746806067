//! Site columns as Parquet data pages, laid down byte by byte.
//!
//! A site's values are fixed-width numbers without nulls, so a page is a few bytes of levels and then the numbers as they
//! are; the generic writer boxes every half-precision value, 20 times slower. A typed list column has one repetition level
//! and one definition level a value (`0 1 1 1 ...` for each row, and all ones); both are stored as runs, 5 bytes a row.
//! Pages are DataPageV2: whole rows, levels never compressed, no dictionary, no statistics.

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use crate::compute::cpu::stored::{BLOCK_ROWS, Format, store_rows, widen};
use crate::dataset::config::{CompressionConfig, Layout, StoredDtype};
use crate::dataset::page_buffers::{PageBuffers, PageSink};
use crate::dataset::schema::{effective_layout, value_bytes};
use crate::dataset::stats::{RowSums, SiteStatistics};

/// Bytes of a page's values, about: small enough for a core's cache, large enough that headers do not matter.
const PAGE_BYTES: usize = 1 << 20;
/// Activations hardly shrink at any level.
const ZSTD_LEVEL: i32 = 1;

/// The pages of one site in the row group that is being filled, and its statistics.
pub(super) struct SitePages {
    format: Format,
    width: usize,
    rows_per_page: usize,
    /// Whether the column is a list, with levels.
    levels: bool,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    /// Levels of a full page.
    full_levels: Vec<u8>,
    /// The page that is being filled: room for a full one; the levels of a full page, then values.
    open: Vec<u8>,
    open_rows: usize,
    /// Rows of the open page that statistics have.
    summed_rows: usize,
    closed: Vec<SitePage>,
    buffers: PageBuffers,
    sums: RowSums,
    /// Rows of an unfinished block, as stored.
    block: Vec<f32>,
}

/// A finished page.
struct SitePage {
    bytes: Bytes,
    rows: usize,
    rep_bytes: usize,
    def_bytes: usize,
    /// Before compression.
    full_bytes: usize,
}

impl SitePages {
    /// No rows yet.
    pub(super) fn new(
        width: usize,
        dtype: StoredDtype,
        layout: Layout,
        compression: CompressionConfig,
        buffers: PageBuffers,
    ) -> std::io::Result<Self> {
        let levels = effective_layout(dtype, layout) == Layout::Typed;
        let rows_per_page = (PAGE_BYTES / (width * value_bytes(dtype)).max(1)).max(1);
        let zstd = match compression {
            CompressionConfig::None => None,
            CompressionConfig::Zstd => Some(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
        };
        let mut full_levels = Vec::new();
        if levels {
            write_levels(rows_per_page, width, &mut full_levels);
        }
        Ok(Self {
            format: match dtype {
                StoredDtype::Float16 => Format::F16,
                StoredDtype::Float32 => Format::F32,
                StoredDtype::Bfloat16 => Format::Bf16,
            },
            width,
            rows_per_page,
            levels,
            zstd,
            full_levels,
            open: Vec::new(),
            open_rows: 0,
            summed_rows: 0,
            closed: Vec::new(),
            buffers,
            sums: RowSums::new(width),
            block: vec![0.0; BLOCK_ROWS * width],
        })
    }

    /// Append rows: `[n, width]`, row-major. A page is a row of blocks, whatever pieces its rows come in: whole blocks are
    /// rounded and summed in one pass, others are summed from the page when they are whole.
    pub(super) fn push(&mut self, mut rows: &[f32]) -> std::io::Result<()> {
        while !rows.is_empty() {
            if self.open_rows == 0 {
                self.open = self.buffers.take(self.full_levels.len() + self.rows_per_page * self.row_bytes());
                self.open[..self.full_levels.len()].copy_from_slice(&self.full_levels);
            }
            let in_block = self.open_rows - self.summed_rows;
            let to_block_end = (BLOCK_ROWS - in_block).min(self.rows_per_page - self.open_rows);
            let n = to_block_end.min(rows.len() / self.width);
            let (now, rest) = rows.split_at(n * self.width);
            let at = self.full_levels.len() + self.open_rows * self.row_bytes();
            let out = &mut self.open[at..at + n * self.width * self.format.bytes()];
            self.open_rows += n;
            if in_block == 0 && n == to_block_end {
                self.sums.store(now, self.format, out);
                self.summed_rows = self.open_rows;
            } else {
                store_rows(now, self.format, out);
                if n == to_block_end {
                    self.sum_block();
                }
            }
            if self.open_rows == self.rows_per_page {
                self.close_page()?;
            }
            rows = rest;
        }
        Ok(())
    }

    fn row_bytes(&self) -> usize {
        self.width * self.format.bytes()
    }

    /// Sum the rows of the open page that are not summed yet: at most a block.
    fn sum_block(&mut self) {
        let range = self.summed_rows * self.row_bytes()..self.open_rows * self.row_bytes();
        let stored = &self.open[self.full_levels.len()..][range];
        let rows = &mut self.block[..stored.len() / self.format.bytes()];
        widen(stored, self.format, rows);
        self.sums.add(rows);
        self.summed_rows = self.open_rows;
    }

    fn close_page(&mut self) -> std::io::Result<()> {
        if self.summed_rows < self.open_rows {
            self.sum_block();
        }
        self.summed_rows = 0;
        let rows = std::mem::take(&mut self.open_rows);
        let mut bytes = std::mem::take(&mut self.open);
        bytes.truncate(self.full_levels.len() + rows * self.row_bytes());
        let (mut rep_bytes, mut def_bytes) = (0, 0);
        if self.levels {
            let mut levels = Vec::new();
            (rep_bytes, def_bytes) = write_levels(rows, self.width, &mut levels);
            if rows < self.rows_per_page {
                bytes.splice(..self.full_levels.len(), levels);
            }
        }
        let full_bytes = bytes.len();
        if let Some(zstd) = &mut self.zstd {
            let (levels, values) = bytes.split_at(rep_bytes + def_bytes);
            let mut smaller = self.buffers.take(levels.len() + zstd::zstd_safe::compress_bound(values.len()));
            smaller[..levels.len()].copy_from_slice(levels);
            let n = zstd.compress_to_buffer(values, &mut smaller[levels.len()..])?;
            smaller.truncate(rep_bytes + def_bytes + n);
            self.buffers.put(std::mem::replace(&mut bytes, smaller));
        }
        self.closed.push(SitePage { bytes: self.buffers.freeze(bytes), rows, rep_bytes, def_bytes, full_bytes });
        Ok(())
    }

    /// Write the column chunk of all rows pushed since the last call; its metadata and statistics.
    pub(super) fn write(
        &mut self,
        column: ColumnDescPtr,
        sink: &mut TrackedWrite<PageSink>,
    ) -> Result<(ColumnChunkMetaData, SiteStatistics), ParquetError> {
        if self.open_rows > 0 {
            self.close_page()?;
        }
        let compression = match self.zstd {
            None => Compression::UNCOMPRESSED,
            Some(_) => Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?),
        };
        let start = sink.bytes_written() as i64;
        let values_per_row = if self.levels { self.width } else { 1 };
        let (mut n_values, mut full_bytes, mut stored_bytes) = (0, 0, 0);
        for page in self.closed.drain(..) {
            sink.inner_mut().announce(page.bytes.clone());
            let spec = SerializedPageWriter::new(sink).write_page(CompressedPage::new(
                Page::DataPageV2 {
                    num_values: (page.rows * values_per_row) as u32,
                    encoding: Encoding::PLAIN,
                    num_nulls: 0,
                    num_rows: page.rows as u32,
                    def_levels_byte_len: page.def_bytes as u32,
                    rep_levels_byte_len: page.rep_bytes as u32,
                    is_compressed: self.zstd.is_some(),
                    statistics: None,
                    buf: page.bytes,
                },
                page.full_bytes,
            ))?;
            n_values += page.rows * values_per_row;
            full_bytes += spec.uncompressed_size;
            stored_bytes += spec.compressed_size;
        }
        let chunk = ColumnChunkMetaData::builder(column)
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
            .set_compression(compression)
            .set_num_values(n_values as i64)
            .set_total_uncompressed_size(full_bytes as i64)
            .set_total_compressed_size(stored_bytes as i64)
            .set_data_page_offset(start)
            .build()?;
        Ok((chunk, self.sums.take()))
    }
}

/// Append the repetition and definition levels of `rows` lists of `width` values; gives the bytes of each.
fn write_levels(rows: usize, width: usize, out: &mut Vec<u8>) -> (usize, usize) {
    let start = out.len();
    for _ in 0..rows {
        write_run(1, &[0], out); // a new list
        write_run(width - 1, &[1], out); // the rest of it
    }
    let rep_bytes = out.len() - start;
    write_run(rows * width, &[1], out); // every value is there
    (rep_bytes, out.len() - start - rep_bytes)
}

/// `n` times the same level or index, whose bytes are `value`, as a run of Parquet's hybrid encoding.
pub(super) fn write_run(n: usize, value: &[u8], out: &mut Vec<u8>) {
    if n == 0 {
        return;
    }
    let mut header = (n as u64) << 1;
    while header >= 0x80 {
        out.push(header as u8 | 0x80);
        header >>= 7;
    }
    out.push(header as u8);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_runs() {
        let mut out = Vec::new();
        assert_eq!(write_levels(2, 768, &mut out), (10, 3));
        // run lengths 1, 767, 1, 767 and 1536, shifted left by one, as varints
        assert_eq!(out, [2, 0, 0xfe, 0x0b, 1, 2, 0, 0xfe, 0x0b, 1, 0x80, 0x18, 1]);
        out.clear();
        assert_eq!(write_levels(2, 1, &mut out), (4, 2));
        assert_eq!(out, [2, 0, 2, 0, 4, 1]);
    }
}
