//! Norms with their two hook points.

use crate::compute::ModelOps;
use crate::compute::model_ops::NormDims;
use crate::hooks::HookPoint;
use crate::model::ModelSpec;
use crate::model::blocks::pass::{Pass, Step};
use crate::model::weights::Weights;

/// An RMS norm (no bias) or a layer norm.
pub(in crate::model) struct Norm<B: ModelOps> {
    /// `[d]`.
    weight: B::Tensor,
    /// `[d]`; a layer norm has one.
    bias: Option<B::Tensor>,
    d: usize,
    eps: f64,
}

/// A norm's two points.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct NormPoints {
    /// Before weight and bias.
    pub(in crate::model) normalized: HookPoint,
    /// After them.
    pub(in crate::model) out: HookPoint,
}

impl<B: ModelOps> Norm<B> {
    /// The RMS norm `NAME.weight`.
    pub(in crate::model) fn load_rms(backend: &B, weights: &mut Weights, name: &str, spec: &ModelSpec) -> Self {
        let weight = backend.upload(&weights.tensor(&format!("{name}.weight"), &[spec.d_model]));
        Self { weight, bias: None, d: spec.d_model, eps: spec.norm_eps }
    }

    /// The layer norm `NAME.weight`, `NAME.bias`.
    pub(in crate::model) fn load_layer(backend: &B, weights: &mut Weights, name: &str, spec: &ModelSpec) -> Self {
        let bias = backend.upload(&weights.tensor(&format!("{name}.bias"), &[spec.d_model]));
        Self { bias: Some(bias), ..Self::load_rms(backend, weights, name, spec) }
    }

    /// `y = norm(x)`, both `[n, d]`. `y` also serves for the value before weight and bias, if that is wanted.
    pub(in crate::model) fn apply(
        &self,
        pass: &mut Pass<'_, B>,
        points: NormPoints,
        x: &B::Tensor,
        y: &mut B::Tensor,
    ) -> Step {
        let dims = NormDims { n: pass.n, d: self.d, eps: self.eps };
        if pass.wants(points.normalized) {
            match &self.bias {
                Some(_) => pass.backend.layer_norm(x, None, y, dims),
                None => pass.backend.rms_norm(x, None, y, dims),
            }
        }
        pass.tap(points.normalized, y, self.d)?;
        match &self.bias {
            Some(bias) => pass.backend.layer_norm(x, Some((&self.weight, bias)), y, dims),
            None => pass.backend.rms_norm(x, Some(&self.weight), y, dims),
        }
        pass.tap(points.out, y, self.d)
    }
}
