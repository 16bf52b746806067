//! Screened selection: which pre-activations are chosen, without computing most of them precisely.
//!
//! All pre-activations are computed cheaply (in bfloat16 where the machine has a unit for it, else in f32), in tiles that never
//! leave the cache. A rigorous bound ([`bounds`]) says how far each can be from its value; those that cannot be chosen are let
//! go. The few that are left are computed again as [`dot`] defines it, and the choice is made among these. So the result is
//! that of computing all of them with [`dot`]: it depends neither on the cheap product nor on tiles, threads or instruction
//! set. Rows whose bounds overflow are not screened; all of theirs are computed.

mod bounds;
mod choice;
mod list;
mod tile;

use std::cell::RefCell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::compute::coder_ops::Screening;
use crate::compute::cpu::Cpu;
use crate::compute::cpu::screen::bounds::{BLOCK, LARGEST, Latents, Row, measure_input, pack_input, pairs};
use crate::compute::cpu::screen::list::{List, scan_tile};
use crate::compute::cpu::screen::tile::{TILE_ROWS, packs, pair_products, plain_products};
use crate::compute::cpu::simd::dot;

pub(super) use crate::compute::cpu::screen::bounds::Source;
pub(super) use crate::compute::cpu::screen::choice::{above, batch_largest, row_largest};

/// Rows of a block: with a packed block of latents they stay in the second-level cache.
const ROWS: usize = 96;
/// Latents of a tile of f32 products, whose weights are packed once for a block of rows.
const PLAIN_LATENTS: usize = 1024;

/// What was screened so far, and the memory that screens use again.
#[derive(Default)]
pub(super) struct Counts {
    rows: AtomicU64,
    candidates: AtomicU64,
    unscreened: AtomicU64,
    latents: Mutex<Latents>,
}

impl Counts {
    /// See [`crate::compute::CoderOps::screening`].
    pub(super) fn so_far(&self) -> Screening {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Screening { rows: of(&self.rows), candidates: of(&self.candidates), unscreened_rows: of(&self.unscreened) }
    }

    fn add(&self, lists: &[List], unscreened: usize) {
        let candidates: usize = lists.iter().map(|list| list.len).sum();
        self.rows.fetch_add(lists.len() as u64, Ordering::Relaxed);
        self.candidates.fetch_add(candidates as u64, Ordering::Relaxed);
        self.unscreened.fetch_add(unscreened as u64, Ordering::Relaxed);
    }

    /// Memory of an earlier screen.
    fn take(&self) -> Latents {
        let mut held = self.latents.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::take(&mut *held)
    }

    fn give_back(&self, latents: Latents) {
        *self.latents.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = latents;
    }
}

/// What a thread needs for a block of rows; kept from step to step.
#[derive(Default)]
struct Scratch {
    packed: Vec<u32>,
    tile: Vec<f32>,
    rows: Vec<Row>,
    lists: Vec<List>,
    order: Vec<u32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Screen the rows `c` `[n, d]`, up to [`ROWS`]: their lists, of what is not below `threshold`, shortened by `shorten`, which
/// is called with the lists of some rows after they grew. How many rows could not be screened.
fn screen_block(
    scratch: &mut Scratch,
    c: &[f32],
    (source, latents): (&Source<'_>, &Latents),
    threshold: f32,
    mut shorten: impl FnMut(&mut [List], &mut Vec<u32>),
) -> usize {
    let d = source.d;
    let Scratch { packed, tile, rows, lists, order } = scratch;
    let n = c.len() / d;
    let is_packed = !latents.packed.is_empty();
    let whole = if is_packed { n.next_multiple_of(TILE_ROWS) } else { n };
    rows.clear();
    rows.resize(whole, Row::default());
    if lists.len() < n {
        lists.resize_with(n.max(ROWS), List::default);
    }
    lists[..n].iter_mut().for_each(|list| list.reset(threshold));
    let unscreened;
    if is_packed {
        let d2 = pairs(d);
        packed.resize(packed.len().max(whole * d2), 0);
        packed[n * d2..whole * d2].fill(0);
        for ((row, out), x) in rows.iter_mut().zip(packed.chunks_exact_mut(d2)).zip(c.chunks_exact(d)) {
            *row = pack_input(x, out);
        }
        unscreened = give_up(&mut rows[..n], latents);
        let mut z = [0f32; TILE_ROWS * BLOCK];
        for (block, w) in latents.packed.chunks_exact(BLOCK * d2).enumerate() {
            for first in (0..n).step_by(TILE_ROWS) {
                let last = n.min(first + TILE_ROWS);
                pair_products(&packed[first * d2..], w, &mut z, d2);
                scan_tile(&mut lists[first..last], &rows[first..last], &z, latents, block * BLOCK);
            }
            shorten(&mut lists[..n], order);
        }
    } else {
        rows.iter_mut().zip(c.chunks_exact(d)).for_each(|(row, x)| *row = measure_input(x));
        unscreened = give_up(rows, latents);
        plain_tiles(c, (source, latents), tile, |tile, first, stride| {
            for (at, columns) in (0..stride).step_by(BLOCK).enumerate() {
                for ((list, row), z) in lists.iter_mut().zip(&*rows).zip(tile.chunks_exact(stride)) {
                    let z = &z[columns..columns + BLOCK];
                    scan_tile(std::slice::from_mut(list), std::slice::from_ref(row), z, latents, first + at * BLOCK);
                }
                shorten(&mut lists[..n], order);
            }
        });
    }
    lists[..n].iter_mut().for_each(|list| list.within(source.len()));
    unscreened
}

/// Rows whose products could overflow on the way get bounds that exclude nothing. How many.
fn give_up(rows: &mut [Row], latents: &Latents) -> usize {
    let mut unscreened = 0;
    for row in rows {
        let is_safe = row.norm * latents.longest < LARGEST;
        if !is_safe {
            *row = Row { norm: f32::INFINITY, off: f32::INFINITY };
            unscreened += 1;
        }
    }
    unscreened
}

/// The f32 products of a block of rows, tile by tile: each with its first latent and the length of its rows.
fn plain_tiles(
    c: &[f32],
    (source, latents): (&Source<'_>, &Latents),
    tile: &mut Vec<f32>,
    mut scan: impl FnMut(&[f32], usize, usize),
) {
    let (d, places) = (source.d, latents.bias.len());
    let n = c.len() / d;
    let mut gathered = Vec::new();
    for first in (0..places).step_by(PLAIN_LATENTS) {
        let stride = PLAIN_LATENTS.min(places - first);
        let width = stride.min(source.len() - first);
        let w = match source.among {
            None => &source.w[first * d..][..width * d],
            Some(_) => {
                gathered.clear();
                (first..first + width).for_each(|at| gathered.extend_from_slice(source.row(at)));
                &gathered[..]
            }
        };
        tile.clear();
        tile.resize(n * stride, 0.0);
        plain_products(c, w, tile, (d, stride));
        scan(tile, first, stride);
    }
}

/// The pre-activation at a place, as it is defined: a product of one order of summation, then the bias.
#[inline(always)]
fn exact(row: &[f32], source: &Source<'_>, at: usize) -> f32 {
    dot(row, source.row(at)) + source.b[source.latent(at)]
}

impl Cpu {
    /// Measure the latents and give them to `work`, on the threads of the pool.
    fn screened<R: Send>(&self, source: &Source<'_>, work: impl FnOnce(&Latents) -> R + Send) -> R {
        self.run(|| {
            let latents = Latents::measure(source, packs(), self.screened.take());
            let result = work(&latents);
            self.screened.give_back(latents);
            result
        })
    }
}

#[cfg(test)]
mod tests;
