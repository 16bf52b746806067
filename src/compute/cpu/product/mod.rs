//! Products of rows with a model's matrices, `y = x w^T`, and what becomes of them while they are in the cache.
//!
//! A task takes a block of rows through every matrix of a call: panel by panel, in chunks of [`CHUNK`] steps whose share of the
//! panel stays in the second-level cache while the block's rows pass over it. The sums of a panel lie in a small buffer;
//! when they are whole, bias, activation, gate or residual stream follow, and `y` is written once.
//!
//! A number is a sum of chunks in their order, each one chain over its steps: it depends on the shape of the matrix alone, not
//! on the rows beside it, on blocks or on threads. In f32 it does not depend on the machine either: every instruction set gives
//! the same bits. Of a bfloat16 matrix both factors are rounded to bfloat16 and the exact products summed in f32, by
//! `vdpbf16ps` where that is faster ([`tiles::multiplies_pairs`]), else by widening both.

mod panels;
mod tiles;

use std::cell::RefCell;

use bytemuck::Zeroable;
use half::bf16;
use rayon::prelude::*;

pub(super) use panels::Panels;
pub(crate) use tiles::multiplies_pairs;
pub(super) use tiles::{LANES, ROWS, Tile, f32_tile};

use crate::compute::backend::MatrixFormat;
use crate::compute::cpu::Cpu;
use crate::compute::cpu::activation::with_function;
use crate::compute::cpu::simd::{Vectors, vectorized};
use crate::compute::model_ops::Activation;
pub(super) use panels::{LINE, Line, panel_lanes};

/// Rows of a block: their part of `x` and a chunk of a panel fit into the second-level cache.
const BLOCK: usize = 96;
/// Steps after which a chain of additions is added to the sums: short enough for the error of long sums to stay small.
pub(super) const CHUNK: usize = 384;
/// Matrices of a call, with those that gate others.
const PARTS: usize = 4;

/// What becomes of a product: see [`crate::compute::projection::Then`].
#[derive(Clone, Copy)]
pub(super) enum Finish<'a> {
    Keep,
    Add,
    Activate(Activation),
    Gate(Activation, &'a Panels, Option<&'a [f32]>),
}

/// One product and where it goes.
pub(super) struct Part<'a> {
    pub(super) w: &'a Panels,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) finish: Finish<'a>,
    /// `[n, n_out]`.
    pub(super) y: &'a mut [f32],
}

/// One thread's scratch.
struct Scratch {
    /// `[BLOCK, lanes]`.
    sums: Vec<Line>,
    /// `[rows, steps]` rounded rows: pairs, or what they are as f32.
    x: Vec<u32>,
    /// A chunk of a panel, widened.
    w: Vec<Line>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        const { RefCell::new(Scratch { sums: Vec::new(), x: Vec::new(), w: Vec::new() }) };
}

