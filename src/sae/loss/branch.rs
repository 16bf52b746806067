//! A reconstruction with a TopK code of its own, beside the coder's (Gao et al. 2024): AuxK, in which dead latents
//! reconstruct what the coder left, and multi-TopK, in which more latents reconstruct the input. Its gradients meet the
//! coder's in one backward pass of the encoder.

use crate::compute::CoderOps;
use crate::compute::coder_ops::{ByLatent, Code, CoderDims, GradientTerm, Subset};
use crate::sae::params::Params;

/// Buffers of a branch, for batches of up to a fixed number of rows.
pub struct Branch<B: CoderOps> {
    code: Code<B>,
    by_latent: ByLatent<B>,
    g_pre: B::Tensor,
    residual: B::Tensor,
    residual_scale: f64,
    most: usize,
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
        among: Option<Subset<'_, B>>,
    ) {
        self.code.rows = input.n;
        backend.encode_topk(input.c, &params.w_enc, &params.b_enc, dims, among, &mut self.code);
        backend.residual(&self.code, 0..u32::MAX, &params.w_dec, input.target, &mut self.residual, dims.out);
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
