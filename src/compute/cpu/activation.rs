//! Elementwise ops, in blocks that stay in the first-level cache.

use rayon::prelude::*;

use crate::compute::cpu::Cpu;
use crate::compute::cpu::simd::{exp, vectorized};

/// Values in one task: long enough that starting it costs nothing, short enough to share out.
const BLOCK: usize = 8192;

/// See [`crate::compute::ModelOps::silu_mul`].
pub(super) fn silu_mul(cpu: &Cpu, gate: &mut [f32], up: &[f32]) {
    in_blocks(cpu, gate, up, |g, u| g / (1.0 + exp(-g)) * u);
}

/// See [`crate::compute::ModelOps::add`].
pub(super) fn add(cpu: &Cpu, x: &mut [f32], y: &[f32]) {
    in_blocks(cpu, x, y, |x, y| x + y);
}

/// See [`crate::compute::ModelOps::gelu_tanh`]. With `u` the argument of `tanh`, `(1 + tanh u) / 2 = 1 / (1 + exp(-2u))`,
/// which does not cancel where `u` is negative.
pub(super) fn gelu_tanh(cpu: &Cpu, x: &mut [f32]) {
    const MINUS_TWICE_ROOT: f32 = -std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::SQRT_2; // -2 sqrt(2 / pi)
    cpu.run(|| {
        x.par_chunks_mut(BLOCK).for_each(|x| {
            vectorized(
                #[inline(always)]
                || {
                    for x in x {
                        let cubed = (*x * *x).mul_add(0.044_715 * *x, *x);
                        *x /= 1.0 + exp(MINUS_TWICE_ROOT * cubed);
                    }
                },
            );
        });
    });
}

/// `x[i] = f(x[i], y[i])`.
fn in_blocks(cpu: &Cpu, x: &mut [f32], y: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    assert_eq!(x.len(), y.len());
    cpu.run(|| {
        x.par_chunks_mut(BLOCK).zip(y.par_chunks(BLOCK)).for_each(|(x, y)| {
            vectorized(
                #[inline(always)]
                || {
                    for (x, &y) in x.iter_mut().zip(y) {
                        *x = f(*x, y);
                    }
                },
            );
        });
    });
}