/// Compute `parts` of `n` rows of `x`, all of one width and format.
pub(super) fn run(cpu: &Cpu, x: &[f32], n: usize, parts: &mut [Part<'_>]) {
    let Some(first) = parts.first() else { return };
    let (n_in, format, vectors) = (first.w.n_in, first.w.format, first.w.vectors);
    assert!(x.len() >= n * n_in && parts.len() <= PARTS, "{} matrices of {n} x {n_in}", parts.len());
    if n == 0 {
        return;
    }
    let mut outputs: [Option<Output<'_>>; PARTS] = [const { None }; PARTS];
    for (output, Part { w, bias, finish, y }) in outputs.iter_mut().zip(parts) {
        assert!(w.n_in == n_in && w.format == format && w.vectors == vectors, "matrices of one call");
        assert!(y.len() >= n * w.n_out && bias.is_none_or(|bias| bias.len() >= w.n_out), "y or bias too short");
        if let Finish::Gate(_, up, bias) = finish {
            assert!(up.n_in == n_in && up.n_out == w.n_out && up.format == format, "a gate of another shape");
            assert!(up.vectors == vectors && bias.is_none_or(|bias| bias.len() >= w.n_out), "a gate's bias");
        }
        *output = Some(Output { w, bias: *bias, finish: *finish, y: y.as_mut_ptr() });
    }
    let rows = block_rows(n, cpu.threads());
    cpu.run(|| {
        (0..n.div_ceil(rows)).into_par_iter().for_each(|block| {
            let (first, len) = (block * rows, rows.min(n - block * rows));
            SCRATCH.with_borrow_mut(|scratch| {
                let Scratch { sums, x: rounded, w } = scratch;
                let x = Rows::new(&x[first * n_in..][..len * n_in], len, (format, vectors), rounded);
                let mut work = Work { x, sums, wide: w };
                for output in outputs.iter().flatten() {
                    // SAFETY: `y` has `n` rows, and this task alone has rows first .. first + len of it.
                    let y = unsafe {
                        std::slice::from_raw_parts_mut(output.y.add(first * output.w.n_out), len * output.w.n_out)
                    };
                    work.output(output, y);
                }
            });
        });
    });
}

/// Rows of a task: few enough that all threads have some.
fn block_rows(n: usize, threads: usize) -> usize {
    n.div_ceil(3 * threads).next_multiple_of(ROWS).clamp(ROWS, BLOCK)
}

/// A [`Part`] that tasks share: each writes its own rows.
struct Output<'a> {
    w: &'a Panels,
    bias: Option<&'a [f32]>,
    finish: Finish<'a>,
    y: *mut f32,
}

// SAFETY: the pointer comes from a `&mut [f32]` that outlives the call, and tasks write disjoint rows of it.
unsafe impl Sync for Output<'_> {}

/// A block of `x`, as its kernel reads it.
enum Rows<'a> {
    /// `[n, n_in]`.
    F32(&'a [f32], usize),
    /// `[n, steps]` pairs of bfloat16.
    Pairs(&'a [u32], usize),
    /// `[n, 2 * steps]`, rounded to bfloat16.
    Rounded(&'a [f32], usize),
}

impl<'a> Rows<'a> {
    fn new(x: &'a [f32], n: usize, (format, vectors): (MatrixFormat, Vectors), room: &'a mut Vec<u32>) -> Self {
        if format == MatrixFormat::F32 {
            return Self::F32(x, n);
        }
        let n_in = x.len() / n;
        let steps = n_in.div_ceil(2);
        let pairs = multiplies_pairs() && vectors == Vectors::here();
        let width = if pairs { steps } else { 2 * steps };
        if room.len() < n * width {
            room.resize(n * width, 0);
        }
        let room = &mut room[..n * width];
        for (x, room) in x.chunks_exact(n_in.max(1)).zip(room.chunks_exact_mut(width.max(1))) {
            if pairs {
                if let Some(last) = room.last_mut() {
                    *last = 0;
                }
                round(x, &mut bytemuck::cast_slice_mut(room)[..n_in]);
            } else {
                let (whole, rest) = room.split_at_mut(n_in);
                whole.iter_mut().zip(x).for_each(|(to, &x)| *to = u32::from(bf16::from_f32(x).to_bits()) << 16);
                rest.fill(0);
            }
        }
        let room: &'a [u32] = room;
        if pairs { Self::Pairs(room, n) } else { Self::Rounded(bytemuck::cast_slice(room), n) }
    }

    fn len(&self) -> usize {
        match self {
            Self::F32(_, n) | Self::Pairs(_, n) | Self::Rounded(_, n) => *n,
        }
    }
}

/// Round to bfloat16 on a machine with `vdpbf16ps`.
#[cfg(target_arch = "x86_64")]
fn round(x: &[f32], out: &mut [u16]) {
    // SAFETY: `multiplies_pairs` saw AVX-512 with all that `Vectors::Avx512` stands for, and AVX-512 BF16.
    unsafe { tiles::round(x, out) }
}

/// There is no such machine.
#[cfg(not(target_arch = "x86_64"))]
fn round(_: &[f32], _: &mut [u16]) {}

/// A task's rows and scratch.
struct Work<'a> {
    x: Rows<'a>,
    sums: &'a mut Vec<Line>,
    wide: &'a mut Vec<Line>,
}

impl Work<'_> {
    /// One product of the block's rows, to `y`.
    fn output(&mut self, output: &Output<'_>, y: &mut [f32]) {
        let Output { w, bias, .. } = *output;
        match output.finish {
            Finish::Keep => self.product(
                w,
                bias,
                y,
                #[inline(always)]
                |_, p| p,
            ),
            Finish::Add => self.product(
                w,
                bias,
                y,
                #[inline(always)]
                |y, p| y + p,
            ),
            Finish::Activate(f) => with_function!(f, |f| self.product(
                w,
                bias,
                y,
                #[inline(always)]
                |_, p| f(p)
            )),
            Finish::Gate(f, up, up_bias) => {
                self.product(
                    w,
                    bias,
                    y,
                    #[inline(always)]
                    |_, p| p,
                );
                with_function!(f, |f| self.product(
                    up,
                    up_bias,
                    y,
                    #[inline(always)]
                    |y, p| f(y) * p
                ));
            }
        }
    }

    /// `y[i, j] = finish(y[i, j], sum_p x[i, p] w[j, p] + bias[j])`.
    fn product(&mut self, w: &Panels, bias: Option<&[f32]>, y: &mut [f32], finish: impl Fn(f32, f32) -> f32) {
        let lanes = w.lanes();
        let rows = self.x.len();
        if self.sums.len() < rows * lanes / LINE {
            self.sums.resize(rows * lanes / LINE, Line::zeroed());
        }
        for panel in 0..w.n_out.div_ceil(lanes) {
            let columns = panel * lanes..w.n_out.min((panel + 1) * lanes);
            self.panel(w, panel, columns.len().next_multiple_of(LANES));
            let sums: &[f32] = bytemuck::cast_slice(&self.sums[..]);
            vectorized(
                #[inline(always)]
                || {
                    for (y, sums) in y.chunks_exact_mut(w.n_out).zip(sums.chunks_exact(lanes)) {
                        let y = &mut y[columns.clone()];
                        match bias {
                            Some(bias) => {
                                for ((y, &sum), &bias) in y.iter_mut().zip(sums).zip(&bias[columns.clone()]) {
                                    *y = finish(*y, sum + bias);
                                }
                            }
                            None => {
                                for (y, &sum) in y.iter_mut().zip(sums) {
                                    *y = finish(*y, sum);
                                }
                            }
                        }
                    }
                },
            );
        }
    }

    /// The sums of a panel, of which `lanes` are wanted.
    fn panel(&mut self, w: &Panels, panel: usize, lanes: usize) {
        let (stride, steps) = (w.lanes(), w.steps());
        let out: &mut [f32] = bytemuck::cast_slice_mut(&mut self.sums[..]);
        if steps == 0 {
            return out.fill(0.0);
        }
        // pairs are widened to twice as many steps
        let longest = if matches!(self.x, Rows::Rounded(..)) { CHUNK / 2 } else { CHUNK };
        let chunk = steps.div_ceil(steps.div_ceil(longest));
        for first in (0..steps).step_by(chunk) {
            let len = chunk.min(steps - first);
            let sums = Sums { out: &mut *out, stride, lanes, add: first > 0 };
            match self.x {
                Rows::F32(x, rows) => {
                    let tile = sums.of((&x[first..], steps, rows), w.steps_of(panel, first, len));
                    f32_tile(w.vectors, Tile { next: w.steps_after(panel, first + len, chunk), ..tile });
                }
                Rows::Pairs(x, rows) => {
                    let tile = sums.of((&x[first..], steps, rows), w.steps_of(panel, first, len));
                    tiles::pairs_tile(Tile { next: w.steps_after(panel, first + len, chunk), ..tile });
                }
                Rows::Rounded(x, rows) => {
                    let wide = widen(w.steps_of(panel, first, len), stride, self.wide);
                    f32_tile(w.vectors, sums.of((&x[2 * first..], 2 * steps, rows), wide));
                }
            }
        }
    }
}

impl Panels {
    /// The products of the f32 rows `x` `[rows, n_in]` with this matrix of f32, panel by panel: `each` is given
    /// `[rows, lanes]`, and the lanes. They stay in `sums` no longer than that.
    pub(super) fn products(&self, x: &[f32], sums: &mut Vec<Line>, mut each: impl FnMut(&[f32], usize)) {
        let (steps, lanes) = (self.n_in, self.lanes());
        let rows = x.len() / steps;
        if sums.len() < rows * lanes / LINE {
            sums.resize(rows * lanes / LINE, Line::zeroed());
        }
        let chunk = steps.div_ceil(steps.div_ceil(CHUNK));
        for panel in 0..self.n_out.div_ceil(lanes) {
            let wanted = lanes.min(self.n_out - panel * lanes).next_multiple_of(LANES);
            for first in (0..steps).step_by(chunk) {
                let len = chunk.min(steps - first);
                let out = bytemuck::cast_slice_mut(&mut sums[..]);
                let sums = Sums { out, stride: lanes, lanes: wanted, add: first > 0 };
                let tile = sums.of((&x[first..], steps, rows), self.steps_of(panel, first, len));
                f32_tile(self.vectors, Tile { next: self.steps_after(panel, first + len, chunk), ..tile });
            }
            each(bytemuck::cast_slice(&sums[..rows * lanes / LINE]), lanes);
        }
    }
}

/// Where a chunk of a panel's products goes: `[rows, stride]`, of which `lanes` are wanted.
struct Sums<'a> {
    out: &'a mut [f32],
    stride: usize,
    lanes: usize,
    add: bool,
}

