//! Llama and its many relatives: RMS norm, rotary positions, grouped-query attention, gated SiLU MLP.

use std::sync::Arc;

use crate::compute::ModelOps;
use crate::compute::model_ops::{BatchRows, BatchShape};
use crate::error::Result;
use crate::hooks::{HookPoint, ModulePaths, PointShape, Site, Taps};
use crate::model::blocks::attention::{self, Attention, AttentionPlan};
use crate::model::blocks::contexts::contexts;
use crate::model::blocks::head::Head;
use crate::model::blocks::linear::Linear;
use crate::model::blocks::norm::{Norm, NormPoints};
use crate::model::blocks::pass::{self, Pass, Step};
use crate::model::blocks::rope::RopeTables;
use crate::model::blocks::workspace::{MlpKind, Workspace};
use crate::model::weights::Weights;
use crate::model::{Model, ModelSpec};
use crate::tokens::TokenBatch;

/// Hugging Face's names of the sites.
pub(super) const MODULE_PATHS: ModulePaths = ModulePaths {
    blocks: &["model.layers", "layers"],
    in_block: &[
        ("", Site::ResidPost),
        (".input", Site::ResidPre),
        (".input_layernorm", Site::Ln1Out),
        (".input_layernorm.input", Site::ResidPre),
        (".self_attn", Site::AttnOut),
        (".self_attn.input", Site::Ln1Out),
        (".self_attn.q_proj", Site::Q),
        (".self_attn.k_proj", Site::K),
        (".self_attn.v_proj", Site::V),
        (".self_attn.o_proj", Site::AttnOut),
        (".self_attn.o_proj.input", Site::Z),
        (".post_attention_layernorm", Site::Ln2Out),
        (".post_attention_layernorm.input", Site::ResidMid),
        (".mlp", Site::MlpOut),
        (".mlp.input", Site::Ln2Out),
        (".mlp.gate_proj", Site::MlpPre),
        (".mlp.act_fn.input", Site::MlpPre),
        (".mlp.up_proj", Site::MlpPreLinear),
        (".mlp.down_proj", Site::MlpOut),
        (".mlp.down_proj.input", Site::MlpPost),
    ],
    outside: &[
        ("model.embed_tokens", Site::Embed),
        ("embed_tokens", Site::Embed),
        ("model.norm", Site::LnFinalOut),
        ("norm", Site::LnFinalOut),
        ("lm_head.input", Site::LnFinalOut),
    ],
};

/// A model and its workspace.
pub(super) struct Llama<B: ModelOps> {
    backend: Arc<B>,
    spec: ModelSpec,
    shape: BatchShape,
    points: Vec<PointShape>,
    weights: LlamaWeights<B>,
    head: Head<B>,
    index: B::BatchIndex,
    ws: Workspace<B>,
}

struct LlamaWeights<B: ModelOps> {
    /// `[v, d]`.
    embedding: B::Tensor,
    attention: AttentionPlan<B>,
    blocks: Vec<Block<B>>,
    final_norm: Norm<B>,
}

struct Block<B: ModelOps> {
    norm1: Norm<B>,
    attention: Attention<B>,
    norm2: Norm<B>,
    gate: Linear<B>,
    up: Linear<B>,
    down: Linear<B>,
}

impl<B: ModelOps> Llama<B> {
    /// Upload the weights and plan the workspace. Misfits are reported by [`Weights::finish`].
    pub(super) fn load(backend: Arc<B>, spec: ModelSpec, shape: BatchShape, weights: &mut Weights) -> Self {
        let b = backend.as_ref();
        let (d, v) = (spec.d_model, spec.vocab_size);
        let dims = attention::dims(&spec);
        let attention = AttentionPlan {
            dims,
            context_length: shape.context_length,
            max_tokens: shape.max_tokens,
            rope: spec.rope.map(|rope| RopeTables::new(b, &rope, spec.d_head, shape.context_length)),
        };
        let loaded = LlamaWeights {
            embedding: b.upload(&weights.tensor("embed_tokens.weight", &[v, d])),
            attention,
            blocks: (0..spec.n_layers).map(|layer| Block::load(b, &spec, layer, weights)).collect(),
            final_norm: Norm::load_rms(b, weights, "norm", &spec),
        };
        let head = (!spec.tied_head).then(|| b.upload(&weights.tensor("lm_head.weight", &[v, d])));
        Self {
            head: Head::new(head, d, v),
            index: b.batch_index(shape, dims),
            ws: Workspace::new(b, &spec, shape, MlpKind::Gated),
            points: spec.points(shape.context_length),
            weights: loaded,
            backend,
            spec,
            shape,
        }
    }
}

