//! Products of the same rows with several matrices, and what becomes of each: [`crate::compute::ModelOps::project`].
//!
//! What follows a product (an activation, a gate, the residual stream) is a pass over memory of its own unless it is done
//! while the sums are at hand. [`one_by_one`] says what the result is; a backend that does it in fewer passes gives the
//! same bits as its own single ops.

use crate::compute::backend::{Backend, LinearDims};
use crate::compute::model_ops::{Activation, ModelOps};

/// A matrix `[n_out, n_in]` and what is added to its products, `[n_out]`.
pub struct Factor<'a, B: Backend + ?Sized> {
    /// The matrix.
    pub w: &'a B::Matrix,
    /// The bias.
    pub bias: Option<&'a B::Tensor>,
}

impl<B: Backend + ?Sized> Clone for Factor<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend + ?Sized> Copy for Factor<'_, B> {}

/// What becomes of a product `p`, with `f` an activation.
pub enum Then<'a, B: Backend + ?Sized> {
    /// `y = p`.
    Keep,
    /// `y = y + p`.
    Add,
    /// `y = f(p)`.
    Activate(Activation),
    /// `y = f(p) * q`, with `q` the product of the same rows with another matrix of the same shape.
    Gate(Activation, Factor<'a, B>),
}

impl<B: Backend + ?Sized> Clone for Then<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend + ?Sized> Copy for Then<'_, B> {}

/// One product and where its result goes.
pub struct Projection<'a, B: Backend + ?Sized> {
    /// What the rows are multiplied with.
    pub factor: Factor<'a, B>,
    /// Rows of the matrix, columns of `y`.
    pub n_out: usize,
    /// What becomes of the product.
    pub then: Then<'a, B>,
    /// `[n, n_out]`.
    pub y: &'a mut B::Tensor,
}

/// The rows of a [`ModelOps::project`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProjectionDims {
    /// Rows of `x` and of every `y`.
    pub n: usize,
    /// Columns of `x` and of every matrix.
    pub n_in: usize,
}

/// [`ModelOps::project`] by single ops: the definition.
pub fn one_by_one<B: ModelOps + ?Sized>(
    backend: &B,
    x: &B::Tensor,
    dims: ProjectionDims,
    parts: &mut [Projection<'_, B>],
) {
    for Projection { factor, n_out, then, y } in parts {
        let shape = LinearDims { n: dims.n, n_in: dims.n_in, n_out: *n_out };
        let len = dims.n * *n_out;
        let product = |factor: &Factor<'_, B>| {
            let mut product = backend.zeros(len);
            backend.linear(x, factor.w, factor.bias, &mut product, shape);
            product
        };
        match then {
            Then::Add => backend.add(y, &product(factor), len),
            _ => backend.linear(x, factor.w, factor.bias, y, shape),
        }
        match then {
            Then::Keep | Then::Add => {}
            Then::Activate(f) => backend.activate(*f, y, len),
            Then::Gate(f, up) => backend.activate_mul(*f, y, &product(up), len),
        }
    }
}
