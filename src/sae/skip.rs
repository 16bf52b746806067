//! Skip connections: the input, linearly, beside what latents say (Paulo et al. 2025).
//!
//! ```text
//! y^ = f W_dec + b_dec + x W_skip^T
//! ```
//!
//! `x` is what the encoder reads of a transcoder: the input times its scale, with nothing subtracted. So are the skip
//! connections of SAELens, sparsify and circuit-tracer, and scales fold into `W_skip` exactly. To everything else in a step the
//! target is what the connection leaves of it. `W_skip` starts at 0; its gradient is the sum over rows of `dL/dy^_b x_b^T`,
//! where every reconstruction with a `b_dec` takes part.

use crate::compute::CoderOps;
use crate::compute::coder_ops::CoderDims;

/// The parameter: `[out, d]`.
pub const W_SKIP: &str = "w_skip";

/// `out = x W_skip^T`, `[n, out]`, of the first `n` rows of `x`.
pub(crate) fn product<B: CoderOps>(
    backend: &B,
    x: &B::Tensor,
    w_skip: &B::Tensor,
    dims: CoderDims,
    out: &mut B::Tensor,
    n: usize,
) {
    let shape = CoderDims { d: dims.d, f: dims.out, out: dims.out, groups: 1 };
    backend.pre_activations(x, w_skip, &backend.zeros(dims.out), out, n, shape);
}

/// Buffers of a step.
pub(crate) struct Skip<B: CoderOps> {
    dims: CoderDims,
    /// `[rows, out]`.
    added: B::Tensor,
}

impl<B: CoderOps> Skip<B> {
    /// For batches of up to `rows` rows.
    pub(crate) fn new(backend: &B, dims: CoderDims, rows: usize) -> Self {
        Self { dims, added: backend.zeros(rows * dims.out) }
    }

    /// `target -= x W_skip^T`, of the first `n` rows.
    pub(crate) fn subtract(
        &mut self,
        backend: &B,
        x: &B::Tensor,
        w_skip: &B::Tensor,
        target: &mut B::Tensor,
        n: usize,
    ) {
        product(backend, x, w_skip, self.dims, &mut self.added, n);
        backend.combine(-1.0, &self.added, 1.0, target, n * self.dims.out);
    }
}

/// The gradient, `[out, d]`, of reconstructions with these residuals `[n, out]`, and factors that make them `dL/dy^`:
/// overwrites `out`.
pub(crate) fn gradient<'a, B: CoderOps>(
    backend: &B,
    x: &B::Tensor,
    residuals: impl Iterator<Item = (&'a B::Tensor, f64)>,
    w_skip: &mut B::Tensor,
    CoderDims { d, out, .. }: CoderDims,
    n: usize,
) {
    let mut one = backend.zeros(out * d);
    for (i, (residual, scale)) in residuals.enumerate() {
        if i > 0 && scale == 0.0 {
            continue;
        }
        backend.products(residual, x, &mut one, n, out, d);
        backend.combine(scale, &one, if i == 0 { 0.0 } else { 1.0 }, w_skip, out * d);
    }
}
