//! Codes with so many entries that products of dense tiles are faster than going from entry to entry: ReLU coders before
//! training has made them sparse.
//!
//! A chunk of the code is written out with its zeros, for some rows (or latents), and multiplied by the kernel of
//! [`super::product`]. Every number is a sum of chunks of [`CHUNK`] latents, rows or inputs in their order, each one chain: it
//! depends neither on tiles and threads nor on the instruction set. What is computed of a row and a few latents is used
//! at once, so it never leaves the cache. Whether it is done so depends on the code's shape alone.

use std::cell::RefCell;
use std::ops::Range;

use bytemuck::Zeroable;
use rayon::prelude::*;

use crate::compute::backend::MatrixFormat;
use crate::compute::coder_ops::{Code, CoderDims, GradientTerm, NO_LATENT};
use crate::compute::cpu::Cpu;
use crate::compute::cpu::product::{CHUNK, LANES, LINE, Line, Panels, Tile, f32_tile, panel_lanes};
use crate::compute::cpu::simd::Vectors;
use crate::compute::cpu::sparse::OfLatents;

/// Rows, or latents, of a tile: a multiple of the rows that a kernel takes.
const TILE: usize = 120;
/// Rows of a code below which it is not worth it.
const ROWS_MIN: usize = 128;
/// A code is dense if its longest row has at least this share of all latents: one in four.
const SHARE: usize = 4;
/// Rows and columns of a square that is turned at a time.
const EDGE: usize = 16;

/// One thread's scratch.
#[derive(Default)]
struct Room {
    /// `[rows, CHUNK]` of the code.
    x: Vec<f32>,
    /// `[CHUNK, lanes]` of the other factor.
    w: Vec<Line>,
    /// `[rows, lanes]` sums.
    z: Vec<Line>,
    /// `[rows]` the next entry of each.
    at: Vec<usize>,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// Whether a code of `f` latents is better multiplied as a whole.
pub(super) fn is_dense(code: &Code<Cpu>, f: usize) -> bool {
    code.k * SHARE >= f && code.rows >= ROWS_MIN
}

/// A matrix `[steps, width]`, whose rows are `stride` apart.
#[derive(Clone, Copy)]
struct Steps<'a> {
    values: &'a [f32],
    stride: usize,
    width: usize,
    steps: usize,
}

/// `out[r, p] += sum_s x[r, s] w[s, p]`: `x` `[rows, steps]`, `out` `[rows, width]`, at most [`CHUNK`] steps.
fn add_product(x: &[f32], rows: usize, w: Steps<'_>, out: &mut [f32], (packed, z): (&mut Vec<Line>, &mut Vec<Line>)) {
    let Steps { values, stride, width, steps } = w;
    let vectors = Vectors::here();
    let most = panel_lanes(vectors);
    let own: &mut [f32] = bytemuck::cast_slice_mut(room_for(packed, CHUNK * most));
    for first in (0..width).step_by(most) {
        let wanted = most.min(width - first);
        let lanes = wanted.next_multiple_of(LANES);
        for (s, to) in own.chunks_exact_mut(lanes).take(steps).enumerate() {
            to[..wanted].copy_from_slice(&values[s * stride + first..][..wanted]);
            to[wanted..].fill(0.0);
        }
        let w = &own[..steps * lanes];
        let whole = lanes == wanted;
        let (sums, out_stride): (&mut [f32], usize) = match whole {
            true => (&mut out[first..], width),
            false => (bytemuck::cast_slice_mut(room_for(z, rows * lanes)), lanes),
        };
        let tile = Tile {
            x,
            x_stride: steps,
            rows,
            w,
            w_stride: lanes,
            steps,
            lanes,
            out: sums,
            out_stride,
            add: whole,
            next: &[],
        };
        f32_tile(vectors, tile);
        if !whole {
            let sums: &[f32] = bytemuck::cast_slice(&z[..]);
            for (out, sums) in out.chunks_exact_mut(width).zip(sums.chunks_exact(lanes)) {
                out[first..].iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
            }
        }
    }
}

fn room_for(lines: &mut Vec<Line>, numbers: usize) -> &mut [Line] {
    let len = numbers.div_ceil(LINE);
    if lines.len() < len {
        lines.resize(len, Line::zeroed());
    }
    &mut lines[..len]
}

