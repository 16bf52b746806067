//! What training a sparse coder needs: the vocabulary over which [`crate::sae`] is written.
//!
//! A coder's latents have an encoder row and a decoder row each (`w_enc`, `w_dec`, both `[f, d]`), so that whatever
//! belongs to one latent is contiguous. The code of a batch is sparse ([`Code`]); gradients flow only through its
//! entries, and are summed per latent over the entries in row order ([`ByLatent`]): no atomics, the same bits each time.
//! Sums over rows or over whole buffers are taken in f64.

use crate::compute::backend::Backend;

/// Marks an unused place of a [`Code`].
pub const NO_LATENT: u32 = u32::MAX;

/// The code of a batch: up to `k` latents a row.
///
/// The entries of a row come first and in ascending order of their latents; the places after them hold [`NO_LATENT`].
/// Buffers may be larger than `[rows, k]`; the first `rows * k` places are used.
pub struct Code<B: CoderOps + ?Sized> {
    /// Rows in use.
    pub rows: usize,
    /// Places a row.
    pub k: usize,
    /// `[rows, k]` latents.
    pub latents: B::Index,
    /// `[rows, k]` values, positive; 0 in unused places.
    pub values: B::Tensor,
}

impl<B: CoderOps> Code<B> {
    /// Room for the code of `rows` rows.
    pub fn new(backend: &B, rows: usize, k: usize) -> Self {
        Self { rows, k, latents: backend.index(rows * k), values: backend.zeros(rows * k) }
    }
}

/// The entries of a [`Code`] grouped by latent.
pub struct ByLatent<B: CoderOps + ?Sized> {
    /// `[f + 1]` where each latent's entries start in `places`.
    pub starts: B::Index,
    /// Places of the entries (`row * k + i`), ascending within a latent.
    pub places: B::Index,
}

impl<B: CoderOps> ByLatent<B> {
    /// Room for the entries of `[rows, k]` places over `f` latents.
    pub fn new(backend: &B, rows: usize, k: usize, f: usize) -> Self {
        Self { starts: backend.index(f + 1), places: backend.index(rows * k) }
    }
}

/// A set of latents, for [`CoderOps::encode_topk`].
pub struct Subset<'a, B: CoderOps + ?Sized> {
    /// Latents, ascending; the first `len` places are used.
    pub latents: &'a B::Index,
    /// Latents in the set.
    pub len: usize,
}

/// One reconstruction that a batch's code takes part in, as seen by the backward pass.
pub struct GradientTerm<'a, B: CoderOps + ?Sized> {
    /// The code.
    pub code: &'a Code<B>,
    /// Its entries by latent.
    pub by_latent: &'a ByLatent<B>,
    /// `[n, k]` gradient of the loss with respect to the pre-activation of each entry.
    pub g_pre: &'a B::Tensor,
    /// `[n, d]` what is left of the target after the reconstruction.
    pub residual: &'a B::Tensor,
    /// The gradient with respect to the reconstruction is `residual_scale * residual`.
    pub residual_scale: f64,
}

/// Gradients of what belongs to latents.
pub struct LatentGradients<'a, B: Backend + ?Sized> {
    /// `[f, d]`.
    pub w_enc: &'a mut B::Tensor,
    /// `[f]`.
    pub b_enc: &'a mut B::Tensor,
    /// `[f, d]`.
    pub w_dec: &'a mut B::Tensor,
}

/// Shape of a coder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoderDims {
    /// Input width.
    pub d: usize,
    /// Latents.
    pub f: usize,
}

/// One update by [`CoderOps::adam`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay rates of the moments.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub epsilon: f64,
    /// Number of this update, from 1.
    pub t: u64,
    /// The gradient is multiplied by this first (clipping).
    pub gradient_scale: f64,
}

/// Sums of squares of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SquareSums {
    /// `sum_b |x_b|^2`.
    pub about_zero: f64,
    /// `sum_b |x_b - mean|^2`, with the mean of these rows.
    pub about_mean: f64,
}

/// The operations. Buffers may be longer than their shape says; lengths that are too short are asserted against.
pub trait CoderOps: Backend {
    /// A buffer of u32 on the device.
    type Index: Send + Sync;

    /// `len` zeros.
    fn index(&self, len: usize) -> Self::Index;

    /// `t[0 .. data.len()] = data`.
    fn write_index(&self, t: &mut Self::Index, data: &[u32]);

    /// `out = t[0 .. out.len()]`.
    fn read_index(&self, t: &Self::Index, out: &mut [u32]);

    /// `c[b, p] = scale * x[b, p] - shift[p]`: `x` and `c` `[n, d]`, `shift` `[d]`.
    fn center(&self, x: &Self::Tensor, scale: f64, shift: &Self::Tensor, c: &mut Self::Tensor, n: usize, d: usize);

