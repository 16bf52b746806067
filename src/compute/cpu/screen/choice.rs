//! What is chosen among the candidates of a screen, by their values.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rayon::prelude::*;

use crate::compute::coder_ops::{Code, NO_LATENT};
use crate::compute::cpu::Cpu;
use crate::compute::cpu::screen::bounds::{Latents, Source};
use crate::compute::cpu::screen::list::{List, is_below};
use crate::compute::cpu::screen::{ROWS, SCRATCH, exact, screen_block};
use crate::compute::cpu::select::{key, signed_key};
use crate::compute::cpu::simd::vectorized;
use crate::compute::cpu::topk::CodeOut;

/// Upper bits by which lower bounds are counted: 8 of the exponent, 8 of the mantissa.
const SHIFT: u32 = 15;
/// Values of those bits, of positive numbers.
const BINS: usize = 1 << (31 - SHIFT);
/// A row has many candidates if more than one in so many latents is: computing each again takes longer than all at once.
const MANY: usize = 12;

/// The `k` largest of each row of `c` `[n, d]`: see [`crate::compute::coder_ops::Rule::RowLargest`].
pub(in crate::compute::cpu) fn row_largest(
    cpu: &Cpu,
    c: &[f32],
    source: &Source<'_>,
    signed: bool,
    CodeOut { latents, values, k }: CodeOut<'_>,
) {
    let d = source.d;
    if k == 0 || latents.is_empty() {
        return;
    }
    latents.fill(NO_LATENT);
    values.fill(0.0);
    if source.len() == 0 {
        return;
    }
    let threshold = if signed { f32::NEG_INFINITY } else { 0.0 };
    cpu.screened(source, |measured| {
        let blocks = c.par_chunks(ROWS * d).zip(latents.par_chunks_mut(ROWS * k)).zip(values.par_chunks_mut(ROWS * k));
        blocks.for_each(|((c, latents), values)| {
            SCRATCH.with_borrow_mut(|scratch| {
                let unscreened = screen_block(scratch, c, (source, measured), threshold, |lists, order| {
                    lists.iter_mut().filter(|list| list.is_long()).for_each(|list| list.raise(k, order));
                });
                let lists = &mut scratch.lists[..c.len() / d];
                lists.iter_mut().for_each(|list| list.raise(k, &mut scratch.order));
                cpu.screened.add(lists, unscreened);
                let rows = latents.chunks_exact_mut(k).zip(values.chunks_exact_mut(k));
                let mut found = Vec::new();
                for ((list, row), (latents, values)) in lists.iter().zip(c.chunks_exact(d)).zip(rows) {
                    rank(row, source, list, signed, &mut found);
                    choose(&mut found, k, source, latents, values);
                }
            });
        });
    });
}

/// A candidate: its rank above its place, inverted (greater is better; of equal ranks the lower latent is), and its value.
type Found = (u64, f32);

/// The values of a row's candidates, of those that can be chosen.
fn rank(row: &[f32], source: &Source<'_>, list: &List, signed: bool, found: &mut Vec<Found>) {
    found.clear();
    vectorized(
        #[inline(always)]
        || {
            for &at in list.places() {
                let u = exact(row, source, at as usize);
                found.push((u64::from(!at), u));
            }
        },
    );
    by_rank(found, source, if signed { signed_key } else { key });
}

/// Put ranks above the places; what has none is no entry.
fn by_rank(found: &mut Vec<Found>, source: &Source<'_>, key: fn(f32, Option<&[f32]>, usize) -> u32) {
    for (entry, u) in &mut *found {
        let at = !(*entry as u32) as usize;
        *entry |= u64::from(key(*u, source.score, source.latent(at))) << 32;
    }
    found.retain(|(entry, _)| entry >> 32 > 0);
}

/// The `k` best in order of their latents.
fn choose(found: &mut Vec<Found>, k: usize, source: &Source<'_>, latents: &mut [u32], values: &mut [f32]) {
    if k < found.len() {
        found.select_nth_unstable_by(k, |a, b| b.0.cmp(&a.0));
        found.truncate(k);
    }
    found.sort_unstable_by_key(|(entry, _)| !(*entry as u32));
    for ((latent, value), &(entry, u)) in latents.iter_mut().zip(values).zip(&*found) {
        *latent = source.latent(!(entry as u32) as usize) as u32;
        *value = u;
    }
}

