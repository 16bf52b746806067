//! Launches that several operations of coders are made of.

use std::ops::Range;

use super::super::kernels::csr::Scan;
use super::super::kernels::entries::{LatentSums, SparseRows};
use super::super::kernels::reduce::{Columns, Finish};
use super::super::kernels::rows::{Blend, RowOp, Split, Squares, parts};
use super::super::kernels::select::{BATCH_LARGEST, BatchThreshold, BatchTies, Compact};
use super::super::kernels::{In, Out};
use super::super::product::{Product, ProductShape};
use super::{Cuda, Memory, Tensor};
use crate::compute::coder_ops::{ByLatent, Code};
use crate::compute::{Backend, CoderOps};

/// Whole numbers on the device.
pub struct Index {
    pub(super) memory: Memory,
    pub(super) len: usize,
}

impl Index {
    pub(super) fn input(&self, len: usize) -> In<u32> {
        assert!(self.len >= len, "{} whole numbers and not {len}", self.len);
        In::at(self.memory.address())
    }

    pub(super) fn output(&mut self, len: usize) -> Out<u32> {
        Out::at(self.input(len).address())
    }
}

/// Bytes of pre-activations that are held at a time where they need not be held all: what stays in the cache of a large GPU.
pub(super) const HELD: usize = 32 << 20;
/// Rows of a range of [`Columns`].
const ROWS_A_BLOCK: usize = 256;
/// What a number is split into for the encoder's product.
const PARTS: usize = 3;

impl Cuda {
    /// Pre-activations of rows `c`, `rows_at_once` at a time, in memory at `u` (from its start each time): `each` is told the first row
    /// and how many.
    pub(super) fn each_pre_activations(
        &self,
        (c, w_enc, bias): (&Tensor, &Tensor, &Tensor),
        (n, d, f): (usize, usize, usize),
        (u, rows_at_once): (u64, usize),
        mut each: impl FnMut(usize, usize),
    ) {
        let (c, w, bias) = (c.floats(n * d).address(), w_enc.floats(f * d), bias.floats(f).address());
        let width = d * PARTS;
        let left_bytes = (rows_at_once * width * 2).next_multiple_of(256);
        self.with_scratch(left_bytes + f * width * 2, |scratch| {
            let (left, right) = (scratch, scratch + left_bytes as u64);
            let split = |x, y, rows: usize, is_left| {
                let (rows, d, parts) = (rows as u64, d as i32, PARTS as i32);
                self.device.launch(&Split { x, y: Out::at(y), rows, d, parts, is_left }.launch());
            };
            split(w, right, f, 0);
            for first in (0..n).step_by(rows_at_once) {
                let rows = rows_at_once.min(n - first);
                split(In::at(c + (first * d * 4) as u64), left, rows, 1);
                let shape = ProductShape {
                    n: rows,
                    n_in: width,
                    n_out: f,
                    x_stride: width,
                    w_stride: width,
                    y_stride: f,
                    float_out: true,
                    has_bias: true,
                    adds: false,
                };
                self.device.multiply(Product { x: left, w: right, bias, y: u, shape });
                each(first, rows);
            }
        });
    }

    /// Room for a code's places.
    pub(super) fn make_room(&self, code: &mut Code<Self>) {
        let places = code.places();
        if code.latents.len < places {
            code.latents = self.index(places);
        }
        if code.values.len < places {
            code.values = self.zeros(places);
        }
    }

    /// The entries of rows by a rule of [`Compact`] that is filled in but for where they go: first how many there are, which decides the
    /// places of a row, then they.
    pub(super) fn compact(&self, rule: Compact, n: usize, code: &mut Code<Self>) {
        code.rows = n;
        code.k = 0;
        if n == 0 {
            return;
        }
        let (counts, first) = (self.memory(n * 4), [self.memory(n * 4), self.memory(n * 4)]);
        let counting = Compact {
            latents: Out::at(first[0].address()),
            values: Out::at(first[1].address()),
            counts: Out::at(counts.address()),
            k: 1,
            ..rule
        };
        self.device.launch(&counting.launch(n));
        code.k = self.numbers(&counts, n).into_iter().max().unwrap_or(0) as usize;
        if code.k == 0 {
            return;
        }
        self.make_room(code);
        let places = code.places();
        let latents = code.latents.output(places);
        let values = code.values.floats_mut(places);
        let compact = Compact { latents, values, counts: Out::at(counts.address()), k: code.k as i32, ..rule };
        self.device.launch(&compact.launch(n));
    }