/// See [`crate::compute::CoderOps::products`]. Blocks are fixed: the result does not depend on the threads.
pub(super) fn products(cpu: &Cpu, x: &[f32], y: &[f32], out: &mut [f32], [n, p, q]: [usize; 3]) {
    assert!(x.len() == n * p && y.len() == n * q && out.len() == p * q, "{n} x {p} x {q}");
    if n == 0 || q == 0 {
        return out.fill(0.0);
    }
    cpu.run(|| {
        out.par_chunks_mut(TILE * q).enumerate().for_each(|(block, out)| {
            out.fill(0.0);
            let (first, rows) = (block * TILE, out.len() / q);
            ROOM.with_borrow_mut(|Room { x: turned, w, z, .. }| {
                for start in (0..n).step_by(CHUNK) {
                    let steps = CHUNK.min(n - start);
                    turned.resize(turned.len().max(rows * steps), 0.0);
                    turn(&x[start * p + first..], p, &mut turned[..rows * steps], (rows, steps));
                    let y = Steps { values: &y[start * q..], stride: q, width: q, steps };
                    add_product(turned, rows, y, out, (w, z));
                }
            });
        });
    });
}

/// `out[r, s] = x[s, r]`: rows of `x` are `stride` apart, `out` `[rows, steps]`.
fn turn(x: &[f32], stride: usize, out: &mut [f32], (rows, steps): (usize, usize)) {
    for first in (0..steps).step_by(EDGE) {
        for r in 0..rows {
            for s in first..steps.min(first + EDGE) {
                out[r * steps + s] = x[s * stride + r];
            }
        }
    }
}

/// See [`super::sparse::decode`]; `out` holds what is added to.
pub(super) fn decode(
    cpu: &Cpu,
    code: &Code<Cpu>,
    latents: Range<u32>,
    w: &[f32],
    sign: f32,
    out: &mut [f32],
    d: usize,
) {
    let k = code.k;
    let rows = out[..code.rows * d].par_chunks_mut(TILE * d);
    let rows = rows.zip(code.latents.par_chunks(TILE * k)).zip(code.values.par_chunks(TILE * k));
    cpu.run(|| {
        rows.for_each(|((out, places), values)| {
            let n = out.len() / d;
            ROOM.with_borrow_mut(|Room { x, w: packed, z, at }| {
                at.clear();
                at.resize(n, 0);
                for first in latents.clone().step_by(CHUNK) {
                    let steps = CHUNK.min((latents.end - first) as usize);
                    let end = first + steps as u32;
                    x.clear();
                    x.resize(n * steps, 0.0);
                    let code = places.chunks_exact(k).zip(values.chunks_exact(k));
                    for ((x, at), (places, values)) in x.chunks_exact_mut(steps).zip(&mut *at).zip(code) {
                        while *at < k && places[*at] < end {
                            if places[*at] >= first {
                                x[(places[*at] - first) as usize] = sign * values[*at];
                            }
                            *at += 1;
                        }
                    }
                    let w = Steps { values: &w[first as usize * d..], stride: d, width: d, steps };
                    add_product(x, n, w, out, (packed, z));
                }
            });
        });
    });
}

/// See [`super::sparse::entry_dots`].
pub(super) fn entry_dots(
    cpu: &Cpu,
    code: &Code<Cpu>,
    latents: Range<u32>,
    (w, r): (&[f32], &[f32]),
    scale: f32,
    out: &mut [f32],
    d: usize,
) {
    let k = code.k;
    let width = latents.len();
    let w = &w[latents.start as usize * d..][..width * d];
    let rows = out[..code.places()].par_chunks_mut(TILE * k);
    let rows = rows.zip(code.latents.par_chunks(TILE * k)).zip(r[..code.rows * d].par_chunks(TILE * d));
    cpu.run(|| {
        let panels = Panels::new(w, [width, d], MatrixFormat::F32, Vectors::here());
        rows.for_each(|((out, places), r)| {
            ROOM.with_borrow_mut(|Room { z, at, .. }| {
                at.clear();
                at.resize(r.len() / d, 0);
                let mut first = latents.start;
                panels.products(r, z, |sums, lanes| {
                    let end = latents.end.min(first + lanes as u32);
                    let rows = out.chunks_exact_mut(k).zip(places.chunks_exact(k)).zip(&mut *at);
                    for (((out, places), at), sums) in rows.zip(sums.chunks_exact(lanes)) {
                        while *at < k && places[*at] < end {
                            if places[*at] >= first {
                                out[*at] = scale * sums[(places[*at] - first) as usize];
                            }
                            *at += 1;
                        }
                    }
                    first = end;
                });
                for (out, places) in out.chunks_exact_mut(k).zip(places.chunks_exact(k)) {
                    let unused = out.iter_mut().zip(places).rev().take_while(|(_, latent)| **latent == NO_LATENT);
                    unused.for_each(|(out, _)| *out = 0.0);
                }
            });
        });
    });
}

