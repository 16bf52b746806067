//! Codes from dense pre-activations: one scan to count, one to write; the batch's largest by a histogram of their upper bits.

use rayon::prelude::*;

use crate::compute::backend::MatrixFormat;
use crate::compute::coder_ops::{Code, CoderDims, NO_LATENT, Rule};
use crate::compute::cpu::Cpu;
use crate::compute::cpu::product::Panels;
use crate::compute::cpu::simd::Vectors;

/// Rows of a task's products: with a panel of weights they stay in the second-level cache.
const PRODUCT_ROWS: usize = 96;
/// Columns of a task: what a cache line holds, several times.
const COLUMNS: usize = 64;
/// Upper bits of a positive float (its sign is 0) are those from here on: 8 of the exponent, 8 of the mantissa.
const SHIFT: u32 = 15;
/// Values of the upper bits.
const BINS: usize = 1 << (31 - SHIFT);

/// See [`crate::compute::CoderOps::pre_activations`]. By the kernel of [`super::product`]: the result depends neither on the
/// threads nor on the instruction set.
pub(super) fn pre_activations(cpu: &Cpu, c: &[f32], w: &[f32], bias: &[f32], u: &mut [f32], dims: CoderDims) {
    let (CoderDims { d, f, groups, .. }, group) = (dims, dims.group());
    let rows = u.len() / f;
    cpu.run(|| {
        for g in 0..groups {
            let own = g * group..(g + 1) * group;
            let w = &w[own.start * d..own.end * d];
            let panels = Panels::new(w, [group, d], MatrixFormat::F32, Vectors::here());
            u.par_chunks_mut(PRODUCT_ROWS * f).enumerate().for_each_init(Vec::new, |sums, (block, u)| {
                let n = u.len() / f;
                let c = &c[(g * rows + block * PRODUCT_ROWS) * d..][..n * d];
                let mut at = own.start;
                panels.products(c, sums, |sums, lanes| {
                    let latents = at..own.end.min(at + lanes);
                    for (u, sums) in u.chunks_exact_mut(f).zip(sums.chunks_exact(lanes)) {
                        let numbers = u[latents.clone()].iter_mut().zip(sums).zip(&bias[latents.clone()]);
                        numbers.for_each(|((u, sum), bias)| *u = sum + bias);
                    }
                    at = latents.end;
                });
            });
        }
    });
}

/// See [`crate::compute::CoderOps::select`].
pub(super) fn select(cpu: &Cpu, u: &[f32], f: usize, rule: Rule<'_, Cpu>, code: &mut Code<Cpu>) {
    let u = &u[..code.rows * f];
    match rule {
        Rule::Positive => fill(cpu, u, f, code, &Each(|_, u| (u > 0.0).then_some(u))),
        Rule::Above(threshold) => {
            fill(cpu, u, f, code, &Each(|i: usize, u| (u > threshold[i] && u > 0.0).then_some(u)));
        }
        Rule::Near { threshold, half_width } => {
            let half_width = half_width as f32;
            let near = |i: usize, u: f32| {
                let value = if u > threshold[i] { u } else { 0.0 };
                ((u - threshold[i]).abs() < half_width).then_some(value)
            };
            fill(cpu, u, f, code, &Each(near));
        }
        Rule::Below { threshold, among } => {
            fill(cpu, u, f, code, &BelowAmong { threshold, among: &among.latents[..among.len] });
        }
        Rule::RowLargest { k, score, signed } => {
            fill(cpu, u, f, code, &RowLargest { k: k.min(f), score: score.map(|s| &s[..f]), signed })
        }
        Rule::RowNorm { norm, score } => fill(cpu, u, f, code, &RowNorm { norm, score: score.map(|s| &s[..f]) }),
        Rule::GroupLargest { groups } => fill(cpu, u, f, code, &GroupLargest { width: f / groups }),
        Rule::ColumnLargest { counts } => {
            let largest = cpu.run(|| Rows::largest_of_columns(u, f, &counts[..f]));
            fill(cpu, u, f, code, &largest);
        }
        Rule::BatchLargest { count, score } => {
            let largest = cpu.run(|| Rows::largest_of_batch(u, f, score.map(|s| &s[..f]), count));
            fill(cpu, u, f, code, &largest);
        }
    }
}

/// Which entries a row has.
trait RowRule: Sync {
    /// Call `take` with each entry of row `b`, latents ascending.
    fn entries(&self, b: usize, row: &[f32], take: impl FnMut(u32, f32));
}

