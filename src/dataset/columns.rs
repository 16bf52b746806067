//! Some columns of a row group: which bytes they are, and the short way from their pages to numbers.
//!
//! The pages of a site hold fixed-width numbers one after the other behind a few bytes of levels (see `site_pages`), so they
//! are widened in place of being taken apart by the generic reader. Pages that are laid out in any other way (by another
//! writer, which the format allows) go through it.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{UInt32Type, UInt64Type};
use bytes::{Buf, Bytes};
use half::f16;
use half::slice::HalfFloatSliceExt;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::Encoding;
use parquet::column::page::{Page, PageReader};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use crate::dataset::config::StoredDtype;
use crate::dataset::decoder::{ShardFooter, ShardRows, damaged, site_values, widen};
use crate::dataset::header::SiteHeader;
use crate::dataset::schema::{ID_COLUMNS, value_bytes};
use crate::error::{Error, Result};

/// Chunks of columns that lie closer than this are fetched by one request.
const GAP: u64 = 256 << 10;
/// Values that are reserved before any page was read: a footer may claim anything.
const RESERVED_VALUES: usize = 64 << 20;

/// Bytes of a shard, each piece with its offset in the file.
#[derive(Clone, Debug)]
pub struct Pieces {
    file_bytes: u64,
    pieces: Vec<(u64, Bytes)>,
}

impl ShardFooter {
    /// Rows of row group `group`.
    pub fn group_rows(&self, group: usize) -> u64 {
        self.metadata.metadata().row_group(group).num_rows().max(0).cast_unsigned()
    }

    /// Where the id columns and the columns of `sites` (indices into [`ShardFooter::sites`]) of row group `group` lie in the
    /// file, in order; what lies close together is one range.
    pub fn column_ranges(&self, group: usize, sites: &[usize]) -> Result<Vec<Range<u64>>> {
        let impossible = || Error::data("the footer names impossible offsets");
        let leaves = (0..ID_COLUMNS.len()).chain(sites.iter().map(|site| ID_COLUMNS.len() + site));
        let mut ranges = Vec::new();
        for leaf in leaves {
            let column = self.metadata.metadata().row_group(group).columns().get(leaf).ok_or_else(impossible)?;
            let pages = column.data_page_offset();
            let start = column.dictionary_page_offset().map_or(pages, |dictionary| dictionary.min(pages));
            let end = start.checked_add(column.compressed_size()).ok_or_else(impossible)?;
            let start = u64::try_from(start).map_err(|_| impossible())?;
            let end = u64::try_from(end).map_err(|_| impossible())?;
            if start > end || end > self.file_bytes {
                return Err(impossible());
            }
            ranges.push(start..end);
        }
        ranges.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.start <= last.end.saturating_add(GAP) => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Ok(merged)
    }

    /// The rows of row group `group` with the columns of `sites` alone, in that order. `fetched` are the bytes of
    /// [`ShardFooter::column_ranges`], range by range.
    pub fn decode_columns(&self, group: usize, sites: &[usize], fetched: Vec<(u64, Bytes)>) -> Result<ShardRows> {
        let pieces = Arc::new(Pieces { file_bytes: self.file_bytes, pieces: fetched });
        let mut rows = self.ids(group, &pieces)?;
        for &site in sites {
            let header = &self.sites[site];
            let values = match self.plain_values(group, site, &pieces)? {
                Some(values) => values,
                None => self.generic_values(group, site, &pieces)?,
            };
            if values.len() != rows.seq.len() * header.width {
                return Err(Error::data(format!(
                    "column `{}` has {} values in row group {group} instead of {} rows of {}",
                    header.name,
                    values.len(),
                    rows.seq.len(),
                    header.width
                )));
            }
            rows.sites.push(values);
        }
        Ok(rows)
    }

    fn ids(&self, group: usize, pieces: &Arc<Pieces>) -> Result<ShardRows> {
        let mut rows = ShardRows::default();
        for batch in self.generic(group, 0..ID_COLUMNS.len(), pieces)? {
            let batch = batch.map_err(|e| Error::data(format!("cannot decode a row group: {e}")))?;
            rows.doc_id.extend_from_slice(batch.column(0).as_primitive::<UInt64Type>().values());
            let ids = [&mut rows.unit, &mut rows.seq, &mut rows.pos, &mut rows.token_id];
            for (i, out) in ids.into_iter().enumerate() {
                out.extend_from_slice(batch.column(1 + i).as_primitive::<UInt32Type>().values());
            }
        }
        if rows.seq.len() as u64 != self.group_rows(group) {
            return Err(Error::data(format!("row group {group} has {} rows, not as many as it says", rows.seq.len())));
        }
        Ok(rows)
    }

