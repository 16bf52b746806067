//! Norms with their hook points.

use crate::compute::ModelOps;
use crate::compute::model_ops::{NormDims, NormKind};
use crate::hooks::{HookPoint, Site};
use crate::model::blocks::loader::Loader;
use crate::model::blocks::pass::{Pass, Step};

/// An RMS norm (no bias) or a layer norm.
pub(in crate::model) struct Norm<B: ModelOps> {
    kind: NormKind,
    /// `[d]`.
    weight: B::Tensor,
    /// `[d]`; a layer norm has one.
    bias: Option<B::Tensor>,
    d: usize,
    eps: f64,
}

/// A norm's points: what it divides by, before weight and bias, after them.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct NormPoints {
    scale: HookPoint,
    normalized: HookPoint,
    out: HookPoint,
}

impl NormPoints {
    /// Of a norm in block `layer`.
    pub(in crate::model) fn block(layer: u32, [scale, normalized, out]: [Site; 3]) -> Self {
        let at = |site| HookPoint::block(layer, site);
        Self { scale: at(scale), normalized: at(normalized), out: at(out) }
    }

    /// Of the final norm.
    pub(in crate::model) fn last() -> Self {
        let at = HookPoint::outside;
        Self { scale: at(Site::LnFinalScale), normalized: at(Site::LnFinalNormalized), out: at(Site::LnFinalOut) }
    }
}

impl<B: ModelOps> Norm<B> {
    /// `NAME.weight` and, of a layer norm, `NAME.bias`, of `d` numbers.
    pub(in crate::model) fn load(loader: &mut Loader<'_, B>, name: &str, d: usize) -> Self {
        let spec = loader.spec.norm;
        let mut weight = loader.weights.tensor(&format!("{name}.weight"), &[d]);
        if spec.stored_minus_one {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        Self {
            kind: spec.kind,
            weight: loader.backend.upload(&weight),
            bias: (spec.kind == NormKind::Layer).then(|| loader.vector(&format!("{name}.bias"), d)),
            d,
            eps: spec.eps,
        }
    }

    /// `y = norm(x)`, both `[n, d]`. `y` also serves for the values on the side, if they are wanted.
    pub(in crate::model) fn apply(
        &self,
        pass: &mut Pass<'_, B>,
        points: NormPoints,
        x: &B::Tensor,
        y: &mut B::Tensor,
    ) -> Step {
        let dims = NormDims { n: pass.n, d: self.d, eps: self.eps };
        if pass.wants(points.scale) {
            pass.backend.norm_scale(self.kind, x, y, dims);
        }
        pass.tap(points.scale, y, 1)?;
        if pass.wants(points.normalized) {
            match self.kind {
                NormKind::Layer => pass.backend.layer_norm(x, None, y, dims),
                NormKind::Rms => pass.backend.rms_norm(x, None, y, dims),
            }
        }
        pass.tap(points.normalized, y, self.d)?;
        self.run(pass.backend, x, y, pass.n);
        pass.tap(points.out, y, self.d)
    }

    /// Rows `[n, d]` as they pass through the norm but for what it divides by: centred (a layer norm), times the weight.
    pub(in crate::model) fn linear_part(&self, backend: &B, rows: &[f32]) -> Vec<f32> {
        let mut weight = vec![0.0; self.d];
        backend.read(&self.weight, 0, &mut weight);
        let mut out = Vec::with_capacity(rows.len());
        for row in rows.chunks(self.d) {
            let mean = match self.kind {
                NormKind::Layer => row.iter().map(|&x| f64::from(x)).sum::<f64>() / self.d as f64,
                NormKind::Rms => 0.0,
            };
            out.extend(row.iter().zip(&weight).map(|(&x, &w)| ((f64::from(x) - mean) * f64::from(w)) as f32));
        }
        out
    }

    /// `y = norm(x)` of `n` rows, of which nothing can be captured.
    pub(in crate::model) fn run(&self, backend: &B, x: &B::Tensor, y: &mut B::Tensor, n: usize) {
        let dims = NormDims { n, d: self.d, eps: self.eps };
        match &self.bias {
            Some(bias) => backend.layer_norm(x, Some((&self.weight, bias)), y, dims),
            None => backend.rms_norm(x, Some(&self.weight), y, dims),
        }
    }
}
