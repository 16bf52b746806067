//! Causal attention over ragged contexts.
//!
//! Keys are transposed once, in panels of [`KEYS`] rows of the batch. A context's queries are cut into blocks of
//! [`QUERIES`] rows; a block and a head make one score tile, `[QUERIES, keys so far]`, which stays in the second-level
//! cache: `S = scale Q K^T`, a softmax over each row's visible part, `Z = P V`, both products by the tiles of
//! [`super::product`]. The full `t x t` matrix never exists. What the softmax divides by is applied to `Z`.
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
    Columns, ColumnsMut, KEYS, Probabilities, ROWS, cap, exponentials, mix, scale_queries, transpose,
};
use crate::compute::cpu::product::{Tile as Product, f32_tile};
use crate::compute::cpu::simd::{Vectors, vectorized};
use crate::compute::model_ops::{AttentionDims, AttentionSides, Qkv};

/// Queries in a block.
const QUERIES: usize = 64;

/// See [`crate::compute::ModelOps::attention`].
pub(super) fn attention(
    cpu: &Cpu,
    index: &mut BatchIndex,
    qkv: Qkv<'_, Vec<f32>>,
    z: &mut [f32],
    sides: AttentionSides<'_, Vec<f32>>,
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
    let side = n * heads * index.context_length;
    let sides = Sides {
        scores: sides.scores.map(|scores| &mut scores[..side]),
        pattern: sides.pattern.map(|pattern| &mut pattern[..side]),
    };
    cpu.run(|| {
        let panels: &mut [f32] = bytemuck::cast_slice_mut(&mut index.key_panels[..]);
        let panels = &mut panels[..n.div_ceil(KEYS) * KEYS * kv_width];
        panels.par_chunks_mut(KEYS * kv_width).zip(k.par_chunks(KEYS * kv_width)).for_each(|(panel, rows)| {
            vectorized(
                #[inline(always)]
                || transpose(rows, panel, kv_width),
            )
        });
        Job { index, q, v, dims }.blocks(&index.blocks, z, sides);
    });
}

/// One call's operands.
struct Job<'a> {
    index: &'a BatchIndex,
    q: &'a [f32],
    v: &'a [f32],
    dims: AttentionDims,
}

/// What is written on the side: rows of `heads * context_length`.
#[derive(Default)]
struct Sides<'a> {
    scores: Option<&'a mut [f32]>,
    pattern: Option<&'a mut [f32]>,
}

impl<'a> Sides<'a> {
    /// The first `at` numbers of each, and the rest.
    fn split_at(self, at: usize) -> (Self, Self) {
        let (scores, more_scores) = self.scores.map(|side| side.split_at_mut(at)).unzip();
        let (pattern, more_pattern) = self.pattern.map(|side| side.split_at_mut(at)).unzip();
        (Self { scores, pattern }, Self { scores: more_scores, pattern: more_pattern })
    }
}

