//! Elementwise ops, in blocks that stay in the first-level cache.

use rayon::prelude::*;

use crate::compute::cpu::Cpu;
use crate::compute::cpu::simd::{erf, exp, vectorized};
use crate::compute::model_ops::Activation;

/// Values in one task: long enough that starting it costs nothing, short enough to share out.
const BLOCK: usize = 8192;

/// `$body` with `$name` the function that an [`Activation`] means, for each of them, so that it is inlined.
macro_rules! with_function {
    ($f:expr, |$name:ident| $body:expr) => {
        match $f {
            $crate::compute::model_ops::Activation::Silu => {
                let $name = $crate::compute::cpu::activation::silu;
                $body
            }
            $crate::compute::model_ops::Activation::GeluTanh => {
                let $name = $crate::compute::cpu::activation::gelu_tanh;
                $body
            }
            $crate::compute::model_ops::Activation::GeluErf => {
                let $name = $crate::compute::cpu::activation::gelu_erf;
                $body
            }
            $crate::compute::model_ops::Activation::Relu => {
                let $name = $crate::compute::cpu::activation::relu;
                $body
            }
        }
    };
}
pub(super) use with_function;

/// See [`crate::compute::ModelOps::activate`].
pub(super) fn activate(cpu: &Cpu, f: Activation, x: &mut [f32]) {
    with_function!(f, |f| alone(cpu, x, f));
}

/// See [`crate::compute::ModelOps::activate_mul`].
pub(super) fn activate_mul(cpu: &Cpu, f: Activation, gate: &mut [f32], up: &[f32]) {
    with_function!(f, |f| in_blocks(cpu, gate, up, |g, u| f(g) * u));
}

/// See [`crate::compute::ModelOps::add`].
pub(super) fn add(cpu: &Cpu, x: &mut [f32], y: &[f32]) {
    in_blocks(cpu, x, y, |x, y| x + y);
}

/// See [`crate::compute::ModelOps::scale`].
pub(super) fn scale(cpu: &Cpu, x: &mut [f32], factor: f32) {
    alone(cpu, x, |x| factor * x);
}

#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// With `u` the argument of `tanh`, `(1 + tanh u) / 2 = 1 / (1 + exp(-2u))`, which does not cancel where `u` is negative.
#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> f32 {
    const MINUS_TWICE_ROOT: f32 = -std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::SQRT_2; // -2 sqrt(2 / pi)
    let cubed = (x * x).mul_add(0.044_715 * x, x);
    x / (1.0 + exp(MINUS_TWICE_ROOT * cubed))
}

#[inline(always)]
pub(super) fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
pub(super) fn relu(x: f32) -> f32 {
    // a NaN stays one
    if x < 0.0 { 0.0 } else { x }
}

/// `x[i] = f(x[i])`.
fn alone(cpu: &Cpu, x: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    cpu.run(|| {
        x.par_chunks_mut(BLOCK).for_each(|x| {
            vectorized(
                #[inline(always)]
                || {
                    for x in x {
                        *x = f(*x);
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
