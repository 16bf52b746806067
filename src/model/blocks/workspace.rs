//! The buffers of a forward pass, planned once.

use std::cell::Cell;

use crate::compute::model_ops::AttentionRows;
use crate::hooks::{HookPoint, Site};
use crate::model::ModelSpec;
use crate::model::blocks::experts::ExpertBuffers;
use crate::model::spec::HeadNorm;

/// Buffers for batches of up to `max_tokens` rows.
pub(in crate::model) struct Workspace<T> {
    /// `[n, d]` the residual stream.
    pub(in crate::model) x: T,
    /// `[n, d]` a norm's output: what attention or the MLP reads.
    pub(in crate::model) normed: T,
    /// `[n, h*e]`.
    pub(in crate::model) q: T,
    /// `[n, k*e]`.
    pub(in crate::model) k: T,
    /// `[n, h*e]` queries behind their norm; empty if there is none.
    pub(in crate::model) q_normed: T,
    /// `[n, k*e]` keys behind their norm; empty if there is none.
    pub(in crate::model) k_normed: T,
    /// `[n, k*e]`.
    pub(in crate::model) v: T,
    /// `[n, h*e]`.
    pub(in crate::model) z: T,
    /// `[n, d]` what attention or the MLP adds to the residual stream.
    pub(in crate::model) branch: T,
    /// `[n, d]` what attention adds, while the MLP of a parallel block runs; else empty.
    pub(in crate::model) first_branch: T,
    /// `[n, m]` the MLP's hidden layer, before and after its activation function; `[n, s*m]` of a mixture of experts.
    pub(in crate::model) hidden: T,
    /// As `hidden`, of a gated MLP's linear branch; empty if there is none.
    pub(in crate::model) up: T,
    /// Of a mixture of experts.
    pub(in crate::model) experts: Option<ExpertBuffers<T>>,
    /// `[n, h*t]`, made when scores are first wanted.
    pub(in crate::model) scores: Option<T>,
    /// `[n, h*t]`, made when attention patterns are first wanted: it is larger than all others together.
    pub(in crate::model) pattern: Option<T>,
    /// `[n, h*d]`, made when heads' results are first wanted.
    pub(in crate::model) results: Option<T>,
    /// The batch's attention contexts.
    pub(in crate::model) contexts: Vec<AttentionRows>,
}

impl<T> Workspace<T> {
    /// Buffers for batches of up to `max_tokens` rows; `zeros` makes one for rows of so many values.
    pub(in crate::model) fn new(spec: &ModelSpec, max_tokens: usize, zeros: impl Fn(usize) -> T) -> Self {
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
            experts: spec.experts.map(|experts| ExpertBuffers::new(&zeros, experts, spec.d_model)),
            scores: None,
            pattern: None,
            results: None,
            contexts: Vec::with_capacity(max_tokens),
        }
    }
}

/// Values that the workspace of `spec` holds for each row of a batch, when `points` are wanted.
pub(in crate::model) fn values_per_row(spec: &ModelSpec, points: &[HookPoint], context_length: usize) -> usize {
    let values = Cell::new(0);
    // the buffers themselves, of no size
    drop(Workspace::new(spec, 0, |width| values.set(values.get() + width)));
    // and those that are made when somebody wants them, for all blocks alike
    let widest = |site: Site| {
        let wanted = points.iter().any(|point| point.site == site);
        let shapes = spec.points(context_length).into_iter().filter(|shape| wanted && shape.point.site == site);
        shapes.map(|shape| shape.width).max().unwrap_or(0)
    };
    // untouched, and so no memory yet: a gated MLP into which nobody looks is one pass over its hidden layer
    let looked_into = points.iter().any(|point| matches!(point.site, Site::MlpPre | Site::MlpPreLinear));
    let spared = if spec.mlp.gated && spec.experts.is_none() && !looked_into { spec.hidden_width() } else { 0 };
    values.get() - spared + [Site::AttnScores, Site::Pattern, Site::Result].map(widest).iter().sum::<usize>()
}
