//! Rows on their way to storage: rounded to the format in which they are stored, and the sums that statistics are made of,
//! in one pass over blocks of [`BLOCK_ROWS`] rows.
//!
//! Sums are of the values as stored, in f64 and in an order that every implementation keeps: a column's over the rows of a
//! block, one after the other; a row's squares in eight lanes, column `c` in lane `c % 8`. Squares of f32 are exact in f64,
//! so that fused and separate products give the same bits.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

#[cfg(target_arch = "x86_64")]
use crate::compute::cpu::simd::Vectors;
use crate::compute::cpu::simd::vectorized;

/// Rows that are rounded and summed at a time: their sums fit into registers.
pub const BLOCK_ROWS: usize = 8;
/// Partial sums of a row's squares.
const LANES: usize = 8;

/// How values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As they are.
    F32,
    /// IEEE half precision, to nearest, ties to even; an infinity beyond its range.
    F16,
    /// The upper halves of f32, to nearest, ties to even; NaN stays NaN.
    Bf16,
}

impl Format {
    /// Bytes of a value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Sums over one block of rows, and room to work in.
#[derive(Clone, Debug)]
pub struct BlockSums {
    /// `[width]` sum of each column.
    pub columns: Vec<f64>,
    /// `[n]` sum of the squares of each row; not finite where one of its values is not.
    pub squares: [f64; BLOCK_ROWS],
    row: Vec<f32>,
}

impl BlockSums {
    /// For rows of `width` values.
    pub fn new(width: usize) -> Self {
        Self { columns: vec![0.0; width], squares: [0.0; BLOCK_ROWS], row: vec![0.0; width] }
    }

    /// Write `rows` (`[n, width]`, at most [`BLOCK_ROWS`]) to `out` (`n * width` values of `format`) and sum what was
    /// written.
    pub fn store(&mut self, rows: &[f32], format: Format, out: &mut [u8]) {
        assert_eq!(out.len(), rows.len() * format.bytes(), "room for the rows");
        #[cfg(target_arch = "x86_64")]
        if self.store_avx512(rows, Some(format), out) {
            return;
        }
        store_rows(rows, format, out);
        self.start();
        let width = self.columns.len();
        for r in 0..rows.len() / width {
            let stored = &out[r * width * format.bytes()..][..width * format.bytes()];
            widen(stored, format, &mut self.row);
            let row = std::mem::take(&mut self.row);
            self.add_row(r, &row);
            self.row = row;
        }
    }

    /// Sum `rows` (`[n, width]`, at most [`BLOCK_ROWS`]) as they are.
    pub fn sum(&mut self, rows: &[f32]) {
        #[cfg(target_arch = "x86_64")]
        if self.store_avx512(rows, None, &mut []) {
            return;
        }
        self.start();
        for (r, row) in rows.chunks_exact(self.columns.len()).enumerate() {
            self.add_row(r, row);
        }
    }

    fn start(&mut self) {
        self.columns.fill(0.0);
        self.squares = [0.0; BLOCK_ROWS];
    }

    fn add_row(&mut self, r: usize, row: &[f32]) {
        let columns = &mut self.columns[..row.len()];
        self.squares[r] = vectorized(
            #[inline(always)]
            || {
                let mut lanes = [0f64; LANES];
                for (sums, values) in columns.chunks_mut(LANES).zip(row.chunks(LANES)) {
                    for ((lane, sum), &x) in lanes.iter_mut().zip(sums).zip(values) {
                        let x = f64::from(x);
                        *sum += x;
                        *lane += x * x;
                    }
                }
                lanes.iter().sum()
            },
        );
    }

