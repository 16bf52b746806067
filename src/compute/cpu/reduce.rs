//! Sums over rows and over whole buffers: f64 partial sums of fixed blocks, added in order.

use rayon::prelude::*;

use crate::compute::coder_ops::SquareSums;
use crate::compute::cpu::Cpu;
use crate::compute::cpu::simd::{axpy, dot, vectorized};

/// Rows of a partial sum.
const ROWS: usize = 128;
/// Numbers of a partial sum over a buffer.
const NUMBERS: usize = 1 << 14;

/// `sum_i weight(i) * x[i, p]` for each column `p`.
pub(super) fn weighted_columns(
    cpu: &Cpu,
    x: &[f32],
    weight: impl Fn(usize) -> f64 + Sync,
    n: usize,
    d: usize,
) -> Vec<f64> {
    let blocks = x[..n * d].par_chunks(ROWS * d).enumerate().map(|(block, x)| {
        vectorized(
            #[inline(always)]
            || {
                let mut sums = vec![0f64; d];
                for (b, row) in x.chunks_exact(d).enumerate() {
                    let weight = weight(block * ROWS + b);
                    for (sum, &x) in sums.iter_mut().zip(row) {
                        *sum = weight.mul_add(f64::from(x), *sum);
                    }
                }
                sums
            },
        )
    });
    let blocks: Vec<Vec<f64>> = cpu.run(|| blocks.collect());
    let mut total = vec![0f64; d];
    for block in blocks {
        for (sum, x) in total.iter_mut().zip(block) {
            *sum += x;
        }
    }
    total
}

/// See [`crate::compute::CoderOps::square_sums`].
pub(super) fn square_sums(cpu: &Cpu, x: &[f32], n: usize, d: usize) -> SquareSums {
    let about_zero = sum_squares(cpu, &x[..n * d]);
    let columns = weighted_columns(cpu, x, |_| 1.0, n, d);
    let of_mean = columns.iter().map(|sum| sum * sum).sum::<f64>() / n.max(1) as f64;
    SquareSums { about_zero, about_mean: about_zero - of_mean }
}

/// `sum_i t[i]^2`.
pub(super) fn sum_squares(cpu: &Cpu, t: &[f32]) -> f64 {
    let blocks: Vec<f64> = cpu.run(|| t.par_chunks(NUMBERS).map(block_squares).collect());
    blocks.iter().sum()
}

/// That of a block of up to [`NUMBERS`].
fn block_squares(t: &[f32]) -> f64 {
    const LANES: usize = 32;
    vectorized(
        #[inline(always)]
        || {
            let mut sums = [0f64; LANES];
            let mut groups = t.chunks_exact(LANES);
            for group in &mut groups {
                for (sum, &x) in sums.iter_mut().zip(group) {
                    let x = f64::from(x);
                    *sum = x.mul_add(x, *sum);
                }
            }
            let rest: f64 = groups.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            sums.iter().sum::<f64>() + rest
        },
    )
}

/// `c = scale * x - shift`, row by row.
pub(super) fn center(cpu: &Cpu, x: &[f32], scale: f32, shift: &[f32], c: &mut [f32], d: usize) {
    let blocks = c.par_chunks_mut(ROWS * d).zip(x.par_chunks(ROWS * d));
    cpu.run(|| {
        blocks.for_each(|(c, x)| {
            vectorized(
                #[inline(always)]
                || {
                    for (c, x) in c.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                        for ((c, &x), &shift) in c.iter_mut().zip(x).zip(shift) {
                            *c = scale * x - shift;
                        }
                    }
                },
            );
        });
    });
}

/// See [`crate::compute::CoderOps::row_distances`].
pub(super) fn row_distances(cpu: &Cpu, x: &[f32], center: &[f32], out: &mut [f32], d: usize) {
    let rows = out.par_iter_mut().zip(x.par_chunks(d)).with_min_len(ROWS);
    cpu.run(|| {
        rows.for_each(|(out, x)| {
            let sum: f64 = x.iter().zip(center).map(|(&x, &c)| (f64::from(x) - f64::from(c)).powi(2)).sum();
            *out = sum.sqrt() as f32;
        });
    });
}

