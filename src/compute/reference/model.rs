//! [`ModelOps`] in f64, one loop per sum sign.

use crate::compute::model_ops::{
    Activation, AttentionDims, AttentionRows, AttentionSides, BatchRows, BatchShape, ExpertDims, HeadResultDims,
    ModelOps, NormDims, NormKind, Qkv, RopeDims, RouteDims,
};
use crate::compute::reference::Reference;

/// The rows of one batch.
#[derive(Clone, Debug, Default)]
pub struct BatchIndex {
    ids: Vec<u32>,
    positions: Vec<u32>,
    contexts: Vec<AttentionRows>,
    context_length: usize,
}

impl ModelOps for Reference {
    type BatchIndex = BatchIndex;

    fn batch_index(&self, shape: BatchShape, _: AttentionDims) -> BatchIndex {
        BatchIndex { context_length: shape.context_length, ..BatchIndex::default() }
    }

    fn load_batch(&self, index: &mut BatchIndex, rows: BatchRows<'_>) {
        index.ids = rows.ids.to_vec();
        index.positions = rows.positions.to_vec();
        index.contexts = rows.contexts.to_vec();
    }

    fn embed_tokens(&self, index: &BatchIndex, table: &Vec<f64>, y: &mut Vec<f64>, d: usize) {
        copy_rows(table, &index.ids, y, d);
    }

    fn embed_positions(&self, index: &BatchIndex, table: &Vec<f64>, y: &mut Vec<f64>, d: usize) {
        copy_rows(table, &index.positions, y, d);
    }

    fn rms_norm(&self, x: &Vec<f64>, weight: Option<&Vec<f64>>, y: &mut Vec<f64>, dims: NormDims) {
        let NormDims { n, d, eps } = dims;
        for i in 0..n {
            let row = &x[i * d..][..d];
            let mean_square = row.iter().map(|x| x * x).sum::<f64>() / d as f64;
            for j in 0..d {
                y[i * d + j] = row[j] / (mean_square + eps).sqrt() * weight.map_or(1.0, |w| w[j]);
            }
        }
    }

    fn layer_norm(&self, x: &Vec<f64>, affine: Option<(&Vec<f64>, &Vec<f64>)>, y: &mut Vec<f64>, dims: NormDims) {
        let NormDims { n, d, eps } = dims;
        for i in 0..n {
            let row = &x[i * d..][..d];
            let mean = row.iter().sum::<f64>() / d as f64;
            let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / d as f64;
            for j in 0..d {
                let (weight, bias) = affine.map_or((1.0, 0.0), |(w, b)| (w[j], b[j]));
                y[i * d + j] = (row[j] - mean) / (variance + eps).sqrt() * weight + bias;
            }
        }
    }

    fn norm_scale(&self, kind: NormKind, x: &Vec<f64>, y: &mut Vec<f64>, dims: NormDims) {
        let NormDims { n, d, eps } = dims;
        for i in 0..n {
            let row = &x[i * d..][..d];
            let mean = match kind {
                NormKind::Rms => 0.0,
                NormKind::Layer => row.iter().sum::<f64>() / d as f64,
            };
            y[i] = (row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / d as f64 + eps).sqrt();
        }
    }

    fn rope(&self, index: &BatchIndex, x: &mut Vec<f64>, cos: &Vec<f64>, sin: &Vec<f64>, dims: RopeDims) {
        let RopeDims { heads, e, rotary } = dims;
        let half = rotary / 2;
        for (i, &position) in index.positions.iter().enumerate() {
            for head in 0..heads {
                for j in 0..half {
                    let at = (i * heads + head) * e + j;
                    let (a, b) = (x[at], x[at + half]);
                    let (c, s) = (cos[position as usize * half + j], sin[position as usize * half + j]);
                    x[at] = a * c - b * s;
                    x[at + half] = b * c + a * s;
                }
            }
        }
    }

