//! What is known of a pre-activation from cheap products: how far it can be from them.
//!
//! With `x^`, `w^` what the cheap product sees of a row and a latent, and `z^` its result, Cauchy-Schwarz gives
//!
//! ```text
//! |z - z^| <= |x| |w - w^| + |x - x^| |w^| + gamma |x| |w| + flushed
//! ```
//!
//! `gamma` stands for what rounding can do in sums of `d` products in any order, once for the cheap product and once for
//! the one that defines the result; `flushed` for bfloat16 units that take numbers below the smallest normal f32 for 0. Norms
//! are taken in f64 of the differences as they are, so nothing is assumed of how numbers were rounded. A bound that cannot
//! be computed (it overflows, something is not a number) is infinite or no number, and then excludes nothing.

use bytemuck::Zeroable;
use rayon::prelude::*;

use crate::compute::cpu::product::{LINE, Line};
use crate::compute::cpu::screen::tile::Packing;
use crate::compute::cpu::simd::vectorized;

/// Latents of a block: what a tile is wide.
pub(super) const BLOCK: usize = 64;
/// Norms are computed with relative errors far below this one.
const UP: f64 = 1.0001;
/// Products of norms above this can overflow on the way: rows that have them are not screened.
pub(super) const LARGEST: f32 = 1e37;

/// Latents, as a screen wants them.
pub(super) struct Latents {
    /// How a block's weights lie.
    pub(super) packing: Packing,
    /// `[blocks, panels, steps, lanes]`: what a cheap product reads, step after step.
    packed: Vec<Line>,
    /// `[blocks * 64]` biases; those of places without a latent are negative infinity.
    pub(super) bias: Vec<f32>,
    /// What a bound is made of: `near |x| + far |x - x^| + fixed`.
    pub(super) near: Vec<f32>,
    pub(super) far: Vec<f32>,
    pub(super) fixed: Vec<f32>,
    /// Weights of the ranking; empty without.
    pub(super) score: Vec<f32>,
    /// The largest `|w|`.
    pub(super) longest: f32,
}

/// One row: its norm, and that of what the cheap product does not see of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    pub(super) norm: f32,
    pub(super) off: f32,
}

/// Upwards, to an f32.
fn up(x: f64) -> f32 {
    ((x * UP) as f32).next_up()
}

/// Places of `len` latents in whole blocks.
pub(super) fn padded(len: usize) -> usize {
    len.next_multiple_of(BLOCK)
}

/// Pairs of values of a row.
pub(super) fn pairs(d: usize) -> usize {
    d.div_ceil(2)
}

/// A value rounded to bfloat16 as its unit reads it: numbers below the smallest normal one are 0 there.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let near = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    // what is no number stays none; rounding never makes one of infinity
    let kept = if x.is_nan() { 0x7fc0_0000 } else { near };
    if kept & 0x7f80_0000 == 0 { 0 } else { kept }
}

/// `row` as pairs of bfloat16; its squared norm, that of what was lost, and that of what is seen, in f64.
#[inline(always)]
fn pack_row(row: &[f32], out: &mut [u32]) -> [f64; 3] {
    const LANES: usize = 16;
    let mut sums = [[0f64; LANES]; 3];
    let mut take = |x: f32, lane: usize| {
        let seen = rounded(x);
        let (exact, near) = (f64::from(x), f64::from(f32::from_bits(seen)));
        let lost = exact - near;
        sums[0][lane] = exact.mul_add(exact, sums[0][lane]);
        sums[1][lane] = lost.mul_add(lost, sums[1][lane]);
        sums[2][lane] = near.mul_add(near, sums[2][lane]);
        seen
    };
    let (whole, tail) = row.as_chunks::<LANES>();
    for (values, out) in whole.iter().zip(out.chunks_exact_mut(LANES / 2)) {
        let mut seen = [0u32; LANES];
        for (lane, (seen, &x)) in seen.iter_mut().zip(values).enumerate() {
            *seen = take(x, lane);
        }
        for (out, pair) in out.iter_mut().zip(seen.as_chunks::<2>().0) {
            *out = pair[0] >> 16 | pair[1];
        }
    }
    let at = whole.len() * LANES / 2;
    for (out, pair) in out[at..].iter_mut().zip(tail.chunks(2)) {
        let second = if pair.len() > 1 { take(pair[1], 1) } else { 0 };
        *out = take(pair[0], 0) >> 16 | second;
    }
    sums.map(|sums| sums.iter().sum())
}

