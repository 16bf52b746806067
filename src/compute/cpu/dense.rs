//! Codes with so many entries that products of dense tiles are faster than going from entry to entry: ReLU coders before
//! training has made them sparse.
//!
//! A tile of the code is written out with its zeros and multiplied. Whether it is done depends on the code's shape alone,
//! and tiles are fixed: results depend neither on the machine's load nor on the number of threads.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use crate::compute::coder_ops::{Code, CoderDims, GradientTerm, NO_LATENT};
use crate::compute::cpu::Cpu;
use crate::compute::cpu::sparse::OfLatents;

/// Rows, or latents, of a tile.
const TILE: usize = 128;
/// A code is dense if its longest row has at least this share of all latents: one in four.
const SHARE: usize = 4;

thread_local! {
    static TILES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Whether a code of `f` latents is better multiplied as a whole.
pub(super) fn is_dense(code: &Code<Cpu>, f: usize) -> bool {
    code.k * SHARE >= f && code.rows >= TILE
}

/// `out = alpha out + beta a b`: `a` `[n, k]`, `b` `[k, d]` (or `[d, k]`, turned), `out` `[n, d]`, on this thread.
fn product(a: &[f32], (b, turned): (&[f32], bool), [n, k, d]: [usize; 3], (alpha, beta): (f32, f32), out: &mut [f32]) {
    assert!(a.len() >= n * k && b.len() >= k * d && out.len() >= n * d, "{n} x {k} x {d}");
    let (b_column, b_row) = if turned { (k as isize, 1) } else { (1, d as isize) };
    // SAFETY: the assert gives the extents that these strides address; `out` is not aliased (&mut).
    unsafe {
        gemm::gemm(
            n,
            d,
            k,
            out.as_mut_ptr(),
            1,
            d as isize,
            alpha != 0.0,
            a.as_ptr(),
            1,
            k as isize,
            b.as_ptr(),
            b_column,
            b_row,
            alpha,
            beta,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// See [`crate::compute::CoderOps::products`]. Blocks are fixed: the result does not depend on the threads.
pub(super) fn products(cpu: &Cpu, x: &[f32], y: &[f32], out: &mut [f32], [n, p, q]: [usize; 3]) {
    assert!(x.len() == n * p && y.len() == n * q && out.len() == p * q, "{n} x {p} x {q}");
    if n == 0 || q == 0 {
        return out.fill(0.0);
    }
    cpu.run(|| {
        out.par_chunks_mut(TILE * q).enumerate().for_each(|(block, out)| {
            let first = block * TILE;
            // SAFETY: column `first + i` of x, i < out.len() / q, lies within its rows of p; y and out are as the assert
            // says; out is not aliased (&mut).
            unsafe {
                gemm::gemm(
                    out.len() / q,
                    q,
                    n,
                    out.as_mut_ptr(),
                    1,
                    q as isize,
                    false,
                    x[first..].as_ptr(),
                    p as isize,
                    1,
                    y.as_ptr(),
                    1,
                    q as isize,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
        });
    });
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
    let width = latents.len();
    let w = &w[latents.start as usize * d..][..width * d];
    let rows = out[..code.rows * d].par_chunks_mut(TILE * d);
    let rows = rows.zip(code.latents.par_chunks(TILE * k)).zip(code.values.par_chunks(TILE * k));
    cpu.run(|| {
        rows.for_each(|((out, places), values)| {
            let n = out.len() / d;
            TILES.with_borrow_mut(|tile| {
                tile.clear();
                tile.resize(n * width, 0.0);
                for (place, (&latent, &value)) in places.iter().zip(values).enumerate().take(n * k) {
                    if latents.contains(&latent) {
                        tile[place / k * width + (latent - latents.start) as usize] = sign * value;
                    }
                }
                product(tile, (w, false), [n, width, d], (1.0, 1.0), out);
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
        rows.for_each(|((out, places), r)| {
            let n = r.len() / d;
            TILES.with_borrow_mut(|tile| {
                tile.clear();
                tile.resize(n * width, 0.0);
                product(r, (w, true), [n, d, width], (0.0, scale), tile);
                for (place, (out, &latent)) in out.iter_mut().zip(places).enumerate() {
                    if latents.contains(&latent) {
                        *out = tile[place / k * width + (latent - latents.start) as usize];
                    } else if latent == NO_LATENT {
                        *out = 0.0;
                    }
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
    let each = |i: usize| {
        let own = term.latents.contains(&((first + i) as u32));
        let ends = &term.by_latent.starts[first + i..=first + i + 1];
        let end = if own { ends[1] } else { ends[0] };
        term.by_latent.places[ends[0] as usize..end as usize].iter().map(|&place| place as usize)
    };
    TILES.with_borrow_mut(|tile| {
        tile.clear();
        tile.resize(rows * n, 0.0);
        for (i, b_enc) in b_enc.iter_mut().enumerate() {
            for place in each(i) {
                tile[i * n + place / k] = term.g_pre[place];
                *b_enc += term.g_pre[place];
            }
        }
        product(tile, (c, false), [rows, n, d], (1.0, 1.0), w_enc);
        if term.residual_scale != 0.0 {
            // the same places are written, with values
            for i in 0..rows {
                each(i).for_each(|place| tile[i * n + place / k] = term.code.values[place]);
            }
            product(tile, (term.residual, false), [rows, n, out], (1.0, term.residual_scale as f32), w_dec);
        }
    });
}
