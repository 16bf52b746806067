//! The MLP of a block with its hook points: dense, or a mixture of experts.

use crate::compute::ModelOps;
use crate::compute::model_ops::Activation;
use crate::compute::projection::Then;
use crate::hooks::{HookPoint, Site};
use crate::model::blocks::experts::Experts;
use crate::model::blocks::linear::Linear;
use crate::model::blocks::loader::Loader;
use crate::model::blocks::pass::{Pass, Step};
use crate::model::blocks::workspace::Workspace;

/// A block's MLP.
pub(in crate::model) enum Mlp<B: ModelOps> {
    Dense(Dense<B>),
    Experts(Experts<B>),
}

/// `last(f(first(x)) [* up(x)])`.
pub(in crate::model) struct Dense<B: ModelOps> {
    layer: u32,
    first: Linear<B>,
    up: Option<Linear<B>>,
    last: Linear<B>,
    activation: Activation,
    width: usize,
}

impl<B: ModelOps> Mlp<B> {
    /// That of block `layer`.
    pub(in crate::model) fn load(loader: &mut Loader<'_, B>, layer: u32) -> Self {
        match loader.spec.experts {
            Some(experts) if loader.spec.blocks[layer as usize].experts => {
                Self::Experts(Experts::load(loader, layer, experts))
            }
            _ => Self::Dense(Dense::load(loader, layer)),
        }
    }

    /// Whether it is not a mixture of experts.
    pub(in crate::model) fn is_dense(&self) -> bool {
        matches!(self, Self::Dense(_))
    }

    /// `ws.branch = mlp(x)`, with `x` in `ws.normed` if `from_norm`, else in `ws.x`; or `ws.x += mlp(x)` if it goes
    /// `onto_stream` at once, which a mixture of experts does not.
    pub(in crate::model) fn apply(
        &self,
        pass: &mut Pass<'_, B>,
        [from_norm, onto_stream]: [bool; 2],
        ws: &mut Workspace<B::Tensor>,
    ) -> Step {
        match self {
            Self::Dense(mlp) => mlp.apply(pass, [from_norm, onto_stream], ws),
            Self::Experts(mlp) => mlp.apply(pass, from_norm, ws),
        }
    }
}

impl<B: ModelOps> Dense<B> {
    fn load(loader: &mut Loader<'_, B>, layer: u32) -> Self {
        let (spec, names) = (loader.spec, loader.names().mlp);
        let (d, m) = (spec.d_model, spec.d_mlp);
        let mut linear = |name: &str, widths| {
            let name = loader.in_block(layer, name);
            Linear::load(loader, &name, widths, spec.mlp.bias)
        };
        let (first, last) = (names[0], names[names.len() - 1]);
        Self {
            layer,
            first: linear(first, (d, m)),
            up: spec.mlp.gated.then(|| linear(names[1], (d, m))),
            last: linear(last, (m, d)),
            activation: spec.mlp.activation,
            width: m,
        }
    }

    fn apply(
        &self,
        pass: &mut Pass<'_, B>,
        [from_norm, onto_stream]: [bool; 2],
        ws: &mut Workspace<B::Tensor>,
    ) -> Step {
        let (b, n, m) = (pass.backend, pass.n, self.width);
        let at = |site| HookPoint::block(self.layer, site);
        let input = if from_norm { &ws.normed } else { &ws.x };
        if pass.wants(at(Site::MlpPre)) || pass.wants(at(Site::MlpPreLinear)) {
            self.first.apply(b, input, &mut ws.hidden, n);
            pass.tap(at(Site::MlpPre), &mut ws.hidden, m)?;
            match &self.up {
                Some(up) => {
                    up.apply(b, input, &mut ws.up, n);
                    pass.tap(at(Site::MlpPreLinear), &mut ws.up, m)?;
                    b.activate_mul(self.activation, &mut ws.hidden, &ws.up, n * m);
                }
                None => b.activate(self.activation, &mut ws.hidden, n * m),
            }
        } else {
            // nobody looks between: one pass over the hidden layer
            let then = match &self.up {
                Some(up) => Then::Gate(self.activation, up.factor()),
                None => Then::Activate(self.activation),
            };
            self.first.apply_then(b, input, then, &mut ws.hidden, n);
        }
        pass.tap(at(Site::MlpPost), &mut ws.hidden, m)?;
        match onto_stream {
            true => self.last.apply_then(b, &ws.hidden, Then::Add, &mut ws.x, n),
            false => self.last.apply(b, &ws.hidden, &mut ws.branch, n),
        }
        Ok(())
    }
}
