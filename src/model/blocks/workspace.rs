//! The buffers of a forward pass, planned once.

use crate::compute::ModelOps;
use crate::compute::model_ops::{AttentionRows, BatchShape};
use crate::model::ModelSpec;
use crate::model::blocks::experts::ExpertBuffers;
use crate::model::spec::HeadNorm;

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
    /// `[n, h*e]` queries behind their norm; empty if there is none.
    pub(in crate::model) q_normed: B::Tensor,
    /// `[n, k*e]` keys behind their norm; empty if there is none.
    pub(in crate::model) k_normed: B::Tensor,
    /// `[n, k*e]`.
    pub(in crate::model) v: B::Tensor,
    /// `[n, h*e]`.
    pub(in crate::model) z: B::Tensor,
    /// `[n, d]` what attention or the MLP adds to the residual stream.
    pub(in crate::model) branch: B::Tensor,
    /// `[n, d]` what attention adds, while the MLP of a parallel block runs; else empty.
    pub(in crate::model) first_branch: B::Tensor,
    /// `[n, m]` the MLP's hidden layer, before and after its activation function; `[n, s*m]` of a mixture of experts.
    pub(in crate::model) hidden: B::Tensor,
    /// As `hidden`, of a gated MLP's linear branch; empty if there is none.
    pub(in crate::model) up: B::Tensor,
    /// Of a mixture of experts.
    pub(in crate::model) experts: Option<ExpertBuffers<B::Tensor>>,
    /// `[n, h*t]`, made when scores are first wanted.
    pub(in crate::model) scores: Option<B::Tensor>,
    /// `[n, h*t]`, made when attention patterns are first wanted: it is larger than all others together.
    pub(in crate::model) pattern: Option<B::Tensor>,
    /// `[n, h*d]`, made when heads' results are first wanted.
    pub(in crate::model) results: Option<B::Tensor>,
    /// The batch's attention contexts.
    pub(in crate::model) contexts: Vec<AttentionRows>,
}

impl<B: ModelOps> Workspace<B> {
    /// Zeroed buffers.
    pub(in crate::model) fn new(backend: &B, spec: &ModelSpec, shape: BatchShape) -> Self {
        let n = shape.max_tokens;
        let zeros = |width: usize| backend.zeros(n * width);
        let only_if = |there: bool, width: usize| zeros(if there { width } else { 0 });
        let (q_width, kv_width) = (spec.n_heads * spec.d_head, spec.n_kv_heads * spec.d_head);
        let has_norm = spec.attention.head_norm != HeadNorm::Absent;
        let hidden = spec.hidden_width();
        Self {
            x: zeros(spec.d_model),
            normed: zeros(spec.d_model),
            q: zeros(q_width),
            k: zeros(kv_width),
            q_normed: only_if(has_norm, q_width),
            k_normed: only_if(has_norm, kv_width),
            v: zeros(kv_width),
            z: zeros(q_width),
            branch: zeros(spec.d_model),
            first_branch: only_if(spec.form.is_parallel(), spec.d_model),
            hidden: zeros(hidden),
            up: only_if(spec.mlp.gated, hidden),
            experts: spec.experts.map(|experts| ExpertBuffers::new(zeros, experts, spec.d_model)),
            scores: None,
            pattern: None,
            results: None,
            contexts: Vec::with_capacity(n),
        }
    }
}