/// How many lower bounds there are of each size so far, and what follows for the `count`-th largest.
struct Bins {
    counts: Vec<AtomicU32>,
    added: AtomicU64,
    counted: AtomicU64,
    threshold: AtomicU32,
    count: usize,
}

impl Bins {
    fn new(count: usize) -> Self {
        let counts = (0..BINS).map(|_| AtomicU32::new(0)).collect();
        Self { counts, added: AtomicU64::new(0), counted: AtomicU64::new(0), threshold: AtomicU32::new(0), count }
    }

    /// Take in the lower bounds of new entries.
    fn add(&self, lower: &[f32]) {
        let positive = lower.iter().filter(|lower| **lower > 0.0);
        let mut added = 0;
        for lower in positive {
            self.counts[(lower.to_bits() >> SHIFT) as usize].fetch_add(1, Ordering::Relaxed);
            added += 1;
        }
        self.added.fetch_add(added, Ordering::Relaxed);
    }

    /// At least `count` entries are not below this. It rises as more are taken in.
    fn threshold(&self) -> f32 {
        let (added, counted) = (self.added.load(Ordering::Relaxed), self.counted.load(Ordering::Relaxed));
        if added > counted + self.count as u64 / 8 {
            self.counted.store(added, Ordering::Relaxed);
            let mut above = 0usize;
            for (bin, n) in self.counts.iter().enumerate().rev() {
                above += n.load(Ordering::Relaxed) as usize;
                if above >= self.count {
                    self.threshold.fetch_max((bin as u32) << SHIFT, Ordering::Relaxed);
                    break;
                }
            }
        }
        f32::from_bits(self.threshold.load(Ordering::Relaxed))
    }
}

/// A candidate of a batch.
struct Candidate {
    at: u32,
    upper: f32,
    lower: f32,
}

/// The `count` largest of all rows of `c` `[n, d]`: see [`crate::compute::coder_ops::Rule::BatchLargest`].
pub(in crate::compute::cpu) fn batch_largest(
    cpu: &Cpu,
    c: &[f32],
    source: &Source<'_>,
    count: usize,
    code: &mut Code<Cpu>,
) {
    if count == 0 || source.len() == 0 {
        code.k = 0;
        return;
    }
    let mut rows = cpu.screened(source, |measured| {
        let bins = Bins::new(count);
        let blocks = c.par_chunks(ROWS * source.d).flat_map_iter(|c| batch_block(cpu, c, (source, measured), &bins));
        blocks.collect::<Vec<Vec<Candidate>>>()
    });
    // the bound of the whole batch: no entry below it is among the largest
    let mut lower: Vec<u32> = rows.iter().flatten().filter(|c| c.lower > 0.0).map(|c| c.lower.to_bits()).collect();
    let threshold = match lower.len() < count {
        true => 0.0,
        false => f32::from_bits(*lower.select_nth_unstable_by(count - 1, |a, b| b.cmp(a)).1),
    };
    let found: Vec<Vec<Found>> = cpu.run(|| {
        let rows = rows.par_iter_mut().zip(c.par_chunks(source.d));
        rows.map(|(row, x)| {
            row.retain(|candidate| !is_below(candidate.upper, threshold));
            values_of(x, source, row)
        })
        .collect()
    });
    cpu.screened.rows.fetch_add(found.len() as u64, Ordering::Relaxed);
    cpu.screened.candidates.fetch_add(rows.iter().map(|row| row.len() as u64).sum(), Ordering::Relaxed);
    write_rows(cpu, &largest(found, count), source, code);
}

/// The candidates of a block of rows.
fn batch_block(cpu: &Cpu, c: &[f32], (source, measured): (&Source<'_>, &Latents), bins: &Bins) -> Vec<Vec<Candidate>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut counted = vec![0; c.len() / source.d];
        let start = bins.threshold();
        let unscreened = screen_block(scratch, c, (source, measured), start, |lists, _| {
            for (list, counted) in lists.iter_mut().zip(&mut counted) {
                bins.add(&list.lower[*counted..list.len]);
                let threshold = bins.threshold();
                if list.is_long() {
                    list.shorten(threshold);
                }
                list.threshold = threshold;
                *counted = list.len;
            }
        });
        cpu.screened.unscreened.fetch_add(unscreened as u64, Ordering::Relaxed);
        let threshold = bins.threshold();
        let lists = scratch.lists[..counted.len()].iter_mut();
        lists
            .map(|list| {
                list.shorten(threshold);
                let entries = list.at.iter().zip(&list.upper).zip(&list.lower).take(list.len);
                entries.map(|((&at, &upper), &lower)| Candidate { at, upper, lower }).collect()
            })
            .collect()
    })
}

