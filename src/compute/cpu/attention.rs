//! Causal attention over ragged contexts.
//!
//! A context's queries are cut into blocks of [`QUERIES`] rows. A block and a head make one score tile,
//! `[QUERIES, keys so far]`, which stays in the second-level cache: `S = scale Q K^T`, a softmax over each row's visible
//! part, `Z = P V`. The full `t x t` matrix never exists. Blocks start where the context starts, so a context's result
//! does not depend on its neighbours in the batch.

use std::sync::Mutex;

use crate::compute::cpu::Cpu;
use crate::compute::cpu::simd::{exp, max, sum, vectorized};
use crate::compute::model_ops::{AttentionDims, AttentionRows, BatchRows, BatchShape, Qkv};

/// Queries in a block.
const QUERIES: usize = 64;

/// The rows of one batch, and a score tile for each thread.
pub struct BatchIndex {
    pub(super) ids: Vec<u32>,
    pub(super) positions: Vec<u32>,
    blocks: Vec<QueryBlock>,
    context_length: usize,
    /// Each thread locks its own: never contended.
    tiles: Vec<Mutex<Vec<f32>>>,
}

/// Consecutive queries of one context.
#[derive(Clone, Copy, Debug)]
struct QueryBlock {
    context: AttentionRows,
    /// First query, counted from the context's start.
    first: usize,
    /// Queries.
    len: usize,
}

impl QueryBlock {
    /// Row of the first query in the batch.
    fn row(&self) -> usize {
        self.context.start + self.first
    }
}

impl BatchIndex {
    /// Room for any batch within `shape`.
    pub(super) fn new(cpu: &Cpu, shape: BatchShape) -> Self {
        let tile = QUERIES.min(shape.context_length) * shape.context_length;
        Self {
            ids: Vec::with_capacity(shape.max_tokens),
            positions: Vec::with_capacity(shape.max_tokens),
            blocks: Vec::with_capacity(shape.max_tokens),
            context_length: shape.context_length,
            tiles: (0..cpu.threads()).map(|_| Mutex::new(vec![0.0; tile])).collect(),
        }
    }

    /// Describe `rows`.
    pub(super) fn load(&mut self, rows: BatchRows<'_>) {
        self.ids.clear();
        self.ids.extend_from_slice(rows.ids);
        self.positions.clear();
        self.positions.extend_from_slice(rows.positions);
        self.blocks.clear();
        for &context in rows.contexts {
            assert!(context.column + context.len <= self.context_length, "{context:?} is longer than planned");
            for first in (0..context.len).step_by(QUERIES) {
                self.blocks.push(QueryBlock { context, first, len: QUERIES.min(context.len - first) });
            }
        }
    }
}

/// See [`crate::compute::ModelOps::attention`].
pub(super) fn attention(
    cpu: &Cpu,
    index: &BatchIndex,
    qkv: Qkv<'_, Vec<f32>>,
    z: &mut [f32],
    mut pattern: Option<&mut [f32]>,
    dims: AttentionDims,
) {
    let n = index.ids.len();
    let AttentionDims { heads, kv_heads, e, .. } = dims;
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "attention: {dims:?}");
    assert!(qkv.q.len() >= n * heads * e && qkv.k.len() >= n * kv_heads * e && qkv.v.len() >= n * kv_heads * e);
    if let Some(pattern) = pattern.as_deref_mut() {
        assert!(pattern.len() >= n * heads * index.context_length);
    }
    let job = Job { index, q: qkv.q, k: qkv.k, v: qkv.v, dims };
    let z = &mut z[..n * heads * e];
    cpu.run(|| job.blocks(&index.blocks, z, pattern));
}

/// One call's operands.
struct Job<'a> {
    index: &'a BatchIndex,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    dims: AttentionDims,
}

