//! The op vocabulary of a transformer's forward pass.
//!
//! Letters in shapes are those of [`crate::compute`]. `n` is always the number of rows of the batch that the
//! [`ModelOps::BatchIndex`] holds. Buffers may be longer than needed: the first rows are used. Preconditions are
//! asserted; the model checks what comes from outside before it calls.

use crate::compute::Backend;

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

/// Shape of a rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RopeDims {
    /// Heads in a row.
    pub heads: usize,
    /// Head width, even.
    pub e: usize,
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
    fn embed_tokens(&self, index: &Self::BatchIndex, table: &Self::Tensor, y: &mut Self::Tensor, d: usize);

    /// `y[i, :] = table[positions[i], :]`: `table` `[>= t, d]`, `y` `[n, d]`.
    fn embed_positions(&self, index: &Self::BatchIndex, table: &Self::Tensor, y: &mut Self::Tensor, d: usize);

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

    /// Rotary embedding in place, each head's first half paired with its second (Hugging Face's convention): with
    /// `p = positions[i]` and `a, b` the elements `j` and `j + e/2` of a head,
    /// `a' = a cos[p, j] - b sin[p, j]`, `b' = b cos[p, j] + a sin[p, j]`.
    /// `x` `[n, heads*e]`, `cos`, `sin` `[>= t, e/2]`.
    fn rope(
        &self,
        index: &Self::BatchIndex,
        x: &mut Self::Tensor,
        cos: &Self::Tensor,
        sin: &Self::Tensor,
        dims: RopeDims,
    );

    /// Causal attention within each context: for head `a`, row `i`, and rows `j <= i` of the same context,
    /// `p[i, a, j] = softmax_j(scale * q[i, a] . k[j, a'])`, `z[i, a] = sum_j p[i, a, j] v[j, a']`.
    ///
    /// `z` `[n, h*e]`. If `pattern` is given, `[n, h*t]`, its rows become `p`: column `a*t + c` belongs to the key at
    /// position `c` of the row's sequence, zero where the row does not attend.
    fn attention(
        &self,
        index: &mut Self::BatchIndex,
        qkv: Qkv<'_, Self::Tensor>,
        z: &mut Self::Tensor,
        pattern: Option<&mut Self::Tensor>,
        dims: AttentionDims,
    );

    /// `gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i]` for the first `len` values.
    fn silu_mul(&self, gate: &mut Self::Tensor, up: &Self::Tensor, len: usize);

    /// `x[i] = x[i]/2 (1 + tanh(sqrt(2/pi) (x[i] + 0.044715 x[i]^3)))` for the first `len` values.
    fn gelu_tanh(&self, x: &mut Self::Tensor, len: usize);

    /// `x[i] += y[i]` for the first `len` values.
    fn add(&self, x: &mut Self::Tensor, y: &Self::Tensor, len: usize);
}

#[cfg(test)]
mod tests;
