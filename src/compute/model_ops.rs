//! The op vocabulary of a transformer's forward pass.
//!
//! Letters in shapes are those of [`crate::compute`]. `n` is always the number of rows of the batch that the
//! [`ModelOps::BatchIndex`] holds. Buffers may be longer than needed: the first rows are used. Preconditions are
//! asserted; the model checks what comes from outside before it calls.

use crate::compute::Backend;
use crate::compute::projection::{Projection, ProjectionDims, one_by_one};

/// The largest batch that a [`ModelOps::BatchIndex`] can hold: scratch is planned for it, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Rows (tokens) in a batch, at most.
    pub max_tokens: usize,
    /// Rows in a sequence, at most; positions are below it.
    pub context_length: usize,
}

/// Rows that attend to each other, causally: row `i` sees rows `start ..= i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionRows {
    /// First row in the batch.
    pub start: usize,
    /// Rows.
    pub len: usize,
    /// Position of the first row within its sequence: the column of its key in the attention pattern.
    pub column: usize,
}

/// What the rows of a batch are.
#[derive(Clone, Copy, Debug)]
pub struct BatchRows<'a> {
    /// `[n]` token ids, below the vocabulary's size.
    pub ids: &'a [u32],
    /// `[n]` positions, below the context length.
    pub positions: &'a [u32],
    /// Attention contexts in row order; they tile the rows.
    pub contexts: &'a [AttentionRows],
}

/// Shape of a norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormDims {
    /// Rows.
    pub n: usize,
    /// Columns.
    pub d: usize,
    /// Added to the mean square or the variance.
    pub eps: f64,
}

/// Which norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// By the root of the mean square.
    Rms,
    /// By the standard deviation, after the mean was subtracted.
    Layer,
}

/// Shape of a rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RopeDims {
    /// Heads in a row.
    pub heads: usize,
    /// Head width.
    pub e: usize,
    /// Channels of each head that are rotated, its first ones: even, at most `e`.
    pub rotary: usize,
}

/// An elementwise function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// `x/2 (1 + erf(x / sqrt(2)))`.
    GeluErf,
    /// `max(x, 0)`.
    Relu,
}

/// Queries, keys and values.
#[derive(Debug)]
pub struct Qkv<'a, T> {
    /// `[n, h*e]`.
    pub q: &'a T,
    /// `[n, k*e]`.
    pub k: &'a T,
    /// `[n, k*e]`.
    pub v: &'a T,
}

/// Shape of attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionDims {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key/value heads: query head `a` reads key/value head `a / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Head width.
    pub e: usize,
    /// Factor on `q . k` before the softmax.
    pub scale: f32,
    /// Rows that a row sees, itself included, if not all before it: row `i` sees `i - window < j <= i`.
    pub window: Option<usize>,
    /// Scores `s` become `cap tanh(s / cap)` before the softmax.
    pub softcap: Option<f32>,
}

/// What attention computes on the side, each `[n, h*t]`: column `a*t + c` belongs to head `a` and the key at position `c` of
/// the row's sequence, zero where the row does not attend.
#[derive(Debug)]
pub struct AttentionSides<'a, T> {
    /// Scores as the softmax reads them.
    pub scores: Option<&'a mut T>,
    /// Probabilities.
    pub pattern: Option<&'a mut T>,
}

/// Shape of [`ModelOps::head_results`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadResultDims {
    /// Rows.
    pub n: usize,
    /// Heads.
    pub heads: usize,
    /// Head width.
    pub e: usize,
    /// Residual width.
    pub d: usize,
}

/// How tokens are sent to experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteDims {
    /// Rows.
    pub n: usize,
    /// Experts.
    pub experts: usize,
    /// Experts a row is sent to.
    pub chosen: usize,
    /// Whether the weights of the chosen experts are divided by their sum.
    pub renormalise: bool,
}

/// Shape of [`ModelOps::expert_linear`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertDims {
    /// Rows (tokens).
    pub n: usize,
    /// Experts a row is sent to.
    pub chosen: usize,
    /// Columns of `x` and of each expert's matrix.
    pub n_in: usize,
    /// Rows of each expert's matrix.
    pub n_out: usize,
    /// Whether `x` has a row for each chosen expert (`[n, chosen, n_in]`) or one for all of them (`[n, n_in]`).
    pub x_by_expert: bool,
}

/// The ops of a transformer's forward pass.
pub trait ModelOps: Backend {
    /// The rows of one batch on the device, and the scratch planned for it.
    type BatchIndex: Send;

    /// An empty index with room for any batch within `shape` of a model whose attention has the shape `attention`.
    fn batch_index(&self, shape: BatchShape, attention: AttentionDims) -> Self::BatchIndex;

