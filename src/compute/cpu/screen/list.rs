//! The latents of a row that could still be chosen: an upper and a lower bound each.

#[cfg(target_arch = "x86_64")]
use crate::compute::cpu::isa::Isa;
use crate::compute::cpu::screen::bounds::{BLOCK, Latents, Row};
use crate::compute::cpu::simd::vectorized;

/// Entries after which a list is shortened for the first time.
const KEEP: usize = 384;
/// Values looked at together: most groups hold none that could be chosen.
const GROUP: usize = 32;

/// Candidates of one row.
#[derive(Default)]
pub(super) struct List {
    /// What the ranked value is at most, and at least.
    pub(super) upper: Vec<f32>,
    pub(super) lower: Vec<f32>,
    /// Places among the latents that are chosen from.
    pub(super) at: Vec<u32>,
    /// Entries in use.
    pub(super) len: usize,
    limit: usize,
    /// What is below this is not chosen.
    pub(super) threshold: f32,
}

/// Whether an upper bound rules out what must reach a threshold: one that is no number does not.
#[inline(always)]
pub(super) fn is_below(upper: f32, threshold: f32) -> bool {
    upper < threshold
}

/// An integer for a number, in the same order; 0 for what is none.
#[inline(always)]
pub(super) fn order(x: f32) -> u32 {
    let bits = x.to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    if x.is_nan() { 0 } else { ordered }
}

/// The inverse of [`order`], of numbers.
#[inline(always)]
pub(super) fn number(order: u32) -> f32 {
    f32::from_bits(if order >> 31 == 1 { order & 0x7fff_ffff } else { !order })
}

impl List {
    /// Nothing yet; what is below `threshold` is not taken.
    pub(super) fn reset(&mut self, threshold: f32) {
        (self.len, self.limit, self.threshold) = (0, KEEP, threshold);
    }

    /// Take in cheap products `z` with the latents of a block, of a row.
    #[inline(always)]
    pub(super) fn scan(&mut self, z: &[f32; BLOCK], row: Row, latents: &Latents, first: usize) {
        self.reserve();
        if latents.score.is_empty() {
            self.scan_scored::<false>(z, row, latents, first);
        } else {
            self.scan_scored::<true>(z, row, latents, first);
        }
    }

    fn reserve(&mut self) {
        if self.upper.len() < self.len + BLOCK + 1 {
            let room = 2 * (self.len + BLOCK) + KEEP;
            self.upper.resize(room, 0.0);
            self.lower.resize(room, 0.0);
            self.at.resize(room, 0);
        }
    }

    #[inline(always)]
    fn scan_scored<const SCORED: bool>(&mut self, z: &[f32; BLOCK], row: Row, latents: &Latents, first: usize) {
        for group in 0..BLOCK / GROUP {
            let start = first + group * GROUP;
            let part = |t: &'_ [f32]| -> [f32; GROUP] { t[start..][..GROUP].try_into().expect("as many") };
            let (bias, near, far, fixed) =
                (part(&latents.bias), part(&latents.near), part(&latents.far), part(&latents.fixed));
            let score = if SCORED { part(&latents.score) } else { [1.0; GROUP] };
            let (mut upper, mut lower, mut any) = ([0f32; GROUP], [0f32; GROUP], false);
            for i in 0..GROUP {
                let center = z[group * GROUP + i] + bias[i];
                let band = row.norm * near[i] + (row.off * far[i] + fixed[i]);
                (upper[i], lower[i]) = (center + band, center - band);
                if SCORED {
                    (upper[i], lower[i]) = (upper[i] * score[i], lower[i] * score[i]);
                }
                // what is no number cannot be ruled out
                any |= !is_below(upper[i], self.threshold);
            }
            if any {
                self.take(&upper, &lower, start as u32);
            }
        }
    }

    #[inline(always)]
    fn take(&mut self, upper: &[f32; GROUP], lower: &[f32; GROUP], first: u32) {
        let (threshold, mut len) = (self.threshold, self.len);
        let end = len + GROUP + 1;
        let (uppers, lowers, ats) = (&mut self.upper[..end], &mut self.lower[..end], &mut self.at[..end]);
        for i in 0..GROUP {
            // written always, counted only when it can be chosen: no branch to mispredict
            (uppers[len], lowers[len], ats[len]) = (upper[i], lower[i], first + i as u32);
            len += usize::from(!is_below(upper[i], threshold));
        }
        self.len = len;
    }

    /// Whether it is time for [`List::raise`].
    #[inline(always)]
    pub(super) fn is_long(&self) -> bool {
        self.len >= self.limit
    }

    /// Raise the threshold to the `k`-th largest lower bound, and let go what is below.
    pub(super) fn raise(&mut self, k: usize, scratch: &mut Vec<u32>) {
        if k == 0 {
            self.len = 0;
        }
        if self.len > k && k > 0 {
            scratch.clear();
            scratch.extend(self.lower[..self.len].iter().map(|&lower| order(lower)));
            let (_, &mut kth, _) = scratch.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
            // 0 is what is no number: it bounds nothing
            if kth > 0 && number(kth) > self.threshold {
                self.threshold = number(kth);
            }
        }
        self.shorten(self.threshold);
    }

