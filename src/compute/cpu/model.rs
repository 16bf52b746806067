//! [`ModelOps`] on the CPU: each method hands slices to the file of its family.

use crate::compute::cpu::attention::{self, BatchIndex};
use crate::compute::cpu::{Cpu, Matrix, activation, embedding, experts, matmul, norm, rope};
use crate::compute::model_ops::{
    Activation, AttentionDims, AttentionSides, BatchRows, BatchShape, ExpertDims, HeadResultDims, ModelOps, NormDims,
    NormKind, Qkv, RopeDims, RouteDims,
};
use crate::compute::projection::{Projection, ProjectionDims};

impl ModelOps for Cpu {
    type BatchIndex = BatchIndex;

    fn batch_index(&self, shape: BatchShape, attention: AttentionDims) -> BatchIndex {
        BatchIndex::new(self, shape, attention)
    }

    fn load_batch(&self, index: &mut BatchIndex, rows: BatchRows<'_>) {
        index.load(rows);
    }

    fn embed_tokens(&self, index: &BatchIndex, table: &Matrix, y: &mut Vec<f32>, d: usize) {
        embedding::copy_rows(self, table, &index.ids, y, d);
    }

    fn embed_positions(&self, index: &BatchIndex, table: &Matrix, y: &mut Vec<f32>, d: usize) {
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
        sides: AttentionSides<'_, Vec<f32>>,
        dims: AttentionDims,
    ) {
        attention::attention(self, index, qkv, z, sides, dims);
    }

    fn norm_scale(&self, kind: NormKind, x: &Vec<f32>, y: &mut Vec<f32>, dims: NormDims) {
        norm::norm_scale(self, kind, x, y, dims);
    }

    fn head_results(&self, z: &Vec<f32>, w: &Matrix, y: &mut Vec<f32>, dims: HeadResultDims) {
        matmul::head_results(self, z, w, y, dims);
    }

    fn activate(&self, f: Activation, x: &mut Vec<f32>, len: usize) {
        activation::activate(self, f, &mut x[..len]);
    }

    fn activate_mul(&self, f: Activation, gate: &mut Vec<f32>, up: &Vec<f32>, len: usize) {
        activation::activate_mul(self, f, &mut gate[..len], &up[..len]);
    }

    fn route(&self, logits: &Vec<f32>, indices: &mut Vec<f32>, weights: &mut Vec<f32>, dims: RouteDims) {
        experts::route(self, logits, indices, weights, dims);
    }

    fn expert_linear(&self, x: &Vec<f32>, w: &[Matrix], indices: &Vec<f32>, y: &mut Vec<f32>, dims: ExpertDims) {
        experts::expert_linear(self, x, w, indices, y, dims);
    }

    fn mix_experts(&self, x: &Vec<f32>, weights: &Vec<f32>, y: &mut Vec<f32>, n: usize, chosen: usize, d: usize) {
        experts::mix_experts(self, x, weights, &mut y[..n * d], chosen, d);
    }

    fn project(&self, x: &Vec<f32>, dims: ProjectionDims, parts: &mut [Projection<'_, Self>]) {
        matmul::project(self, x, dims, parts);
    }

    fn scale(&self, x: &mut Vec<f32>, factor: f32, len: usize) {
        activation::scale(self, &mut x[..len], factor);
    }

    fn add(&self, x: &mut Vec<f32>, y: &Vec<f32>, len: usize) {
        activation::add(self, &mut x[..len], &y[..len]);
    }
}