/// See [`crate::compute::CoderOps::latent_gradients`]; of a group of latents, whose input is `c`.
pub(super) fn latent_gradients(
    cpu: &Cpu,
    terms: &[GradientTerm<'_, Cpu>],
    c: &[f32],
    dims: CoderDims,
    out: OfLatents<'_>,
) {
    let CoderDims { d, out: width, .. } = dims;
    let blocks = out.w_enc.par_chunks_mut(TILE * d);
    let w_dec = out.w_dec.par_chunks_mut(TILE * width);
    let blocks = blocks.zip(out.b_enc.par_chunks_mut(TILE)).zip(w_dec);
    cpu.run(|| {
        blocks.enumerate().for_each(|(block, ((w_enc, b_enc), w_dec))| {
            w_enc.fill(0.0);
            w_dec.fill(0.0);
            b_enc.fill(0.0);
            let first = out.first + block * TILE;
            for term in terms {
                add_term(term, c, dims, first, (&mut *w_enc, &mut *b_enc, &mut *w_dec));
            }
        });
    });
}

/// Add one term's entries of a block of latents.
fn add_term(
    term: &GradientTerm<'_, Cpu>,
    c: &[f32],
    CoderDims { d, out, .. }: CoderDims,
    first: usize,
    (w_enc, b_enc, w_dec): (&mut [f32], &mut [f32], &mut [f32]),
) {
    let (n, k, rows) = (term.code.rows, term.code.k, b_enc.len());
    let scale = term.residual_scale as f32;
    // the places of a latent, as far as they count
    let ends: Vec<Range<usize>> = (first..first + rows)
        .map(|i| {
            let start = term.by_latent.starts[i] as usize;
            let own = term.latents.contains(&(i as u32));
            start..if own { term.by_latent.starts[i + 1] as usize } else { start }
        })
        .collect();
    for (b_enc, ends) in b_enc.iter_mut().zip(&ends) {
        term.by_latent.places[ends.clone()].iter().for_each(|&place| *b_enc += term.g_pre[place as usize]);
    }
    ROOM.with_borrow_mut(|Room { x, w: packed, z, at }| {
        at.clear();
        at.extend(ends.iter().map(|ends| ends.start));
        for start in (0..n).step_by(CHUNK) {
            let steps = CHUNK.min(n - start);
            let places = (&term.by_latent.places[..], &ends[..]);
            if scale != 0.0 {
                // the same places come again, with their gradients
                write_rows(places, &mut at.clone(), (start, steps, k), |place| scale * term.code.values[place], x);
                let residual = Steps { values: &term.residual[start * out..], stride: out, width: out, steps };
                add_product(x, rows, residual, w_dec, (packed, z));
            }
            write_rows(places, at, (start, steps, k), |place| term.g_pre[place], x);
            add_product(x, rows, Steps { values: &c[start * d..], stride: d, width: d, steps }, w_enc, (packed, z));
        }
    });
}

/// `x` `[latents, steps]`: what latents have in the rows from `start` on, of their places from `at` on, which moves along.
fn write_rows(
    (places, ends): (&[u32], &[Range<usize>]),
    at: &mut [usize],
    (start, steps, k): (usize, usize, usize),
    value: impl Fn(usize) -> f32,
    x: &mut Vec<f32>,
) {
    x.clear();
    x.resize(ends.len() * steps, 0.0);
    for ((x, at), ends) in x.chunks_exact_mut(steps).zip(at).zip(ends) {
        let places = places[*at..ends.end].iter().map(|&place| place as usize);
        for place in places.take_while(|place| *place < (start + steps) * k) {
            x[place / k - start] = value(place);
            *at += 1;
        }
    }
}
