//! GPT-2: layer norm, learned positions, one fused matrix for q, k and v, GELU MLP, biases everywhere.

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
use crate::model::blocks::workspace::{MlpKind, Workspace};
use crate::model::weights::Weights;
use crate::model::{Model, ModelSpec};
use crate::tokens::TokenBatch;

/// Hugging Face's names of the sites.
pub(super) const MODULE_PATHS: ModulePaths = ModulePaths {
    blocks: &["transformer.h", "h"],
    in_block: &[
        ("", Site::ResidPost),
        (".input", Site::ResidPre),
        (".ln_1", Site::Ln1Out),
        (".ln_1.input", Site::ResidPre),
        (".attn", Site::AttnOut),
        (".attn.input", Site::Ln1Out),
        (".attn.c_attn.input", Site::Ln1Out),
        (".attn.c_proj", Site::AttnOut),
        (".attn.c_proj.input", Site::Z),
        (".ln_2", Site::Ln2Out),
        (".ln_2.input", Site::ResidMid),
        (".mlp", Site::MlpOut),
        (".mlp.input", Site::Ln2Out),
        (".mlp.c_fc", Site::MlpPre),
        (".mlp.c_fc.input", Site::Ln2Out),
        (".mlp.act", Site::MlpPost),
        (".mlp.act.input", Site::MlpPre),
        (".mlp.c_proj", Site::MlpOut),
        (".mlp.c_proj.input", Site::MlpPost),
    ],
    outside: &[
        ("transformer.wte", Site::Embed),
        ("wte", Site::Embed),
        ("transformer.wpe", Site::PosEmbed),
        ("wpe", Site::PosEmbed),
        ("transformer.ln_f", Site::LnFinalOut),
        ("ln_f", Site::LnFinalOut),
        ("lm_head.input", Site::LnFinalOut),
    ],
};

/// A model and its workspace.
pub(super) struct Gpt2<B: ModelOps> {
    backend: Arc<B>,
    spec: ModelSpec,
    shape: BatchShape,
    points: Vec<PointShape>,
    weights: Gpt2Weights<B>,
    head: Head<B>,
    index: B::BatchIndex,
    ws: Workspace<B>,
}

struct Gpt2Weights<B: ModelOps> {
    /// `[v, d]`.
    token_embedding: B::Tensor,
    /// `[positions, d]`.
    position_embedding: B::Tensor,
    attention: AttentionPlan<B>,
    blocks: Vec<Block<B>>,
    final_norm: Norm<B>,
}

struct Block<B: ModelOps> {
    norm1: Norm<B>,
    attention: Attention<B>,
    norm2: Norm<B>,
    fc: Linear<B>,
    proj: Linear<B>,
}

impl<B: ModelOps> Gpt2<B> {
    /// Upload the weights and plan the workspace. Misfits are reported by [`Weights::finish`].
    pub(super) fn load(backend: Arc<B>, spec: ModelSpec, shape: BatchShape, weights: &mut Weights) -> Self {
        let b = backend.as_ref();
        let (d, v) = (spec.d_model, spec.vocab_size);
        let dims = attention::dims(&spec);
        let attention =
            AttentionPlan { dims, context_length: shape.context_length, max_tokens: shape.max_tokens, rope: None };
        let loaded = Gpt2Weights {
            token_embedding: b.upload(&weights.tensor("wte.weight", &[v, d])),
            position_embedding: b.upload(&weights.tensor("wpe.weight", &[spec.max_positions, d])),
            attention,
            blocks: (0..spec.n_layers).map(|layer| Block::load(b, &spec, layer, weights)).collect(),
            final_norm: Norm::load_layer(b, weights, "ln_f", &spec),
        };
        let head = (!spec.tied_head).then(|| b.upload(&weights.tensor("lm_head.weight", &[v, d])));
        Self {
            head: Head::new(head, d, v),
            index: b.batch_index(shape, dims),
            ws: Workspace::new(b, &spec, shape, MlpKind::Plain),
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
        let (d, m, width) = (spec.d_model, spec.d_mlp, spec.n_heads * spec.d_head);
        let name = |part: &str| format!("h.{layer}.{part}");
        let w = weights.transposed(&name("attn.c_attn.weight"), 3 * width, d);
        let bias = weights.tensor(&name("attn.c_attn.bias"), &[3 * width]);
        let third = |i: usize| {
            let w = w.get(i * width * d..(i + 1) * width * d).unwrap_or_default();
            let bias = bias.get(i * width..(i + 1) * width).unwrap_or_default();
            Linear::new(backend, w, Some(bias), d, width)
        };
        Self {
            attention: Attention {
                q: third(0),
                k: third(1),
                v: third(2),
                out: Linear::load_conv1d(backend, weights, &name("attn.c_proj"), (width, d)),
            },
            norm1: Norm::load_layer(backend, weights, &name("ln_1"), spec),
            norm2: Norm::load_layer(backend, weights, &name("ln_2"), spec),
            fc: Linear::load_conv1d(backend, weights, &name("mlp.c_fc"), (d, m)),
            proj: Linear::load_conv1d(backend, weights, &name("mlp.c_proj"), (m, d)),
        }
    }
}

impl<B: ModelOps> Gpt2Weights<B> {
    /// The forward pass, from token ids to the final norm.
    fn forward(&self, spec: &ModelSpec, pass: &mut Pass<'_, B>, ws: &mut Workspace<B>) -> Step {
        let (b, n, d, m) = (pass.backend, pass.n, spec.d_model, spec.d_mlp);
        b.embed_tokens(pass.index, &self.token_embedding, &mut ws.x, d);
        pass.tap(HookPoint::outside(Site::Embed), &mut ws.x, d)?;
        b.embed_positions(pass.index, &self.position_embedding, &mut ws.branch, d);
        pass.tap(HookPoint::outside(Site::PosEmbed), &mut ws.branch, d)?;
        b.add(&mut ws.x, &ws.branch, n * d);
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
            block.fc.apply(b, &ws.normed, &mut ws.hidden, n);
            pass.tap(at(Site::MlpPre), &mut ws.hidden, m)?;
            b.gelu_tanh(&mut ws.hidden, n * m);
            pass.tap(at(Site::MlpPost), &mut ws.hidden, m)?;
            block.proj.apply(b, &ws.hidden, &mut ws.branch, n);
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

impl<B: ModelOps> Model<B> for Gpt2<B> {
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
        self.head.apply(&self.backend, &self.weights.token_embedding, hidden, logits)
    }
}