    /// Make `index` describe `rows`. Nothing is allocated.
    fn load_batch(&self, index: &mut Self::BatchIndex, rows: BatchRows<'_>);

    /// `y[i, :] = table[ids[i], :]`: `table` `[v, d]`, `y` `[n, d]`.
    fn embed_tokens(&self, index: &Self::BatchIndex, table: &Self::Matrix, y: &mut Self::Tensor, d: usize);

    /// `y[i, :] = table[positions[i], :]`: `table` `[>= t, d]`, `y` `[n, d]`.
    fn embed_positions(&self, index: &Self::BatchIndex, table: &Self::Matrix, y: &mut Self::Tensor, d: usize);

    /// `y[i, j] = x[i, j] / sqrt(mean_j(x[i, j]^2) + eps) * weight[j]`; without `weight` the factor is 1.
    /// `x`, `y` `[n, d]`, `weight` `[d]`.
    fn rms_norm(&self, x: &Self::Tensor, weight: Option<&Self::Tensor>, y: &mut Self::Tensor, dims: NormDims);

    /// `y[i, j] = (x[i, j] - mean_i) / sqrt(var_i + eps) * weight[j] + bias[j]` with the biased variance; `affine` is
    /// `(weight, bias)`, without it they are 1 and 0. `x`, `y` `[n, d]`.
    fn layer_norm(
        &self,
        x: &Self::Tensor,
        affine: Option<(&Self::Tensor, &Self::Tensor)>,
        y: &mut Self::Tensor,
        dims: NormDims,
    );

    /// What a norm divides by: `y[i] = sqrt(mean_j(x[i, j]^2) + eps)`, or `sqrt(var_i + eps)`. `x` `[n, d]`, `y` `[n]`.
    fn norm_scale(&self, kind: NormKind, x: &Self::Tensor, y: &mut Self::Tensor, dims: NormDims);

    /// Rotary embedding in place, the first half of each head's rotated channels paired with their second (Hugging Face's
    /// convention): with `r = dims.rotary`, `p = positions[i]` and `a, b` the elements `j` and `j + r/2` of a head,
    /// `a' = a cos[p, j] - b sin[p, j]`, `b' = b cos[p, j] + a sin[p, j]`.
    /// `x` `[n, heads*e]`, `cos`, `sin` `[>= t, r/2]`.
    fn rope(
        &self,
        index: &Self::BatchIndex,
        x: &mut Self::Tensor,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
        dims: RopeDims,
    );

    /// Causal attention within each context: for head `a`, row `i`, and the rows `j <= i` of the same context that it sees,
    /// `p[i, a, j] = softmax_j(softcap(scale * q[i, a] . k[j, a']))`, `z[i, a] = sum_j p[i, a, j] v[j, a']`.
    ///
    /// `z` `[n, h*e]`; `sides` are computed if they are given.
    fn attention(
        &self,
        index: &mut Self::BatchIndex,
        qkv: Qkv<'_, Self::Tensor>,
        z: &mut Self::Tensor,
        sides: AttentionSides<'_, Self::Tensor>,
        dims: AttentionDims,
    );

    /// What each head adds through the output projection: `y[i, a, :] = sum_c z[i, a*e + c] w[:, a*e + c]`.
    /// `z` `[n, h*e]`, `w` `[d, h*e]`, `y` `[n, h*d]`.
    fn head_results(&self, z: &Self::Tensor, w: &Self::Matrix, y: &mut Self::Tensor, dims: HeadResultDims);

    /// `x[i] = f(x[i])` for the first `len` values.
    fn activate(&self, f: Activation, x: &mut Self::Tensor, len: usize);

    /// `gate[i] = f(gate[i]) * up[i]` for the first `len` values.
    fn activate_mul(&self, f: Activation, gate: &mut Self::Tensor, up: &Self::Tensor, len: usize);

    /// Send each row to the experts with the largest logits: `indices[i, c]` is the number (as a float) of the expert with
    /// the `c`-th largest logit, the smaller number first among equals, and `weights[i, c]` its share of the softmax over
    /// all experts. `logits` `[n, experts]`, `indices`, `weights` `[n, chosen]`.
    fn route(&self, logits: &Self::Tensor, indices: &mut Self::Tensor, weights: &mut Self::Tensor, dims: RouteDims);

    /// `y[i, c, :] = w[indices[i, c]] x[i, c, :]`, with the same `x` for all `c` unless `dims.x_by_expert`.
    /// `w` holds one matrix `[n_out, n_in]` an expert, `indices` `[n, chosen]`, `y` `[n, chosen, n_out]`.
    fn expert_linear(
        &self,
        x: &Self::Tensor,
        w: &[Self::Matrix],
        indices: &Self::Tensor,
        y: &mut Self::Tensor,
        dims: ExpertDims,
    );

    /// `y[i, :] = sum_c weights[i, c] x[i, c, :]`: `x` `[n, chosen, d]`, `weights` `[n, chosen]`, `y` `[n, d]`.
    fn mix_experts(
        &self,
        x: &Self::Tensor,
        weights: &Self::Tensor,
        y: &mut Self::Tensor,
        n: usize,
        chosen: usize,
        d: usize,
    );

    /// Products of the same rows `x` `[n, n_in]` with each part's matrix, and what becomes of them, part after part; no
    /// more than three parts, of matrices of one format. The same bits as [`one_by_one`], in fewer passes over memory.
    fn project(&self, x: &Self::Tensor, dims: ProjectionDims, parts: &mut [Projection<'_, Self>]) {
        one_by_one(self, x, dims, parts);
    }

    /// `x[i] *= factor` for the first `len` values.
    fn scale(&self, x: &mut Self::Tensor, factor: f32, len: usize);

    /// `x[i] += y[i]` for the first `len` values.
    fn add(&self, x: &mut Self::Tensor, y: &Self::Tensor, len: usize);
}

#[cfg(test)]
mod tests;
