//! Self-attention with its hook points.

use crate::compute::ModelOps;
use crate::compute::model_ops::{AttentionDims, Qkv, RopeDims};
use crate::hooks::{HookPoint, Site};
use crate::model::ModelSpec;
use crate::model::blocks::linear::Linear;
use crate::model::blocks::pass::{Pass, Step};
use crate::model::blocks::rope::RopeTables;
use crate::model::blocks::workspace::Workspace;

/// The four matrices of a block's attention.
pub(in crate::model) struct Attention<B: ModelOps> {
    pub(in crate::model) q: Linear<B>,
    pub(in crate::model) k: Linear<B>,
    pub(in crate::model) v: Linear<B>,
    pub(in crate::model) out: Linear<B>,
}

/// What the attention of all blocks shares.
pub(in crate::model) struct AttentionPlan<B: ModelOps> {
    pub(in crate::model) dims: AttentionDims,
    /// Length of a pattern's row.
    pub(in crate::model) context_length: usize,
    /// Rows of the buffers.
    pub(in crate::model) max_tokens: usize,
    pub(in crate::model) rope: Option<RopeTables<B>>,
}

/// Shape of a model's attention, scores divided by the root of the head width.
pub(in crate::model) fn dims(spec: &ModelSpec) -> AttentionDims {
    AttentionDims {
        heads: spec.n_heads,
        kv_heads: spec.n_kv_heads,
        e: spec.d_head,
        scale: (1.0 / (spec.d_head as f64).sqrt()) as f32,
    }
}

impl<B: ModelOps> Attention<B> {
    /// `ws.branch = attention(ws.normed)` in block `layer`.
    pub(in crate::model) fn apply(
        &self,
        pass: &mut Pass<'_, B>,
        plan: &AttentionPlan<B>,
        layer: u32,
        ws: &mut Workspace<B>,
    ) -> Step {
        let AttentionDims { heads, kv_heads, e, .. } = plan.dims;
        let (q_width, kv_width) = (heads * e, kv_heads * e);
        let at = |site| HookPoint::block(layer, site);
        self.q.apply(pass.backend, &ws.normed, &mut ws.q, pass.n);
        pass.tap(at(Site::Q), &mut ws.q, q_width)?;
        self.k.apply(pass.backend, &ws.normed, &mut ws.k, pass.n);
        pass.tap(at(Site::K), &mut ws.k, kv_width)?;
        self.v.apply(pass.backend, &ws.normed, &mut ws.v, pass.n);
        pass.tap(at(Site::V), &mut ws.v, kv_width)?;
        if let Some(rope) = &plan.rope {
            pass.backend.rope(pass.index, &mut ws.q, &rope.cos, &rope.sin, RopeDims { heads, e });
            pass.tap(at(Site::RotQ), &mut ws.q, q_width)?;
            pass.backend.rope(pass.index, &mut ws.k, &rope.cos, &rope.sin, RopeDims { heads: kv_heads, e });
            pass.tap(at(Site::RotK), &mut ws.k, kv_width)?;
        }
        self.mix(pass, plan, at(Site::Pattern), ws)?;
        pass.tap(at(Site::Z), &mut ws.z, q_width)?;
        self.out.apply(pass.backend, &ws.z, &mut ws.branch, pass.n);
        Ok(())
    }

    /// `ws.z` from queries, keys and values, and the pattern if it is wanted.
    fn mix(&self, pass: &mut Pass<'_, B>, plan: &AttentionPlan<B>, point: HookPoint, ws: &mut Workspace<B>) -> Step {
        let qkv = Qkv { q: &ws.q, k: &ws.k, v: &ws.v };
        if !pass.wants(point) {
            pass.backend.attention(pass.index, qkv, &mut ws.z, None, plan.dims);
            return Ok(());
        }
        let width = plan.dims.heads * plan.context_length;
        let pattern = ws.pattern.get_or_insert_with(|| pass.backend.zeros(plan.max_tokens * width));
        pass.backend.attention(pass.index, qkv, &mut ws.z, Some(pattern), plan.dims);
        pass.tap(point, pattern, width)
    }
}
