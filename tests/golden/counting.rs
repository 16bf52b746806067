//! A CPU backend that counts matrix products and attentions, to see what a forward pass did not do.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use harvestd::compute::backend::{Backend, LinearDims, MatrixFormat};
use harvestd::compute::cpu::{BatchIndex, Cpu, Matrix};
use harvestd::compute::model_ops::{
    Activation, AttentionDims, AttentionSides, BatchRows, BatchShape, ExpertDims, HeadResultDims, ModelOps, NormDims,
    NormKind, Qkv, RopeDims, RouteDims,
};

pub struct Counting {
    pub cpu: Cpu,
    pub linears: AtomicUsize,
    pub attentions: AtomicUsize,
    pub norms: AtomicUsize,
}

impl Counting {
    pub fn new() -> Self {
        let zero = AtomicUsize::default;
        Self { cpu: Cpu::new(1).unwrap(), linears: zero(), attentions: zero(), norms: zero() }
    }

    /// Linears, attentions and norms since the last call.
    pub fn take(&self) -> (usize, usize, usize) {
        let take = |counter: &AtomicUsize| counter.swap(0, Ordering::Relaxed);
        (take(&self.linears), take(&self.attentions), take(&self.norms))
    }
}

type T = Vec<f32>;

impl Backend for Counting {
    type Tensor = T;
    type Matrix = Matrix;

    fn name(&self) -> &'static str {
        "counting"
    }
    fn zeros(&self, len: usize) -> T {
        self.cpu.zeros(len)
    }
    fn upload(&self, data: &[f32]) -> T {
        self.cpu.upload(data)
    }
    fn matrix(&self, data: Vec<f32>, format: MatrixFormat) -> Matrix {
        self.cpu.matrix(data, format)
    }
    fn weights(&self, data: Vec<f32>, shape: [usize; 2], format: MatrixFormat) -> Matrix {
        self.cpu.weights(data, shape, format)
    }
    fn len(&self, t: &T) -> usize {
        self.cpu.len(t)
    }
    fn write(&self, t: &mut T, at: usize, data: &[f32]) {
        self.cpu.write(t, at, data);
    }
    fn read(&self, t: &T, at: usize, out: &mut [f32]) {
        self.cpu.read(t, at, out);
    }
    fn read_f64(&self, t: &T, at: usize, out: &mut [f64]) {
        self.cpu.read_f64(t, at, out);
    }
    fn gather_rows(&self, x: &T, width: usize, columns: Range<usize>, rows: &[u32], out: &mut [f32]) {
        self.cpu.gather_rows(x, width, columns, rows, out);
    }
    fn linear(&self, x: &T, w: &Matrix, bias: Option<&T>, y: &mut T, dims: LinearDims) {
        self.linears.fetch_add(1, Ordering::Relaxed);
        self.cpu.linear(x, w, bias, y, dims);
    }
}

impl ModelOps for Counting {
    type BatchIndex = BatchIndex;

    fn batch_index(&self, shape: BatchShape, attention: AttentionDims) -> BatchIndex {
        self.cpu.batch_index(shape, attention)
    }
    fn load_batch(&self, index: &mut BatchIndex, rows: BatchRows<'_>) {
        self.cpu.load_batch(index, rows);
    }
    fn embed_tokens(&self, index: &BatchIndex, table: &Matrix, y: &mut T, d: usize) {
        self.cpu.embed_tokens(index, table, y, d);
    }
    fn embed_positions(&self, index: &BatchIndex, table: &Matrix, y: &mut T, d: usize) {
        self.cpu.embed_positions(index, table, y, d);
    }
    fn rms_norm(&self, x: &T, weight: Option<&T>, y: &mut T, dims: NormDims) {
        self.norms.fetch_add(1, Ordering::Relaxed);
        self.cpu.rms_norm(x, weight, y, dims);
    }
    fn layer_norm(&self, x: &T, affine: Option<(&T, &T)>, y: &mut T, dims: NormDims) {
        self.norms.fetch_add(1, Ordering::Relaxed);
        self.cpu.layer_norm(x, affine, y, dims);
    }
    fn rope(&self, index: &BatchIndex, x: &mut T, cos: &T, sin: &T, dims: RopeDims) {
        self.cpu.rope(index, x, cos, sin, dims);
    }
    fn attention(
        &self,
        index: &mut BatchIndex,
        qkv: Qkv<'_, T>,
        z: &mut T,
        sides: AttentionSides<'_, T>,
        dims: AttentionDims,
    ) {
        self.attentions.fetch_add(1, Ordering::Relaxed);
        self.cpu.attention(index, qkv, z, sides, dims);
    }
    fn norm_scale(&self, kind: NormKind, x: &T, y: &mut T, dims: NormDims) {
        self.cpu.norm_scale(kind, x, y, dims);
    }
    fn head_results(&self, z: &T, w: &Matrix, y: &mut T, dims: HeadResultDims) {
        self.cpu.head_results(z, w, y, dims);
    }
    fn activate(&self, f: Activation, x: &mut T, len: usize) {
        self.cpu.activate(f, x, len);
    }
    fn activate_mul(&self, f: Activation, gate: &mut T, up: &T, len: usize) {
        self.cpu.activate_mul(f, gate, up, len);
    }
    fn route(&self, logits: &T, indices: &mut T, weights: &mut T, dims: RouteDims) {
        self.cpu.route(logits, indices, weights, dims);
    }
    fn expert_linear(&self, x: &T, w: &[Matrix], indices: &T, y: &mut T, dims: ExpertDims) {
        self.cpu.expert_linear(x, w, indices, y, dims);
    }
    fn mix_experts(&self, x: &T, weights: &T, y: &mut T, n: usize, chosen: usize, d: usize) {
        self.cpu.mix_experts(x, weights, y, n, chosen, d);
    }
    fn scale(&self, x: &mut T, factor: f32, len: usize) {
        self.cpu.scale(x, factor, len);
    }
    fn add(&self, x: &mut T, y: &T, len: usize) {
        self.cpu.add(x, y, len);
    }
}
