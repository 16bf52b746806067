//! The parameters of a coder, and buffers of the same shape: gradients and moments.

use crate::compute::CoderOps;
use crate::compute::coder_ops::CoderDims;

/// One value for each parameter tensor: the tensors themselves, their gradients, or moments.
#[derive(Clone, Debug)]
pub struct PerParam<T> {
    /// `[f, d]`: encoder rows.
    pub w_enc: T,
    /// `[f]`.
    pub b_enc: T,
    /// `[f, out]`: decoder rows, the directions of the latents.
    pub w_dec: T,
    /// `[out]`: added to the reconstruction and, where the coder says so, subtracted from the input.
    pub b_dec: T,
    /// `[f]` each: what the selection has besides ([`SelectionSettings::extra_params`]), by name.
    ///
    /// [`SelectionSettings::extra_params`]: crate::sae::settings::SelectionSettings::extra_params
    pub extra: Vec<(&'static str, T)>,
}

/// Parameters.
pub type Params<B> = PerParam<<B as crate::compute::Backend>::Tensor>;

/// Gradients of a loss with respect to [`Params`].
pub type Gradients<B> = PerParam<<B as crate::compute::Backend>::Tensor>;

impl<T> PerParam<T> {
    /// Names, in the order of [`PerParam::each`].
    pub fn names(&self) -> Vec<&'static str> {
        names(&self.extra.iter().map(|(name, _)| *name).collect::<Vec<_>>())
    }

    /// All of them: `w_enc`, `b_enc`, `w_dec`, `b_dec`, then the extra ones.
    pub fn each(&self) -> Vec<&T> {
        let extra = self.extra.iter().map(|(_, value)| value);
        [&self.w_enc, &self.b_enc, &self.w_dec, &self.b_dec].into_iter().chain(extra).collect()
    }

    /// As [`PerParam::each`].
    pub fn each_mut(&mut self) -> Vec<&mut T> {
        let extra = self.extra.iter_mut().map(|(_, value)| value);
        [&mut self.w_enc, &mut self.b_enc, &mut self.w_dec, &mut self.b_dec].into_iter().chain(extra).collect()
    }

    /// One for each parameter, in the order of [`PerParam::each`]; `extra` names those after the fourth.
    ///
    /// # Errors
    /// The first that `make` gives; it is called with the position.
    pub fn build<E>(extra: &[&'static str], mut make: impl FnMut(usize) -> Result<T, E>) -> Result<Self, E> {
        Ok(Self {
            w_enc: make(0)?,
            b_enc: make(1)?,
            w_dec: make(2)?,
            b_dec: make(3)?,
            extra: extra
                .iter()
                .enumerate()
                .map(|(i, name)| Ok((*name, make(4 + i)?)))
                .collect::<Result<Vec<_>, E>>()?,
        })
    }

    /// The extra parameter `name`, which the selection declared.
    pub fn extra(&self, name: &str) -> &T {
        let found = self.extra.iter().find(|(n, _)| *n == name);
        &found.expect("a selection asks for parameters that it declared").1
    }

    /// As [`PerParam::extra`].
    pub fn extra_mut(&mut self, name: &str) -> &mut T {
        let found = self.extra.iter_mut().find(|(n, _)| *n == name);
        &mut found.expect("a selection asks for parameters that it declared").1
    }
}

/// Names of all parameters of a coder with these extra ones.
pub fn names(extra: &[&'static str]) -> Vec<&'static str> {
    ["w_enc", "b_enc", "w_dec", "b_dec"].into_iter().chain(extra.iter().copied()).collect()
}

/// Shapes, in the order of [`PerParam::each`].
pub fn shapes(CoderDims { d, f, out, .. }: CoderDims, extra: &[&'static str]) -> Vec<Vec<usize>> {
    let fixed = [vec![f, d], vec![f], vec![f, out], vec![out]];
    fixed.into_iter().chain(extra.iter().map(|_| vec![f])).collect()
}

/// Zeros for each parameter.
pub fn zeros<B: CoderOps>(backend: &B, dims: CoderDims, extra: &[&'static str]) -> PerParam<B::Tensor> {
    let shapes = shapes(dims, extra);
    let made: Result<_, std::convert::Infallible> =
        PerParam::build(extra, |i| Ok(backend.zeros(shapes[i].iter().product())));
    match made {
        Ok(zeros) => zeros,
    }
}
