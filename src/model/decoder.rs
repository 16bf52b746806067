//! The forward pass of every family: token embedding, blocks, final norm, head.

use std::sync::Arc;

use crate::compute::ModelOps;
use crate::compute::backend::MatrixFormat;
use crate::compute::model_ops::{BatchRows, BatchShape};
use crate::error::Result;
use crate::hooks::{HookPoint, PointShape, Site, Taps};
use crate::model::blocks::attention::{self, AttentionPlan};
use crate::model::blocks::block::Block;
use crate::model::blocks::contexts::contexts;
use crate::model::blocks::head::Head;
use crate::model::blocks::loader::Loader;
use crate::model::blocks::norm::{Norm, NormPoints};
use crate::model::blocks::pass::{self, Pass, Step};
use crate::model::blocks::rope::RopeTables;
use crate::model::blocks::workspace::Workspace;
use crate::model::weights::Weights;
use crate::model::{Model, ModelSpec};
use crate::tokens::TokenBatch;

/// A model and its workspace.
pub(super) struct Decoder<B: ModelOps> {
    backend: Arc<B>,
    spec: ModelSpec,
    shape: BatchShape,
    points: Vec<PointShape>,
    body: Body<B>,
    head: Head<B>,
    index: B::BatchIndex,
    ws: Workspace<B::Tensor>,
}

/// All but the head.
struct Body<B: ModelOps> {
    /// `[v, d]`.
    embedding: B::Matrix,
    /// `[positions, d]`, if positions are learned.
    positions: Option<B::Matrix>,
    attention: AttentionPlan<B>,
    blocks: Vec<Block<B>>,
    ln_final: Norm<B>,
}

impl<B: ModelOps> Decoder<B> {
    /// Upload the weights and plan the workspace. Misfits are reported by [`Weights::finish`].
    pub(super) fn load(
        backend: Arc<B>,
        spec: ModelSpec,
        shape: BatchShape,
        weights: &mut Weights,
        format: MatrixFormat,
    ) -> Self {
        let b = backend.as_ref();
        let mut loader = Loader { backend: b, spec: &spec, weights, format };
        let body = Body::load(&mut loader, shape);
        let head = Head::load(&mut loader);
        Self {
            body,
            head,
            index: b.batch_index(shape, attention::dims(&spec)),
            ws: Workspace::new(&spec, shape.max_tokens, |width| b.zeros(shape.max_tokens * width)),
            points: spec.points(shape.context_length),
            backend,
            spec,
            shape,
        }
    }
}

impl<B: ModelOps> Body<B> {
    fn load(loader: &mut Loader<'_, B>, shape: BatchShape) -> Self {
        let (spec, names, d) = (loader.spec, loader.names(), loader.spec.d_model);
        let tables = |rope| RopeTables::new(loader.backend, rope, shape.context_length);
        let attention = AttentionPlan {
            context_length: shape.context_length,
            max_tokens: shape.max_tokens,
            ropes: spec.ropes.iter().map(tables).collect(),
        };
        Self {
            attention,
            embedding: loader.matrix(&format!("{}.weight", names.embed), spec.vocab_size, d),
            positions: spec
                .has_learned_positions()
                .then(|| loader.matrix(&format!("{}.weight", names.positions), spec.max_positions, d)),
            blocks: (0..spec.n_layers()).map(|layer| Block::load(loader, layer)).collect(),
            ln_final: Norm::load(loader, names.ln_final, d),
        }
    }

    /// The forward pass, from token ids to the final norm.
    fn forward(&self, spec: &ModelSpec, pass: &mut Pass<'_, B>, ws: &mut Workspace<B::Tensor>) -> Step {
        let (b, d) = (pass.backend, spec.d_model);
        let len = pass.n * d;
        b.embed_tokens(pass.index, &self.embedding, &mut ws.x, d);
        if let Some(factor) = spec.embed_scale {
            b.scale(&mut ws.x, factor as f32, len);
        }
        pass.tap(HookPoint::outside(Site::Embed), &mut ws.x, d)?;
        if let Some(positions) = &self.positions {
            b.embed_positions(pass.index, positions, &mut ws.branch, d);
            pass.tap(HookPoint::outside(Site::PosEmbed), &mut ws.branch, d)?;
            b.add(&mut ws.x, &ws.branch, len);
        }
        for block in &self.blocks {
            block.apply(pass, &self.attention, ws)?;
        }
        self.ln_final.apply(pass, NormPoints::last(), &ws.x, &mut ws.normed)
    }
}

impl<B: ModelOps> Model<B> for Decoder<B> {
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
        pass::outcome(self.body.forward(&self.spec, &mut pass, &mut self.ws))
    }

    fn unembed(&mut self, hidden: &[f32], logits: &mut Vec<f32>) -> Result<()> {
        self.head.apply(&self.backend, &self.body.embedding, hidden, logits)
    }

    fn token_effects(&mut self, directions: &[f32], effects: &mut Vec<f32>) -> Result<()> {
        let normed = self.body.ln_final.linear_part(&self.backend, directions);
        self.head.product(&self.backend, &self.body.embedding, &normed, effects)
    }
}