/// See [`crate::compute::CoderOps::project_rows`].
pub(super) fn project_rows(cpu: &Cpu, g: &mut [f32], w: &[f32], d: usize) {
    let rows = g.par_chunks_mut(d).zip(w.par_chunks(d)).with_min_len(ROWS);
    cpu.run(|| {
        rows.for_each(|(g, w)| {
            vectorized(
                #[inline(always)]
                || axpy(-dot(g, w), w, g),
            );
        });
    });
}

/// See [`crate::compute::CoderOps::project_and_sum`]. Tasks have whole rows and whole blocks of the sum, so that it is added up as
/// [`sum_squares`] does; where that takes too many rows, it is another pass.
pub(super) fn project_and_sum(cpu: &Cpu, g: &mut [f32], w: &[f32], d: usize) -> f64 {
    // the least number of rows whose numbers are whole blocks: blocks are a power of two
    let rows = NUMBERS >> d.trailing_zeros().min(NUMBERS.trailing_zeros());
    if rows * d > g.len().div_ceil(cpu.threads()) {
        project_rows(cpu, g, w, d);
        return sum_squares(cpu, g);
    }
    let tasks = g.par_chunks_mut(rows * d).zip(w.par_chunks(rows * d));
    let tasks = tasks.flat_map_iter(|(g, w)| {
        let mut projected = 0;
        let blocks = (0..g.len().div_ceil(NUMBERS)).map(move |block| {
            let end = g.len().min((block + 1) * NUMBERS);
            let rows = projected..end.div_ceil(d);
            projected = rows.end;
            for row in rows {
                let (g, w) = (&mut g[row * d..][..d], &w[row * d..][..d]);
                vectorized(
                    #[inline(always)]
                    || axpy(-dot(g, w), w, g),
                );
            }
            block_squares(&g[block * NUMBERS..end])
        });
        blocks.collect::<Vec<f64>>()
    });
    let blocks: Vec<f64> = cpu.run(|| tasks.collect());
    blocks.iter().sum()
}

/// See [`crate::compute::CoderOps::normalize_rows`].
pub(super) fn normalize_rows(cpu: &Cpu, w: &mut [f32], d: usize) {
    let rows = w.par_chunks_mut(d).with_min_len(ROWS);
    cpu.run(|| {
        rows.for_each(|row| {
            vectorized(
                #[inline(always)]
                || normalize(row),
            );
        });
    });
}

/// One row of [`normalize_rows`].
#[inline(always)]
pub(super) fn normalize(row: &mut [f32]) {
    let inverse = 1.0 / dot(row, row).sqrt().max(1e-8);
    row.iter_mut().for_each(|x| *x *= inverse);
}

/// See [`crate::compute::CoderOps::row_norms`].
pub(super) fn row_norms(cpu: &Cpu, w: &[f32], out: &mut [f32], d: usize) {
    let rows = out.par_iter_mut().zip(w.par_chunks(d)).with_min_len(ROWS);
    cpu.run(|| {
        rows.for_each(|(out, row)| {
            vectorized(
                #[inline(always)]
                || *out = dot(row, row).sqrt(),
            );
        });
    });
}

/// See [`crate::compute::CoderOps::add_scaled_rows`].
pub(super) fn add_scaled_rows(cpu: &Cpu, scale: &[f32], w: &[f32], out: &mut [f32], d: usize) {
    let rows = out.par_chunks_mut(d).zip(w.par_chunks(d)).zip(scale).with_min_len(ROWS);
    cpu.run(|| {
        rows.for_each(|((out, row), &scale)| {
            vectorized(
                #[inline(always)]
                || axpy(scale, row, out),
            );
        });
    });
}