    /// The same with AVX-512, where the machine has it and the block is a full one.
    #[cfg(target_arch = "x86_64")]
    fn store_avx512(&mut self, rows: &[f32], format: Option<Format>, out: &mut [u8]) -> bool {
        let width = self.columns.len();
        if Vectors::here() != Vectors::Avx512 || rows.len() != BLOCK_ROWS * width {
            return false;
        }
        let (columns, squares) = (&mut self.columns[..], &mut self.squares);
        // SAFETY: the machine has what `avx512::block` enables; the lengths that it relies on were seen above and in
        // `store`: 8 rows of `width` values, `width` columns, and `out` has as many values of the format as there are.
        unsafe {
            match format {
                None => avx512::block::<{ avx512::NOT_STORED }>(rows, columns, squares, out),
                Some(Format::F32) => avx512::block::<{ avx512::F32 }>(rows, columns, squares, out),
                Some(Format::F16) => avx512::block::<{ avx512::F16 }>(rows, columns, squares, out),
                Some(Format::Bf16) => avx512::block::<{ avx512::BF16 }>(rows, columns, squares, out),
            }
        }
        true
    }
}

/// Write values to `out` in `format`.
pub fn store_rows(values: &[f32], format: Format, out: &mut [u8]) {
    match format {
        Format::F32 => out.copy_from_slice(bytemuck::cast_slice(values)),
        Format::F16 => {
            // through a small buffer: bytes in a page need not be aligned
            let mut rounded = [f16::ZERO; 64];
            for (values, out) in values.chunks(64).zip(out.chunks_mut(128)) {
                let rounded = &mut rounded[..values.len()];
                rounded.convert_from_f32_slice(values);
                out.copy_from_slice(bytemuck::cast_slice(rounded));
            }
        }
        Format::Bf16 => {
            for (&x, out) in values.iter().zip(out.chunks_exact_mut(2)) {
                out.copy_from_slice(&round_bf16(x).to_bits().to_le_bytes());
            }
        }
    }
}

/// The values in `stored`, as f32.
pub fn widen(stored: &[u8], format: Format, out: &mut [f32]) {
    match format {
        Format::F32 => bytemuck::cast_slice_mut::<f32, u8>(out).copy_from_slice(stored),
        Format::F16 => {
            let mut values = [f16::ZERO; 64];
            for (stored, out) in stored.chunks(128).zip(out.chunks_mut(64)) {
                let values = &mut values[..out.len()];
                bytemuck::cast_slice_mut::<f16, u8>(values).copy_from_slice(stored);
                values.convert_to_f32_slice(out);
            }
        }
        Format::Bf16 => {
            for (stored, out) in stored.chunks_exact(2).zip(out) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes([stored[0], stored[1]])) << 16);
            }
        }
    }
}

