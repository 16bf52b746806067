//! The encoder and its selection in one pass: what is chosen among pre-activations that are not held.

use crate::compute::coder_ops::{Code, CoderDims, NO_LATENT, Rule};
use crate::compute::cpu::screen::{self, Source};
use crate::compute::cpu::{Cpu, select};

/// Where [`encode_topk`] writes: `[rows, k]` each.
pub(super) struct CodeOut<'a> {
    pub(super) latents: &'a mut [u32],
    pub(super) values: &'a mut [f32],
    pub(super) k: usize,
}

/// See [`crate::compute::CoderOps::encode_topk`]. `among` are the latents to choose from, if not all.
pub(super) fn encode_topk(
    cpu: &Cpu,
    c: &[f32],
    (w, b): (&[f32], &[f32]),
    CoderDims { d, f, .. }: CoderDims,
    among: Option<&[u32]>,
    out: CodeOut<'_>,
) {
    if out.k == 0 || out.latents.is_empty() {
        return;
    }
    let n = out.latents.len() / out.k;
    assert!(c.len() >= n * d && w.len() >= f * d && b.len() >= f, "encode_topk: buffers too short");
    let source = Source { w: &w[..f * d], b: &b[..f], d, among, score: None, floor: None };
    screen::row_largest(cpu, &c[..n * d], &source, false, out);
}

/// See [`crate::compute::CoderOps::encode`].
pub(super) fn encode(
    cpu: &Cpu,
    c: &[f32],
    (w, b): (&[f32], &[f32]),
    dims: CoderDims,
    rule: Rule<'_, Cpu>,
    code: &mut Code<Cpu>,
) {
    let (CoderDims { d, f, groups, .. }, n) = (dims, code.rows);
    let (w, b) = (&w[..f * d], &b[..f]);
    let source = Source { w, b, d, among: None, score: None, floor: None };
    match rule {
        Rule::RowLargest { k, score, signed } if groups == 1 => {
            let k = k.min(f);
            code.k = k;
            code.latents.resize(code.latents.len().max(n * k), NO_LATENT);
            code.values.resize(code.values.len().max(n * k), 0.0);
            let source = Source { score: score.map(|score| &score[..f]), ..source };
            let out = CodeOut { latents: &mut code.latents[..n * k], values: &mut code.values[..n * k], k };
            screen::row_largest(cpu, &c[..n * d], &source, signed, out);
        }
        Rule::BatchLargest { count, score } if groups == 1 => {
            let source = Source { score: score.map(|score| &score[..f]), ..source };
            screen::batch_largest(cpu, &c[..n * d], &source, count, code);
        }
        rule => {
            if let Rule::Above(threshold) = rule {
                let floor: Vec<f32> = threshold[..f].iter().map(|threshold| threshold.max(0.0)).collect();
                if encode_above(cpu, c, (w, b), dims, &floor, code) {
                    return;
                }
            }
            let mut u = vec![0.0; n * f];
            select::pre_activations(cpu, &c[..groups * n * d], w, b, &mut u, dims);
            select::select(cpu, &u, f, rule, code);
        }
    }
}

/// See [`crate::compute::CoderOps::encode_above`].
pub(super) fn encode_above(
    cpu: &Cpu,
    c: &[f32],
    (w, b): (&[f32], &[f32]),
    CoderDims { d, f, groups, .. }: CoderDims,
    floor: &[f32],
    code: &mut Code<Cpu>,
) -> bool {
    let source = Source { w: &w[..f * d], b: &b[..f], d, among: None, score: None, floor: Some(floor) };
    groups == 1 && screen::above(cpu, &c[..code.rows * d], &source, code)
}

/// See [`crate::compute::CoderOps::encode_topk_grouped`]: the rows of a group side by side, encoded with its latents.
pub(super) fn encode_topk_grouped(
    cpu: &Cpu,
    c: &[f32],
    (w, b): (&[f32], &[f32]),
    dims: CoderDims,
    (group, groups): (&[u32], usize),
    out: CodeOut<'_>,
) {
    let CoderDims { d, f, .. } = dims;
    let CodeOut { latents, values, k } = out;
    let size = f / groups;
    if k == 0 {
        return;
    }
    assert!(c.len() >= group.len() * d && w.len() >= f * d && b.len() >= f, "encode_topk_grouped: buffers too short");
    for g in 0..groups {
        let rows: Vec<usize> = (0..group.len()).filter(|&row| group[row] as usize == g).collect();
        if rows.is_empty() {
            continue;
        }
        let mut own = vec![0.0; rows.len() * d];
        own.chunks_exact_mut(d).zip(&rows).for_each(|(to, &row)| to.copy_from_slice(&c[row * d..][..d]));
        let (mut own_latents, mut own_values) = (vec![0; rows.len() * k], vec![0.0; rows.len() * k]);
        let (w, b) = (&w[g * size * d..][..size * d], &b[g * size..][..size]);
        let source = Source { w, b, d, among: None, score: None, floor: None };
        let own_out = CodeOut { latents: &mut own_latents, values: &mut own_values, k };
        screen::row_largest(cpu, &own, &source, false, own_out);
        let first = (g * size) as u32;
        own_latents.iter_mut().filter(|at| **at != NO_LATENT).for_each(|at| *at += first);
        for (i, &row) in rows.iter().enumerate() {
            latents[row * k..][..k].copy_from_slice(&own_latents[i * k..][..k]);
            values[row * k..][..k].copy_from_slice(&own_values[i * k..][..k]);
        }
    }
}