fn fill(cpu: &Cpu, u: &[f32], f: usize, code: &mut Code<Cpu>, rule: &impl RowRule) {
    cpu.run(|| {
        let count = |(b, row): (usize, &[f32])| {
            let mut count = 0;
            rule.entries(b, row, |_, _| count += 1);
            count
        };
        code.k = u.par_chunks(f).enumerate().map(count).max().unwrap_or(0);
        let (k, places) = (code.k, code.places());
        if k == 0 {
            return;
        }
        code.latents.resize(code.latents.len().max(places), NO_LATENT);
        code.values.resize(code.values.len().max(places), 0.0);
        let rows = code.latents[..places].par_chunks_mut(k).zip(code.values[..places].par_chunks_mut(k));
        rows.zip(u.par_chunks(f)).enumerate().for_each(|(b, ((latents, values), row))| {
            latents.fill(NO_LATENT);
            values.fill(0.0);
            let mut at = 0;
            rule.entries(b, row, |latent, value| {
                (latents[at], values[at]) = (latent, value);
                at += 1;
            });
        });
    });
}

/// A rule for each value alone: (latent, pre-activation) to the entry's value.
struct Each<K>(K);

impl<K: Fn(usize, f32) -> Option<f32> + Sync> RowRule for Each<K> {
    fn entries(&self, _: usize, row: &[f32], mut take: impl FnMut(u32, f32)) {
        for (i, &u) in row.iter().enumerate() {
            if let Some(value) = (self.0)(i, u) {
                take(i as u32, value);
            }
        }
    }
}

/// [`Rule::Below`].
struct BelowAmong<'a> {
    threshold: &'a [f32],
    among: &'a [u32],
}

impl RowRule for BelowAmong<'_> {
    fn entries(&self, _: usize, row: &[f32], mut take: impl FnMut(u32, f32)) {
        for &i in self.among {
            let (u, threshold) = (row[i as usize], self.threshold[i as usize]);
            if u < threshold {
                take(i, threshold - u);
            }
        }
    }
}

/// What is ranked: the bits of `u * score`, whose order is that of the numbers; 0 unless `u` is positive.
#[inline(always)]
pub(super) fn key(u: f32, score: Option<&[f32]>, i: usize) -> u32 {
    if u > 0.0 { (u * score.map_or(1.0, |s| s[i])).to_bits() } else { 0 }
}

/// [`Rule::RowLargest`].
struct RowLargest<'a> {
    k: usize,
    score: Option<&'a [f32]>,
    signed: bool,
}

/// As [`key`], for numbers of any sign; 0 for what is not a number.
#[inline(always)]
pub(super) fn signed_key(u: f32, score: Option<&[f32]>, i: usize) -> u32 {
    // adding 0 makes -0 a 0: they are equal
    let scored = u * score.map_or(1.0, |s| s[i]) + 0.0;
    let bits = scored.to_bits();
    let ordered = if scored.is_sign_negative() { !bits } else { bits | 1 << 31 };
    if scored.is_nan() { 0 } else { ordered }
}

impl RowRule for RowLargest<'_> {
    fn entries(&self, _: usize, row: &[f32], mut take: impl FnMut(u32, f32)) {
        // greater is better; of equal keys the lower latent is
        let key = if self.signed { signed_key } else { key };
        let entry = |(i, &u): (usize, &f32)| u64::from(key(u, self.score, i)) << 32 | u64::from(!(i as u32));
        let mut ranked: Vec<u64> = row.iter().enumerate().map(entry).filter(|e| *e >> 32 > 0).collect();
        if self.k < ranked.len() {
            ranked.select_nth_unstable_by(self.k, |a, b| b.cmp(a));
            ranked.truncate(self.k);
        }
        ranked.sort_unstable_by_key(|&entry| !(entry as u32));
        ranked.iter().for_each(|&entry| take(!(entry as u32), row[!(entry as u32) as usize]));
    }
}

/// [`Rule::RowNorm`].
struct RowNorm<'a> {
    norm: &'a [f32],
    score: Option<&'a [f32]>,
}

impl RowRule for RowNorm<'_> {
    fn entries(&self, b: usize, row: &[f32], mut take: impl FnMut(u32, f32)) {
        let entry = |(i, &u): (usize, &f32)| u64::from(key(u, self.score, i)) << 32 | u64::from(!(i as u32));
        let mut ranked: Vec<u64> = row.iter().enumerate().map(entry).filter(|e| *e >> 32 > 0).collect();
        let (most, norm) = (ranked.len().min((row.len() - 1).max(1)), f64::from(self.norm[b]));
        // few are wanted: more are sorted only when those are not enough
        let (mut sorted, mut kept, mut sum, mut off) = (0, 0, 0f64, f64::INFINITY);
        'all: while kept < most {
            let end = ranked.len().min((4 * sorted).max(64));
            if end < ranked.len() {
                ranked[sorted..].select_nth_unstable_by(end - sorted - 1, |a, b| b.cmp(a));
            }
            ranked[sorted..end].sort_unstable_by(|a, b| b.cmp(a));
            sorted = end;
            for &entry in &ranked[kept..end.min(most)] {
                let value = f64::from(f32::from_bits((entry >> 32) as u32));
                sum += value * value;
                let next = (sum.sqrt() - norm).abs();
                if next >= off {
                    break 'all;
                }
                off = next;
                kept += 1;
            }
        }
        let kept = &mut ranked[..kept];
        kept.sort_unstable_by_key(|&entry| !(entry as u32));
        kept.iter().for_each(|&entry| take(!(entry as u32), row[!(entry as u32) as usize]));
    }
}