impl<B: ModelOps> Block<B> {
    fn load(backend: &B, spec: &ModelSpec, layer: u32, weights: &mut Weights) -> Self {
        let (d, m) = (spec.d_model, spec.d_mlp);
        let (q_width, kv_width) = (spec.n_heads * spec.d_head, spec.n_kv_heads * spec.d_head);
        let norm = |weights: &mut Weights, name: &str| {
            Norm::load_rms(backend, weights, &format!("layers.{layer}.{name}"), spec)
        };
        let linear = |weights: &mut Weights, name: &str, widths: (usize, usize), bias: bool| {
            Linear::load(backend, weights, &format!("layers.{layer}.{name}"), widths, bias.into())
        };
        Self {
            norm1: norm(weights, "input_layernorm"),
            attention: Attention {
                q: linear(weights, "self_attn.q_proj", (d, q_width), spec.attention_bias),
                k: linear(weights, "self_attn.k_proj", (d, kv_width), spec.attention_bias),
                v: linear(weights, "self_attn.v_proj", (d, kv_width), spec.attention_bias),
                out: linear(weights, "self_attn.o_proj", (q_width, d), spec.attention_bias),
            },
            norm2: norm(weights, "post_attention_layernorm"),
            gate: linear(weights, "mlp.gate_proj", (d, m), spec.mlp_bias),
            up: linear(weights, "mlp.up_proj", (d, m), spec.mlp_bias),
            down: linear(weights, "mlp.down_proj", (m, d), spec.mlp_bias),
        }
    }
}

impl<B: ModelOps> LlamaWeights<B> {
    /// The forward pass, from token ids to the final norm.
    fn forward(&self, spec: &ModelSpec, pass: &mut Pass<'_, B>, ws: &mut Workspace<B>) -> Step {
        let (b, n, d, m) = (pass.backend, pass.n, spec.d_model, spec.d_mlp);
        b.embed_tokens(pass.index, &self.embedding, &mut ws.x, d);
        pass.tap(HookPoint::outside(Site::Embed), &mut ws.x, d)?;
        for (layer, block) in (0..).zip(&self.blocks) {
            let at = |site| HookPoint::block(layer, site);
            pass.tap(at(Site::ResidPre), &mut ws.x, d)?;
            let points = NormPoints { normalized: at(Site::Ln1Normalized), out: at(Site::Ln1Out) };
            block.norm1.apply(pass, points, &ws.x, &mut ws.normed)?;
            block.attention.apply(pass, &self.attention, layer, ws)?;
            pass.tap(at(Site::AttnOut), &mut ws.branch, d)?;
            b.add(&mut ws.x, &ws.branch, n * d);
            pass.tap(at(Site::ResidMid), &mut ws.x, d)?;
            let points = NormPoints { normalized: at(Site::Ln2Normalized), out: at(Site::Ln2Out) };
            block.norm2.apply(pass, points, &ws.x, &mut ws.normed)?;
            block.gate.apply(b, &ws.normed, &mut ws.hidden, n);
            pass.tap(at(Site::MlpPre), &mut ws.hidden, m)?;
            block.up.apply(b, &ws.normed, &mut ws.up, n);
            pass.tap(at(Site::MlpPreLinear), &mut ws.up, m)?;
            b.silu_mul(&mut ws.hidden, &ws.up, n * m);
            pass.tap(at(Site::MlpPost), &mut ws.hidden, m)?;
            block.down.apply(b, &ws.hidden, &mut ws.branch, n);
            pass.tap(at(Site::MlpOut), &mut ws.branch, d)?;
            b.add(&mut ws.x, &ws.branch, n * d);
            pass.tap(at(Site::ResidPost), &mut ws.x, d)?;
        }
        let points = NormPoints {
            normalized: HookPoint::outside(Site::LnFinalNormalized),
            out: HookPoint::outside(Site::LnFinalOut),
        };
        self.final_norm.apply(pass, points, &ws.x, &mut ws.normed)
    }
}

impl<B: ModelOps> Model<B> for Llama<B> {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn shape(&self) -> BatchShape {
        self.shape
    }

    fn points(&self) -> &[PointShape] {
        &self.points
    }

    fn forward(&mut self, batch: &TokenBatch, taps: &mut dyn Taps<B>) -> Result<()> {
        contexts(batch, &self.spec, self.shape, &mut self.ws.contexts)?;
        let last = pass::last_wanted(&self.points, taps)?;
        let Some(last) = last.filter(|_| batch.n_tokens() > 0) else { return Ok(()) };
        let rows = BatchRows { ids: &batch.ids, positions: &batch.positions, contexts: &self.ws.contexts };
        self.backend.load_batch(&mut self.index, rows);
        let mut pass = Pass::new(self.backend.as_ref(), &mut self.index, batch.n_tokens(), taps, last);
        pass::outcome(self.weights.forward(&self.spec, &mut pass, &mut self.ws))
    }

    fn unembed(&mut self, hidden: &[f32], logits: &mut Vec<f32>) -> Result<()> {
        self.head.apply(&self.backend, &self.weights.embedding, hidden, logits)
    }
}
