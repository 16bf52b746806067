//! The buffers of a forward pass, planned once.

use crate::compute::ModelOps;
use crate::compute::model_ops::{AttentionRows, BatchShape};
use crate::model::ModelSpec;

/// Buffers for batches of up to `max_tokens` rows.
pub(in crate::model) struct Workspace<B: ModelOps> {
    /// `[n, d]` the residual stream.
    pub(in crate::model) x: B::Tensor,
    /// `[n, d]` a norm's output: what attention or the MLP reads.
    pub(in crate::model) normed: B::Tensor,
    /// `[n, h*e]`.
    pub(in crate::model) q: B::Tensor,
    /// `[n, k*e]`.
    pub(in crate::model) k: B::Tensor,
    /// `[n, k*e]`.
    pub(in crate::model) v: B::Tensor,
    /// `[n, h*e]`.
    pub(in crate::model) z: B::Tensor,
    /// `[n, d]` what attention or the MLP adds to the residual stream.
    pub(in crate::model) branch: B::Tensor,
    /// `[n, m]` the MLP's hidden layer, before and after its activation function.
    pub(in crate::model) hidden: B::Tensor,
    /// `[n, m]` a gated MLP's linear branch; empty if there is none.
    pub(in crate::model) up: B::Tensor,
    /// `[n, h*t]`, made when attention patterns are first wanted: it is larger than all others together.
    pub(in crate::model) pattern: Option<B::Tensor>,
    /// The batch's attention contexts.
    pub(in crate::model) contexts: Vec<AttentionRows>,
}

/// Whether the MLP has a linear branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum MlpKind {
    /// `act(gate) * up`.
    Gated,
    /// `act(fc)`.
    Plain,
}

impl<B: ModelOps> Workspace<B> {
    /// Zeroed buffers.
    pub(in crate::model) fn new(backend: &B, spec: &ModelSpec, shape: BatchShape, mlp: MlpKind) -> Self {
        let n = shape.max_tokens;
        let zeros = |width: usize| backend.zeros(n * width);
        let (q_width, kv_width) = (spec.n_heads * spec.d_head, spec.n_kv_heads * spec.d_head);
        Self {
            x: zeros(spec.d_model),
            normed: zeros(spec.d_model),
            q: zeros(q_width),
            k: zeros(kv_width),
            v: zeros(kv_width),
            z: zeros(q_width),
            branch: zeros(spec.d_model),
            hidden: zeros(spec.d_mlp),
            up: zeros(if mlp == MlpKind::Gated { spec.d_mlp } else { 0 }),
            pattern: None,
            contexts: Vec::with_capacity(n),
        }
    }
}
