//! Cheap products of a block of rows with a block of latents: by the machine's bfloat16 unit where it has one.

use crate::compute::cpu::isa::Isa;
use crate::compute::cpu::product::{CHUNK, Tile, f32_tile, panel_lanes};
use crate::compute::cpu::screen::bounds::{BLOCK, pairs};
use crate::compute::cpu::simd::Vectors;

/// Rows of a tile of pairs: with four registers a row, as many as there are registers for.
pub(super) const TILE_ROWS: usize = 6;

/// How the weights of a block of latents lie, in panels of so many latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// One panel, of bfloat16 pairs.
    Pairs,
    /// Panels as wide as the machine's kernel, of f32.
    F32 { lanes: usize },
}

impl Packing {
    /// What products on this thread read.
    pub(super) fn here() -> Self {
        if cfg!(target_arch = "x86_64") && Isa::here() >= Isa::Avx512Bf16 {
            return Self::Pairs;
        }
        Self::F32 { lanes: panel_lanes(Vectors::here()) }
    }

    /// Steps of products of `d` numbers.
    pub(super) fn steps(self, d: usize) -> usize {
        match self {
            Self::Pairs => pairs(d),
            Self::F32 { .. } => d,
        }
    }

    /// Latents of a panel: they divide a block.
    pub(super) fn lanes(self) -> usize {
        match self {
            Self::Pairs => BLOCK,
            Self::F32 { lanes } => lanes,
        }
    }
}

/// `z[i, j] = sum_p x[i, p] w[p, j]` over pairs: `x` `[6, d2]`, `w` `[d2, 64]`, `z` `[6, 64]`. Only with [`Packing::Pairs`].
#[cfg(target_arch = "x86_64")]
pub(super) fn pair_products(x: &[u32], w: &[u32], z: &mut [f32; TILE_ROWS * BLOCK], d2: usize) {
    assert!(x.len() >= TILE_ROWS * d2 && w.len() >= BLOCK * d2, "a tile of {d2} pairs");
    // SAFETY: the machine has the instructions, as `Packing::here` found; the assert gives the extents that are read.
    unsafe { pair_products_avx512(x.as_ptr(), w.as_ptr(), z, d2) }
}

/// Without the instructions there are no pairs.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn pair_products(_: &[u32], _: &[u32], z: &mut [f32; TILE_ROWS * BLOCK], _: usize) {
    z.fill(f32::NAN);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16,avx512vl,avx512bw,avx512dq")]
unsafe fn pair_products_avx512(x: *const u32, w: *const u32, z: &mut [f32; TILE_ROWS * BLOCK], d2: usize) {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    const LANES: usize = 16;
    const WIDE: usize = BLOCK / LANES;
    // SAFETY: both are 64 bytes in which every pattern of bits is a value.
    let pairs = |t: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(t) };
    let mut sums = [[_mm512_setzero_ps(); WIDE]; TILE_ROWS];
    for p in 0..d2 {
        // SAFETY: p < d2, and the caller has w of 64 d2 pairs.
        let row: [__m512bh; WIDE] =
            std::array::from_fn(|v| pairs(unsafe { _mm512_loadu_si512(w.add(p * BLOCK + v * LANES).cast()) }));
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above, with x of 6 d2 pairs.
            let value = pairs(_mm512_set1_epi32(unsafe { *x.add(i * d2 + p) } as i32));
            for (sum, &row) in sums.iter_mut().zip(&row) {
                *sum = _mm512_dpbf16_ps(*sum, value, row);
            }
        }
    }
    for (sums, z) in sums.iter().zip(z.as_chunks_mut::<BLOCK>().0) {
        for (&sum, z) in sums.iter().zip(z.as_chunks_mut::<LANES>().0) {
            // SAFETY: z has room for the 16 numbers.
            unsafe { _mm512_storeu_ps(z.as_mut_ptr(), sum) };
        }
    }
}

/// `z[i, j] = sum_p x[i, p] w[j, p]` in f32: `x` `[rows, d]`, `w` a block in panels of `lanes` and what is read after it, `z`
/// `[rows, 64]`.
pub(super) fn plain_products(x: &[f32], w: &[f32], z: &mut [f32], (d, lanes): (usize, usize)) {
    let rows = x.len() / d;
    let chunk = d.div_ceil(d.div_ceil(CHUNK));
    for panel in 0..BLOCK / lanes {
        let (w, at) = (&w[panel * d * lanes..], panel * lanes);
        for first in (0..d).step_by(chunk) {
            let steps = chunk.min(d - first);
            let (own, after) = w[first * lanes..].split_at(steps * lanes);
            let tile = Tile {
                x: &x[first..],
                x_stride: d,
                rows,
                w: own,
                w_stride: lanes,
                steps,
                lanes,
                out: &mut z[at..],
                out_stride: BLOCK,
                add: first > 0,
                next: &after[..after.len().min(chunk * lanes)],
            };
            f32_tile(Vectors::here(), tile);
        }
    }
}
