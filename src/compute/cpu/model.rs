//! [`ModelOps`] on the CPU: each method hands slices to the file of its family.

use crate::compute::cpu::attention::{self, BatchIndex};
use crate::compute::cpu::{Cpu, activation, embedding, norm, rope};
use crate::compute::model_ops::{AttentionDims, BatchRows, BatchShape, ModelOps, NormDims, Qkv, RopeDims};

impl ModelOps for Cpu {
    type BatchIndex = BatchIndex;

    fn batch_index(&self, shape: BatchShape, attention: AttentionDims) -> BatchIndex {
        BatchIndex::new(self, shape, attention)
    }

    fn load_batch(&self, index: &mut BatchIndex, rows: BatchRows<'_>) {
        index.load(rows);
    }

    fn embed_tokens(&self, index: &BatchIndex, table: &Vec<f32>, y: &mut Vec<f32>, d: usize) {
        embedding::copy_rows(self, table, &index.ids, y, d);
    }

    fn embed_positions(&self, index: &BatchIndex, table: &Vec<f32>, y: &mut Vec<f32>, d: usize) {
        embedding::copy_rows(self, table, &index.positions, y, d);
    }

    fn rms_norm(&self, x: &Vec<f32>, weight: Option<&Vec<f32>>, y: &mut Vec<f32>, dims: NormDims) {
        norm::rms_norm(self, x, weight.map(Vec::as_slice), y, dims);
    }

    fn layer_norm(&self, x: &Vec<f32>, affine: Option<(&Vec<f32>, &Vec<f32>)>, y: &mut Vec<f32>, dims: NormDims) {
        norm::layer_norm(self, x, affine.map(|(w, b)| (w.as_slice(), b.as_slice())), y, dims);
    }

    fn rope(&self, index: &BatchIndex, x: &mut Vec<f32>, cos: &Vec<f32>, sin: &Vec<f32>, dims: RopeDims) {
        let rows = index.positions.len();
        rope::rope(self, &index.positions, &mut x[..rows * dims.heads * dims.e], cos, sin, dims);
    }

    fn attention(
        &self,
        index: &mut BatchIndex,
        qkv: Qkv<'_, Vec<f32>>,
        z: &mut Vec<f32>,
        pattern: Option<&mut Vec<f32>>,
        dims: AttentionDims,
    ) {
        attention::attention(self, index, qkv, z, pattern.map(Vec::as_mut_slice), dims);
    }

    fn silu_mul(&self, gate: &mut Vec<f32>, up: &Vec<f32>, len: usize) {
        activation::silu_mul(self, &mut gate[..len], &up[..len]);
    }

    fn gelu_tanh(&self, x: &mut Vec<f32>, len: usize) {
        activation::gelu_tanh(self, &mut x[..len]);
    }

    fn add(&self, x: &mut Vec<f32>, y: &Vec<f32>, len: usize) {
        activation::add(self, &mut x[..len], &y[..len]);
    }
}
