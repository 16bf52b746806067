//! What gradients are taken of: penalties on values, and reconstructions that a code takes part in.

use std::ops::Range;

use crate::compute::backend::Backend;
use crate::compute::coder_ops::{ByLatent, Code, CoderOps};

/// A function of one value `v`, or of a row's values, summed: [`CoderOps::penalize`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PenaltyShape {
    /// `v`.
    Linear,
    /// `tanh(scale v)`.
    Tanh {
        /// Steepness.
        scale: f64,
    },
    /// `v^p`; its slope is taken at `max(v, 1e-6)`.
    Power {
        /// Exponent.
        p: f64,
    },
    /// `(sum_i v_i^p)^(1/p)` of each row; slopes are taken at `max(v, 1e-6)`.
    RowNorm {
        /// Exponent.
        p: f64,
    },
}

/// Where [`CoderOps::penalize`] puts its gradients: at the code's places.
pub struct PenaltyGradients<'a, B: Backend + ?Sized> {
    /// The gradient with respect to each value is added.
    pub values: &'a mut B::Tensor,
    /// The gradient with respect to each entry's weight overwrites.
    pub weights: Option<&'a mut B::Tensor>,
}

/// One reconstruction that a batch's code takes part in, as seen by the backward pass.
pub struct GradientTerm<'a, B: CoderOps + ?Sized> {
    /// The code.
    pub code: &'a Code<B>,
    /// Its entries by latent.
    pub by_latent: &'a ByLatent<B>,
    /// `[n, k]` gradient of the loss with respect to the pre-activation of each entry.
    pub g_pre: &'a B::Tensor,
    /// `[n, out]` what is left of the target after the reconstruction.
    pub residual: &'a B::Tensor,
    /// The gradient with respect to the reconstruction is `residual_scale * residual`; 0: none reaches the decoder.
    pub residual_scale: f64,
    /// Only entries of these latents count.
    pub latents: Range<u32>,
}

/// Gradients of what belongs to latents.
pub struct LatentGradients<'a, B: Backend + ?Sized> {
    /// `[f, d]`.
    pub w_enc: &'a mut B::Tensor,
    /// `[f]`.
    pub b_enc: &'a mut B::Tensor,
    /// `[f, out]`.
    pub w_dec: &'a mut B::Tensor,
}
