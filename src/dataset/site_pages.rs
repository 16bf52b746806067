//! Site columns as Parquet data pages, laid down byte by byte.
//!
//! A site's values are fixed-width numbers without nulls, so a page is a few bytes of levels and then the numbers as they
//! are; the generic writer boxes every half-precision value, 20 times slower. A typed list column has one repetition level
//! and one definition level a value (`0 1 1 1 ...` for each row, and all ones); both are stored as runs, 5 bytes a row.
//! Pages are DataPageV2: whole rows, levels never compressed, no dictionary, no statistics.

use bytes::Bytes;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

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
    dtype: StoredDtype,
    width: usize,
    rows_per_page: usize,
    /// Whether the column is a list, with levels.
    levels: bool,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    /// Levels of a full page.
    full_levels: Vec<u8>,
    /// The page that is being filled: the levels of a full page, then values.
    open: Vec<u8>,
    open_rows: usize,
    closed: Vec<SitePage>,
    buffers: PageBuffers,
    rounded: RoundedRow,
    sums: RowSums,
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
            dtype,
            width,
            rows_per_page,
            levels,
            zstd,
            full_levels,
            open: Vec::new(),
            open_rows: 0,
            closed: Vec::new(),
            buffers,
            rounded: RoundedRow::new(width),
            sums: RowSums::new(width),
        })
    }

    /// Append rows: `[n, width]`, row-major.
    pub(super) fn push(&mut self, rows: &[f32]) -> std::io::Result<()> {
        for row in rows.chunks_exact(self.width) {
            if self.open_rows == 0 {
                let row_bytes = self.width * value_bytes(self.dtype);
                self.open = self.buffers.take(self.full_levels.len() + self.rows_per_page * row_bytes);
                self.open.extend_from_slice(&self.full_levels);
            }
            self.sums.add(self.rounded.store(row, self.dtype, &mut self.open));
            self.open_rows += 1;
            if self.open_rows == self.rows_per_page {
                self.close_page()?;
            }
        }
        Ok(())
    }

    fn close_page(&mut self) -> std::io::Result<()> {
        let rows = std::mem::take(&mut self.open_rows);
        let mut bytes = std::mem::take(&mut self.open);
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
            let mut smaller = self.buffers.take(full_bytes);
            smaller.extend_from_slice(levels);
            smaller.extend_from_slice(&zstd.compress(values)?);
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

/// Rounds one row at a time to its stored format, so that all copies stay in the first-level cache.
struct RoundedRow {
    half: Vec<f16>,
    brain: Vec<bf16>,
    /// The stored values, back in f32.
    back: Vec<f32>,
}

impl RoundedRow {
    fn new(width: usize) -> Self {
        Self { half: vec![f16::ZERO; width], brain: vec![bf16::ZERO; width], back: vec![0.0; width] }
    }

    /// Append `row` to `out` as `dtype`, rounded to nearest, ties to even. Gives the values as a reader will see them.
    fn store<'a>(&'a mut self, row: &'a [f32], dtype: StoredDtype, out: &mut Vec<u8>) -> &'a [f32] {
        match dtype {
            StoredDtype::Float32 => {
                out.extend_from_slice(bytemuck::cast_slice(row));
                row
            }
            StoredDtype::Float16 => {
                self.half.convert_from_f32_slice(row);
                out.extend_from_slice(bytemuck::cast_slice(&self.half));
                self.half.convert_to_f32_slice(&mut self.back);
                &self.back
            }
            StoredDtype::Bfloat16 => {
                for (stored, &x) in self.brain.iter_mut().zip(row) {
                    *stored = round_bf16(x);
                }
                out.extend_from_slice(bytemuck::cast_slice(&self.brain));
                for (back, stored) in self.back.iter_mut().zip(&self.brain) {
                    *back = f32::from_bits(u32::from(stored.to_bits()) << 16);
                }
                &self.back
            }
        }
    }
}

/// Nearest bfloat16, ties to even; NaN stays NaN. Without branches, so that the loop above is vectorised.
fn round_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    let quiet_nan = (bits >> 16) as u16 | 0x0040;
    bf16::from_bits(if x.is_nan() { quiet_nan } else { rounded })
}

/// Append the repetition and definition levels of `rows` lists of `width` values; gives the bytes of each.
fn write_levels(rows: usize, width: usize, out: &mut Vec<u8>) -> (usize, usize) {
    let start = out.len();
    for _ in 0..rows {
        write_run(1, 0, out); // a new list
        write_run(width - 1, 1, out); // the rest of it
    }
    let rep_bytes = out.len() - start;
    write_run(rows * width, 1, out); // every value is there
    (rep_bytes, out.len() - start - rep_bytes)
}

/// `n` times the level `value` (0 or 1), as a run of Parquet's hybrid encoding at 1 bit a level.
fn write_run(n: usize, value: u8, out: &mut Vec<u8>) {
    if n == 0 {
        return;
    }
    let mut header = (n as u64) << 1;
    while header >= 0x80 {
        out.push(header as u8 | 0x80);
        header >>= 7;
    }
    out.extend([header as u8, value]);
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

    #[test]
    fn bf16_rounding_equals_the_definition() {
        let specials = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::NAN];
        let mut bits = 1u32;
        let many = (0..200_000).map(|_| {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from_bits(bits)
        });
        // halfway between two bfloat16: to the even one
        let ties = [f32::from_bits(0x3f80_8000), f32::from_bits(0x3f81_8000), f32::from_bits(0x7f7f_8000)];
        for x in specials.into_iter().chain(ties).chain(many) {
            let (ours, theirs) = (round_bf16(x), bf16::from_f32(x));
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{x:e}");
        }
    }

    #[test]
    fn what_is_stored_is_what_statistics_see() {
        let row = [1.0 + 1e-4, 65_520.0, -3e-8, 0.1];
        let mut rounded = RoundedRow::new(4);
        let mut out = Vec::new();
        let seen = rounded.store(&row, StoredDtype::Float16, &mut out).to_vec();
        assert_eq!(seen[0], 1.0);
        assert_eq!(seen[1], f32::INFINITY);
        assert_eq!(seen[3], f16::from_f32(0.1).to_f32());
        assert_eq!(out.len(), 8);
    }
}
