//! One block: norms, attention, MLP, and how they join the residual stream.

use std::mem::swap;

use crate::compute::ModelOps;
use crate::hooks::{HookPoint, Site};
use crate::model::blocks::attention::{Attention, AttentionPlan};
use crate::model::blocks::loader::Loader;
use crate::model::blocks::mlp::Mlp;
use crate::model::blocks::norm::{Norm, NormPoints};
use crate::model::blocks::pass::{Pass, Step};
use crate::model::blocks::workspace::Workspace;
use crate::model::spec::BlockForm;

/// A block's weights.
pub(in crate::model) struct Block<B: ModelOps> {
    layer: u32,
    form: BlockForm,
    d_model: usize,
    ln1: Option<Norm<B>>,
    attention: Attention<B>,
    ln1_post: Option<Norm<B>>,
    ln2: Option<Norm<B>>,
    mlp: Mlp<B>,
    ln2_post: Option<Norm<B>>,
}

const LN1: [Site; 3] = [Site::Ln1Scale, Site::Ln1Normalized, Site::Ln1Out];
const LN1_POST: [Site; 3] = [Site::Ln1PostScale, Site::Ln1PostNormalized, Site::AttnOut];
const LN2: [Site; 3] = [Site::Ln2Scale, Site::Ln2Normalized, Site::Ln2Out];
const LN2_POST: [Site; 3] = [Site::Ln2PostScale, Site::Ln2PostNormalized, Site::MlpOut];

impl<B: ModelOps> Block<B> {
    /// Block `layer`.
    pub(in crate::model) fn load(loader: &mut Loader<'_, B>, layer: u32) -> Self {
        let (form, d, names) = (loader.spec.form, loader.spec.d_model, loader.names());
        let norm = |loader: &mut Loader<'_, B>, name: &str| {
            let name = loader.in_block(layer, name);
            Norm::load(loader, &name, d)
        };
        Self {
            layer,
            form,
            d_model: d,
            ln1: form.has_pre_norms().then(|| norm(loader, names.ln1)),
            attention: Attention::load(loader, layer),
            ln1_post: form.has_post_norms().then(|| norm(loader, names.ln1_post)),
            ln2: form.has_second_norm().then(|| norm(loader, names.ln2)),
            mlp: Mlp::load(loader, layer),
            ln2_post: form.has_post_norms().then(|| norm(loader, names.ln2_post)),
        }
    }

    /// `ws.x = block(ws.x)`.
    pub(in crate::model) fn apply(
        &self,
        pass: &mut Pass<'_, B>,
        plan: &AttentionPlan<B>,
        ws: &mut Workspace<B::Tensor>,
    ) -> Step {
        let (b, len) = (pass.backend, pass.n * self.d_model);
        let at = |site| HookPoint::block(self.layer, site);
        pass.tap(at(Site::ResidPre), &mut ws.x, self.d_model)?;
        self.norm(pass, self.ln1.as_ref(), LN1, ws)?;
        let straight = self.goes_straight(pass, Site::AttnOut);
        self.attention.apply(pass, plan, [self.ln1.is_some(), straight], ws)?;
        if !straight {
            self.leave(pass, self.ln1_post.as_ref(), Site::AttnRaw, LN1_POST, ws)?;
        }
        if self.form.is_parallel() {
            swap(&mut ws.branch, &mut ws.first_branch);
        } else {
            if !straight {
                b.add(&mut ws.x, &ws.branch, len);
            }
            pass.tap(at(Site::ResidMid), &mut ws.x, self.d_model)?;
        }
        self.norm(pass, self.ln2.as_ref(), LN2, ws)?;
        let straight = self.goes_straight(pass, Site::MlpOut) && self.mlp.is_dense();
        self.mlp.apply(pass, [self.form.has_pre_norms(), straight], ws)?;
        if !straight {
            self.leave(pass, self.ln2_post.as_ref(), Site::MlpRaw, LN2_POST, ws)?;
            if self.form.is_parallel() {
                b.add(&mut ws.x, &ws.first_branch, len);
            }
            b.add(&mut ws.x, &ws.branch, len);
        }
        pass.tap(at(Site::ResidPost), &mut ws.x, self.d_model)
    }

    /// Whether a branch is added to the residual stream as it is computed: nothing stands between, and nobody wants `out`,
    /// what it adds. The sums are the same either way.
    fn goes_straight(&self, pass: &Pass<'_, B>, out: Site) -> bool {
        !self.form.has_post_norms() && !self.form.is_parallel() && !pass.wants(HookPoint::block(self.layer, out))
    }

    /// `ws.normed = norm(ws.x)`, if there is a norm.
    fn norm(
        &self,
        pass: &mut Pass<'_, B>,
        norm: Option<&Norm<B>>,
        sites: [Site; 3],
        ws: &mut Workspace<B::Tensor>,
    ) -> Step {
        let Some(norm) = norm else { return Ok(()) };
        norm.apply(pass, NormPoints::block(self.layer, sites), &ws.x, &mut ws.normed)
    }

    /// What a branch adds, in `ws.branch`: through its norm, if there is one.
    fn leave(
        &self,
        pass: &mut Pass<'_, B>,
        norm: Option<&Norm<B>>,
        raw: Site,
        sites: [Site; 3],
        ws: &mut Workspace<B::Tensor>,
    ) -> Step {
        let at = |site| HookPoint::block(self.layer, site);
        let Some(norm) = norm else { return pass.tap(at(sites[2]), &mut ws.branch, self.d_model) };
        pass.tap(at(raw), &mut ws.branch, self.d_model)?;
        norm.apply(pass, NormPoints::block(self.layer, sites), &ws.branch, &mut ws.normed)?;
        swap(&mut ws.branch, &mut ws.normed);
        Ok(())
    }
}
