//! What training a sparse coder needs: the vocabulary over which [`crate::sae`] is written.
//!
//! A coder's latents have an encoder row and a decoder row each (`w_enc` `[f, d]`, `w_dec` `[f, out]`), so that whatever
//! belongs to one latent is contiguous. The code of a batch is sparse ([`Code`]); gradients flow only through its
//! entries, and are summed per latent over the entries in row order ([`ByLatent`]): no atomics, the same bits each time.
//! Sums over rows or over whole buffers are taken in f64.

mod code;
mod dims;
mod gradient;
mod update;

use std::ops::Range;

use crate::compute::backend::Backend;
pub use code::{ByLatent, Code, NO_LATENT, Rule, Subset};
pub use dims::{CoderDims, PairShape};
pub use gradient::{GradientTerm, LatentGradients, PenaltyGradients, PenaltyShape};
pub use update::{AdamStep, NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS, SignStep};

/// Rows whose selection was screened ([`CoderOps::encode_topk`], [`CoderOps::encode`]), since the backend was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Screening {
    /// Rows.
    pub rows: u64,
    /// Pre-activations that could have been chosen and were computed precisely.
    pub candidates: u64,
    /// Rows of which all were, because no bound could be computed.
    pub unscreened_rows: u64,
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
    /// `c` `[code.rows, d]`, `w_enc` `[f, d]`, `b_enc` `[f]`. `u` is never held as a whole. There is one group.
    fn encode_topk(
        &self,
        c: &Self::Tensor,
        w_enc: &Self::Tensor,
        b_enc: &Self::Tensor,
        dims: CoderDims,
        among: Option<Subset<'_, Self>>,
        code: &mut Code<Self>,
    );

    /// The code by a rule (see [`CoderOps::select`], which sets `code.k`) of the pre-activations that
    /// [`CoderOps::encode_topk`] has. Where few can be chosen, by their size or by thresholds, `u` need not be held.
    fn encode(
        &self,
        c: &Self::Tensor,
        w_enc: &Self::Tensor,
        b_enc: &Self::Tensor,
        dims: CoderDims,
        rule: Rule<'_, Self>,
        code: &mut Code<Self>,
    ) {
        let mut u = self.zeros(code.rows * dims.f);
        self.pre_activations(c, w_enc, b_enc, &mut u, code.rows, dims);
        self.select(&u, dims.f, rule, code);
    }

    /// All pre-activations above `floor[i]` as entries of a code, whatever their sign, if they are few enough that it is
    /// faster than to compute all: `false`, and no code, if not. `floor` `[f]`.
    fn encode_above(
        &self,
        c: &Self::Tensor,
        w_enc: &Self::Tensor,
        b_enc: &Self::Tensor,
        dims: CoderDims,
        floor: &Self::Tensor,
        code: &mut Code<Self>,
    ) -> bool;

    /// What selections were spared so far.
    fn screening(&self) -> Screening;

    /// As [`CoderOps::encode_topk`], where row `b` has only the latents of group `group[b]`: there are `groups` of equal size,
    /// one after the other. `group` `[code.rows]`.
    fn encode_topk_grouped(
        &self,
        c: &Self::Tensor,
        w_enc: &Self::Tensor,
        b_enc: &Self::Tensor,
        dims: CoderDims,
        group: (&Self::Index, usize),
        code: &mut Code<Self>,
    );

    /// `z = sqrt(p q + epsilon)` where both parts of a latent are positive, 0 elsewhere: `parts` `[n, shape.parts()]`, `z`
    /// `[n, shape.latents()]`.
    fn pair_heads(&self, parts: &Self::Tensor, shape: PairShape, z: &mut Self::Tensor, n: usize);

    /// From `g` at the entries of a code of `z`: `out` `[code.rows, shape.parts()]` gets `g q / (2 z)` added for `p`, and
    /// `g p / (2 z)` for `q`.
    fn pair_gradients(
        &self,
        parts: &Self::Tensor,
        shape: PairShape,
        code: &Code<Self>,
        g: &Self::Tensor,
        out: &mut Self::Tensor,
    );

    /// `out[i, j] = sum_b x[b, i] * y[b, j]`: `x` `[n, p]`, `y` `[n, q]`, `out` `[p, q]`.
    fn products(&self, x: &Self::Tensor, y: &Self::Tensor, out: &mut Self::Tensor, n: usize, p: usize, q: usize);

    /// `u[b, i] = sum_p c[g, b, p] * w_enc[i, p] + bias[i]` with the group `g` of latent `i`: `c` `[groups, n, d]`, `u` `[n, f]`,
    /// `bias` `[f]`.
    fn pre_activations(
        &self,
        c: &Self::Tensor,
        w_enc: &Self::Tensor,
        bias: &Self::Tensor,
        u: &mut Self::Tensor,
        n: usize,
        dims: CoderDims,
    );

    /// The code of `code.rows` rows of pre-activations `u` `[rows, f]` by a rule; `code.k` is set, and its buffers grow
    /// where they are too short.
    fn select(&self, u: &Self::Tensor, f: usize, rule: Rule<'_, Self>, code: &mut Code<Self>);

    /// As [`CoderOps::select`], from pre-activations that are the entries of a code: those that the rule would choose are
    /// among them. For [`Rule::Above`] and [`Rule::Near`].
    fn select_entries(&self, u: &Code<Self>, rule: Rule<'_, Self>, code: &mut Code<Self>);

    /// `out[j] = x[subset[j]]`: `x` `[_, d]`, `out` `[subset.len, d]`.
    fn take_rows(&self, x: &Self::Tensor, subset: &Subset<'_, Self>, out: &mut Self::Tensor, d: usize);

    /// `latent = subset[latent]` at the code's entries: a code of latents that were gathered becomes one of all.
    fn rename(&self, code: &mut Code<Self>, subset: &Subset<'_, Self>);

    /// The entries `v` of `from` with `gain[i] * v + offset[i] > 0`, with that as their value: `gain`, `offset` `[f]`. `to` may
    /// have places that no row needs.
    fn affine_entries(&self, from: &Code<Self>, gain: &Self::Tensor, offset: &Self::Tensor, to: &mut Code<Self>);

    /// `t[place] *= gain[latent]` at the code's entries: `gain` `[f]`.
    fn scale_entries(&self, code: &Code<Self>, gain: &Self::Tensor, t: &mut Self::Tensor);

    /// The least `value * weight[i]` of the code's entries (`value` without weights); infinite if there is none.
    fn least_entry(&self, code: &Code<Self>, weight: Option<&Self::Tensor>) -> f64;

    /// The sum over the entries (or rows) of `shape` of `v = value * weight[i]` (`v = value` without weights), and `scale`
    /// times its gradients with respect to values and weights.
    fn penalize(
        &self,
        code: &Code<Self>,
        weight: Option<&Self::Tensor>,
        shape: PenaltyShape,
        scale: f64,
        out: PenaltyGradients<'_, Self>,
    ) -> f64;

    /// `sum_b (|v_b| - norm[b])^2` with `v_b` a row's values: `norm` `[code.rows]`. Adds `scale` times its gradient with respect
    /// to each value to `values`, at the code's places; that of a row of zeros is 0.
    fn norm_distance(&self, code: &Code<Self>, norm: &Self::Tensor, scale: f64, values: &mut Self::Tensor) -> f64;

    /// The entries of `code` whose rank in their row, by value, is in a range: 0 is the largest, of equal ones the lower
    /// latent comes first. `to.k` is set.
    fn rank_range(&self, code: &Code<Self>, ranks: Range<usize>, to: &mut Code<Self>);

    /// `out[i] = min a[place]` over the entries of each latent, infinite without any: `out` `[f]`.
    fn entry_minima(&self, by_latent: &ByLatent<Self>, a: &Self::Tensor, f: usize, out: &mut Self::Tensor);

    /// `out[i] = sum a[place] * b[place]` over the entries of each latent (`b` counts as 1 without it): `out` `[f]`.
    fn entry_sums(
        &self,
        by_latent: &ByLatent<Self>,
        a: &Self::Tensor,
        b: Option<&Self::Tensor>,
        f: usize,
        out: &mut Self::Tensor,
    );

    /// `out[b] = bias + sum_i code[b, i] * w_dec[i]`: `w_dec` `[f, d]`, `bias` `[d]`, `out` `[code.rows, d]`.
    fn decode(&self, code: &Code<Self>, w_dec: &Self::Tensor, bias: &Self::Tensor, out: &mut Self::Tensor, d: usize);

    /// `r[b] = target[b] - sum_i code[b, i] * w_dec[i]` over the latents of a range: `target` and `r` `[code.rows, d]`.
    fn residual(
        &self,
        code: &Code<Self>,
        latents: Range<u32>,
        w_dec: &Self::Tensor,
        target: &Self::Tensor,
        r: &mut Self::Tensor,
        d: usize,
    );

    /// `out[b, i] = scale * sum_p r[b, p] * w[latent(b, i), p]` at the code's entries of a range of latents, 0 in unused
    /// places; other entries keep what they have: `r` `[code.rows, d]`, `w` `[f, d]`, `out` `[code.rows, code.k]`.
    fn entry_dots(
        &self,
        code: &Code<Self>,
        latents: Range<u32>,
        w: &Self::Tensor,
        r: &Self::Tensor,
        scale: f64,
        out: &mut Self::Tensor,
        d: usize,
    );

    /// [`CoderOps::residual`], and [`CoderOps::entry_dots`] of what it left, with `dots` for `out` and its `scale`: each row of
    /// `w_dec` is fetched once for both.
    fn residual_and_dots(
        &self,
        code: &Code<Self>,
        latents: Range<u32>,
        w_dec: &Self::Tensor,
        target: &Self::Tensor,
        r: &mut Self::Tensor,
        (scale, dots): (f64, &mut Self::Tensor),
        d: usize,
    ) {
        self.residual(code, latents.clone(), w_dec, target, r, d);
        self.entry_dots(code, latents, w_dec, r, scale, dots, d);
    }

    /// Group the code's entries by latent (stable counting sort over `f` latents).
    fn group_by_latent(&self, code: &Code<Self>, f: usize, out: &mut ByLatent<Self>);

    /// Per latent `i`, over the entries `(b, i)` of all terms, in order of the terms and of the rows:
    /// `w_dec[i] = sum code * residual_scale * residual[b]`, `w_enc[i] = sum g_pre * c[g, b]`, `b_enc[i] = sum g_pre`.
    /// Latents without entries get zeros; `c` `[groups, n, d]`.
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

    /// `out[i] = |w[i]|`: `w` `[n, d]`, `out` `[n]`.
    fn row_norms(&self, w: &Self::Tensor, out: &mut Self::Tensor, n: usize, d: usize);

    /// `out[i] += scale[i] * w[i]`: `w` and `out` `[n, d]`, `scale` `[n]`.
    fn add_scaled_rows(&self, scale: &Self::Tensor, w: &Self::Tensor, out: &mut Self::Tensor, n: usize, d: usize);

    /// As [`CoderOps::row_norms`] for each of the parts of a row, of widths `parts`: `out` `[n, parts.len()]`.
    fn part_norms(&self, w: &Self::Tensor, out: &mut Self::Tensor, n: usize, parts: &[usize]);

    /// As [`CoderOps::add_scaled_rows`] with a scale for each part of a row: `scale` `[n, parts.len()]`.
    fn add_scaled_parts(
        &self,
        scale: &Self::Tensor,
        w: &Self::Tensor,
        out: &mut Self::Tensor,
        n: usize,
        parts: &[usize],
    );

    /// `w[i, p] = 0` for the rows `i` and columns `p` given: `w` `[_, d]`.
    fn clear_columns(&self, w: &mut Self::Tensor, rows: Range<usize>, columns: Range<usize>, d: usize);

    /// `x[i] *= scale[i]`: `scale` `[n]`, `x` `[n, d]`.
    fn scale_rows(&self, scale: &Self::Tensor, x: &mut Self::Tensor, n: usize, d: usize);

    /// `out[i] = <a[i], b[i]>`: `a` and `b` `[n, d]`, `out` `[n]`.
    fn row_dots(&self, a: &Self::Tensor, b: &Self::Tensor, out: &mut Self::Tensor, n: usize, d: usize);

    /// `y = a * x + b * y` over the first `len` numbers; with `b` 0 it does not matter what `y` held.
    fn combine(&self, a: f64, x: &Self::Tensor, b: f64, y: &mut Self::Tensor, len: usize);

    /// `y[i] *= x[i]` over the first `len` numbers.
    fn multiply(&self, x: &Self::Tensor, y: &mut Self::Tensor, len: usize);

    /// `out[b, i] += sign[i] sgn(x[b, i]) + factor[i] x[b, i]`, with `sgn(0) = 0`: `x` and `out` `[n, f]`, `sign` and `factor` `[f]`.
    fn add_by_column(
        &self,
        x: &Self::Tensor,
        sign: &Self::Tensor,
        factor: &Self::Tensor,
        out: &mut Self::Tensor,
        n: usize,
        f: usize,
    );

    /// `t = max(t, least)` over the first `len` numbers.
    fn at_least(&self, t: &mut Self::Tensor, least: f64, len: usize);

    /// Sums of squares of the rows of `x` `[n, d]`.
    fn square_sums(&self, x: &Self::Tensor, n: usize, d: usize) -> SquareSums;

    /// `sum_i t[i]^2` over the first `len` numbers. Not finite if one of them is not.
    fn sum_squares(&self, t: &Self::Tensor, len: usize) -> f64;

    /// `g[i] -= <g[i], w[i]> w[i]` for rows `w` of norm 1: what would change the norm is taken out. Both `[n, d]`.
    fn project_rows(&self, g: &mut Self::Tensor, w: &Self::Tensor, n: usize, d: usize);

    /// [`CoderOps::project_rows`], then [`CoderOps::sum_squares`] of `g`, in one pass.
    fn project_and_sum(&self, g: &mut Self::Tensor, w: &Self::Tensor, n: usize, d: usize) -> f64 {
        self.project_rows(g, w, n, d);
        self.sum_squares(g, n * d)
    }

    /// `w[i] /= |w[i]|`, with the norm not below 1e-8: `w` `[n, d]`.
    fn normalize_rows(&self, w: &mut Self::Tensor, n: usize, d: usize);

    /// Adam over the first `len` numbers, with `g' = gradient_scale * g`:
    /// `m = b1 m + (1 - b1) g'`, `v = b2 v + (1 - b2) g'^2`,
    /// `w = (1 - lr decay) w - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)`.
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

    /// [`CoderOps::adam`] over the rows of `w` `[n, d]`, then [`CoderOps::normalize_rows`], in one pass.
    fn adam_unit_rows(
        &self,
        w: &mut Self::Tensor,
        g: &Self::Tensor,
        (m, v): (&mut Self::Tensor, &mut Self::Tensor),
        (n, d): (usize, usize),
        step: &AdamStep,
    ) {
        self.adam(w, g, m, v, n * d, step);
        self.normalize_rows(w, n, d);
    }

    /// A schedule-free step over the first `len` numbers: `x = (y - (1 - beta) z) / beta`, `z -= lr sign(g)`,
    /// `x += share (z - x)`, `y = (1 - beta) z + beta x`. The sign of 0 is 0.
    fn schedule_free_sign(
        &self,
        y: &mut Self::Tensor,
        g: &Self::Tensor,
        z: &mut Self::Tensor,
        len: usize,
        step: &SignStep,
    );

    /// `x / |x|` brought near the closest matrix with orthonormal rows or columns, by [`NEWTON_SCHULZ_STEPS`] steps
    /// `x = a x + (b x x^T + c (x x^T)^2) x`: `x` `[n, d]`. Singular values end between about 0.5 and 1.5.
    fn orthogonalize(&self, x: &mut Self::Tensor, n: usize, d: usize);
}