/// Nearest bfloat16, ties to even; NaN stays NaN. Without branches, so that loops over it are vectorised.
fn round_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    let quiet_nan = (bits >> 16) as u16 | 0x0040;
    bf16::from_bits(if x.is_nan() { quiet_nan } else { rounded })
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! A whole block in one pass: each value is loaded, rounded, stored, widened and summed while it is in a register.

    use std::arch::x86_64::*;

    use super::{BLOCK_ROWS, Format, LANES, store_rows, widen};

    pub(super) const F32: u8 = 0;
    pub(super) const F16: u8 = 1;
    pub(super) const BF16: u8 = 2;
    pub(super) const NOT_STORED: u8 = 3;
    /// Columns at a time: a whole cache line of half-precision values.
    const STEP: usize = 32;

    /// Sums of a full block of `columns.len()` values a row; it is stored in `out`, unless `FORMAT` says not to.
    ///
    /// # Safety
    /// The machine must have the features; `rows` must hold [`BLOCK_ROWS`] rows, and `out` as many values of the format.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    pub(super) unsafe fn block<const FORMAT: u8>(
        rows: &[f32],
        columns: &mut [f64],
        squares: &mut [f64; BLOCK_ROWS],
        out: &mut [u8],
    ) {
        let width = columns.len();
        let bytes = if FORMAT == F32 { 4 } else { 2 };
        let mut of_row = [_mm512_setzero_pd(); BLOCK_ROWS];
        let whole = width / STEP * STEP;
        for c in (0..whole).step_by(STEP) {
            let mut of_column = [_mm512_setzero_pd(); STEP / LANES];
            for (r, squares) in of_row.iter_mut().enumerate() {
                for half in 0..2 {
                    let at = r * width + c + half * 16;
                    // SAFETY: `at + 16` values are in `rows`, and in `out` where values are stored: the caller said so.
                    let y = unsafe {
                        let x = _mm512_loadu_ps(rows.as_ptr().add(at));
                        store16::<FORMAT>(x, out.as_mut_ptr().wrapping_add(at * bytes))
                    };
                    let low = _mm512_cvtps_pd(_mm512_castps512_ps256(y));
                    let high = _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(y));
                    *squares = _mm512_fmadd_pd(low, low, *squares);
                    *squares = _mm512_fmadd_pd(high, high, *squares);
                    of_column[2 * half] = _mm512_add_pd(of_column[2 * half], low);
                    of_column[2 * half + 1] = _mm512_add_pd(of_column[2 * half + 1], high);
                }
            }
            for (i, sums) in of_column.into_iter().enumerate() {
                // SAFETY: `c + STEP` is at most `width`, the length of `columns`.
                unsafe { _mm512_storeu_pd(columns.as_mut_ptr().add(c + i * LANES), sums) };
            }
        }
        columns[whole..].fill(0.0);
        for (r, square) in squares.iter_mut().enumerate() {
            let mut lanes = [0f64; LANES];
            // SAFETY: eight f64 are 512 bits.
            unsafe { _mm512_storeu_pd(lanes.as_mut_ptr(), of_row[r]) };
            for c in whole..width {
                let mut y = [rows[r * width + c]];
                let format = [Format::F32, Format::F16, Format::Bf16].get(usize::from(FORMAT));
                if let Some(&format) = format {
                    let stored = &mut out[(r * width + c) * bytes..][..bytes];
                    store_rows(&[y[0]], format, stored);
                    widen(stored, format, &mut y);
                }
                let y = f64::from(y[0]);
                columns[c] += y;
                lanes[c % LANES] += y * y;
            }
            *square = lanes.iter().sum();
        }
    }

    /// Store 16 values as `FORMAT`; gives them as stored.
    ///
    /// # Safety
    /// The machine must have the features, and there must be room for 16 values of the format at `out` if it is stored.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    unsafe fn store16<const FORMAT: u8>(x: __m512, out: *mut u8) -> __m512 {
        match FORMAT {
            F32 => {
                // SAFETY: the caller has room for 64 bytes.
                unsafe { _mm512_storeu_ps(out.cast(), x) };
                x
            }
            F16 => {
                let rounded = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(x);
                // SAFETY: the caller has room for 32 bytes.
                unsafe { _mm256_storeu_si256(out.cast(), rounded) };
                _mm512_cvtph_ps(rounded)
            }
            BF16 => {
                let bits = _mm512_castps_si512(x);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
                let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
                let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
                let upper = _mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(is_nan, rounded, quiet));
                // SAFETY: the caller has room for 32 bytes.
                unsafe { _mm256_storeu_si256(out.cast(), _mm512_cvtepi32_epi16(upper)) };
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(upper))
            }
            _ => x,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of all kinds: ties, beyond the range, tiny, not finite.
    fn values(n: usize) -> Vec<f32> {
        let specials = [0.0, -0.0, 65_519.0, 65_520.0, -1e9, 3e-8, 1e-45, 0.1, 1.0 + 2f32.powi(-11), -2.5];
        let mut bits = 1u32;
        let many = (0..n).map(|i| {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if i % 7 == 3 { specials[i % specials.len()] } else { (bits >> 8) as f32 / 1e5 - 80.0 }
        });
        many.collect()
    }

    #[test]
    fn rounding_equals_the_definition() {
        let specials = [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, f32::NAN, -f32::NAN];
        let ties = [0x3f80_8000, 0x3f81_8000, 0x7f7f_8000].map(f32::from_bits);
        let mut bits = 1u32;
        let any = (0..20_000).map(|_| {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from_bits(bits)
        });
        let mut all: Vec<f32> = specials.into_iter().chain(ties).chain(values(3000)).chain(any).collect();
        all.resize(all.len().next_multiple_of(8 * 37), 1.0);
        // whole blocks take the vectorised way, single rows the other; both must be half's
        for rows in [1, BLOCK_ROWS] {
            let mut sums = BlockSums::new(37);
            for values in all.chunks(rows * 37) {
                let mut out = vec![0; values.len() * 2 + 1];
                sums.store(values, Format::F16, &mut out[1..]);
                for (x, y) in values.iter().zip(out[1..].chunks(2)) {
                    let (ours, theirs) = (f16::from_le_bytes([y[0], y[1]]), f16::from_f32(*x));
                    assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{x:e}");
                }
                sums.store(values, Format::Bf16, &mut out[1..]);
                for (x, y) in values.iter().zip(out[1..].chunks(2)) {
                    let (ours, theirs) = (bf16::from_le_bytes([y[0], y[1]]), bf16::from_f32(*x));
                    assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{x:e}");
                }
            }
        }
    }

    #[test]
    fn a_block_has_the_sums_of_its_rows_to_the_bit() {
        for width in [1, 5, 31, 32, 33, 96, 770] {
            for format in [Format::F32, Format::F16, Format::Bf16] {
                let rows = values(BLOCK_ROWS * width);
                let mut out = vec![0; rows.len() * format.bytes()];
                let mut block = BlockSums::new(width);
                block.store(&rows, format, &mut out);
                let mut stored = vec![0.0; rows.len()];
                widen(&out, format, &mut stored);
                let mut again = BlockSums::new(width);
                again.sum(&stored);
                // the definition, one value at a time
                let mut columns = vec![0f64; width];
                let mut squares = [0f64; BLOCK_ROWS];
                for (r, row) in stored.chunks(width).enumerate() {
                    let mut lanes = [0f64; LANES];
                    for (c, &x) in row.iter().enumerate() {
                        columns[c] += f64::from(x);
                        lanes[c % LANES] += f64::from(x) * f64::from(x);
                    }
                    squares[r] = lanes.iter().sum();
                }
                let bits = |values: &[f64]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                for sums in [&block, &again] {
                    assert_eq!(bits(&sums.columns), bits(&columns), "{format:?} {width}");
                    assert_eq!(bits(&sums.squares), bits(&squares), "{format:?} {width}");
                }
            }
        }
    }
}