/// The ranks and values of a row's candidates.
fn values_of(row: &[f32], source: &Source<'_>, candidates: &[Candidate]) -> Vec<Found> {
    let mut found = Vec::with_capacity(candidates.len());
    vectorized(
        #[inline(always)]
        || {
            for candidate in candidates {
                let u = exact(row, source, candidate.at as usize);
                found.push((u64::from(!candidate.at), u));
            }
        },
    );
    by_rank(&mut found, source, key);
    found
}

/// The `count` largest of all: of equal ones those of earlier rows, then of lower latents.
fn largest(mut rows: Vec<Vec<Found>>, count: usize) -> Vec<Vec<Found>> {
    let key = |found: &Found| (found.0 >> 32) as u32;
    let mut keys: Vec<u32> = rows.iter().flatten().map(key).collect();
    if count >= keys.len() {
        return rows;
    }
    let least = *keys.select_nth_unstable_by(count - 1, |a, b| b.cmp(a)).1;
    let mut ties = count - keys.iter().filter(|key| **key > least).count();
    for row in &mut rows {
        row.retain(|found| {
            let tie = key(found) == least && ties > 0;
            ties -= usize::from(tie);
            tie || key(found) > least
        });
    }
    rows
}

/// What is above the source's floor, of the rows of `c` `[n, d]`: see [`crate::compute::CoderOps::encode_above`].
pub(in crate::compute::cpu) fn above(cpu: &Cpu, c: &[f32], source: &Source<'_>, code: &mut Code<Cpu>) -> bool {
    let d = source.d;
    let floor = source.floor.unwrap_or_default();
    let rows = cpu.screened(source, |measured| {
        let block = |c: &[f32]| {
            SCRATCH.with_borrow_mut(|scratch| {
                let unscreened = screen_block(scratch, c, (source, measured), 0.0, |_, _| {});
                let lists = &scratch.lists[..c.len() / d];
                cpu.screened.add(lists, unscreened);
                let rows = lists.iter().zip(c.chunks_exact(d));
                rows.map(|(list, row)| values_above(row, source, list, floor)).collect::<Vec<_>>()
            })
        };
        // the first rows say whether it is worth it
        let first = &c[..c.len().min(ROWS * d)];
        let sample = SCRATCH.with_borrow_mut(|scratch| {
            screen_block(scratch, first, (source, measured), 0.0, |_, _| {});
            scratch.lists[..first.len() / d].iter().map(|list| list.len).sum::<usize>()
        });
        (sample * MANY * d <= first.len() * source.len()).then(|| c.par_chunks(ROWS * d).flat_map_iter(block).collect())
    });
    let rows: Option<Vec<Vec<Found>>> = rows;
    if let Some(rows) = &rows {
        write_rows(cpu, rows, source, code);
    }
    rows.is_some()
}

/// The candidates of a row that are above their floor.
fn values_above(row: &[f32], source: &Source<'_>, list: &List, floor: &[f32]) -> Vec<Found> {
    let mut found = Vec::with_capacity(list.len);
    vectorized(
        #[inline(always)]
        || {
            for &at in list.places() {
                let u = exact(row, source, at as usize);
                if u > floor[source.latent(at as usize)] {
                    found.push((u64::from(!at), u));
                }
            }
        },
    );
    found
}

/// Put the entries of all rows into a code, latents ascending.
fn write_rows(cpu: &Cpu, rows: &[Vec<Found>], source: &Source<'_>, code: &mut Code<Cpu>) {
    code.k = rows.iter().map(Vec::len).max().unwrap_or(0);
    let (k, places) = (code.k, code.places());
    if k == 0 {
        return;
    }
    code.latents.resize(code.latents.len().max(places), NO_LATENT);
    code.values.resize(code.values.len().max(places), 0.0);
    let out = code.latents[..places].par_chunks_mut(k).zip(code.values[..places].par_chunks_mut(k));
    cpu.run(|| {
        out.zip(rows).with_min_len(ROWS).for_each(|((latents, values), row)| {
            latents.fill(NO_LATENT);
            values.fill(0.0);
            // lists are in the order of the latents
            for ((latent, value), &(entry, u)) in latents.iter_mut().zip(values).zip(row) {
                *latent = source.latent(!(entry as u32) as usize) as u32;
                *value = u;
            }
        });
    });
}