    /// The `code.k` largest of each row's pre-activations `u[b, i] = sum_p c[b, p] * w_enc[i, p] + b_enc[i]`, among the
    /// latents of `among` (all without it), those of them that are positive. Of equal values the lower latent wins.
    ///
    /// `c` `[code.rows, d]`, `w_enc` `[f, d]`, `b_enc` `[f]`. `u` is never held as a whole.
    fn encode_topk(
        &self,
        c: &Self::Tensor,
        w_enc: &Self::Tensor,
        b_enc: &Self::Tensor,
        dims: CoderDims,
        among: Option<Subset<'_, Self>>,
        code: &mut Code<Self>,
    );

    /// `out[b] = bias + sum_i code[b, i] * w_dec[i]`: `w_dec` `[f, d]`, `bias` `[d]`, `out` `[code.rows, d]`.
    fn decode(&self, code: &Code<Self>, w_dec: &Self::Tensor, bias: &Self::Tensor, out: &mut Self::Tensor, d: usize);

    /// `r[b] = target[b] - sum_i code[b, i] * w_dec[i]`: `target` and `r` `[code.rows, d]`.
    fn residual(&self, code: &Code<Self>, w_dec: &Self::Tensor, target: &Self::Tensor, r: &mut Self::Tensor, d: usize);

    /// `out[b, i] = scale * sum_p r[b, p] * w[latent(b, i), p]` at the code's entries, 0 in unused places: `r`
    /// `[code.rows, d]`, `w` `[f, d]`, `out` `[code.rows, code.k]`.
    fn entry_dots(
        &self,
        code: &Code<Self>,
        w: &Self::Tensor,
        r: &Self::Tensor,
        scale: f64,
        out: &mut Self::Tensor,
        d: usize,
    );

    /// Group the code's entries by latent (stable counting sort over `f` latents).
    fn group_by_latent(&self, code: &Code<Self>, f: usize, out: &mut ByLatent<Self>);

    /// Per latent `i`, over the entries `(b, i)` of all terms, in order of the terms and of the rows:
    /// `w_dec[i] = sum code * residual_scale * residual[b]`, `w_enc[i] = sum g_pre * c[b]`, `b_enc[i] = sum g_pre`.
    /// Latents without entries get zeros.
    fn latent_gradients(
        &self,
        terms: &[GradientTerm<'_, Self>],
        c: &Self::Tensor,
        dims: CoderDims,
        out: LatentGradients<'_, Self>,
    );

    /// `out[p] = scale * sum_b x[b, p]`: `x` `[n, d]`, `out` `[d]`.
    fn column_sums(&self, x: &Self::Tensor, scale: f64, out: &mut Self::Tensor, n: usize, d: usize);

    /// `out[p] += scale * sum_i weight[i] * x[i, p]`: `weight` `[n]`, `x` `[n, d]`, `out` `[d]`.
    fn add_weighted_rows(
        &self,
        weight: &Self::Tensor,
        x: &Self::Tensor,
        scale: f64,
        out: &mut Self::Tensor,
        n: usize,
        d: usize,
    );

    /// `out[b] = |x[b] - center|`: `x` `[n, d]`, `center` `[d]`, `out` `[n]`.
    fn row_distances(&self, x: &Self::Tensor, center: &Self::Tensor, out: &mut Self::Tensor, n: usize, d: usize);

    /// Sums of squares of the rows of `x` `[n, d]`.
    fn square_sums(&self, x: &Self::Tensor, n: usize, d: usize) -> SquareSums;

    /// `sum_i t[i]^2` over the first `len` numbers. Not finite if one of them is not.
    fn sum_squares(&self, t: &Self::Tensor, len: usize) -> f64;

    /// `g[i] -= <g[i], w[i]> w[i]` for rows `w` of norm 1: what would change the norm is taken out. Both `[n, d]`.
    fn project_rows(&self, g: &mut Self::Tensor, w: &Self::Tensor, n: usize, d: usize);

    /// `w[i] /= |w[i]|`, with the norm not below 1e-8: `w` `[n, d]`.
    fn normalize_rows(&self, w: &mut Self::Tensor, n: usize, d: usize);

    /// Adam over the first `len` numbers, with `g' = gradient_scale * g`:
    /// `m = b1 m + (1 - b1) g'`, `v = b2 v + (1 - b2) g'^2`, `w -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)`.
    /// Moments below the smallest normal f32 may become 0.
    fn adam(
        &self,
        w: &mut Self::Tensor,
        g: &Self::Tensor,
        m: &mut Self::Tensor,
        v: &mut Self::Tensor,
        len: usize,
        step: &AdamStep,
    );
}