/// [`Rule::GroupLargest`]: ranges of this width.
struct GroupLargest {
    width: usize,
}

impl RowRule for GroupLargest {
    fn entries(&self, _: usize, row: &[f32], mut take: impl FnMut(u32, f32)) {
        for (group, values) in row.chunks_exact(self.width).enumerate() {
            let (mut at, mut largest) = (0, 0.0);
            for (i, &u) in values.iter().enumerate() {
                if u > largest {
                    (at, largest) = (i, u);
                }
            }
            if largest > 0.0 {
                take((group * self.width + at) as u32, largest);
            }
        }
    }
}

/// The entries of each row, where they are found for all rows together.
struct Rows {
    rows: Vec<Vec<(u32, f32)>>,
}

impl Rows {
    /// [`Rule::ColumnLargest`]: a short list of the best so far for each latent, cut whenever it is full.
    fn largest_of_columns(u: &[f32], f: usize, counts: &[u32]) -> Self {
        let cut = |keys: &mut Vec<u64>, count: usize| {
            if count < keys.len() {
                keys.select_nth_unstable_by(count, |a, b| b.cmp(a));
                keys.truncate(count);
            }
        };
        let columns = counts.par_chunks(COLUMNS).enumerate().flat_map_iter(|(block, counts)| {
            let mut best = vec![Vec::new(); counts.len()];
            for (b, row) in u.chunks_exact(f).enumerate() {
                let values = &row[block * COLUMNS..][..counts.len()];
                for ((best, &u), &count) in best.iter_mut().zip(values).zip(counts).filter(|((_, u), _)| **u > 0.0) {
                    // greater is better; of equal values the earlier row is
                    best.push(u64::from(u.to_bits()) << 32 | u64::from(!(b as u32)));
                    if best.len() >= 2 * count as usize + 64 {
                        cut(best, count as usize);
                    }
                }
            }
            best.iter_mut().zip(counts).for_each(|(best, &count)| cut(best, count as usize));
            best
        });
        let columns: Vec<Vec<u64>> = columns.collect();
        let mut rows = vec![Vec::new(); u.len() / f];
        for (i, best) in columns.iter().enumerate() {
            for &entry in best {
                rows[!(entry as u32) as usize].push((i as u32, f32::from_bits((entry >> 32) as u32)));
            }
        }
        Self { rows }
    }

    /// [`Rule::BatchLargest`], in two passes. The first counts scores by their upper bits; the second gathers those that can
    /// be among the largest, which are few more than are wanted.
    fn largest_of_batch(u: &[f32], f: usize, score: Option<&[f32]>, count: usize) -> Self {
        let counts = histogram(u, f, score);
        let (mut bin, mut above) = (BINS - 1, 0);
        while bin > 0 && above + counts[bin] < count {
            above += counts[bin];
            bin -= 1;
        }
        let least = ((bin as u32) << SHIFT).max(1); // zeros are never kept
        let candidates = |row: &[f32]| {
            let entries = row.iter().enumerate().map(|(i, &u)| (key(u, score, i), i as u32, u));
            entries.filter(|(key, ..)| *key >= least).collect::<Vec<_>>()
        };
        let rows: Vec<Vec<(u32, u32, f32)>> = u.par_chunks(f).map(candidates).collect();
        let mut keys: Vec<u32> = rows.iter().flatten().map(|entry| entry.0).collect();
        let (least, mut ties) = match count {
            0 => (u32::MAX, 0),
            _ if count >= keys.len() => (0, 0),
            _ => {
                let least = *keys.select_nth_unstable_by(count - 1, |a, b| b.cmp(a)).1;
                (least, count - keys.iter().filter(|key| **key > least).count())
            }
        };
        let mut kept = |key: u32| {
            let tie = key == least && ties > 0;
            ties -= usize::from(tie);
            tie || key > least
        };
        let rows = rows.into_iter().map(|row| {
            let row = row.into_iter().filter(|entry| kept(entry.0));
            row.map(|(_, latent, u)| (latent, u)).collect()
        });
        Self { rows: rows.collect() }
    }
}

/// How many scores have each value of the upper bits.
fn histogram(u: &[f32], f: usize, score: Option<&[f32]>) -> Vec<usize> {
    let of_rows = |rows: &[f32]| {
        let mut counts = vec![0usize; BINS];
        for row in rows.chunks_exact(f) {
            row.iter().enumerate().for_each(|(i, &u)| counts[(key(u, score, i) >> SHIFT) as usize] += 1);
        }
        counts
    };
    let add = |mut a: Vec<usize>, b: Vec<usize>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        a
    };
    u.par_chunks(64 * f).map(of_rows).reduce(|| vec![0; BINS], add)
}

impl RowRule for Rows {
    fn entries(&self, b: usize, _: &[f32], mut take: impl FnMut(u32, f32)) {
        self.rows[b].iter().for_each(|&(latent, value)| take(latent, value));
    }
}
