//! Self-attention with its hook points.

use std::mem::swap;

use crate::compute::ModelOps;
use crate::compute::model_ops::{AttentionDims, AttentionSides, HeadResultDims, Qkv, RopeDims};
use crate::compute::projection::Then;
use crate::hooks::{HookPoint, Site};
use crate::model::ModelSpec;
use crate::model::architectures::QkvNames;
use crate::model::blocks::linear::Linear;
use crate::model::blocks::loader::Loader;
use crate::model::blocks::norm::Norm;
use crate::model::blocks::pass::{Pass, Step};
use crate::model::blocks::rope::RopeTables;
use crate::model::blocks::workspace::Workspace;
use crate::model::spec::HeadNorm;

/// A block's attention.
pub(in crate::model) struct Attention<B: ModelOps> {
    layer: u32,
    q: Linear<B>,
    k: Linear<B>,
    v: Linear<B>,
    qk_norm: Option<[Norm<B>; 2]>,
    out: Linear<B>,
    dims: AttentionDims,
    /// Which of [`AttentionPlan::ropes`].
    rope: usize,
    head_norm: HeadNorm,
    d_model: usize,
}

/// What the attention of all blocks shares.
pub(in crate::model) struct AttentionPlan<B: ModelOps> {
    /// Length of a pattern's row.
    pub(in crate::model) context_length: usize,
    /// Rows of the buffers.
    pub(in crate::model) max_tokens: usize,
    /// None if positions are learned.
    pub(in crate::model) ropes: Vec<RopeTables<B>>,
}

/// Shape of a model's attention, but for the windows of single blocks.
pub(in crate::model) fn dims(spec: &ModelSpec) -> AttentionDims {
    AttentionDims {
        heads: spec.n_heads,
        kv_heads: spec.n_kv_heads,
        e: spec.d_head,
        scale: spec.attention.scale as f32,
        window: None,
        softcap: spec.attention.softcap.map(|cap| cap as f32),
    }
}

impl<B: ModelOps> Attention<B> {
    /// That of block `layer`.
    pub(in crate::model) fn load(loader: &mut Loader<'_, B>, layer: u32) -> Self {
        let (spec, names) = (loader.spec, loader.names());
        let block = spec.blocks[layer as usize];
        let dims = AttentionDims { window: block.window, ..dims(spec) };
        let [q, k, v] = load_qkv(loader, layer);
        let qk_norm = (spec.attention.head_norm != HeadNorm::Absent).then(|| {
            let widths = match spec.attention.head_norm {
                HeadNorm::AllHeads => [dims.heads * dims.e, dims.kv_heads * dims.e],
                _ => [dims.e; 2],
            };
            [0, 1].map(|i| {
                let name = loader.in_block(layer, names.qk_norm[i]);
                Norm::load(loader, &name, widths[i])
            })
        });
        let out = loader.in_block(layer, names.out);
        let widths = (dims.heads * dims.e, spec.d_model);
        let out = Linear::load(loader, &out, widths, spec.attention.out_bias);
        let head_norm = spec.attention.head_norm;
        Self { layer, q, k, v, qk_norm, out, dims, rope: block.rope, head_norm, d_model: spec.d_model }
    }

    /// `ws.branch = attention(x)`, with `x` in `ws.normed` if `from_norm`, else in `ws.x`; or `ws.x += attention(x)` if it
    /// goes `onto_stream` at once.
    pub(in crate::model) fn apply(
        &self,
        pass: &mut Pass<'_, B>,
        plan: &AttentionPlan<B>,
        [from_norm, onto_stream]: [bool; 2],
        ws: &mut Workspace<B::Tensor>,
    ) -> Step {
        let AttentionDims { heads, kv_heads, e, .. } = self.dims;
        let (q_width, kv_width) = (heads * e, kv_heads * e);
        let at = |site| HookPoint::block(self.layer, site);
        let input = if from_norm { &ws.normed } else { &ws.x };
        let q = self.q.part(Then::Keep, &mut ws.q);
        let k = self.k.part(Then::Keep, &mut ws.k);
        let v = self.v.part(Then::Keep, &mut ws.v);
        // a pass that ends before keys or values does not compute them
        let wanted = [Site::Q, Site::K].iter().position(|&site| pass.ends_at(at(site))).map_or(3, |last| last + 1);
        pass.backend.project(input, self.q.of_rows(pass.n), &mut [q, k, v][..wanted]);
        pass.tap(at(Site::Q), &mut ws.q, q_width)?;
        pass.tap(at(Site::K), &mut ws.k, kv_width)?;
        pass.tap(at(Site::V), &mut ws.v, kv_width)?;
        if let Some([q_norm, k_norm]) = &self.qk_norm {
            let (q_rows, k_rows) = if self.head_norm == HeadNorm::AllHeads { (1, 1) } else { (heads, kv_heads) };
            q_norm.run(pass.backend, &ws.q, &mut ws.q_normed, pass.n * q_rows);
            swap(&mut ws.q, &mut ws.q_normed);
            pass.tap(at(Site::QNormOut), &mut ws.q, q_width)?;
            k_norm.run(pass.backend, &ws.k, &mut ws.k_normed, pass.n * k_rows);
            swap(&mut ws.k, &mut ws.k_normed);
            pass.tap(at(Site::KNormOut), &mut ws.k, kv_width)?;
        }
        if let Some(rope) = plan.ropes.get(self.rope) {
            let dims = RopeDims { heads, e, rotary: rope.rotary };
            pass.backend.rope(pass.index, &mut ws.q, &rope.cos, &rope.sin, dims);
            pass.tap(at(Site::RotQ), &mut ws.q, q_width)?;
            let dims = RopeDims { heads: kv_heads, ..dims };
            pass.backend.rope(pass.index, &mut ws.k, &rope.cos, &rope.sin, dims);
            pass.tap(at(Site::RotK), &mut ws.k, kv_width)?;
        }
        self.mix(pass, plan, ws)?;
        pass.tap(at(Site::Z), &mut ws.z, q_width)?;
        self.results(pass, plan, ws)?;
        match onto_stream {
            true => self.out.apply_then(pass.backend, &ws.z, Then::Add, &mut ws.x, pass.n),
            false => self.out.apply(pass.backend, &ws.z, &mut ws.branch, pass.n),
        }
        Ok(())
    }

