//! Mixtures of experts: choose, multiply by the chosen matrices, mix.

use rayon::prelude::*;

use crate::compute::backend::LinearDims;
use crate::compute::cpu::{Cpu, Matrix, matmul};
use crate::compute::model_ops::{ExpertDims, RouteDims};

/// Rows in one task.
const ROWS: usize = 64;

/// See [`crate::compute::ModelOps::route`].
pub(super) fn route(cpu: &Cpu, logits: &[f32], indices: &mut [f32], weights: &mut [f32], dims: RouteDims) {
    let RouteDims { n, experts, chosen, renormalise } = dims;
    assert!((1..=experts).contains(&chosen), "{dims:?}");
    let (logits, indices) = (&logits[..n * experts], &mut indices[..n * chosen]);
    let weights = &mut weights[..n * chosen];
    cpu.run(|| {
        let rows = logits.par_chunks_exact(experts);
        rows.zip(indices.par_chunks_exact_mut(chosen)).zip(weights.par_chunks_exact_mut(chosen)).for_each(
            |((row, indices), weights)| {
                choose(row, indices, weights);
                let max = weights[0];
                let exp = |l: f32| f64::from(l - max).exp();
                let sum: f64 = if renormalise {
                    weights.iter().copied().map(exp).sum()
                } else {
                    row.iter().copied().map(exp).sum()
                };
                weights.iter_mut().for_each(|w| *w = (exp(*w) / sum) as f32);
            },
        );
    });
}

/// The largest of `row`, in falling order, the smaller index first among equals: `indices` and `values`.
fn choose(row: &[f32], indices: &mut [f32], values: &mut [f32]) {
    let mut len = 0;
    for (i, &x) in row.iter().enumerate() {
        let at = values[..len].iter().position(|v| x.total_cmp(v).is_gt()).unwrap_or(len);
        if at == values.len() {
            continue;
        }
        len = (len + 1).min(values.len());
        values[at..len].rotate_right(1);
        indices[at..len].rotate_right(1);
        (values[at], indices[at]) = (x, i as f32);
    }
}

/// See [`crate::compute::ModelOps::expert_linear`]: the rows of each expert are gathered, so that its matrix is read once.
pub(super) fn expert_linear(cpu: &Cpu, x: &[f32], w: &[Matrix], indices: &[f32], y: &mut [f32], dims: ExpertDims) {
    let ExpertDims { n, chosen, n_in, n_out, x_by_expert } = dims;
    let slots = n * chosen;
    let mut of_expert: Vec<Vec<usize>> = vec![Vec::new(); w.len()];
    for (slot, &expert) in indices[..slots].iter().enumerate() {
        of_expert[expert as usize].push(slot);
    }
    let (mut rows, mut results) = (Vec::new(), Vec::new());
    for (slots, w) in of_expert.iter().zip(w).filter(|(slots, _)| !slots.is_empty()) {
        rows.clear();
        for &slot in slots {
            let row = if x_by_expert { slot } else { slot / chosen };
            rows.extend_from_slice(&x[row * n_in..][..n_in]);
        }
        results.resize(slots.len() * n_out, 0.0);
        matmul::linear(cpu, &rows, w, None, &mut results, LinearDims { n: slots.len(), n_in, n_out });
        for (&slot, row) in slots.iter().zip(results.chunks_exact(n_out)) {
            y[slot * n_out..][..n_out].copy_from_slice(row);
        }
    }
}

/// See [`crate::compute::ModelOps::mix_experts`].
pub(super) fn mix_experts(cpu: &Cpu, x: &[f32], weights: &[f32], y: &mut [f32], chosen: usize, d: usize) {
    cpu.run(|| {
        y.par_chunks_mut(ROWS * d).enumerate().for_each(|(block, y)| {
            for (i, y) in y.chunks_exact_mut(d).enumerate() {
                let row = block * ROWS + i;
                y.fill(0.0);
                for (c, &weight) in weights[row * chosen..][..chosen].iter().enumerate() {
                    for (y, &x) in y.iter_mut().zip(&x[(row * chosen + c) * d..][..d]) {
                        *y = weight.mul_add(x, *y);
                    }
                }
            }
        });
    });
}
