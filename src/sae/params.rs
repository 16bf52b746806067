//! The parameters of a coder, and buffers of the same shape: gradients and moments.

use crate::compute::CoderOps;
use crate::sae::settings::CoderSettings;

/// One value for each parameter tensor: the tensors themselves, their gradients, or moments. [`CoderSettings::params`] says
/// which there are; one of the first four that a coder does not have is empty.
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
    /// What selection and decoder map have besides, by name.
    pub extra: Vec<(&'static str, T)>,
}

/// Where `w_dec` is in [`PerParam::each`].
pub const W_DEC: usize = 2;

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

    /// The extra parameter `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<&T> {
        self.extra.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// The extra parameter `name`, which a block of the coder declared.
    pub fn extra(&self, name: &str) -> &T {
        self.find(name).expect("a block asks for parameters that it declared")
    }

    /// As [`PerParam::extra`].
    pub fn extra_mut(&mut self, name: &str) -> &mut T {
        let found = self.extra.iter_mut().find(|(n, _)| *n == name);
        &mut found.expect("a block asks for parameters that it declared").1
    }
}

/// Names of all parameters of a coder with these extra ones.
pub fn names(extra: &[&'static str]) -> Vec<&'static str> {
    ["w_enc", "b_enc", "w_dec", "b_dec"].into_iter().chain(extra.iter().copied()).collect()
}

/// Zeros for each parameter of a coder.
pub fn zeros<B: CoderOps>(backend: &B, settings: &CoderSettings) -> PerParam<B::Tensor> {
    let shapes = settings.params();
    let made: Result<_, std::convert::Infallible> =
        PerParam::build(&settings.extra_params(), |i| Ok(backend.zeros(shapes[i].1.iter().product())));
    match made {
        Ok(zeros) => zeros,
    }
}

/// Copies of all tensors.
pub fn copied<B: CoderOps>(backend: &B, params: &Params<B>) -> Params<B> {
    let (names, each) = (params.names(), params.each());
    let made: Result<_, std::convert::Infallible> = PerParam::build(&names[4..], |i| Ok(copy(backend, each[i])));
    match made {
        Ok(copies) => copies,
    }
}

/// A copy of one tensor.
pub fn copy<B: CoderOps>(backend: &B, from: &B::Tensor) -> B::Tensor {
    let len = backend.len(from);
    let mut to = backend.zeros(len);
    backend.combine(1.0, from, 0.0, &mut to, len);
    to
}