    /// `ws.z` from queries, keys and values; scores and pattern if they are wanted.
    fn mix(&self, pass: &mut Pass<'_, B>, plan: &AttentionPlan<B>, ws: &mut Workspace<B::Tensor>) -> Step {
        let [scores, pattern] = [Site::AttnScores, Site::Pattern].map(|site| HookPoint::block(self.layer, site));
        let width = self.dims.heads * plan.context_length;
        let backend = pass.backend;
        let zeros = || backend.zeros(plan.max_tokens * width);
        let mut sides = AttentionSides { scores: None, pattern: None };
        if pass.wants(scores) {
            sides.scores = Some(ws.scores.get_or_insert_with(zeros));
        }
        if pass.wants(pattern) {
            sides.pattern = Some(ws.pattern.get_or_insert_with(zeros));
        }
        let qkv = Qkv { q: &ws.q, k: &ws.k, v: &ws.v };
        backend.attention(pass.index, qkv, &mut ws.z, sides, self.dims);
        pass.tap_side(scores, ws.scores.as_mut(), width)?;
        pass.tap_side(pattern, ws.pattern.as_mut(), width)
    }

    /// Each head's share of the output, if it is wanted.
    fn results(&self, pass: &mut Pass<'_, B>, plan: &AttentionPlan<B>, ws: &mut Workspace<B::Tensor>) -> Step {
        let point = HookPoint::block(self.layer, Site::Result);
        let AttentionDims { heads, e, .. } = self.dims;
        let width = heads * self.d_model;
        if pass.wants(point) {
            let results = ws.results.get_or_insert_with(|| pass.backend.zeros(plan.max_tokens * width));
            let dims = HeadResultDims { n: pass.n, heads, e, d: self.d_model };
            pass.backend.head_results(&ws.z, &self.out.w, results, dims);
        }
        pass.tap_side(point, ws.results.as_mut(), width)
    }
}

/// Queries, keys and values, however they are stored.
fn load_qkv<B: ModelOps>(loader: &mut Loader<'_, B>, layer: u32) -> [Linear<B>; 3] {
    let spec = loader.spec;
    let (d, e, bias) = (spec.d_model, spec.d_head, spec.attention.qkv_bias);
    let (q_width, kv_width) = (spec.n_heads * e, spec.n_kv_heads * e);
    let widths = [q_width, kv_width, kv_width];
    let (fused, by_head) = match loader.names().qkv {
        QkvNames::Separate(names) => {
            return [0, 1, 2].map(|i| {
                let name = loader.in_block(layer, names[i]);
                Linear::load(loader, &name, (d, widths[i]), bias)
            });
        }
        QkvNames::Thirds(name) => (name, false),
        QkvNames::ByHead(name) => (name, true),
    };
    let name = loader.in_block(layer, fused);
    let all = q_width + 2 * kv_width;
    let w = loader.values(&format!("{name}.weight"), all, d);
    let b = bias.then(|| loader.weights.tensor(&format!("{name}.bias"), &[all]));
    [0, 1, 2].map(|i| {
        let part = |values: &[f32], width: usize| part(values, width, i, (spec.n_heads, e), by_head);
        let b = b.as_ref().map(|b| part(b, 1));
        Linear::new(loader, part(&w, d), b.as_deref(), (d, widths[i]))
    })
}

/// Queries, keys or values (`i`) of a fused matrix with rows of `width`; as many key/value heads as heads.
/// Empty if the matrix could not be had.
fn part(values: &[f32], width: usize, i: usize, (heads, e): (usize, usize), by_head: bool) -> Vec<f32> {
    if by_head {
        let thirds = values.chunks_exact(e * width);
        thirds.enumerate().filter(|(at, _)| at % 3 == i).flat_map(|(_, rows)| rows).copied().collect()
    } else {
        let third = heads * e * width;
        values.get(i * third..(i + 1) * third).unwrap_or_default().to_vec()
    }
}
