//! Memory and matrix products: what both models and coders need.

use std::ops::Range;

/// A place where arithmetic happens.
///
/// A [`Backend::Tensor`] is a contiguous buffer of floating-point numbers (f32 on devices, f64 in the reference);
/// shapes travel as arguments. Preconditions on lengths are asserted: a violation is a bug, not an input error.
pub trait Backend: Send + Sync + 'static {
    /// A buffer on the device.
    type Tensor: Send + Sync;

    /// A model's matrix on the device, in one of the formats of [`MatrixFormat`]. It does not change.
    type Matrix: Send + Sync;

    /// `reference`, `cpu`, ...
    fn name(&self) -> &'static str;

    /// `len` zeros.
    fn zeros(&self, len: usize) -> Self::Tensor;

    /// A buffer with the values of `data`.
    fn upload(&self, data: &[f32]) -> Self::Tensor;

    /// A matrix with the values of `data`, rounded to `format`; shapes travel as arguments, as those of buffers.
    fn matrix(&self, data: Vec<f32>, format: MatrixFormat) -> Self::Matrix;

    /// As [`Backend::matrix`], of a matrix `[n_out, n_in]` that only products read: kept in whatever order makes them fast.
    fn weights(&self, data: Vec<f32>, shape: [usize; 2], format: MatrixFormat) -> Self::Matrix {
        let _ = shape;
        self.matrix(data, format)
    }

    /// Numbers in the buffer.
    fn len(&self, t: &Self::Tensor) -> usize;

    /// `t[at .. at + data.len()] = data`.
    fn write(&self, t: &mut Self::Tensor, at: usize, data: &[f32]);

    /// As [`Backend::write`], rounded to what the buffer holds.
    fn write_f64(&self, t: &mut Self::Tensor, at: usize, data: &[f64]) {
        let rounded: Vec<f32> = data.iter().map(|&x| x as f32).collect();
        self.write(t, at, &rounded);
    }

    /// `out = t[at .. at + out.len()]`, rounded to f32.
    fn read(&self, t: &Self::Tensor, at: usize, out: &mut [f32]);

    /// As [`Backend::read`] without rounding.
    fn read_f64(&self, t: &Self::Tensor, at: usize, out: &mut [f64]);

    /// `out[i, :] = x[rows[i], columns]` for rows of `width` values; `out` is `[rows.len(), columns.len()]`. The copy that
    /// captures activations: it reads each kept row once, or the columns of one head of it.
    fn gather_rows(&self, x: &Self::Tensor, width: usize, columns: Range<usize>, rows: &[u32], out: &mut [f32]);

    /// `y[i, j] = sum_p x[i, p] * w[j, p] + bias[j]`: `x` `[n, n_in]`, `w` `[n_out, n_in]`, `y` `[n, n_out]`.
    ///
    /// Buffers may be longer than needed; the first rows are used.
    fn linear(
        &self,
        x: &Self::Tensor,
        w: &Self::Matrix,
        bias: Option<&Self::Tensor>,
        y: &mut Self::Tensor,
        dims: LinearDims,
    );
}

/// How the numbers of a [`Backend::Matrix`] are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MatrixFormat {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bfloat16: half the memory; nothing is lost of a model that was published so. Products with
    /// [`Backend::weights`] round the rows too; products and sums are f32.
    Bf16,
}

/// Shape of [`Backend::linear`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearDims {
    /// Rows of `x` and `y`.
    pub n: usize,
    /// Columns of `x` and `w`.
    pub n_in: usize,
    /// Rows of `w`, columns of `y`.
    pub n_out: usize,
}
