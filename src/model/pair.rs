//! Two models on the same tokens: what a crosscoder of several models reads (Lindsey et al. 2024).
//!
//! To everyone else they are one model with the points of both. Those of the second one say so
//! ([`HookPoint::of_second`]); logits are the first one's.

use crate::compute::Backend;
use crate::error::Result;
use crate::hooks::{HookPoint, PointShape, Taps, Want};
use crate::model::{BatchShape, Model, ModelSpec};
use crate::tokens::TokenBatch;

/// See the module.
pub(super) struct Pair<B: Backend> {
    first: Box<dyn Model<B>>,
    second: Box<dyn Model<B>>,
    points: Vec<PointShape>,
}

impl<B: Backend> Pair<B> {
    pub(super) fn new(first: Box<dyn Model<B>>, second: Box<dyn Model<B>>) -> Self {
        let points = both(first.points(), second.points());
        Self { first, second, points }
    }
}

/// The points of the first model, then those of the second.
pub(super) fn both(first: &[PointShape], second: &[PointShape]) -> Vec<PointShape> {
    let second = second.iter().map(|shape| PointShape { point: shape.point.of_second(), ..*shape });
    first.iter().copied().chain(second).collect()
}

impl<B: Backend> Model<B> for Pair<B> {
    fn spec(&self) -> &ModelSpec {
        self.first.spec()
    }

    fn shape(&self) -> BatchShape {
        self.first.shape()
    }

    fn points(&self) -> &[PointShape] {
        &self.points
    }

    fn forward(&mut self, batch: &TokenBatch, taps: &mut dyn Taps<B>) -> Result<()> {
        self.first.forward(batch, taps)?;
        self.second.forward(batch, &mut OfSecond(taps)).map_err(|e| e.context("run the second model"))
    }

    fn unembed(&mut self, hidden: &[f32], logits: &mut Vec<f32>) -> Result<()> {
        self.first.unembed(hidden, logits)
    }

    fn token_effects(&mut self, directions: &[f32], effects: &mut Vec<f32>) -> Result<()> {
        self.first.token_effects(directions, effects)
    }
}

/// Taps that are shown the second model's points as such.
struct OfSecond<'a, B: Backend>(&'a mut dyn Taps<B>);

impl<B: Backend> Taps<B> for OfSecond<'_, B> {
    fn wants(&self, point: HookPoint) -> Want {
        self.0.wants(point.of_second())
    }

    fn visit(
        &mut self,
        backend: &B,
        point: HookPoint,
        value: &mut B::Tensor,
        n_rows: usize,
        width: usize,
    ) -> Result<()> {
        self.0.visit(backend, point.of_second(), value, n_rows, width)
    }
}
