//! The inner loops of products: sums of [`ROWS`] rows and a few vectors of lanes, kept in registers over many steps.
//!
//! Every f32 sum is one chain of fused multiply-adds in the order of the steps, whatever the width of the vectors, so all
//! versions give the same bits. `vdpbf16ps` adds pairs of exact products and takes denormals for zero.

#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use crate::compute::cpu::isa::Isa;
use crate::compute::cpu::simd::Vectors;

/// Rows whose sums are kept in registers together.
pub(in crate::compute::cpu) const ROWS: usize = 6;

/// A tile: `out[r, l] = sum_s x[r, s] w[s, l]`, added to what is there if `add`, for `rows` rows and `lanes` lanes.
/// Rows, steps and lanes are contiguous inside; rows of `x`, steps of `w` and rows of `out` are `*_stride` apart.
pub(in crate::compute::cpu) struct Tile<'a, X, W> {
    pub(in crate::compute::cpu) x: &'a [X],
    pub(in crate::compute::cpu) x_stride: usize,
    pub(in crate::compute::cpu) rows: usize,
    pub(in crate::compute::cpu) w: &'a [W],
    pub(in crate::compute::cpu) w_stride: usize,
    pub(in crate::compute::cpu) steps: usize,
    /// A multiple of [`LANES`].
    pub(in crate::compute::cpu) lanes: usize,
    pub(in crate::compute::cpu) out: &'a mut [f32],
    pub(in crate::compute::cpu) out_stride: usize,
    pub(in crate::compute::cpu) add: bool,
    /// What will be read as `w` next, asked for meanwhile: it comes from farther away than the tile's own numbers.
    pub(in crate::compute::cpu) next: &'a [W],
}

/// Bytes of a line of the cache.
const CACHE_LINE: usize = 64;

/// What the lanes of a [`Tile`] are a multiple of.
pub(in crate::compute::cpu) const LANES: usize = 16;

/// A [`Tile`] whose extents were checked.
#[derive(Clone, Copy)]
struct Raw<X, W> {
    x: *const X,
    x_stride: usize,
    w: *const W,
    w_stride: usize,
    steps: usize,
    out: *mut f32,
    out_stride: usize,
    add: bool,
    next: *const W,
    next_lines: usize,
}

impl<X, W> Tile<'_, X, W> {
    /// Check that every number it addresses is there.
    fn raw(self) -> (Raw<X, W>, usize, usize) {
        let Self { x, x_stride, rows, w, w_stride, steps, lanes, out, out_stride, add, next } = self;
        assert!(rows > 0 && steps > 0 && lanes > 0 && lanes.is_multiple_of(LANES), "an empty tile");
        assert!(x.len() >= (rows - 1) * x_stride + steps, "rows of x");
        assert!(w.len() >= (steps - 1) * w_stride + lanes, "steps of w");
        assert!(out.len() >= (rows - 1) * out_stride + lanes && out_stride >= lanes, "rows of out");
        let (x, w, out) = (x.as_ptr(), w.as_ptr(), out.as_mut_ptr());
        let (next, next_lines) = (next.as_ptr(), size_of_val(next) / CACHE_LINE);
        (Raw { x, x_stride, w, w_stride, steps, out, out_stride, add, next, next_lines }, rows, lanes)
    }
}

impl<X, W> Raw<X, W> {
    /// The same from row `row` and lane `lane` on.
    ///
    /// # Safety
    /// Both lie within the tile.
    unsafe fn from(self, row: usize, lane: usize) -> Self {
        // SAFETY: offsets within the slices that `Tile::raw` checked
        unsafe {
            Self {
                x: self.x.add(row * self.x_stride),
                w: self.w.add(lane),
                out: self.out.add(row * self.out_stride + lane),
                ..self
            }
        }
    }
}

/// Compute a tile.
pub(in crate::compute::cpu) fn f32_tile(vectors: Vectors, tile: Tile<'_, f32, f32>) {
    let (raw, rows, lanes) = tile.raw();
    match vectors {
        // SAFETY: `Vectors::here` saw the features; `raw` was checked.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => unsafe { x86::avx512(raw, rows, lanes) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => unsafe { x86::avx2(raw, rows, lanes) },
        // SAFETY: as above.
        Vectors::Baseline => unsafe { baseline(raw, rows, lanes) },
    }
}

