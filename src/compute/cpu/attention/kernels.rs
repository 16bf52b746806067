//! The inner loops of attention.

use std::ops::Range;

use crate::compute::cpu::product::{self, LANES, Tile, f32_tile};
use crate::compute::cpu::simd::{Vectors, exp, max, sum, tanh, vectorized};

/// Queries whose sums are kept in registers together.
pub(super) const ROWS: usize = product::ROWS;

/// Keys in a panel.
pub(super) const KEYS: usize = 64;

/// Probabilities added up before they are added to `z`: keeps rounding errors of long sums small.
const CHAIN: usize = 256;

/// `panel[c, l] = rows[l, c]` for `rows` of `width`; lanes without a row become zero.
#[inline(always)]
pub(super) fn transpose(rows: &[f32], panel: &mut [f32], width: usize) {
    for (c, lanes) in panel.as_chunks_mut::<KEYS>().0.iter_mut().enumerate() {
        *lanes = [0.0; KEYS];
        for (lane, row) in lanes.iter_mut().zip(rows.chunks_exact(width)) {
            *lane = row[c];
        }
    }
}

/// `scaled[r, c] = scale * q[r, column + c]` for rows of `width`.
pub(super) fn scale_queries(q: &[f32], width: usize, column: usize, scale: f32, scaled: &mut [f32], e: usize) {
    vectorized(
        #[inline(always)]
        || {
            for (scaled, q) in scaled.chunks_exact_mut(e).zip(q.chunks_exact(width)) {
                for (scaled, q) in scaled.iter_mut().zip(&q[column..column + e]) {
                    *scaled = scale * q;
                }
            }
        },
    );
}

/// `scores[j] = exp(scores[j] - max)`; returns `1 / sum_j scores[j]`, what makes probabilities of them.
pub(super) fn exponentials(scores: &mut [f32]) -> f32 {
    vectorized(
        #[inline(always)]
        || {
            let top = max(scores);
            for s in scores.iter_mut() {
                *s = exp(*s - top);
            }
            1.0 / sum(scores, |s| s)
        },
    )
}

/// `scores[j] = softcap tanh(scores[j] / softcap)`.
pub(super) fn cap(scores: &mut [f32], softcap: f32) {
    vectorized(
        #[inline(always)]
        || {
            let inverse = 1.0 / softcap;
            for s in scores {
                *s = softcap * tanh(inverse * *s);
            }
        },
    );
}

/// [`ROWS`] rows, `width` apart, of probabilities (or what is proportional to them) that start at `offset`. The first row
/// sees `keys`; row `r` sees `r` more at the end, and its probabilities of those at the start that it does not see are zero.
#[derive(Clone)]
pub(super) struct Probabilities<'a> {
    pub(super) rows: &'a [f32],
    pub(super) width: usize,
    pub(super) offset: usize,
    pub(super) keys: Range<usize>,
    pub(super) window: Option<usize>,
}

/// Columns from `column` on, of rows of `width`.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub(super) values: &'a [f32],
    pub(super) width: usize,
    pub(super) column: usize,
}

/// As [`Columns`], to write.
pub(super) struct ColumnsMut<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) width: usize,
    pub(super) column: usize,
}

/// `z[r, c] = factors[r] sum_j p[r, j] v[j, c]` for at most [`ROWS`] rows, as many as `z` has, and `e` channels.
///
/// A row never touches the values of keys that it does not see: they may not be numbers.
pub(super) fn mix(p: Probabilities<'_>, v: Columns<'_>, mut z: ColumnsMut<'_>, e: usize, factors: &[f32]) {
    let whole = e - e % LANES;
    for row in z.values.chunks_exact_mut(z.width) {
        row[z.column + whole..][..e - whole].fill(0.0);
    }
    for first in p.keys.clone().step_by(CHAIN) {
        if whole > 0 {
            let tile = Tile {
                x: &p.rows[p.offset + first..],
                x_stride: p.width,
                rows: z.values.len() / z.width,
                w: &v.values[first * v.width + v.column..],
                w_stride: v.width,
                steps: CHAIN.min(p.keys.end - first),
                lanes: whole,
                out_stride: z.width,
                out: &mut z.values[z.column..],
                add: first > p.keys.start,
                next: &[],
            };
            f32_tile(Vectors::here(), tile);
        }
        let mut c = whole;
        while c + 8 <= e {
            mix_channels::<8>(&p, v, &mut z, first, c);
            c += 8;
        }
        while c < e {
            mix_channels::<1>(&p, v, &mut z, first, c);
            c += 1;
        }
    }
    for (r, row) in z.values.chunks_exact_mut(z.width).enumerate() {
        let end = p.keys.end + r;
        let start = p.window.map_or(p.keys.end, |window| p.keys.end.max(end.saturating_sub(window)));
        for j in start..end {
            let p = p.rows[r * p.width + p.offset + j];
            for (z, v) in row[z.column..][..e].iter_mut().zip(&v.values[j * v.width + v.column..]) {
                *z += p * v;
            }
        }
        row[z.column..][..e].iter_mut().for_each(|z| *z *= factors[r]);
    }
}

/// Adds to `z` what [`CHAIN`] keys from `first` on, those that all rows see, contribute to `W` channels from `c` on.
fn mix_channels<const W: usize>(p: &Probabilities<'_>, v: Columns<'_>, z: &mut ColumnsMut<'_>, first: usize, c: usize) {
    let a = Strided { values: &p.rows[p.offset + first..], row: p.width, step: 1 };
    let b = &v.values[first * v.width + v.column + c..];
    let sums: [[f32; W]; ROWS] = product(a, b, v.width, CHAIN.min(p.keys.end - first));
    for (row, sums) in z.values.chunks_exact_mut(z.width).zip(&sums) {
        for (z, sum) in row[z.column + c..][..W].iter_mut().zip(sums) {
            *z += sum;
        }
    }
}

/// [`ROWS`] rows of factors: that of row `r` in step `s` is `values[r * row + s * step]`.
#[derive(Clone, Copy)]
struct Strided<'a> {
    values: &'a [f32],
    row: usize,
    step: usize,
}

/// `sums[r, l] = sum_s a[r, s] b[s * width + l]` over `steps`, in registers, one fused multiply-add after the other.
#[inline]
fn product<const W: usize>(a: Strided<'_>, b: &[f32], width: usize, steps: usize) -> [[f32; W]; ROWS] {
    match Vectors::here() {
        // SAFETY: the machine has every feature that `avx512` enables.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => unsafe { avx512(a, b, width, steps) },
        // SAFETY: the machine has every feature that `avx2` enables.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => unsafe { avx2(a, b, width, steps) },
        Vectors::Baseline => baseline(a, b, width, steps),
    }
}

/// A version of [`product`]. The body must stand in the function that has the features: the compiler unrolls loops of
/// constant length before it inlines, and without FMA it unrolls these into single numbers.
macro_rules! product_version {
    ($(#[$features:meta])* fn $name:ident) => {
        $(#[$features])*
        fn $name<const W: usize>(a: Strided<'_>, b: &[f32], width: usize, steps: usize) -> [[f32; W]; ROWS] {
            let mut sums = [[0.0f32; W]; ROWS];
            for s in 0..steps {
                let b: [f32; W] = *b[s * width..].first_chunk().expect("b has a row for each step");
                for r in 0..ROWS {
                    let a = a.values[r * a.row + s * a.step];
                    for l in 0..W {
                        sums[r][l] = a.mul_add(b[l], sums[r][l]);
                    }
                }
            }
            sums
        }
    };
}

product_version! {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    fn avx512
}
product_version! {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2
}
product_version! {
    fn baseline
}
