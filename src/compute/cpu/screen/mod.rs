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
use crate::compute::cpu::screen::tile::{Packing, TILE_ROWS, pair_products, plain_products};
use crate::compute::cpu::simd::dot;

pub(super) use crate::compute::cpu::screen::bounds::Source;
pub(super) use crate::compute::cpu::screen::choice::{above, batch_largest, row_largest};

/// Rows of a block: with a packed block of latents they stay in the second-level cache.
const ROWS: usize = 96;

/// Whether screens on this thread multiply pairs of bfloat16.
pub(super) fn screens_pairs() -> bool {
    Packing::here() == Packing::Pairs
}

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
    /// `[ROWS, BLOCK]` f32 products.
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
    rows.clear();
    rows.resize(n.next_multiple_of(TILE_ROWS), Row::default());
    if lists.len() < n {
        lists.resize_with(n.max(ROWS), List::default);
    }
    lists[..n].iter_mut().for_each(|list| list.reset(threshold));
    let unscreened;
    match latents.packing {
        Packing::Pairs => {
            let d2 = pairs(d);
            packed.resize(packed.len().max(rows.len() * d2), 0);
            packed[n * d2..rows.len() * d2].fill(0);
            for ((row, out), x) in rows.iter_mut().zip(packed.chunks_exact_mut(d2)).zip(c.chunks_exact(d)) {
                *row = pack_input(x, out);
            }
            unscreened = give_up(&mut rows[..n], latents);
            let mut z = [0f32; TILE_ROWS * BLOCK];
            for (block, w) in latents.blocks(d).enumerate() {
                for first in (0..n).step_by(TILE_ROWS) {
                    let last = n.min(first + TILE_ROWS);
                    pair_products(&packed[first * d2..], w, &mut z, d2);
                    scan_tile(&mut lists[first..last], &rows[first..last], &z, latents, block * BLOCK);
                }
                shorten(&mut lists[..n], order);
            }
        }
        Packing::F32 { lanes } => {
            rows.iter_mut().zip(c.chunks_exact(d)).for_each(|(row, x)| *row = measure_input(x));
            unscreened = give_up(&mut rows[..n], latents);
            tile.resize(ROWS * BLOCK, 0.0);
            for (block, w) in latents.blocks(d).enumerate() {
                plain_products(c, bytemuck::cast_slice(w), tile, (d, lanes));
                scan_tile(&mut lists[..n], &rows[..n], tile, latents, block * BLOCK);
                shorten(&mut lists[..n], order);
            }
        }
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

/// The pre-activation at a place, as it is defined: a product of one order of summation, then the bias.
#[inline(always)]
fn exact(row: &[f32], source: &Source<'_>, at: usize) -> f32 {
    dot(row, source.row(at)) + source.b[source.latent(at)]
}

impl Cpu {
    /// Measure the latents and give them to `work`, on the threads of the pool.
    fn screened<R: Send>(&self, source: &Source<'_>, work: impl FnOnce(&Latents) -> R + Send) -> R {
        self.run(|| {
            let latents = Latents::measure(source, Packing::here(), self.screened.take());
            let result = work(&latents);
            self.screened.give_back(latents);
            result
        })
    }
}

#[cfg(test)]
mod tests;
