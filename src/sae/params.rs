//! The parameters of a linear encoder and decoder, and buffers of the same shape: gradients and moments.

use crate::compute::CoderOps;
use crate::compute::coder_ops::CoderDims;

/// One value for each parameter tensor: the tensors themselves, their gradients, or moments.
#[derive(Clone, Debug)]
pub struct PerParam<T> {
    /// `[f, d]`: encoder rows.
    pub w_enc: T,
    /// `[f]`.
    pub b_enc: T,
    /// `[f, d]`: decoder rows, the directions of the latents.
    pub w_dec: T,
    /// `[d]`: added to the reconstruction and subtracted from the input.
    pub b_dec: T,
}

/// Parameters.
pub type Params<B> = PerParam<<B as crate::compute::Backend>::Tensor>;

/// Gradients of a loss with respect to [`Params`].
pub type Gradients<B> = PerParam<<B as crate::compute::Backend>::Tensor>;

impl<T> PerParam<T> {
    /// Names, in the order of [`PerParam::each`].
    pub const NAMES: [&'static str; 4] = ["w_enc", "b_enc", "w_dec", "b_dec"];

    /// All four, in the order of [`PerParam::NAMES`].
    pub fn each(&self) -> [&T; 4] {
        [&self.w_enc, &self.b_enc, &self.w_dec, &self.b_dec]
    }

    /// As [`PerParam::each`].
    pub fn each_mut(&mut self) -> [&mut T; 4] {
        [&mut self.w_enc, &mut self.b_enc, &mut self.w_dec, &mut self.b_dec]
    }
}

/// How many numbers each tensor of a coder has, in the order of [`PerParam::NAMES`].
pub fn lengths(CoderDims { d, f }: CoderDims) -> [usize; 4] {
    [f * d, f, f * d, d]
}

/// Shapes, in the order of [`PerParam::NAMES`].
pub fn shapes(CoderDims { d, f }: CoderDims) -> [Vec<usize>; 4] {
    [vec![f, d], vec![f], vec![f, d], vec![d]]
}

/// Zeros for each parameter.
pub fn zeros<B: CoderOps>(backend: &B, dims: CoderDims) -> PerParam<B::Tensor> {
    let [w_enc, b_enc, w_dec, b_dec] = lengths(dims).map(|len| backend.zeros(len));
    PerParam { w_enc, b_enc, w_dec, b_dec }
}
