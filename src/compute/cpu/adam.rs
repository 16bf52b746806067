//! Updates: one pass over weights, gradient and what the optimiser remembers.

use rayon::prelude::*;

use crate::compute::coder_ops::{AdamStep, SignStep};
use crate::compute::cpu::Cpu;
use crate::compute::cpu::reduce::normalize;
use crate::compute::cpu::simd::vectorized;

/// Numbers of a task.
const NUMBERS: usize = 1 << 13;

/// See [`crate::compute::CoderOps::adam`].
pub(super) fn adam(cpu: &Cpu, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], step: &AdamStep) {
    blocks(
        cpu,
        (w, g, m, v),
        (NUMBERS, step),
        #[inline(always)]
        |_| (),
    );
}

/// See [`crate::compute::CoderOps::adam_unit_rows`].
pub(super) fn adam_unit_rows(
    cpu: &Cpu,
    w: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    d: usize,
    step: &AdamStep,
) {
    let rows = (NUMBERS / d).max(1);
    blocks(
        cpu,
        (w, g, m, v),
        (rows * d, step),
        #[inline(always)]
        |w| w.chunks_exact_mut(d).for_each(normalize),
    );
}

/// Weights, their gradients, and both moments.
type Buffers<'a> = (&'a mut [f32], &'a [f32], &'a mut [f32], &'a mut [f32]);

/// Update blocks of `numbers`, and do with each what comes after.
fn blocks(
    cpu: &Cpu,
    (w, g, m, v): Buffers<'_>,
    (numbers, step): (usize, &AdamStep),
    after: impl Fn(&mut [f32]) + Sync,
) {
    let [b1, b2] = step.betas;
    let rate = (step.learning_rate / (1.0 - b1.powf(step.t as f64))) as f32;
    let root = (1.0 / (1.0 - b2.powf(step.t as f64)).sqrt()) as f32;
    let (keep1, take1, keep2, take2) = (b1 as f32, (1.0 - b1) as f32, b2 as f32, (1.0 - b2) as f32);
    let (scale, epsilon) = (step.gradient_scale as f32, step.epsilon as f32);
    // without decay exactly 1: the product changes no bit
    let kept = (1.0 - step.learning_rate * step.weight_decay) as f32;
    let blocks = w.par_chunks_mut(numbers).zip(g.par_chunks(numbers));
    let blocks = blocks.zip(m.par_chunks_mut(numbers).zip(v.par_chunks_mut(numbers)));
    cpu.run(|| {
        blocks.for_each(|((w, g), (m, v))| {
            vectorized(
                #[inline(always)]
                || {
                    for (((w, &g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
                        let g = scale * g;
                        *m = normal(keep1 * *m + take1 * g);
                        *v = normal(keep2 * *v + take2 * (g * g));
                        *w = kept * *w - rate * *m / (v.sqrt() * root + epsilon);
                    }
                    after(w);
                },
            );
        });
    });
}

/// See [`crate::compute::CoderOps::schedule_free_sign`].
pub(super) fn schedule_free_sign(cpu: &Cpu, y: &mut [f32], g: &[f32], z: &mut [f32], step: &SignStep) {
    let (rate, beta, share) = (step.learning_rate as f32, step.beta as f32, step.share as f32);
    let (rest, inverse) = ((1.0 - step.beta) as f32, (1.0 / step.beta) as f32);
    let blocks = y.par_chunks_mut(NUMBERS).zip(g.par_chunks(NUMBERS)).zip(z.par_chunks_mut(NUMBERS));
    cpu.run(|| {
        blocks.for_each(|((y, g), z)| {
            vectorized(
                #[inline(always)]
                || {
                    for ((y, &g), z) in y.iter_mut().zip(g).zip(z) {
                        let x = (*y - rest * *z) * inverse;
                        *z -= if g == 0.0 { 0.0 } else { rate.copysign(g) };
                        *y = rest * *z + beta * (x + share * (*z - x));
                    }
                },
            );
        });
    });
}

/// Zero in place of numbers too small for full precision: the moments of dead latents decay to such numbers, and
/// arithmetic with them is a hundred times slower on many machines.
#[inline(always)]
fn normal(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
}