/// Compute a tile of pairs of bfloat16 numbers, on a machine that [`multiplies_pairs`].
#[cfg(target_arch = "x86_64")]
pub(super) fn pairs_tile(tile: Tile<'_, u32, u32>) {
    assert!(multiplies_pairs(), "vdpbf16ps where there is none");
    let (raw, rows, lanes) = tile.raw();
    // SAFETY: the assert saw the features; `raw` was checked.
    unsafe { x86::pairs(raw, rows, lanes) }
}

/// There is no such machine.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn pairs_tile(tile: Tile<'_, u32, u32>) {
    drop(tile);
    unreachable!("multiplies_pairs() is false");
}

/// Whether products of bfloat16 pairs are faster than f32 ones on this thread: AVX-512 BF16 on AMD's cores (Zen 4 and later),
/// where `vdpbf16ps` does twice the work of an f32 multiply-add in the same time. Intel's cores take twice as long for one, so
/// that nothing is gained. A property of the processor's kind, not a measurement: the same machine always gives the same bits.
pub(crate) fn multiplies_pairs() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        // asking the processor its name costs microseconds in a virtual machine
        static MADE_BY_AMD: OnceLock<bool> = OnceLock::new();
        Isa::here() >= Isa::Avx512Bf16 && *MADE_BY_AMD.get_or_init(x86::made_by_amd)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// # Safety
