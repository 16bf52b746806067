//! A reconstruction with a TopK code of its own, beside the coder's (Gao et al. 2024): AuxK, in which dead latents
//! reconstruct what the coder left, and multi-TopK, in which more latents reconstruct the input. Its gradients meet the
//! coder's in one backward pass of the encoder.

use crate::compute::CoderOps;
use crate::compute::coder_ops::{ByLatent, Code, CoderDims, GradientTerm, Rule, Subset};
use crate::sae::params::Params;
use crate::sae::selection::make_room;

/// Buffers of a branch, for batches of up to a fixed number of rows.
pub struct Branch<B: CoderOps> {
    code: Code<B>,
    by_latent: ByLatent<B>,
    g_pre: B::Tensor,
    residual: B::Tensor,
    residual_scale: f64,
    most: usize,
    held: Held<B>,
}

/// The latents that a branch looks at, gathered: encoder rows, biases, scores.
struct Held<B: CoderOps> {
    w_enc: B::Tensor,
    b_enc: B::Tensor,
    score: B::Tensor,
}

/// The latents that a branch chooses from.
pub struct Among<'a, B: CoderOps> {
    /// Which.
    pub subset: Subset<'a, B>,
    /// Whether they are gathered first, as a score and a sign need.
    pub holds: bool,
    /// `[f]` weights of the ranking.
    pub score: Option<&'a B::Tensor>,
    /// Whether entries that are not positive count.
    pub signed: bool,
}

impl<B: CoderOps> Branch<B> {
    /// Room for `rows` rows with up to `k` latents each.
    pub fn new(backend: &B, dims: CoderDims, rows: usize, k: usize) -> Self {
        Self {
            code: Code::new(backend, rows, k),
            by_latent: ByLatent::new(backend, rows, k, dims.f),
            g_pre: backend.zeros(rows * k),
            residual: backend.zeros(rows * dims.out),
            residual_scale: 0.0,
            most: k,
            held: Held { w_enc: backend.zeros(0), b_enc: backend.zeros(0), score: backend.zeros(0) },
        }
    }

    /// Keep up to `k` latents a row, or as many as there was room made for.
    pub fn limit_k(&mut self, k: usize) {
        self.code.k = self.most.min(k);
    }

    /// Encode `c` `[n, d]` among the latents of `among` and subtract the reconstruction (without bias) from `target`
    /// `[n, out]`.
    pub fn forward(
        &mut self,
        backend: &B,
        params: &Params<B>,
        dims: CoderDims,
        input: BranchInput<'_, B>,
        among: Option<Among<'_, B>>,
    ) {
        self.code.rows = input.n;
        match among {
            Some(among) if among.holds => self.encode_held(backend, params, dims, &input, among),
            among => {
                let among = among.map(|among| among.subset);
                backend.encode_topk(input.c, &params.w_enc, &params.b_enc, dims, among, &mut self.code);
            }
        }
        make_room(backend, &mut self.g_pre, self.code.places());
        backend.residual(&self.code, 0..u32::MAX, &params.w_dec, input.target, &mut self.residual, dims.out);
    }

    /// As [`Branch::forward`], with a code that `encode` sets: of up to `code.k` latents for each of `n` rows.
    pub fn forward_by(
        &mut self,
        backend: &B,
        params: &Params<B>,
        dims: CoderDims,
        (target, n): (&B::Tensor, usize),
        encode: impl FnOnce(&mut Code<B>),
    ) {
        self.code.rows = n;
        encode(&mut self.code);
        make_room(backend, &mut self.g_pre, self.code.places());
        backend.residual(&self.code, 0..u32::MAX, &params.w_dec, target, &mut self.residual, dims.out);
    }

    /// The code of latents that are ranked by more than the size of their pre-activations.
    fn encode_held(
        &mut self,
        backend: &B,
        params: &Params<B>,
        CoderDims { d, out, .. }: CoderDims,
        input: &BranchInput<'_, B>,
        Among { subset, score, signed, .. }: Among<'_, B>,
    ) {
        let (k, len) = (self.code.k, subset.len);
        let Held { w_enc, b_enc, score: own_score } = &mut self.held;
        make_room(backend, w_enc, len * d);
        make_room(backend, b_enc, len);
        backend.take_rows(&params.w_enc, &subset, w_enc, d);
        backend.take_rows(&params.b_enc, &subset, b_enc, 1);
        let score = score.map(|score| {
            make_room(backend, own_score, len);
            backend.take_rows(score, &subset, own_score, 1);
            &*own_score
        });
        let dims = CoderDims { d, f: len, out, groups: 1 };
        let rule = Rule::RowLargest { k, score, signed };
        backend.encode(input.c, w_enc, b_enc, dims, rule, &mut self.code);
        backend.rename(&mut self.code, &subset);
    }

    /// Take the gradient with respect to the reconstruction as `scale * residual` back to the pre-activations, and group
    /// the code by latent. No gradient flows through the choice of latents.
    pub fn backward(&mut self, backend: &B, params: &Params<B>, dims: CoderDims, scale: f64) {
        self.residual_scale = scale;
        backend.entry_dots(&self.code, 0..u32::MAX, &params.w_dec, &self.residual, scale, &mut self.g_pre, dims.out);
        backend.group_by_latent(&self.code, dims.f, &mut self.by_latent);
    }

    /// What the parameters' gradients need.
    pub fn term(&self) -> GradientTerm<'_, B> {
        GradientTerm {
            code: &self.code,
            by_latent: &self.by_latent,
            g_pre: &self.g_pre,
            residual: &self.residual,
            residual_scale: self.residual_scale,
            latents: 0..u32::MAX,
        }
    }

    /// `[n, out]` what is left of the target.
    pub fn residual(&self) -> &B::Tensor {
        &self.residual
    }
}

/// What a branch reads.
pub struct BranchInput<'a, B: CoderOps> {
    /// `[n, d]` centered input.
    pub c: &'a B::Tensor,
    /// `[n, out]` what is to be reconstructed.
    pub target: &'a B::Tensor,
    /// Rows.
    pub n: usize,
}
