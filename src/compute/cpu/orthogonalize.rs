//! Newton-Schulz iterations: products of a matrix with itself.

use crate::compute::coder_ops::{NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS};
use crate::compute::cpu::{Cpu, reduce};

/// A row-major matrix, or its transpose.
#[derive(Clone, Copy)]
struct View<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        assert!(values.len() >= rows * columns, "a matrix of {rows} x {columns} in {} numbers", values.len());
        Self { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    fn turned(self) -> Self {
        let Self { values, rows, columns, row_stride, column_stride } = self;
        Self { values, rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride }
    }
}

/// `out = alpha out + beta a b`; `out` is row-major.
fn product(cpu: &Cpu, a: View<'_>, b: View<'_>, (alpha, beta): (f32, f32), out: &mut [f32]) {
    assert!(a.columns == b.rows && out.len() >= a.rows * b.columns, "shapes of a product");
    let (rows, columns) = (a.rows, b.columns);
    // SAFETY: the views' constructor and the assert give the extents that these strides address; `out` is not aliased.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            a.columns,
            out.as_mut_ptr(),
            1,
            columns as isize,
            alpha != 0.0,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            alpha,
            beta,
            false,
            false,
            false,
            cpu.parallelism(),
        );
    }
}

/// See [`crate::compute::CoderOps::orthogonalize`].
pub(super) fn orthogonalize(cpu: &Cpu, x: &mut [f32], n: usize, d: usize) {
    let norm = reduce::sum_squares(cpu, x).sqrt() + 1e-7;
    let scale = (1.0 / norm) as f32;
    x.iter_mut().for_each(|x| *x *= scale);
    let [a, b, c] = NEWTON_SCHULZ.map(|x| x as f32);
    let small = n.min(d);
    let (mut gram, mut mixed, mut next) = (vec![0.0; small * small], vec![0.0; small * small], vec![0.0; n * d]);
    cpu.run(|| {
        for _ in 0..NEWTON_SCHULZ_STEPS {
            let view = View::new(x, n, d);
            match n >= d {
                true => product(cpu, view.turned(), view, (0.0, 1.0), &mut gram),
                false => product(cpu, view, view.turned(), (0.0, 1.0), &mut gram),
            }
            let square = View::new(&gram, small, small);
            mixed.copy_from_slice(&gram);
            product(cpu, square, square, (b, c), &mut mixed);
            let mixed = View::new(&mixed, small, small);
            next.copy_from_slice(x);
            match n >= d {
                true => product(cpu, view, mixed, (a, 1.0), &mut next),
                false => product(cpu, mixed, view, (a, 1.0), &mut next),
            }
            x.copy_from_slice(&next);
        }
    });
}
