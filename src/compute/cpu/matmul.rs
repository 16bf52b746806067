//! Matrix products: of weights in panels by [`product`], of other matrices through the `gemm` crate.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::compute::backend::LinearDims;
use crate::compute::cpu::product::{self, Finish, Part};
use crate::compute::cpu::{Cpu, Matrix};
use crate::compute::model_ops::HeadResultDims;
use crate::compute::projection::{Factor, Projection, ProjectionDims, Then, one_by_one};

/// Numbers of a bfloat16 matrix that a thread widens at a time: they stay in the second-level cache.
const WIDENED: usize = 96 << 10;

thread_local! {
    /// Rows of a bfloat16 matrix, widened.
    static WIDE_ROWS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// See [`crate::compute::Backend::linear`].
pub(super) fn linear(cpu: &Cpu, x: &[f32], w: &Matrix, bias: Option<&[f32]>, y: &mut [f32], dims: LinearDims) {
    let LinearDims { n, n_in, n_out } = dims;
    assert!(
        x.len() >= n * n_in && w.len() >= n_out * n_in && y.len() >= n * n_out,
        "linear: buffers too short for {dims:?}"
    );
    if n == 0 || n_out == 0 {
        return;
    }
    let y = &mut y[..n * n_out];
    if let Matrix::Panels(w) = w {
        return product::run(cpu, x, n, &mut [Part { w, bias, finish: Finish::Keep, y }]);
    }
    cpu.run(|| {
        if let Some(bias) = bias {
            assert!(bias.len() >= n_out, "linear: bias too short for {dims:?}");
            y.par_chunks_mut(n_out).for_each(|row| row.copy_from_slice(&bias[..n_out]));
        }
        let product = Product { n, n_in, n_out, x_stride: n_in, w_stride: n_in, y_stride: n_out, add: bias.is_some() };
        match w {
            Matrix::F32(w) => product.run(x, w, y, cpu.parallelism()),
            Matrix::Bf16(_) | Matrix::Panels(_) => by_rows_of_w(x, w, y, product),
        }
    });
}

/// See [`crate::compute::ModelOps::project`].
pub(super) fn project(cpu: &Cpu, x: &Vec<f32>, dims: ProjectionDims, parts: &mut [Projection<'_, Cpu>]) {
    let in_panels = |part: &Projection<'_, Cpu>| match (part.factor.w, part.then) {
        (Matrix::Panels(_), Then::Gate(_, Factor { w, .. })) => matches!(w, Matrix::Panels(_)),
        (w, _) => matches!(w, Matrix::Panels(_)),
    };
    match parts {
        [a] if in_panels(a) => product::run(cpu, x, dims.n, &mut [part(a)]),
        [a, b, c] if [&*a, b, c].into_iter().all(in_panels) => {
            product::run(cpu, x, dims.n, &mut [part(a), part(b), part(c)]);
        }
        parts => one_by_one(cpu, x, dims, parts),
    }
}

/// A projection whose matrices are in panels.
fn part<'a>(projection: &'a mut Projection<'_, Cpu>) -> Part<'a> {
    let panels = |w: &'a Matrix| match w {
        Matrix::Panels(w) => w,
        Matrix::F32(_) | Matrix::Bf16(_) => unreachable!("`project` looked at all matrices"),
    };
    let finish = match projection.then {
        Then::Keep => Finish::Keep,
        Then::Add => Finish::Add,
        Then::Activate(f) => Finish::Activate(f),
        Then::Gate(f, Factor { w, bias }) => Finish::Gate(f, panels(w), bias.map(Vec::as_slice)),
    };
    let Factor { w, bias } = projection.factor;
    Part { w: panels(w), bias: bias.map(Vec::as_slice), finish, y: projection.y }
}

