//! The rows of one batch, and attention's scratch.

use std::sync::Mutex;

use bytemuck::Zeroable;

use crate::compute::cpu::Cpu;
use crate::compute::cpu::attention::QUERIES;
use crate::compute::cpu::attention::kernels::{KEYS, ROWS};
use crate::compute::cpu::product::{LINE, Line};
use crate::compute::model_ops::{AttentionDims, AttentionRows, BatchRows, BatchShape};

/// What the rows of a batch are, and attention's scratch.
pub struct BatchIndex {
    pub(in crate::compute::cpu) ids: Vec<u32>,
    pub(in crate::compute::cpu) positions: Vec<u32>,
    pub(super) blocks: Vec<QueryBlock>,
    pub(super) context_length: usize,
    /// `[panels, k*e, KEYS]`: keys, transposed.
    pub(super) key_panels: Vec<Line>,
    /// Each thread locks its own: never contended.
    pub(super) scratch: Vec<Mutex<Scratch>>,
}

/// One thread's scratch.
pub(super) struct Scratch {
    /// `[QUERIES, e]`: a block's queries of one head, scaled.
    pub(super) queries: Vec<f32>,
    /// `[QUERIES, keys]`, with room for whole groups of rows.
    pub(super) tile: Vec<f32>,
}

/// Consecutive queries of one context.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueryBlock {
    pub(super) context: AttentionRows,
    /// First query, counted from the context's start.
    pub(super) first: usize,
    /// Queries.
    pub(super) len: usize,
}

impl QueryBlock {
    /// Row of the first query in the batch.
    pub(super) fn row(&self) -> usize {
        self.context.start + self.first
    }
}

impl BatchIndex {
    /// Room for any batch within `shape`.
    pub(in crate::compute::cpu) fn new(cpu: &Cpu, shape: BatchShape, dims: AttentionDims) -> Self {
        // a context that starts and ends inside panels touches two more than its length asks for
        let tile = QUERIES.next_multiple_of(ROWS) * (shape.context_length.div_ceil(KEYS) + 1) * KEYS;
        let scratch = || Mutex::new(Scratch { queries: vec![0.0; QUERIES * dims.e], tile: vec![0.0; tile] });
        Self {
            ids: Vec::with_capacity(shape.max_tokens),
            positions: Vec::with_capacity(shape.max_tokens),
            blocks: Vec::with_capacity(shape.max_tokens),
            context_length: shape.context_length,
            key_panels: vec![Line::zeroed(); shape.max_tokens.div_ceil(KEYS) * KEYS / LINE * dims.kv_heads * dims.e],
            scratch: (0..cpu.threads()).map(|_| scratch()).collect(),
        }
    }

    /// Describe `rows`.
    pub(in crate::compute::cpu) fn load(&mut self, rows: BatchRows<'_>) {
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
