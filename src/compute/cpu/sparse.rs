//! Sparse decode, its products with gradients, and gradients gathered per latent.

use std::ops::Range;

use rayon::prelude::*;

use crate::compute::coder_ops::{ByLatent, Code, CoderDims, GradientTerm, NO_LATENT};
use crate::compute::cpu::simd::{axpy_all, dot, vectorized};
use crate::compute::cpu::{Cpu, dense};

/// Rows of a task.
const ROWS: usize = 32;
/// Latents of a task.
const LATENTS: usize = 16;

/// The entries in one row's places, of a range of latents.
#[inline(always)]
fn row_entries<'a>(
    latents: &'a [u32],
    values: &'a [f32],
    range: &'a Range<u32>,
) -> impl Iterator<Item = (usize, f32)> + Clone + 'a {
    let entries = latents.iter().zip(values).take_while(|(i, _)| **i != NO_LATENT);
    entries.filter(|(i, _)| range.contains(i)).map(|(&i, &v)| (i as usize, v))
}

/// `out[b] = start(b) + sign * sum_i code[b, i] * w[i]` over a range of latents.
pub(super) fn decode<'a>(
    cpu: &Cpu,
    code: &Code<Cpu>,
    range: Range<u32>,
    w: &[f32],
    start: impl Fn(usize) -> &'a [f32] + Sync,
    sign: f32,
    out: &mut [f32],
    d: usize,
) {
    let (n, k) = (code.rows, code.k);
    if n == 0 {
        return;
    }
    if k == 0 || range.is_empty() {
        out[..n * d].chunks_exact_mut(d).enumerate().for_each(|(b, row)| row.copy_from_slice(start(b)));
        return;
    }
    let f = w.len() / d;
    if dense::is_dense(code, f) {
        cpu.run(|| out[..n * d].par_chunks_mut(d).enumerate().for_each(|(b, row)| row.copy_from_slice(start(b))));
        let range = range.start..range.end.min(f as u32);
        return dense::decode(cpu, code, range, w, sign, out, d);
    }
    let (latents, values) = (&code.latents[..n * k], &code.values[..n * k]);
    let blocks = out[..n * d].par_chunks_mut(ROWS * d);
    let blocks = blocks.zip(latents.par_chunks(ROWS * k)).zip(values.par_chunks(ROWS * k)).enumerate();
    cpu.run(|| {
        blocks.for_each(|(block, ((out, latents), values))| {
            vectorized(
                #[inline(always)]
                || {
                    let rows = out.chunks_exact_mut(d).zip(latents.chunks_exact(k)).zip(values.chunks_exact(k));
                    for (b, ((out, latents), values)) in rows.enumerate() {
                        out.copy_from_slice(start(block * ROWS + b));
                        let entries = row_entries(latents, values, &range);
                        axpy_all(entries.map(|(i, value)| (sign * value, &w[i * d..][..d])), out);
                    }
                },
            );
        });
    });
}

/// See [`crate::compute::CoderOps::entry_dots`].
pub(super) fn entry_dots(
    cpu: &Cpu,
    code: &Code<Cpu>,
    range: Range<u32>,
    (w, r): (&[f32], &[f32]),
    scale: f32,
    out: &mut [f32],
    d: usize,
) {
    let (n, k) = (code.rows, code.k);
    if n == 0 || k == 0 {
        return;
    }
    let f = w.len() / d;
    if dense::is_dense(code, f) && !range.is_empty() {
        let range = range.start..range.end.min(f as u32);
        return dense::entry_dots(cpu, code, range, (w, r), scale, out, d);
    }
    let (latents, r) = (&code.latents[..n * k], &r[..n * d]);
    let blocks = out[..n * k].par_chunks_mut(ROWS * k);
    let blocks = blocks.zip(latents.par_chunks(ROWS * k)).zip(r.par_chunks(ROWS * d));
    cpu.run(|| {
        blocks.for_each(|((out, latents), r)| {
            vectorized(
                #[inline(always)]
                || {
                    let rows = out.chunks_exact_mut(k).zip(latents.chunks_exact(k)).zip(r.chunks_exact(d));
                    for ((out, latents), r) in rows {
                        row_dots(r, (latents, &range), w, scale, out);
                    }
                },
            );
        });
    });
}

/// The products of one row with the rows of `w` at its places.
#[inline(always)]
fn row_dots(r: &[f32], (latents, range): (&[u32], &Range<u32>), w: &[f32], scale: f32, out: &mut [f32]) {
    let d = r.len();
    for (out, &i) in out.iter_mut().zip(latents) {
        if range.contains(&i) {
            *out = scale * dot(r, &w[i as usize * d..][..d]);
        } else if i == NO_LATENT {
            *out = 0.0;
        }
    }
}