/// As many rows of `w` at a time as stay in the cache when they are widened; the tasks write different columns of `y`.
fn by_rows_of_w(x: &[f32], w: &Matrix, y: &mut [f32], all: Product) {
    let rows = (WIDENED / all.n_in.max(1)).clamp(8, 256);
    let y = SharedOutput(y.as_mut_ptr(), y.len());
    (0..all.n_out.div_ceil(rows)).into_par_iter().for_each(|block| {
        let y = &y;
        let first = block * rows;
        let rows = rows.min(all.n_out - first);
        WIDE_ROWS.with_borrow_mut(|wide| {
            wide.resize(rows * all.n_in, 0.0);
            w.copy_to(first * all.n_in, wide);
            // SAFETY: this task alone writes columns first .. first + rows of y, within the rows that `linear` checked.
            let y = unsafe { std::slice::from_raw_parts_mut(y.0.add(first), y.1 - first) };
            Product { n_out: rows, ..all }.run(x, wide, y, gemm::Parallelism::None);
        });
    });
}

/// `y`, of which each task writes its own columns.
struct SharedOutput(*mut f32, usize);

// SAFETY: tasks write disjoint columns, as `by_rows_of_w` says.
unsafe impl Sync for SharedOutput {}

/// See [`crate::compute::ModelOps::head_results`].
pub(super) fn head_results(cpu: &Cpu, z: &[f32], w: &Matrix, y: &mut [f32], dims: HeadResultDims) {
    let HeadResultDims { n, heads, e, d } = dims;
    let width = heads * e;
    assert!(z.len() >= n * width && w.len() >= d * width && y.len() >= n * heads * d, "{dims:?}");
    if n == 0 || width == 0 || d == 0 {
        return;
    }
    let mut wide = Vec::new();
    let w = match w {
        Matrix::F32(w) => w,
        Matrix::Bf16(_) | Matrix::Panels(_) => {
            wide.resize(d * width, 0.0);
            w.copy_to(0, &mut wide);
            &wide
        }
    };
    let one = Product { n, n_in: e, n_out: d, x_stride: width, w_stride: width, y_stride: heads * d, add: false };
    cpu.run(|| {
        for head in 0..heads {
            one.run(&z[head * e..], &w[head * e..], &mut y[head * d..], cpu.parallelism());
        }
    });
}

/// `y[i, j] = sum_p x[i, p] w[j, p]`, added to what is there if `add`; rows are `*_stride` apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub(super) n: usize,
    pub(super) n_in: usize,
    pub(super) n_out: usize,
    pub(super) x_stride: usize,
    pub(super) w_stride: usize,
    pub(super) y_stride: usize,
    pub(super) add: bool,
}

impl Product {
    /// Compute it.
    pub(super) fn run(self, x: &[f32], w: &[f32], y: &mut [f32], parallelism: gemm::Parallelism) {
        let Self { n, n_in, n_out, x_stride, w_stride, y_stride, add } = self;
        if n == 0 || n_out == 0 {
            return;
        }
        let fits = |len: usize, rows: usize, stride: usize, width: usize| {
            stride >= width && len >= (rows - 1) * stride + width
        };
        assert!(fits(x.len(), n, x_stride, n_in) && fits(w.len(), n_out, w_stride, n_in), "{self:?}");
        assert!(fits(y.len(), n, y_stride, n_out), "{self:?}");
        // y^T = w x^T, seen column-major: the long side (outputs) is gemm's m, along which it is contiguous.
        // SAFETY: the asserts above give the extents that these strides address; y does not alias x or w (&mut).
        unsafe {
            gemm::gemm(
                n_out,
                n,
                n_in,
                y.as_mut_ptr(),
                y_stride as isize,
                1,
                add,
                w.as_ptr(),
                1,
                w_stride as isize,
                x.as_ptr(),
                x_stride as isize,
                1,
                1.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

impl Cpu {
    /// For products of all threads.
    pub(super) fn parallelism(&self) -> gemm::Parallelism {
        if self.threads() > 1 { gemm::Parallelism::Rayon(self.threads()) } else { gemm::Parallelism::None }
    }
}