/// The squared norm of `row`, in f64.
#[inline(always)]
fn squares(row: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0f64; LANES];
    let (whole, tail) = row.as_chunks::<LANES>();
    for values in whole {
        for (sum, &x) in sums.iter_mut().zip(values) {
            *sum = f64::from(x).mul_add(f64::from(x), *sum);
        }
    }
    tail.iter().for_each(|&x| sums[0] = f64::from(x).mul_add(f64::from(x), sums[0]));
    sums.iter().sum()
}

/// A row of the input, packed into `out` `[pairs(d)]`.
pub(super) fn pack_input(row: &[f32], out: &mut [u32]) -> Row {
    let [all, lost, _] = vectorized(
        #[inline(always)]
        || pack_row(row, out),
    );
    Row { norm: up(all.sqrt()), off: up(lost.sqrt()) }
}

/// A row of the input that is multiplied as it is.
pub(super) fn measure_input(row: &[f32]) -> Row {
    let all = vectorized(
        #[inline(always)]
        || squares(row),
    );
    Row { norm: up(all.sqrt()), off: 0.0 }
}

/// The latents of an encoder: `w` `[f, d]` and `b` `[f]`, those of `among` if it is given.
pub(in crate::compute::cpu) struct Source<'a> {
    pub(in crate::compute::cpu) w: &'a [f32],
    pub(in crate::compute::cpu) b: &'a [f32],
    pub(in crate::compute::cpu) d: usize,
    pub(in crate::compute::cpu) among: Option<&'a [u32]>,
    /// `[f]` weights of the ranking.
    pub(in crate::compute::cpu) score: Option<&'a [f32]>,
    /// `[f]` what pre-activations are compared with, if not 0.
    pub(in crate::compute::cpu) floor: Option<&'a [f32]>,
}

impl<'a> Source<'a> {
    /// Latents to choose from.
    pub(super) fn len(&self) -> usize {
        self.among.map_or(self.b.len(), <[u32]>::len)
    }

    /// The latent at a place.
    #[inline(always)]
    pub(super) fn latent(&self, at: usize) -> usize {
        self.among.map_or(at, |among| among[at] as usize)
    }

    /// The encoder's row at a place.
    #[inline(always)]
    pub(super) fn row(&self, at: usize) -> &'a [f32] {
        &self.w[self.latent(at) * self.d..][..self.d]
    }
}

impl Latents {
    /// Measure the latents, on the threads of this pool, and pack them; with the memory of `old`.
    pub(super) fn measure(source: &Source<'_>, packing: Packing, old: Self) -> Self {
        let places = padded(source.len());
        let lines = BLOCK * packing.steps(source.d) / LINE;
        let Self { mut packed, mut bias, mut near, mut far, mut fixed, mut score, .. } = old;
        packed.resize(places / BLOCK * lines, Line::zeroed());
        [&mut bias, &mut near, &mut far, &mut fixed].into_iter().for_each(|t| t.resize(places, 0.0));
        score.resize(if source.score.is_some() { places } else { 0 }, 0.0);
        let numbers = bias.par_chunks_mut(BLOCK).zip(near.par_chunks_mut(BLOCK));
        let numbers = numbers.zip(far.par_chunks_mut(BLOCK).zip(fixed.par_chunks_mut(BLOCK))).enumerate();
        let blocks = packed.par_chunks_mut(lines.max(1)).zip(numbers);
        let blocks = blocks.map(|(packed, (block, ((bias, near), (far, fixed))))| {
            let packed = bytemuck::cast_slice_mut(packed);
            measure_block(source, block * BLOCK, (packing, packed), [bias, near, far, fixed])
        });
        let longest = blocks.reduce(|| 0.0, |a, b| if b <= a { a } else { b });
        if let Some(own) = source.score {
            score[source.len()..].fill(0.0);
            score.iter_mut().take(source.len()).enumerate().for_each(|(at, score)| *score = own[source.latent(at)]);
        }
        Self { packing, packed, bias, near, far, fixed, score, longest }
    }

