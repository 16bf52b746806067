//! Causal attention over ragged contexts.
//!
//! Keys are transposed once, in panels of [`KEYS`] rows of the batch. A context's queries are cut into blocks of
//! [`QUERIES`] rows; a block and a head make one score tile, `[QUERIES, keys so far]`, which stays in the second-level
//! cache: `S = scale Q K^T`, a softmax over each row's visible part, `Z = P V`. The full `t x t` matrix never exists.
//! Every number is a sum in the order of channels or of keys counted from the context's start, so a context's result does
//! not depend, not even in its last bit, on its neighbours in the batch or on the number of threads.

mod index;
mod kernels;

use std::sync::PoisonError;

use rayon::prelude::*;

pub use index::BatchIndex;

use crate::compute::cpu::Cpu;
use crate::compute::cpu::attention::index::{QueryBlock, Scratch};
use crate::compute::cpu::attention::kernels::{
    Columns, ColumnsMut, KEYS, Probabilities, ROWS, mix, pack_queries, scores, softmax, transpose,
};
use crate::compute::cpu::simd::vectorized;
use crate::compute::model_ops::{AttentionDims, Qkv};

/// Queries in a block.
const QUERIES: usize = 64;

/// See [`crate::compute::ModelOps::attention`].
pub(super) fn attention(
    cpu: &Cpu,
    index: &mut BatchIndex,
    qkv: Qkv<'_, Vec<f32>>,
    z: &mut [f32],
    pattern: Option<&mut [f32]>,
    dims: AttentionDims,
) {
    let n = index.ids.len();
    let AttentionDims { heads, kv_heads, e, .. } = dims;
    assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "attention: {dims:?}");
    let kv_width = kv_heads * e;
    let (q, k, v) = (&qkv.q[..n * heads * e], &qkv.k[..n * kv_width], &qkv.v[..n * kv_width]);
    let z = &mut z[..n * heads * e];
    if n == 0 || e == 0 {
        return;
    }
    let pattern = pattern.map(|pattern| &mut pattern[..n * heads * index.context_length]);
    cpu.run(|| {
        let panels = &mut index.key_panels[..n.div_ceil(KEYS) * KEYS * kv_width];
        panels.par_chunks_mut(KEYS * kv_width).zip(k.par_chunks(KEYS * kv_width)).for_each(|(panel, rows)| {
            vectorized(
                #[inline(always)]
                || transpose(rows, panel, kv_width),
            )
        });
        Job { index, q, v, dims }.blocks(&index.blocks, z, pattern);
    });
}

/// One call's operands.
struct Job<'a> {
    index: &'a BatchIndex,
    q: &'a [f32],
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
        let mut scratch = self.index.scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
        let Scratch { queries, tile: rows } = &mut *scratch;
        let tile = Tile::of(block);
        for head in 0..self.dims.heads {
            self.scores(block, head, &tile, queries, rows);
            vectorized(
                #[inline(always)]
                || {
                    for i in 0..block.len {
                        softmax(&mut rows[i * tile.width + tile.offset..][..block.first + i + 1]);
                    }
                },
            );
            self.mix(block, head, &tile, rows, z);
            if let Some(pattern) = pattern.as_deref_mut() {
                self.copy_pattern(block, head, &tile, rows, pattern);
            }
        }
    }

    /// `rows[i, offset + j] = scale * q[i] . k[j]`, at least for the keys that row `i` sees.
    fn scores(&self, block: &QueryBlock, head: usize, tile: &Tile, queries: &mut [f32], rows: &mut [f32]) {
        let AttentionDims { heads, kv_heads, e, scale } = self.dims;
        let q = &self.q[block.row() * heads * e..(block.row() + block.len) * heads * e];
        for (group, packed) in queries.chunks_exact_mut(e * ROWS).take(block.len.div_ceil(ROWS)).enumerate() {
            pack_queries(&q[group * ROWS * heads * e..], heads * e, head * e, scale, packed);
        }
        let column = head / (heads / kv_heads) * e * KEYS;
        for panel in 0..tile.width / KEYS {
            let keys = &self.index.key_panels[(tile.first_panel + panel) * KEYS * kv_heads * e + column..][..e * KEYS];
            for (group, packed) in queries.chunks_exact(e * ROWS).take(block.len.div_ceil(ROWS)).enumerate() {
                if panel * KEYS < tile.offset + block.first + (group + 1) * ROWS {
                    scores(packed, keys, &mut rows[group * ROWS * tile.width + panel * KEYS..], tile.width);
                }
            }
        }
    }

    /// `z[i] = sum_j rows[i, offset + j] v[j]`; `z` starts at the block's first row.
    fn mix(&self, block: &QueryBlock, head: usize, tile: &Tile, rows: &[f32], z: &mut [f32]) {
        let AttentionDims { heads, kv_heads, e, .. } = self.dims;
        let v = &self.v[block.context.start * kv_heads * e..];
        let column = head / (heads / kv_heads) * e;
        for group in (0..block.len).step_by(ROWS) {
            let len = ROWS.min(block.len - group);
            let keys = block.first + group + 1;
            let p = Probabilities { rows: &rows[group * tile.width..], width: tile.width, offset: tile.offset, keys };
            let z = &mut z[group * heads * e..(group + len) * heads * e];
            let z = ColumnsMut { values: z, width: heads * e, column: head * e };
            mix(p, Columns { values: v, width: kv_heads * e, column }, z, e);
        }
    }

    /// The tile's rows to the pattern's columns of `head`; `pattern` starts at the block's first row.
    fn copy_pattern(&self, block: &QueryBlock, head: usize, tile: &Tile, rows: &[f32], pattern: &mut [f32]) {
        let t = self.index.context_length;
        for i in 0..block.len {
            let row = &mut pattern[(i * self.dims.heads + head) * t..][..t];
            let visible = block.first + i + 1;
            row.fill(0.0);
            row[block.context.column..][..visible].copy_from_slice(&rows[i * tile.width + tile.offset..][..visible]);
        }
    }
}

/// Where a block's keys lie in its score tile.
struct Tile {
    /// Panel of the context's first key.
    first_panel: usize,
    /// The context's first key within that panel.
    offset: usize,
    /// Columns: whole panels.
    width: usize,
}

impl Tile {
    fn of(block: &QueryBlock) -> Self {
        let start = block.context.start;
        let first_panel = start / KEYS;
        let end = block.row() + block.len;
        Self { first_panel, offset: start % KEYS, width: (end.div_ceil(KEYS) - first_panel) * KEYS }
    }
}