impl Job<'_> {
    /// All of `blocks`, which lie one after the other: `z` and `sides` start at the first one's first row.
    fn blocks(&self, blocks: &[QueryBlock], z: &mut [f32], sides: Sides<'_>) {
        match blocks {
            [] => {}
            [block] => self.block(block, z, sides),
            _ => {
                let (left, right) = blocks.split_at(blocks.len() / 2);
                let rows = right[0].row() - left[0].row();
                let (z_left, z_right) = z.split_at_mut(rows * self.dims.heads * self.dims.e);
                let (s_left, s_right) = sides.split_at(rows * self.dims.heads * self.index.context_length);
                rayon::join(|| self.blocks(left, z_left, s_left), || self.blocks(right, z_right, s_right));
            }
        }
    }

    /// One block, all heads.
    fn block(&self, block: &QueryBlock, z: &mut [f32], mut sides: Sides<'_>) {
        let thread = rayon::current_thread_index().expect("runs inside the pool");
        let mut scratch = self.index.scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
        let Scratch { queries, tile: rows } = &mut *scratch;
        let tile = Tile::of(block);
        let mut factors = [0.0; QUERIES];
        for head in 0..self.dims.heads {
            self.scores(block, head, &tile, queries, rows);
            if let Some(softcap) = self.dims.softcap {
                self.each_visible(block, &tile, rows, |_, scores| cap(scores, softcap));
            }
            if let Some(side) = sides.scores.as_deref_mut() {
                self.copy_side(block, head, &tile, (rows, &[1.0; QUERIES]), side);
            }
            self.each_visible(block, &tile, rows, |i, scores| factors[i] = exponentials(scores));
            self.mix(block, head, &tile, (rows, &factors), z);
            if let Some(side) = sides.pattern.as_deref_mut() {
                self.copy_side(block, head, &tile, (rows, &factors), side);
            }
        }
    }

    /// `f` of each row and the part of it that the row sees.
    fn each_visible(&self, block: &QueryBlock, tile: &Tile, rows: &mut [f32], mut f: impl FnMut(usize, &mut [f32])) {
        for i in 0..block.len {
            let seen = self.seen(block, i);
            f(i, &mut rows[i * tile.width + tile.offset..][seen]);
        }
    }

    /// The keys that row `i` of a block sees, counted from the context's start.
    fn seen(&self, block: &QueryBlock, i: usize) -> std::ops::Range<usize> {
        let end = block.first + i + 1;
        self.dims.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// `rows[i, offset + j] = scale * q[i] . k[j]`, at least for the keys that row `i` sees.
    fn scores(&self, block: &QueryBlock, head: usize, tile: &Tile, queries: &mut [f32], rows: &mut [f32]) {
        let AttentionDims { heads, kv_heads, e, scale, .. } = self.dims;
        let q = &self.q[block.row() * heads * e..(block.row() + block.len) * heads * e];
        scale_queries(q, heads * e, head * e, scale, queries, e);
        let column = head / (heads / kv_heads) * e * KEYS;
        let key_panels: &[f32] = bytemuck::cast_slice(&self.index.key_panels[..]);
        for panel in 0..tile.width / KEYS {
            let keys = &key_panels[(tile.first_panel + panel) * KEYS * kv_heads * e + column..][..e * KEYS];
            // the first row that comes after the panel's first key, and the rows whose window reaches into the panel
            let first = (panel * KEYS).saturating_sub(tile.offset + block.first).min(block.len);
            let in_window = |i: &usize| tile.offset + self.seen(block, *i).start < (panel + 1) * KEYS;
            let len = (first..block.len).take_while(in_window).count();
            if len == 0 {
                continue;
            }
            let product = Product {
                x: &queries[first * e..],
                x_stride: e,
                rows: len,
                w: keys,
                w_stride: KEYS,
                steps: e,
                lanes: KEYS,
                out_stride: tile.width,
                out: &mut rows[first * tile.width + panel * KEYS..],
                add: false,
                next: &[],
            };
            f32_tile(Vectors::here(), product);
        }
    }

    /// `z[i] = factors[i] sum_j rows[i, offset + j] v[j]`; `z` starts at the block's first row. Within a group of rows those keys that
    /// only some rows see get probability 0 in the others.
    fn mix(
        &self,
        block: &QueryBlock,
        head: usize,
        tile: &Tile,
        (rows, factors): (&mut [f32], &[f32; QUERIES]),
        z: &mut [f32],
    ) {
        let AttentionDims { heads, kv_heads, e, .. } = self.dims;
        let v = &self.v[block.context.start * kv_heads * e..];
        let column = head / (heads / kv_heads) * e;
        for group in (0..block.len).step_by(ROWS) {
            let len = ROWS.min(block.len - group);
            let keys = block.first + group + 1;
            let start = self.seen(block, group).start;
            for r in 1..len {
                let blind = start..self.seen(block, group + r).start.min(keys);
                rows[(group + r) * tile.width + tile.offset..][blind].fill(0.0);
            }
            let p = Probabilities {
                rows: &rows[group * tile.width..],
                width: tile.width,
                offset: tile.offset,
                keys: start..keys,
                window: self.dims.window,
            };
            let z = &mut z[group * heads * e..(group + len) * heads * e];
            let z = ColumnsMut { values: z, width: heads * e, column: head * e };
            mix(p, Columns { values: v, width: kv_heads * e, column }, z, e, &factors[group..]);
        }
    }

    /// The tile's rows, times their factors, to the columns of `head` of a side, which starts at the block's first row.
    fn copy_side(
        &self,
        block: &QueryBlock,
        head: usize,
        tile: &Tile,
        (rows, factors): (&[f32], &[f32; QUERIES]),
        side: &mut [f32],
    ) {
        let t = self.index.context_length;
        for i in 0..block.len {
            let row = &mut side[(i * self.dims.heads + head) * t..][..t];
            let seen = self.seen(block, i);
            row.fill(0.0);
            let from = &rows[i * tile.width + tile.offset..][seen.clone()];
            row[block.context.column..][seen].iter_mut().zip(from).for_each(|(to, p)| *to = factors[i] * p);
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