    /// The weights of each block, of latents `d` wide, and of those after it.
    pub(super) fn blocks(&self, d: usize) -> impl Iterator<Item = &[u32]> {
        let lines = BLOCK * self.packing.steps(d) / LINE;
        (0..self.packed.len()).step_by(lines).map(|at| bytemuck::cast_slice(&self.packed[at..]))
    }
}

impl Default for Latents {
    fn default() -> Self {
        let none = Vec::new;
        let (bias, near, far, fixed, score) = (none(), none(), none(), none(), none());
        Self { packing: Packing::Pairs, packed: Vec::new(), bias, near, far, fixed, score, longest: 0.0 }
    }
}

/// The latents from place `first` on. The longest of them.
fn measure_block(
    source: &Source<'_>,
    first: usize,
    (packing, packed): (Packing, &mut [u32]),
    [bias, near, far, fixed]: [&mut [f32]; 4],
) -> f32 {
    let d = source.d;
    let steps = packing.steps(d);
    // sums of d products, twice, and what is done to a sum afterwards: 16 roundings more
    let gamma = 2.0 * (d + 16) as f64 * f64::from(f32::EPSILON) / 2.0;
    let flushed = 4.0 * (d + 1) as f64 * f64::from(f32::MIN_POSITIVE);
    let mut rows = vec![0u32; BLOCK * steps];
    let mut longest = 0f32;
    for at in 0..BLOCK {
        if first + at >= source.len() {
            (bias[at], near[at], far[at], fixed[at]) = (f32::NEG_INFINITY, 0.0, 0.0, 0.0);
            continue;
        }
        let row = source.row(first + at);
        let own = &mut rows[at * steps..][..steps];
        let [all, lost, seen] = vectorized(
            #[inline(always)]
            || match packing {
                Packing::Pairs => pack_row(row, own),
                Packing::F32 { .. } => {
                    own.copy_from_slice(bytemuck::cast_slice(row));
                    let all = squares(row);
                    [all, 0.0, all]
                }
            },
        );
        let b = source.b[source.latent(first + at)];
        let floor = source.floor.map_or(0.0, |floor| floor[source.latent(first + at)]);
        bias[at] = b - floor;
        // sums of products are bounded by what is seen, too
        near[at] = up(lost.sqrt() + gamma * (all.sqrt() + seen.sqrt()));
        far[at] = up((1.0 + gamma) * seen.sqrt());
        fixed[at] = up(flushed + 16.0 * f64::from(f32::EPSILON) * (f64::from(b).abs() + f64::from(floor).abs()));
        let norm = up(all.sqrt());
        if norm > longest || norm.is_nan() {
            longest = norm;
        }
    }
    vectorized(
        #[inline(always)]
        || turn(&rows, packed, (steps, packing.lanes())),
    );
    longest
}

/// `[64, steps]` to `[64 / lanes, steps, lanes]`.
#[inline(always)]
fn turn(rows: &[u32], out: &mut [u32], (steps, lanes): (usize, usize)) {
    const EDGE: usize = 16;
    for first in (0..steps).step_by(EDGE) {
        let columns = EDGE.min(steps - first);
        for l in (0..BLOCK).step_by(EDGE) {
            for p in first..first + columns {
                let at = (l / lanes * steps + p) * lanes + l % lanes;
                let out: &mut [u32; EDGE] = (&mut out[at..][..EDGE]).try_into().expect("as many");
                for (i, out) in out.iter_mut().enumerate() {
                    *out = rows[(l + i) * steps + p];
                }
            }
        }
    }
}
