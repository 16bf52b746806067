//! A mixture of experts with its hook points.

use crate::compute::ModelOps;
use crate::compute::model_ops::{Activation, ExpertDims, RouteDims};
use crate::hooks::{HookPoint, Site};
use crate::model::blocks::linear::Linear;
use crate::model::blocks::loader::Loader;
use crate::model::blocks::pass::{Pass, Step};
use crate::model::blocks::workspace::Workspace;
use crate::model::spec::ExpertsSpec;

/// A router, and gated MLPs of which each token uses a few.
pub(in crate::model) struct Experts<B: ModelOps> {
    layer: u32,
    spec: ExpertsSpec,
    d_model: usize,
    activation: Activation,
    router: Linear<B>,
    gates: Vec<B::Matrix>,
    ups: Vec<B::Matrix>,
    downs: Vec<B::Matrix>,
}

/// The buffers of a mixture of experts.
pub(in crate::model) struct ExpertBuffers<T> {
    /// `[n, r]`.
    logits: T,
    /// `[n, s]`.
    indices: T,
    /// `[n, s]`.
    weights: T,
    /// `[n, s, d]`.
    outputs: T,
}

impl<T> ExpertBuffers<T> {
    /// For `n` rows.
    pub(in crate::model) fn new(zeros: impl Fn(usize) -> T, spec: ExpertsSpec, d_model: usize) -> Self {
        let ExpertsSpec { count, chosen, .. } = spec;
        Self { logits: zeros(count), indices: zeros(chosen), weights: zeros(chosen), outputs: zeros(chosen * d_model) }
    }
}

impl<B: ModelOps> Experts<B> {
    /// Those of block `layer`.
    pub(in crate::model) fn load(loader: &mut Loader<'_, B>, layer: u32, spec: ExpertsSpec) -> Self {
        let (d, names) = (loader.spec.d_model, loader.names().experts);
        let router = loader.in_block(layer, names.router);
        let router = Linear::load(loader, &router, (d, spec.count), false);
        let mut bank = |matrix: &str, rows: usize, columns: usize| -> Vec<B::Matrix> {
            let one = |expert: usize| {
                let name = format!("{}.{expert}.{matrix}.weight", names.experts);
                let name = loader.in_block(layer, &name);
                loader.product_matrix(&name, rows, columns)
            };
            (0..spec.count).map(one).collect()
        };
        let [gate, up, down] = names.matrices;
        Self {
            gates: bank(gate, spec.d_expert, d),
            ups: bank(up, spec.d_expert, d),
            downs: bank(down, d, spec.d_expert),
            activation: loader.spec.mlp.activation,
            layer,
            spec,
            d_model: d,
            router,
        }
    }

    /// `ws.branch = mlp(x)`, with `x` in `ws.normed` if `from_norm`, else in `ws.x`.
    pub(in crate::model) fn apply(
        &self,
        pass: &mut Pass<'_, B>,
        from_norm: bool,
        ws: &mut Workspace<B::Tensor>,
    ) -> Step {
        let (b, n, d) = (pass.backend, pass.n, self.d_model);
        let ExpertsSpec { count, chosen, d_expert, renormalise } = self.spec;
        let at = |site| HookPoint::block(self.layer, site);
        let input = if from_norm { &ws.normed } else { &ws.x };
        let Some(own) = ws.experts.as_mut() else { return Ok(()) };
        self.router.apply(b, input, &mut own.logits, n);
        pass.tap(at(Site::RouterLogits), &mut own.logits, count)?;
        let route = RouteDims { n, experts: count, chosen, renormalise };
        b.route(&own.logits, &mut own.indices, &mut own.weights, route);
        pass.tap(at(Site::ExpertIndices), &mut own.indices, chosen)?;
        pass.tap(at(Site::ExpertWeights), &mut own.weights, chosen)?;
        let first = ExpertDims { n, chosen, n_in: d, n_out: d_expert, x_by_expert: false };
        b.expert_linear(input, &self.gates, &own.indices, &mut ws.hidden, first);
        pass.tap(at(Site::MlpPre), &mut ws.hidden, chosen * d_expert)?;
        b.expert_linear(input, &self.ups, &own.indices, &mut ws.up, first);
        pass.tap(at(Site::MlpPreLinear), &mut ws.up, chosen * d_expert)?;
        b.activate_mul(self.activation, &mut ws.hidden, &ws.up, n * chosen * d_expert);
        pass.tap(at(Site::MlpPost), &mut ws.hidden, chosen * d_expert)?;
        let last = ExpertDims { n_in: d_expert, n_out: d, x_by_expert: true, ..first };
        b.expert_linear(&ws.hidden, &self.downs, &own.indices, &mut own.outputs, last);
        pass.tap(at(Site::ExpertOut), &mut own.outputs, chosen * d)?;
        b.mix_experts(&own.outputs, &own.weights, &mut ws.branch, n, chosen, d);
        Ok(())
    }
}