    /// The values of a site, page by page; `None` if a page is not laid out as this program writes them.
    fn plain_values(&self, group: usize, site: usize, pieces: &Arc<Pieces>) -> Result<Option<Vec<f32>>> {
        let header = &self.sites[site];
        let column = self.metadata.metadata().row_group(group).column(ID_COLUMNS.len() + site);
        let rows = self.group_rows(group) as usize;
        let mut reader = SerializedPageReader::new(Arc::clone(pieces), column, rows, None).map_err(damaged)?;
        let mut values = Vec::with_capacity(rows.saturating_mul(header.width).min(RESERVED_VALUES));
        while let Some(page) = reader.get_next_page().map_err(damaged)? {
            let Some((bytes, n)) = plain_page(&page, header) else { return Ok(None) };
            append(bytes, n, header.dtype, &mut values);
        }
        Ok(Some(values))
    }

    fn generic_values(&self, group: usize, site: usize, pieces: &Arc<Pieces>) -> Result<Vec<f32>> {
        let column = ID_COLUMNS.len() + site;
        let mut values = Vec::new();
        for batch in self.generic(group, column..column + 1, pieces)? {
            let batch = batch.map_err(|e| Error::data(format!("cannot decode a row group: {e}")))?;
            site_values(&batch, 0, &self.sites[site], &mut values)?;
        }
        Ok(values)
    }

    /// The library's own reader of some columns.
    fn generic(&self, group: usize, columns: Range<usize>, pieces: &Arc<Pieces>) -> Result<ParquetRecordBatchReader> {
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), columns);
        let rows = usize::try_from(self.group_rows(group)).unwrap_or(usize::MAX);
        ParquetRecordBatchReaderBuilder::new_with_metadata(Pieces::clone(pieces), self.metadata.clone())
            .with_row_groups(vec![group])
            .with_projection(mask)
            .with_batch_size(rows.clamp(1, 1 << 16))
            .build()
            .map_err(damaged)
    }
}

/// The values' bytes of a page and how many there are, if it is of plain numbers without nulls.
fn plain_page<'a>(page: &'a Page, site: &SiteHeader) -> Option<(&'a [u8], usize)> {
    let Page::DataPageV2 {
        buf,
        num_values,
        encoding: Encoding::PLAIN,
        num_nulls: 0,
        num_rows,
        def_levels_byte_len,
        rep_levels_byte_len,
        ..
    } = page
    else {
        return None;
    };
    let n = (*num_rows as usize).checked_mul(site.width)?;
    // a raw column has one value of `width` numbers a row, and no levels
    let levels = def_levels_byte_len.checked_add(*rep_levels_byte_len)? as usize;
    let expected = if levels == 0 { *num_rows as usize } else { n };
    let values = buf.get(levels..)?;
    (*num_values as usize == expected && values.len() == n * value_bytes(site.dtype)).then_some((values, n))
}

/// Widen `n` numbers and append them.
fn append(bytes: &[u8], n: usize, dtype: StoredDtype, out: &mut Vec<f32>) {
    let at = out.len();
    out.resize(at + n, 0.0);
    let out = &mut out[at..];
    match dtype {
        StoredDtype::Float32 => bytemuck::cast_slice_mut::<f32, u8>(out).copy_from_slice(bytes),
        StoredDtype::Float16 => match bytemuck::try_cast_slice::<u8, f16>(bytes) {
            Ok(halves) => halves.convert_to_f32_slice(out),
            Err(_) => {
                // pages may begin anywhere
                let mut aligned = [f16::ZERO; 2048];
                for (bytes, out) in bytes.chunks(2 * aligned.len()).zip(out.chunks_mut(aligned.len())) {
                    let aligned = &mut aligned[..out.len()];
                    bytemuck::cast_slice_mut::<f16, u8>(aligned).copy_from_slice(bytes);
                    aligned.convert_to_f32_slice(out);
                }
            }
        },
        StoredDtype::Bfloat16 => widen(bytes, dtype, out),
    }
}