    pub(super) fn batch_largest(
        &self,
        u: &Tensor,
        f: usize,
        count: usize,
        score: Option<&Tensor>,
        code: &mut Code<Self>,
    ) {
        let n = code.rows;
        if count == 0 || n == 0 {
            code.k = 0;
            return;
        }
        let u = u.floats(n * f);
        let score = score.map_or_else(In::default, |score| score.floats(f));
        let (state, histogram) = (self.cleared(2 * 4), self.cleared(256 * 4));
        let (ties, before) = (self.memory(n * 4), self.memory((n + 1) * 4));
        let threshold = BatchThreshold {
            u,
            score,
            state: Out::at(state.address()),
            histogram: Out::at(histogram.address()),
            count: count as u64,
            f: f as i32,
            round: 0,
        };
        for round in threshold.rounds() {
            round.launches(n).iter().for_each(|launch| self.device.launch(launch));
        }
        let state = In::at(state.address());
        self.device.launch(&BatchTies { u, score, state, ties: Out::at(ties.address()), f: f as i32 }.launch(n));
        let (counts, starts) = (In::at(ties.address()), Out::at(before.address()));
        self.device.launch(&Scan { counts, starts, n: n as i32 }.launch());
        let ties_before = In::at(before.address());
        let rule = Compact { u, score, state, ties_before, f: f as i32, rule: BATCH_LARGEST, ..Compact::default() };
        self.compact(rule, n, code);
    }

    /// Memory of zeros.
    pub(super) fn cleared(&self, bytes: usize) -> Memory {
        let memory = self.memory(bytes);
        memory.clear(0, bytes);
        memory
    }

    /// The first `len` whole numbers of memory.
    pub(super) fn numbers(&self, memory: &Memory, len: usize) -> Vec<u32> {
        let bytes = memory.read(0, len * 4).unwrap_or_else(|fault| fault.raise());
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// What the blocks of a sum found.
    pub(super) fn partials(&self, memory: &Memory) -> Vec<f64> {
        let bytes = memory.read(0, memory.bytes()).unwrap_or_else(|fault| fault.raise());
        bytes.chunks_exact(8).map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])).collect()
    }

    pub(super) fn squares(&self, x: &Tensor, shift: Option<&Tensor>, len: usize, d: usize) -> f64 {
        if len == 0 {
            return 0.0;
        }
        let partial = self.memory(parts(len as u64) * 8);
        let squares = Squares {
            x: x.floats(len),
            shift: shift.map_or_else(In::default, |shift| shift.floats(d)),
            partial: Out::at(partial.address()),
            len: len as u64,
            d: d as i32,
        };
        self.device.launch(&squares.launch());
        self.partials(&partial).iter().sum()
    }

    /// `out = keep * out + scale * sum_i weight[i] x[i]`.
    pub(super) fn columns(
        &self,
        weight: In<f32>,
        x: &Tensor,
        (keep, scale): (f32, f64),
        out: &mut Tensor,
        n: usize,
        d: usize,
    ) {
        let out = out.floats_mut(d);
        if d == 0 {
            return;
        }
        let columns = Columns {
            rows_float: x.floats(n * d),
            weight,
            n: n as i32,
            d: d as i32,
            rows_a_block: ROWS_A_BLOCK as i32,
            ..Columns::default()
        };
        let ranges = columns.parts();
        let partial = self.memory(ranges * d * 4);
        if n > 0 {
            self.device.launch(&Columns { partial: Out::at(partial.address()), ..columns }.launch());
        }
        let partial = In::at(partial.address());
        let finish = Finish { partial, out, parts: ranges as i32, d: d as i32, keep, scale: scale as f32 };
        self.device.launch(&finish.launch());
    }

    pub(super) fn row_op(&self, op: RowOp, n: usize, d: usize) {
        if n > 0 {
            self.device.launch(&RowOp { n: n as i32, d: d as i32, ..op }.launch());
        }
    }

    pub(super) fn blend(&self, blend: Blend) {
        if blend.len > 0 {
            self.device.launch(&blend.launch());
        }
    }

    pub(super) fn sparse_rows(
        &self,
        code: &Code<Self>,
        (w, latents): (&Tensor, Range<u32>),
        (base, is_bias): (In<f32>, bool),
        factor: f32,
        out: &mut Tensor,
        d: usize,
    ) {
        if code.rows == 0 {
            return;
        }
        let rows = SparseRows {
            latents: code.latents.input(code.places()),
            values: code.values.floats(code.places()),
            w: w.floats(0),
            base,
            out: out.floats_mut(code.rows * d),
            n: code.rows as i32,
            d: d as i32,
            k: code.k as i32,
            is_bias: i32::from(is_bias),
            factor,
            first: latents.start,
            end: latents.end,
        };
        self.device.launch(&rows.launch());
    }
}

impl Cuda {
    pub(super) fn latent_sums(
        &self,
        by_latent: &ByLatent<Self>,
        (a, b): (In<f32>, In<f32>),
        kind: i32,
        f: usize,
        out: &mut Tensor,
    ) {
        if f == 0 {
            return;
        }
        let sums = LatentSums {
            starts: by_latent.starts.input(f + 1),
            places: by_latent.places.input(0),
            a,
            b,
            out: out.floats_mut(f),
            f: f as i32,
            kind,
        };
        self.device.launch(&sums.launch());
    }
}
