//! Latents that are pairs of parts: the root of their product, forward and backward, a row at a time.

use rayon::prelude::*;

use crate::compute::coder_ops::{Code, NO_LATENT, PairShape};
use crate::compute::cpu::Cpu;

/// Rows of a task.
const ROWS: usize = 32;

/// See [`crate::compute::CoderOps::pair_heads`].
pub(super) fn pair_heads(cpu: &Cpu, parts: &[f32], shape: PairShape, z: &mut [f32]) {
    let PairShape { first, second, epsilon, .. } = shape;
    let epsilon = epsilon as f32;
    let rows = z.par_chunks_mut(shape.latents()).zip(parts.par_chunks(shape.parts())).with_min_len(ROWS);
    cpu.run(|| {
        rows.for_each(|(z, parts)| {
            for (z, parts) in z.chunks_exact_mut(first * second).zip(parts.chunks_exact(first + second)) {
                let (p, q) = parts.split_at(first);
                for (z, &p) in z.chunks_exact_mut(second).zip(p) {
                    for (z, &q) in z.iter_mut().zip(q) {
                        *z = if p > 0.0 && q > 0.0 { p.mul_add(q, epsilon).sqrt() } else { 0.0 };
                    }
                }
            }
        });
    });
}

/// See [`crate::compute::CoderOps::pair_gradients`].
pub(super) fn pair_gradients(cpu: &Cpu, parts: &[f32], shape: PairShape, code: &Code<Cpu>, g: &[f32], out: &mut [f32]) {
    let (k, places) = (code.k, code.places());
    if k == 0 {
        return;
    }
    let entries = code.latents[..places].par_chunks(k).zip(code.values[..places].par_chunks(k).zip(g.par_chunks(k)));
    let rows = out.par_chunks_mut(shape.parts()).zip(parts.par_chunks(shape.parts())).zip(entries).with_min_len(ROWS);
    cpu.run(|| {
        rows.for_each(|((out, parts), (latents, (values, g)))| {
            let entries = latents.iter().zip(values).zip(g).take_while(|((latent, _), _)| **latent != NO_LATENT);
            for ((&latent, &z), &g) in entries {
                let (p, q) = shape.of(latent as usize);
                let slope = g / (2.0 * z);
                out[p] += slope * parts[q];
                out[q] += slope * parts[p];
            }
        });
    });
}
