//! [`ModelOps`] in f64, one loop per sum sign.

use crate::compute::model_ops::{
    AttentionDims, AttentionRows, BatchRows, BatchShape, ModelOps, NormDims, Qkv, RopeDims,
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

    fn rope(&self, index: &BatchIndex, x: &mut Vec<f64>, cos: &Vec<f64>, sin: &Vec<f64>, dims: RopeDims) {
        let RopeDims { heads, e } = dims;
        let half = e / 2;
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
        mut pattern: Option<&mut Vec<f64>>,
        dims: AttentionDims,
    ) {
        let AttentionDims { heads, kv_heads, e, scale } = dims;
        let t = index.context_length;
        if let Some(pattern) = pattern.as_deref_mut() {
            pattern[..index.ids.len() * heads * t].fill(0.0);
        }
        for context in &index.contexts {
            for (i, head) in (0..context.len).flat_map(|i| (0..heads).map(move |head| (i, head))) {
                let row = context.start + i;
                let q = &qkv.q[(row * heads + head) * e..][..e];
                let kv_at = |j: usize| ((context.start + j) * kv_heads + head / (heads / kv_heads)) * e;
                let scores: Vec<f64> = (0..=i).map(|j| f64::from(scale) * dot(q, &qkv.k[kv_at(j)..][..e])).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                let p: Vec<f64> = scores.iter().map(|s| (s - max).exp() / sum).collect();
                for c in 0..e {
                    z[(row * heads + head) * e + c] = (0..=i).map(|j| p[j] * qkv.v[kv_at(j) + c]).sum();
                }
                if let Some(pattern) = pattern.as_deref_mut() {
                    pattern[(row * heads + head) * t + context.column..][..=i].copy_from_slice(&p);
                }
            }
        }
    }

    fn silu_mul(&self, gate: &mut Vec<f64>, up: &Vec<f64>, len: usize) {
        for (g, u) in gate[..len].iter_mut().zip(up) {
            *g = *g / (1.0 + (-*g).exp()) * u;
        }
    }

    fn gelu_tanh(&self, x: &mut Vec<f64>, len: usize) {
        let factor = (2.0 / std::f64::consts::PI).sqrt();
        for x in &mut x[..len] {
            *x = *x / 2.0 * (1.0 + (factor * (*x + 0.044715 * x.powi(3))).tanh());
        }
    }

    fn add(&self, x: &mut Vec<f64>, y: &Vec<f64>, len: usize) {
        for (x, y) in x[..len].iter_mut().zip(y) {
            *x += y;
        }
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