/// See [`crate::compute::CoderOps::scale_rows`].
pub(super) fn scale_rows(cpu: &Cpu, scale: &[f32], x: &mut [f32], d: usize) {
    let rows = x.par_chunks_mut(d).zip(scale).with_min_len(ROWS);
    cpu.run(|| rows.for_each(|(row, &scale)| row.iter_mut().for_each(|x| *x *= scale)));
}

/// See [`crate::compute::CoderOps::multiply`].
pub(super) fn multiply(cpu: &Cpu, x: &[f32], y: &mut [f32]) {
    let blocks = y.par_chunks_mut(NUMBERS).zip(x.par_chunks(NUMBERS));
    cpu.run(|| blocks.for_each(|(y, x)| y.iter_mut().zip(x).for_each(|(y, &x)| *y *= x)));
}

/// See [`crate::compute::CoderOps::add_by_column`].
pub(super) fn add_by_column(cpu: &Cpu, x: &[f32], (sign, factor): (&[f32], &[f32]), out: &mut [f32]) {
    let f = sign.len();
    let rows = out.par_chunks_mut(f).zip(x.par_chunks(f)).with_min_len(ROWS);
    cpu.run(|| {
        rows.for_each(|(out, x)| {
            for ((out, &x), (sign, factor)) in out.iter_mut().zip(x).zip(sign.iter().zip(factor)) {
                let sgn = if x == 0.0 { 0.0 } else { x.signum() };
                *out += sign * sgn + factor * x;
            }
        });
    });
}

/// See [`crate::compute::CoderOps::row_dots`].
pub(super) fn row_dots(cpu: &Cpu, a: &[f32], b: &[f32], out: &mut [f32], d: usize) {
    let rows = out.par_iter_mut().zip(a.par_chunks(d).zip(b.par_chunks(d))).with_min_len(ROWS);
    cpu.run(|| {
        rows.for_each(|(out, (a, b))| {
            vectorized(
                #[inline(always)]
                || *out = dot(a, b),
            );
        });
    });
}

/// See [`crate::compute::CoderOps::combine`].
pub(super) fn combine(cpu: &Cpu, (a, x): (f32, &[f32]), b: f32, y: &mut [f32]) {
    let blocks = y.par_chunks_mut(NUMBERS).zip(x.par_chunks(NUMBERS));
    cpu.run(|| {
        blocks.for_each(|(y, x)| {
            vectorized(
                #[inline(always)]
                || {
                    if b == 0.0 {
                        return y.iter_mut().zip(x).for_each(|(y, &x)| *y = a * x);
                    }
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = a.mul_add(x, b * *y);
                    }
                },
            );
        });
    });
}

/// See [`crate::compute::CoderOps::part_norms`].
pub(super) fn part_norms(cpu: &Cpu, w: &[f32], out: &mut [f32], parts: &[usize]) {
    let d = parts.iter().sum();
    let rows = out.par_chunks_mut(parts.len()).zip(w.par_chunks(d)).with_min_len(ROWS);
    cpu.run(|| {
        rows.for_each(|(out, row)| {
            let mut rest = row;
            for (out, &width) in out.iter_mut().zip(parts) {
                let (part, after) = rest.split_at(width);
                rest = after;
                vectorized(
                    #[inline(always)]
                    || *out = dot(part, part).sqrt(),
                );
            }
        });
    });
}

/// See [`crate::compute::CoderOps::add_scaled_parts`].
pub(super) fn add_scaled_parts(cpu: &Cpu, scale: &[f32], w: &[f32], out: &mut [f32], parts: &[usize]) {
    let d = parts.iter().sum();
    let rows = out.par_chunks_mut(d).zip(w.par_chunks(d)).zip(scale.par_chunks(parts.len())).with_min_len(ROWS);
    cpu.run(|| {
        rows.for_each(|((out, row), scale)| {
            let mut at = 0;
            for (&scale, &width) in scale.iter().zip(parts) {
                let part = at..at + width;
                at = part.end;
                vectorized(
                    #[inline(always)]
                    || axpy(scale, &row[part.clone()], &mut out[part.clone()]),
                );
            }
        });
    });
}