/// `raw` covers `rows` and `lanes`.
unsafe fn baseline(raw: Raw<f32, f32>, rows: usize, lanes: usize) {
    for row in 0..rows {
        for lane in (0..lanes).step_by(LANES) {
            // SAFETY: within what the caller promised
            unsafe {
                let at = raw.from(row, lane);
                let mut sums = [0.0f32; LANES];
                for s in 0..at.steps {
                    let (a, w) = (*at.x.add(s), at.w.add(s * at.w_stride));
                    for (l, sum) in sums.iter_mut().enumerate() {
                        *sum = a.mul_add(*w.add(l), *sum);
                    }
                }
                for (l, sum) in sums.iter().enumerate() {
                    let to = at.out.add(l);
                    *to = if at.add { *to + sum } else { *sum };
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The same with vectors: `R` rows and `V` vectors of lanes at a time.

    use std::arch::x86_64::*;

    use super::{CACHE_LINE, ROWS, Raw};

    impl<X, W> Raw<X, W> {
        /// Ask for what is read next, one share of `shares`, into the second-level cache.
        #[inline(always)]
        fn ask(self, share: usize, shares: usize) {
            let each = self.next_lines.div_ceil(shares);
            for line in share * each..self.next_lines.min((share + 1) * each) {
                // SAFETY: within the slice that `Tile::raw` took; asking reads nothing
                unsafe { _mm_prefetch::<_MM_HINT_T1>(self.next.byte_add(line * CACHE_LINE).cast()) };
            }
        }
    }

    /// A kernel and its dispatcher: `$a` makes a vector of one factor, `$b` loads a vector of the others.
    macro_rules! kernel {
        ($name:ident, $tile:ident, $features:literal, $factor:ty, $vectors:literal x $width:literal,
         $zero:ident, $load:ident, $store:ident, $add:ident, |$a:ident, $b:ident, $sum:ident| $step:expr,
         ($first:ident => $splat:expr), ($at:ident => $fetch:expr)) => {
            /// # Safety
            /// The machine has the features; `raw` covers `R` rows and `V` vectors.
            #[target_feature(enable = $features)]
            unsafe fn $tile<const R: usize, const V: usize>(raw: Raw<$factor, $factor>) {
                // SAFETY: within what the caller promised
                unsafe {
                    let mut sums = [[$zero(); V]; R];
                    for s in 0..raw.steps {
                        let w = raw.w.add(s * raw.w_stride);
                        let mut steps = [$zero(); V];
                        for v in 0..V {
                            let $at = w.add(v * $width);
                            steps[v] = $fetch;
                        }
                        for r in 0..R {
                            let $first = *raw.x.add(r * raw.x_stride + s);
                            let $a = $splat;
                            for v in 0..V {
                                let ($b, $sum) = (steps[v], sums[r][v]);
                                sums[r][v] = $step;
                            }
                        }
                    }
                    for r in 0..R {
                        for v in 0..V {
                            let to = raw.out.add(r * raw.out_stride + v * $width);
                            let sum = if raw.add { $add($load(to), sums[r][v]) } else { sums[r][v] };
                            $store(to, sum);
                        }
                    }
                }
            }

            /// # Safety
            /// The machine has the features; `raw` covers `rows` and `lanes`.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(raw: Raw<$factor, $factor>, rows: usize, lanes: usize) {
                for lane in (0..lanes).step_by($vectors * $width) {
                    let vectors = ((lanes - lane) / $width).min($vectors);
                    for row in (0..rows).step_by(ROWS) {
                        if lane == 0 {
                            raw.ask(row / ROWS, rows.div_ceil(ROWS));
                        }
                        // SAFETY: within what the caller promised
                        unsafe {
                            let at = raw.from(row, lane);
                            match vectors {
                                1 => by_rows!($tile, 1, at, rows - row),
                                2 => by_rows!($tile, 2, at, rows - row),
                                3 => by_rows!($tile, 3, at, rows - row),
                                _ => by_rows!($tile, $vectors, at, rows - row),
                            }
                        }
                    }
                }
            }
        };
    }

    macro_rules! by_rows {
        ($tile:ident, $vectors:literal, $at:ident, $rows:expr) => {
            match $rows {
                1 => $tile::<1, $vectors>($at),
                2 => $tile::<2, $vectors>($at),
                3 => $tile::<3, $vectors>($at),
                4 => $tile::<4, $vectors>($at),
                5 => $tile::<5, $vectors>($at),
                _ => $tile::<ROWS, $vectors>($at),
            }
        };
    }

    kernel!(avx512, avx512_tile, "avx512f", f32, 4 x 16, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps,
        _mm512_add_ps, |a, b, sum| _mm512_fmadd_ps(a, b, sum), (x => _mm512_set1_ps(x)), (at => _mm512_loadu_ps(at)));

    // three vectors are never asked for: lanes come in sixteens
    kernel!(avx2, avx2_tile, "avx2,fma", f32, 2 x 8, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps,
        _mm256_add_ps, |a, b, sum| _mm256_fmadd_ps(a, b, sum), (x => _mm256_set1_ps(x)), (at => _mm256_loadu_ps(at)));

    kernel!(pairs, pairs_of_tile, "avx512f,avx512bf16", u32, 4 x 16, _mm512_setzero_ps, _mm512_loadu_ps,
        _mm512_storeu_ps, _mm512_add_ps,
        |a, b, sum| _mm512_dpbf16_ps(sum, a, std::mem::transmute::<__m512, __m512bh>(b)),
        (x => std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(x as i32))),
        (at => _mm512_loadu_ps(at.cast())));

    /// Round `x` to bfloat16, to nearest, ties to even; denormals become zero.
    ///
    /// # Safety
    /// The machine has the features.
    #[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
    pub(in crate::compute::cpu::product) unsafe fn round(x: &[f32], out: &mut [u16]) {
        assert_eq!(x.len(), out.len());
        let whole = x.len() - x.len() % 16;
        for at in (0..whole).step_by(16) {
            // SAFETY: `at + 16` is within both
            unsafe {
                let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(x.as_ptr().add(at)));
                let rounded = std::mem::transmute::<__m256bh, __m256i>(rounded);
                _mm256_storeu_si256(out.as_mut_ptr().add(at).cast(), rounded);
            }
        }
        for (out, &x) in out[whole..].iter_mut().zip(&x[whole..]) {
            *out = half::bf16::from_f32(if x.is_subnormal() { 0.0 } else { x }).to_bits();
        }
    }

    /// Whether the processor calls itself one of AMD's.
    pub(super) fn made_by_amd() -> bool {
        let id = __cpuid(0);
        [id.ebx, id.edx, id.ecx] == [b"Auth", b"enti", b"cAMD"].map(|part| u32::from_le_bytes(*part))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::round;