impl<'a> Sums<'a> {
    /// The tile of `rows` rows, `x_stride` apart, with the chunk `w` of a panel.
    fn of<X, W>(self, (x, x_stride, rows): (&'a [X], usize, usize), w: &'a [W]) -> Tile<'a, X, W> {
        let Self { out, stride, lanes, add } = self;
        let (steps, next) = (w.len() / stride, &w[..0]);
        Tile { x, x_stride, rows, w, w_stride: stride, steps, lanes, out, out_stride: stride, add, next }
    }
}

/// Pairs `[len, lanes]` as f32 `[2 * len, lanes]`.
fn widen<'a>(pairs: &[u32], lanes: usize, room: &'a mut Vec<Line>) -> &'a [f32] {
    let lines = 2 * pairs.len() / LINE;
    if room.len() < lines {
        room.resize(lines, Line::zeroed());
    }
    let wide: &mut [u32] = bytemuck::cast_slice_mut(&mut room[..lines]);
    vectorized(
        #[inline(always)]
        || {
            for (pairs, wide) in pairs.chunks_exact(lanes).zip(wide.chunks_exact_mut(2 * lanes)) {
                let (low, high) = wide.split_at_mut(lanes);
                for ((&pair, low), high) in pairs.iter().zip(low).zip(high) {
                    *low = pair << 16;
                    *high = pair & 0xffff_0000;
                }
            }
        },
    );
    bytemuck::cast_slice(wide)
}

#[cfg(test)]
mod tests;