/// See [`crate::compute::CoderOps::residual_and_dots`]: a row's second look at `w` finds it in the second-level cache.
pub(super) fn residual_and_dots(
    cpu: &Cpu,
    code: &Code<Cpu>,
    range: Range<u32>,
    (w, target): (&[f32], &[f32]),
    r: &mut [f32],
    (scale, dots): (f32, &mut [f32]),
    d: usize,
) {
    let (n, k) = (code.rows, code.k);
    if n == 0 || k == 0 || range.is_empty() || dense::is_dense(code, w.len() / d) {
        decode(cpu, code, range.clone(), w, |b| &target[b * d..][..d], -1.0, r, d);
        return entry_dots(cpu, code, range, (w, r), scale, dots, d);
    }
    let (latents, values) = (&code.latents[..n * k], &code.values[..n * k]);
    let out = r[..n * d].par_chunks_mut(ROWS * d).zip(dots[..n * k].par_chunks_mut(ROWS * k));
    let blocks = out.zip(target[..n * d].par_chunks(ROWS * d));
    let blocks = blocks.zip(latents.par_chunks(ROWS * k).zip(values.par_chunks(ROWS * k)));
    cpu.run(|| {
        blocks.for_each(|(((r, dots), target), (latents, values))| {
            vectorized(
                #[inline(always)]
                || {
                    let out = r.chunks_exact_mut(d).zip(dots.chunks_exact_mut(k)).zip(target.chunks_exact(d));
                    let rows = out.zip(latents.chunks_exact(k).zip(values.chunks_exact(k)));
                    for (((r, dots), target), (latents, values)) in rows {
                        r.copy_from_slice(target);
                        let entries = row_entries(latents, values, &range);
                        axpy_all(entries.map(|(i, value)| (-value, &w[i * d..][..d])), r);
                        row_dots(r, (latents, &range), w, scale, dots);
                    }
                },
            );
        });
    });
}

/// See [`crate::compute::CoderOps::group_by_latent`]. One pass to count, one to place: far below the time of the rest.
pub(super) fn group_by_latent(code: &Code<Cpu>, f: usize, out: &mut ByLatent<Cpu>) {
    out.places.resize(out.places.len().max(code.places()), 0);
    let latents = &code.latents[..code.places()];
    let starts = &mut out.starts[..=f];
    starts.fill(0);
    for &i in latents.iter().filter(|&&i| i != NO_LATENT) {
        starts[i as usize] += 1;
    }
    let mut end = 0;
    for count in starts.iter_mut() {
        end += *count;
        *count = end;
    }
    // from the back, each latent's end becomes its start
    for (place, &i) in latents.iter().enumerate().rev().filter(|(_, i)| **i != NO_LATENT) {
        starts[i as usize] -= 1;
        out.places[starts[i as usize] as usize] = place as u32;
    }
}

/// Gradients of some latents.
pub(super) struct OfLatents<'a> {
    /// The first of them.
    pub(super) first: usize,
    pub(super) w_enc: &'a mut [f32],
    pub(super) b_enc: &'a mut [f32],
    pub(super) w_dec: &'a mut [f32],
}

/// See [`crate::compute::CoderOps::latent_gradients`]; of a group of latents, whose input is `c`.
pub(super) fn latent_gradients(
    cpu: &Cpu,
    terms: &[GradientTerm<'_, Cpu>],
    c: &[f32],
    dims: CoderDims,
    out: OfLatents<'_>,
) {
    let CoderDims { d, f, out: width, .. } = dims;
    if terms.iter().any(|term| dense::is_dense(term.code, f)) {
        return dense::latent_gradients(cpu, terms, c, dims, out);
    }
    let blocks = out.w_enc.par_chunks_mut(LATENTS * d);
    let w_dec = out.w_dec.par_chunks_mut(LATENTS * width);
    let blocks = blocks.zip(out.b_enc.par_chunks_mut(LATENTS)).zip(w_dec);
    cpu.run(|| {
        blocks.enumerate().for_each_init(Vec::new, |entries, (block, ((w_enc, b_enc), w_dec))| {
            vectorized(
                #[inline(always)]
                || {
                    let rows = w_enc.chunks_exact_mut(d).zip(b_enc).zip(w_dec.chunks_exact_mut(width));
                    for (i, ((w_enc, b_enc), w_dec)) in rows.enumerate() {
                        w_enc.fill(0.0);
                        w_dec.fill(0.0);
                        *b_enc = 0.0;
                        let i = out.first + block * LATENTS + i;
                        for term in terms.iter().filter(|term| term.latents.contains(&(i as u32))) {
                            add_latent(term, c, dims, (i, entries), (&mut *w_enc, &mut *b_enc, &mut *w_dec));
                        }
                    }
                },
            );
        });
    });
}

/// An entry of a latent: its row, the factor of its residual and that of its input.
type Entry = (usize, f32, f32);

/// Add one term's entries of latent `i`.
#[inline(always)]
fn add_latent(
    term: &GradientTerm<'_, Cpu>,
    c: &[f32],
    CoderDims { d, out, .. }: CoderDims,
    (i, entries): (usize, &mut Vec<Entry>),
    (w_enc, b_enc, w_dec): (&mut [f32], &mut f32, &mut [f32]),
) {
    let places = term.by_latent.starts[i] as usize..term.by_latent.starts[i + 1] as usize;
    let scale = term.residual_scale as f32;
    entries.clear();
    for &place in &term.by_latent.places[places] {
        let place = place as usize;
        let g_pre = term.g_pre[place];
        entries.push((place / term.code.k, scale * term.code.values[place], g_pre));
        *b_enc += g_pre;
    }
    if scale != 0.0 {
        axpy_all(entries.iter().map(|&(b, factor, _)| (factor, &term.residual[b * out..][..out])), w_dec);
    }
    axpy_all(entries.iter().map(|&(b, _, g_pre)| (g_pre, &c[b * d..][..d])), w_enc);
}
