//! Rotary embedding.

use rayon::prelude::*;

use crate::compute::cpu::Cpu;
use crate::compute::cpu::simd::vectorized;
use crate::compute::model_ops::RopeDims;

/// Rows in one task.
const ROWS: usize = 16;

/// See [`crate::compute::ModelOps::rope`]; `x` holds a row for each position.
pub(super) fn rope(cpu: &Cpu, positions: &[u32], x: &mut [f32], cos: &[f32], sin: &[f32], dims: RopeDims) {
    let RopeDims { heads, e, rotary } = dims;
    let (width, half) = (heads * e, rotary / 2);
    if half == 0 || heads == 0 {
        return;
    }
    cpu.run(|| {
        x.par_chunks_mut(ROWS * width).zip(positions.par_chunks(ROWS)).for_each(|(x, positions)| {
            vectorized(
                #[inline(always)]
                || {
                    for (row, &position) in x.chunks_exact_mut(width).zip(positions) {
                        let angle = position as usize * half;
                        let (cos, sin) = (&cos[angle..][..half], &sin[angle..][..half]);
                        for head in row.chunks_exact_mut(e) {
                            rotate(&mut head[..rotary], cos, sin);
                        }
                    }
                },
            );
        });
    });
}

#[inline(always)]
fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = head.split_at_mut(cos.len());
    for (((a, b), &cos), &sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        let (x, y) = (*a, *b);
        *a = x * cos - y * sin;
        *b = y * cos + x * sin;
    }
}