impl Job<'_> {
    /// All of `blocks`, which lie one after the other: `z` and `pattern` start at the first one's first row.
    fn blocks(&self, blocks: &[QueryBlock], z: &mut [f32], pattern: Option<&mut [f32]>) {
        match blocks {
            [] => {}
            [block] => self.block(block, z, pattern),
            _ => {
                let (left, right) = blocks.split_at(blocks.len() / 2);
                let rows = right[0].row() - left[0].row();
                let (z_left, z_right) = z.split_at_mut(rows * self.dims.heads * self.dims.e);
                let (p_left, p_right) =
                    pattern.map(|p| p.split_at_mut(rows * self.dims.heads * self.index.context_length)).unzip();
                rayon::join(|| self.blocks(left, z_left, p_left), || self.blocks(right, z_right, p_right));
            }
        }
    }

    /// One block, all heads.
    fn block(&self, block: &QueryBlock, z: &mut [f32], mut pattern: Option<&mut [f32]>) {
        let thread = rayon::current_thread_index().expect("runs inside the pool");
        let mut tile = self.index.tiles[thread].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let keys = block.first + block.len;
        let tile = &mut tile[..block.len * keys];
        for head in 0..self.dims.heads {
            self.scores(block, head, tile);
            vectorized(|| {
                for (i, row) in tile.chunks_exact_mut(keys).enumerate() {
                    softmax(row, block.first + i + 1);
                }
            });
            if let Some(pattern) = pattern.as_deref_mut() {
                self.copy_pattern(block, head, tile, pattern);
            }
            self.mix(block, head, tile, z);
        }
    }

    /// `tile[i, j] = scale * q[i] . k[j]`.
    fn scores(&self, block: &QueryBlock, head: usize, tile: &mut [f32]) {
        let AttentionDims { heads, kv_heads, e, scale } = self.dims;
        let keys = block.first + block.len;
        let q = &self.q[(block.row() * heads + head) * e..];
        let k = &self.k[(block.context.start * kv_heads + head / (heads / kv_heads)) * e..];
        assert!(q.len() >= (block.len - 1) * heads * e + e && k.len() >= (keys - 1) * kv_heads * e + e);
        assert!(tile.len() >= block.len * keys);
        // SAFETY: the asserts give the extents that these strides address; `tile` is borrowed mutably.
        unsafe {
            gemm::gemm(
                keys,
                block.len,
                e,
                tile.as_mut_ptr(),
                keys as isize,
                1,
                false,
                k.as_ptr(),
                1,
                (kv_heads * e) as isize,
                q.as_ptr(),
                (heads * e) as isize,
                1,
                0.0,
                scale,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }

    /// `z[i] = sum_j tile[i, j] v[j]`; `z` starts at the block's first row.
    fn mix(&self, block: &QueryBlock, head: usize, tile: &[f32], z: &mut [f32]) {
        let AttentionDims { heads, kv_heads, e, .. } = self.dims;
        let keys = block.first + block.len;
        let v = &self.v[(block.context.start * kv_heads + head / (heads / kv_heads)) * e..];
        let z = &mut z[head * e..];
        assert!(v.len() >= (keys - 1) * kv_heads * e + e && z.len() >= (block.len - 1) * heads * e + e);
        assert!(tile.len() >= block.len * keys);
        // SAFETY: the asserts give the extents that these strides address; `z` is borrowed mutably.
        unsafe {
            gemm::gemm(
                e,
                block.len,
                keys,
                z.as_mut_ptr(),
                (heads * e) as isize,
                1,
                false,
                v.as_ptr(),
                (kv_heads * e) as isize,
                1,
                tile.as_ptr(),
                keys as isize,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }

    /// The tile's rows to the pattern's columns of `head`; `pattern` starts at the block's first row.
    fn copy_pattern(&self, block: &QueryBlock, head: usize, tile: &[f32], pattern: &mut [f32]) {
        let t = self.index.context_length;
        let keys = block.first + block.len;
        for (i, p) in tile.chunks_exact(keys).enumerate() {
            let row = &mut pattern[(i * self.dims.heads + head) * t..][..t];
            row.fill(0.0);
            row[block.context.column..][..keys].copy_from_slice(p);
        }
    }
}

/// Softmax over the first `visible` scores; the rest becomes zero.
#[inline(always)]
fn softmax(scores: &mut [f32], visible: usize) {
    let (scores, hidden) = scores.split_at_mut(visible);
    hidden.fill(0.0);
    let top = max(scores);
    for s in scores.iter_mut() {
        *s = exp(*s - top);
    }
    let factor = 1.0 / sum(scores, |s| s);
    for s in scores {
        *s *= factor;
    }
}
