//! RMS norm and layer norm: each row is read while it is in the first-level cache.

use rayon::prelude::*;

use crate::compute::cpu::Cpu;
use crate::compute::cpu::simd::{sum, vectorized};
use crate::compute::model_ops::{NormDims, NormKind};

/// Rows in one task.
const ROWS: usize = 16;

/// See [`crate::compute::ModelOps::rms_norm`].
pub(super) fn rms_norm(cpu: &Cpu, x: &[f32], weight: Option<&[f32]>, y: &mut [f32], dims: NormDims) {
    let (d, eps) = (dims.d, dims.eps as f32);
    by_rows(
        cpu,
        x,
        y,
        dims,
        #[inline(always)]
        |x, y| {
            let scale = 1.0 / (sum(x, |x| x * x) / d as f32 + eps).sqrt();
            match weight {
                Some(weight) => {
                    for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                        *y = x * scale * w;
                    }
                }
                None => {
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = x * scale;
                    }
                }
            }
        },
    );
}

/// See [`crate::compute::ModelOps::layer_norm`].
pub(super) fn layer_norm(cpu: &Cpu, x: &[f32], affine: Option<(&[f32], &[f32])>, y: &mut [f32], dims: NormDims) {
    let (d, eps) = (dims.d as f32, dims.eps as f32);
    by_rows(
        cpu,
        x,
        y,
        dims,
        #[inline(always)]
        |x, y| {
            let mean = sum(x, |x| x) / d;
            let scale = 1.0 / (sum(x, |x| (x - mean) * (x - mean)) / d + eps).sqrt();
            match affine {
                Some((weight, bias)) => {
                    for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                        *y = ((x - mean) * scale).mul_add(w, b);
                    }
                }
                None => {
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = (x - mean) * scale;
                    }
                }
            }
        },
    );
}

/// See [`crate::compute::ModelOps::norm_scale`].
pub(super) fn norm_scale(cpu: &Cpu, kind: NormKind, x: &[f32], y: &mut [f32], dims: NormDims) {
    let NormDims { n, d, .. } = dims;
    let (width, eps) = (d as f32, dims.eps as f32);
    if d == 0 {
        return;
    }
    cpu.run(|| {
        y[..n].par_chunks_mut(ROWS).zip(x[..n * d].par_chunks(ROWS * d)).for_each(|(y, x)| {
            vectorized(
                #[inline(always)]
                || {
                    for (y, x) in y.iter_mut().zip(x.chunks_exact(d)) {
                        let mean = match kind {
                            NormKind::Rms => 0.0,
                            NormKind::Layer => sum(x, |x| x) / width,
                        };
                        *y = (sum(x, |x| (x - mean) * (x - mean)) / width + eps).sqrt();
                    }
                },
            );
        });
    });
}

/// `row(x[i, :], y[i, :])` for all rows.
fn by_rows(cpu: &Cpu, x: &[f32], y: &mut [f32], dims: NormDims, row: impl Fn(&[f32], &mut [f32]) + Sync) {
    let NormDims { n, d, .. } = dims;
    if d == 0 {
        return;
    }
    let (x, y) = (&x[..n * d], &mut y[..n * d]);
    cpu.run(|| {
        y.par_chunks_mut(ROWS * d).zip(x.par_chunks(ROWS * d)).for_each(|(y, x)| {
            vectorized(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                        row(x, y);
                    }
                },
            );
        });
    });
}