    fn attention(
        &self,
        index: &mut BatchIndex,
        qkv: Qkv<'_, Vec<f64>>,
        z: &mut Vec<f64>,
        sides: AttentionSides<'_, Vec<f64>>,
        dims: AttentionDims,
    ) {
        let AttentionDims { heads, kv_heads, e, scale, window, softcap } = dims;
        let t = index.context_length;
        let AttentionSides { scores: mut all_scores, mut pattern } = sides;
        for side in [&mut all_scores, &mut pattern].into_iter().flatten() {
            side[..index.ids.len() * heads * t].fill(0.0);
        }
        for context in &index.contexts {
            for (i, head) in (0..context.len).flat_map(|i| (0..heads).map(move |head| (i, head))) {
                let row = context.start + i;
                let q = &qkv.q[(row * heads + head) * e..][..e];
                let kv_at = |j: usize| ((context.start + j) * kv_heads + head / (heads / kv_heads)) * e;
                let capped = |s: f64| softcap.map_or(s, |cap| f64::from(cap) * (s / f64::from(cap)).tanh());
                let first = window.map_or(0, |window| (i + 1).saturating_sub(window));
                let scores: Vec<f64> =
                    (first..=i).map(|j| capped(f64::from(scale) * dot(q, &qkv.k[kv_at(j)..][..e]))).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                let p: Vec<f64> = scores.iter().map(|s| (s - max).exp() / sum).collect();
                for c in 0..e {
                    z[(row * heads + head) * e + c] = (first..=i).map(|j| p[j - first] * qkv.v[kv_at(j) + c]).sum();
                }
                for (side, values) in [(&mut all_scores, &scores), (&mut pattern, &p)] {
                    if let Some(side) = side {
                        let at = (row * heads + head) * t + context.column + first;
                        side[at..][..values.len()].copy_from_slice(values);
                    }
                }
            }
        }
    }

    fn head_results(&self, z: &Vec<f64>, w: &Vec<f64>, y: &mut Vec<f64>, dims: HeadResultDims) {
        let HeadResultDims { n, heads, e, d } = dims;
        for (i, head) in (0..n).flat_map(|i| (0..heads).map(move |head| (i, head))) {
            let z = &z[(i * heads + head) * e..][..e];
            for j in 0..d {
                y[(i * heads + head) * d + j] = dot(z, &w[j * heads * e + head * e..][..e]);
            }
        }
    }

    fn activate(&self, f: Activation, x: &mut Vec<f64>, len: usize) {
        for x in &mut x[..len] {
            *x = activation(f, *x);
        }
    }

    fn activate_mul(&self, f: Activation, gate: &mut Vec<f64>, up: &Vec<f64>, len: usize) {
        for (g, u) in gate[..len].iter_mut().zip(up) {
            *g = activation(f, *g) * u;
        }
    }

    fn route(&self, logits: &Vec<f64>, indices: &mut Vec<f64>, weights: &mut Vec<f64>, dims: RouteDims) {
        let RouteDims { n, experts, chosen, renormalise } = dims;
        for i in 0..n {
            let row = &logits[i * experts..][..experts];
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a])); // stable: smaller numbers first
            let max = row[order[0]];
            let exps: Vec<f64> = row.iter().map(|l| (l - max).exp()).collect();
            let of = if renormalise { &order[..chosen] } else { &order[..] };
            let sum: f64 = of.iter().map(|&r| exps[r]).sum();
            for (c, &r) in order[..chosen].iter().enumerate() {
                indices[i * chosen + c] = r as f64;
                weights[i * chosen + c] = exps[r] / sum;
            }
        }
    }

    fn expert_linear(&self, x: &Vec<f64>, w: &[Vec<f64>], indices: &Vec<f64>, y: &mut Vec<f64>, dims: ExpertDims) {
        let ExpertDims { n, chosen, n_in, n_out, x_by_expert } = dims;
        for slot in 0..n * chosen {
            let row = if x_by_expert { slot } else { slot / chosen };
            let w = &w[indices[slot] as usize];
            for j in 0..n_out {
                y[slot * n_out + j] = dot(&x[row * n_in..][..n_in], &w[j * n_in..][..n_in]);
            }
        }
    }

    fn mix_experts(&self, x: &Vec<f64>, weights: &Vec<f64>, y: &mut Vec<f64>, n: usize, chosen: usize, d: usize) {
        for (i, j) in (0..n).flat_map(|i| (0..d).map(move |j| (i, j))) {
            y[i * d + j] = (0..chosen).map(|c| weights[i * chosen + c] * x[(i * chosen + c) * d + j]).sum();
        }
    }

    fn scale(&self, x: &mut Vec<f64>, factor: f32, len: usize) {
        x[..len].iter_mut().for_each(|x| *x *= f64::from(factor));
    }

    fn add(&self, x: &mut Vec<f64>, y: &Vec<f64>, len: usize) {
        for (x, y) in x[..len].iter_mut().zip(y) {
            *x += y;
        }
    }
}

fn activation(f: Activation, x: f64) -> f64 {
    match f {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let factor = (2.0 / std::f64::consts::PI).sqrt();
            x / 2.0 * (1.0 + (factor * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::GeluErf => x / 2.0 * libm::erfc(-x / std::f64::consts::SQRT_2),
        Activation::Relu => x.max(0.0),
    }
}

fn copy_rows(table: &[f64], rows: &[u32], y: &mut [f64], d: usize) {
    for (i, &row) in rows.iter().enumerate() {
        y[i * d..][..d].copy_from_slice(&table[row as usize * d..][..d]);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