    /// Let go what is below a threshold.
    pub(super) fn shorten(&mut self, threshold: f32) {
        let mut kept = 0;
        for i in 0..self.len {
            (self.upper[kept], self.lower[kept], self.at[kept]) = (self.upper[i], self.lower[i], self.at[i]);
            kept += usize::from(!is_below(self.upper[i], threshold));
        }
        self.len = kept;
        self.threshold = threshold;
        self.limit = KEEP.max(2 * kept);
    }
}

impl List {
    /// Let go places beyond the latents, which fill up the last block.
    pub(super) fn within(&mut self, len: usize) {
        // they are the last entries, if any
        while self.len > 0 && self.at[self.len - 1] as usize >= len {
            self.len -= 1;
        }
    }

    /// The entries' places.
    pub(super) fn places(&self) -> &[u32] {
        &self.at[..self.len]
    }
}

/// Scan rows of a tile `z` `[rows, 64]`, of the latents from `first` on.
pub(super) fn scan_tile(lists: &mut [List], rows: &[Row], z: &[f32], latents: &Latents, first: usize) {
    let z = z.as_chunks::<BLOCK>().0;
    #[cfg(target_arch = "x86_64")]
    if Isa::here() >= Isa::Avx512 {
        let numbers = Numbers::of(latents, first);
        for ((list, &row), z) in lists.iter_mut().zip(rows).zip(z) {
            list.reserve();
            // SAFETY: the machine has the instructions.
            unsafe { list.scan_avx512(z, row, &numbers, first as u32) };
        }
        return;
    }
    vectorized(
        #[inline(always)]
        || {
            for ((list, &row), z) in lists.iter_mut().zip(rows).zip(z) {
                list.scan(z, row, latents, first);
            }
        },
    );
}

/// What belongs to the latents of a block.
#[cfg(target_arch = "x86_64")]
struct Numbers<'a> {
    bias: &'a [f32; BLOCK],
    near: &'a [f32; BLOCK],
    far: &'a [f32; BLOCK],
    fixed: &'a [f32; BLOCK],
    score: Option<&'a [f32; BLOCK]>,
}

#[cfg(target_arch = "x86_64")]
impl<'a> Numbers<'a> {
    fn of(latents: &'a Latents, first: usize) -> Self {
        let part = |t: &'a [f32]| t[first..].first_chunk().expect("blocks are whole");
        let Latents { bias, near, far, fixed, score, .. } = latents;
        let score = (!score.is_empty()).then(|| part(score));
        Self { bias: part(bias), near: part(near), far: part(far), fixed: part(fixed), score }
    }
}

#[cfg(target_arch = "x86_64")]
impl List {
    /// As [`List::scan`], 16 values at a time.
    ///
    /// # Safety
    /// The machine has AVX-512; there is room for a block.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq")]
    unsafe fn scan_avx512(&mut self, z: &[f32; BLOCK], row: Row, numbers: &Numbers<'_>, first: u32) {
        use std::arch::x86_64::{
            _CMP_NLT_UQ, _mm512_add_epi32, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_fmadd_ps, _mm512_loadu_ps,
            _mm512_maskz_compress_epi32, _mm512_maskz_compress_ps, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps,
            _mm512_setr_epi32, _mm512_storeu_ps, _mm512_storeu_si512, _mm512_sub_ps,
        };
        const LANES: usize = 16;
        let room = self.len + BLOCK;
        assert!(self.upper.len() >= room && self.lower.len() >= room && self.at.len() >= room, "no room");
        // SAFETY: v * 16 .. v * 16 + 16 lies in each array of 64.
        let load = |t: &[f32; BLOCK], v: usize| unsafe { _mm512_loadu_ps(t.as_ptr().add(v * LANES)) };
        let (threshold, norm, off) =
            (_mm512_set1_ps(self.threshold), _mm512_set1_ps(row.norm), _mm512_set1_ps(row.off));
        let steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for v in 0..BLOCK / LANES {
            let center = _mm512_add_ps(load(z, v), load(numbers.bias, v));
            let band = _mm512_fmadd_ps(off, load(numbers.far, v), load(numbers.fixed, v));
            let band = _mm512_fmadd_ps(norm, load(numbers.near, v), band);
            let (mut upper, mut lower) = (_mm512_add_ps(center, band), _mm512_sub_ps(center, band));
            if let Some(score) = numbers.score {
                let score = load(score, v);
                (upper, lower) = (_mm512_mul_ps(upper, score), _mm512_mul_ps(lower, score));
            }
            // what is no number cannot be ruled out
            let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(upper, threshold);
            if kept != 0 {
                let at = _mm512_add_epi32(_mm512_set1_epi32((first as usize + v * LANES) as i32), steps);
                // SAFETY: at most 16 more for each of the four, and the assert gave room for 64.
                unsafe {
                    let to = self.len;
                    _mm512_storeu_ps(self.upper.as_mut_ptr().add(to), _mm512_maskz_compress_ps(kept, upper));
                    _mm512_storeu_ps(self.lower.as_mut_ptr().add(to), _mm512_maskz_compress_ps(kept, lower));
                    _mm512_storeu_si512(self.at.as_mut_ptr().add(to).cast(), _mm512_maskz_compress_epi32(kept, at));
                }
                self.len += kept.count_ones() as usize;
            }
        }
    }
}