impl Pieces {
    /// The piece that holds `offset`, from there on.
    fn from(&self, offset: u64) -> parquet::errors::Result<Bytes> {
        let outside = || ParquetError::EOF(format!("offset {offset} is outside what was fetched"));
        let i = self.pieces.partition_point(|(start, _)| *start <= offset).checked_sub(1).ok_or_else(outside)?;
        let (start, bytes) = &self.pieces[i];
        let at = usize::try_from(offset - start).ok().filter(|&at| at <= bytes.len()).ok_or_else(outside)?;
        Ok(bytes.slice(at..))
    }
}

impl Length for Pieces {
    fn len(&self) -> u64 {
        self.file_bytes
    }
}

impl ChunkReader for Pieces {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let bytes = self.from(start)?;
        if length > bytes.len() {
            return Err(ParquetError::EOF(format!("{length} bytes reach beyond what was fetched")));
        }
        Ok(bytes.slice(..length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::config::{CompressionConfig, Layout};
    use crate::dataset::decoder::decode_all;
    use crate::dataset::encoder::ShardEncoder;
    use crate::testing::datasets::{small_spec, units};

    fn shard(dtype: StoredDtype, layout: Layout, compression: CompressionConfig) -> Bytes {
        let spec = small_spec(dtype, layout, compression);
        let mut encoder = ShardEncoder::new(&spec, 0, 0).unwrap();
        for batch in units(&spec, &[&[17, 9, 0, 30]])[0].batches(&[2]) {
            encoder.push(&batch, 0..batch.n_rows()).unwrap();
        }
        let mut bytes: Vec<u8> = encoder.take_ready().concat();
        bytes.extend(encoder.finish().unwrap().0.concat());
        bytes.into()
    }

    fn fetched(footer: &ShardFooter, group: usize, sites: &[usize], bytes: &Bytes) -> Vec<(u64, Bytes)> {
        let ranges = footer.column_ranges(group, sites).unwrap();
        ranges.into_iter().map(|r| (r.start, bytes.slice(r.start as usize..r.end as usize))).collect()
    }

    #[test]
    fn chosen_columns_are_those_of_the_generic_reader() {
        for dtype in [StoredDtype::Float16, StoredDtype::Float32, StoredDtype::Bfloat16] {
            for layout in [Layout::Typed, Layout::Raw] {
                for compression in [CompressionConfig::None, CompressionConfig::Zstd] {
                    let bytes = shard(dtype, layout, compression);
                    let (footer, all) = decode_all(&bytes).unwrap();
                    for sites in [&[0usize, 1] as &[usize], &[1], &[0], &[]] {
                        let mut found = ShardRows::default();
                        found.sites.resize(sites.len(), Vec::new());
                        for group in 0..footer.n_groups() {
                            let rows =
                                footer.decode_columns(group, sites, fetched(&footer, group, sites, &bytes)).unwrap();
                            found.seq.extend(&rows.seq);
                            found.doc_id.extend(&rows.doc_id);
                            found.sites.iter_mut().zip(rows.sites).for_each(|(all, site)| all.extend(site));
                            let pieces = fetched(&footer, group, sites, &bytes);
                            let pieces = Arc::new(Pieces { file_bytes: bytes.len() as u64, pieces });
                            for &site in sites {
                                let plain = footer.plain_values(group, site, &pieces).unwrap().expect("our own pages");
                                assert_eq!(plain, footer.generic_values(group, site, &pieces).unwrap());
                            }
                        }
                        assert_eq!((&found.seq, &found.doc_id), (&all.seq, &all.doc_id));
                        for (found, &site) in found.sites.iter().zip(sites) {
                            assert_eq!(found, &all.sites[site], "{dtype:?} {layout:?} {compression:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn damaged_bytes_are_errors() {
        let bytes = shard(StoredDtype::Float16, Layout::Typed, CompressionConfig::Zstd);
        let (footer, _) = decode_all(&bytes).unwrap();
        let range = footer.group_range(0).unwrap();
        let mut refused = 0;
        for at in (range.start as usize..range.end as usize).step_by(3) {
            let mut broken = bytes.to_vec();
            broken[at] ^= 0x55;
            let broken = Bytes::from(broken);
            // other values are fine (checksums find them); a panic is not
            refused += usize::from(footer.decode_columns(0, &[0, 1], fetched(&footer, 0, &[0, 1], &broken)).is_err());
        }
        assert!(refused > 10, "{refused}");
        let short: Vec<_> =
            fetched(&footer, 0, &[0], &bytes).into_iter().map(|(at, b)| (at, b.slice(..b.len() / 2))).collect();
        assert!(footer.decode_columns(0, &[0], short).is_err());
    }
}
