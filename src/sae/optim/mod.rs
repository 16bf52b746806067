//! How parameters are updated: the gradient's norm is bounded, the rate follows a schedule, an optimiser applies it. What
//! is evaluated and exported may be an average of the parameters.

pub mod adam;
pub mod average;
pub mod clip;
pub mod muon;
pub mod schedule;
pub mod signum;

pub use adam::Adam;
pub use average::Average;
pub use muon::Muon;
pub use schedule::Schedule;
pub use signum::Signum;

use crate::compute::CoderOps;
use crate::sae::config::OptimizerConfig;
use crate::sae::params::{Gradients, Params, PerParam};
use crate::sae::settings::CoderSettings;

/// One of the optimisers, with its state.
pub enum Optimizer<B: CoderOps> {
    /// Adam and AdamW.
    Adam(Adam<B>),
    /// Schedule-free signs.
    Signum(Signum<B>),
    /// Orthogonalised momentum.
    Muon(Muon<B>),
}

impl<B: CoderOps> Optimizer<B> {
    /// Before the first update.
    pub fn new(backend: &B, settings: &CoderSettings, config: &OptimizerConfig) -> Self {
        match config {
            OptimizerConfig::Adam { betas, epsilon, weight_decay, .. } => {
                let adam = Adam::new(backend, settings, *betas, *epsilon);
                Self::Adam(Adam { weight_decay: *weight_decay, ..adam })
            }
            OptimizerConfig::Signum { beta, .. } => Self::Signum(Signum::new(backend, settings, *beta)),
            OptimizerConfig::Muon { momentum, weight_decay, .. } => {
                Self::Muon(Muon::new(backend, settings, *momentum, *weight_decay))
            }
        }
    }

    /// One update with `gradient_scale * gradients`.
    pub fn update(
        &mut self,
        backend: &B,
        params: &mut Params<B>,
        gradients: &Gradients<B>,
        learning_rate: f64,
        gradient_scale: f64,
    ) {
        match self {
            Self::Adam(adam) => adam.update(backend, params, gradients, learning_rate, gradient_scale),
            Self::Signum(signum) => signum.update(backend, params, gradients, learning_rate),
            Self::Muon(muon) => muon.update(backend, params, gradients, learning_rate, gradient_scale),
        }
    }

    /// Updates so far.
    pub fn updates(&self) -> u64 {
        match self {
            Self::Adam(adam) => adam.t,
            Self::Signum(signum) => signum.t,
            Self::Muon(muon) => muon.t,
        }
    }

    /// The scalar of its state besides; 0 where there is none.
    pub fn weight(&self) -> f64 {
        match self {
            Self::Adam(_) | Self::Muon(_) => 0.0,
            Self::Signum(signum) => signum.weight,
        }
    }

    /// Set what [`Optimizer::updates`] and [`Optimizer::weight`] gave.
    pub fn restore(&mut self, updates: u64, weight: f64) {
        match self {
            Self::Adam(adam) => adam.t = updates,
            Self::Signum(signum) => (signum.t, signum.weight) = (updates, weight),
            Self::Muon(muon) => muon.t = updates,
        }
    }

    /// Its tensors, with the prefixes of their names in a checkpoint.
    pub fn groups(&self) -> Vec<(&'static str, &PerParam<B::Tensor>)> {
        match self {
            Self::Adam(adam) => vec![("adam.m.", &adam.m), ("adam.v.", &adam.v)],
            Self::Signum(signum) => vec![("signum.z.", &signum.z)],
            Self::Muon(muon) => vec![("muon.m.", &muon.m), ("muon.v.", &muon.v)],
        }
    }

    /// As [`Optimizer::groups`].
    pub fn groups_mut(&mut self) -> Vec<(&'static str, &mut PerParam<B::Tensor>)> {
        match self {
            Self::Adam(adam) => vec![("adam.m.", &mut adam.m), ("adam.v.", &mut adam.v)],
            Self::Signum(signum) => vec![("signum.z.", &mut signum.z)],
            Self::Muon(muon) => vec![("muon.m.", &mut muon.m), ("muon.v.", &mut muon.v)],
        }
    }

    /// Forget what it remembers of a latent, whose parameters were set anew.
    pub fn forget(&mut self, backend: &B, params: &Params<B>, latent: usize, (d, out): (usize, usize)) {
        let (mut encoder, mut decoder) = (vec![0.0; d], vec![0.0; out]);
        match self {
            Self::Adam(_) | Self::Muon(_) => {
                for (_, group) in self.groups_mut() {
                    backend.write(&mut group.w_enc, latent * d, &encoder);
                    backend.write(&mut group.w_dec, latent * out, &decoder);
                    backend.write(&mut group.b_enc, latent, &[0.0]);
                }
            }
            Self::Signum(signum) => {
                backend.read(&params.w_enc, latent * d, &mut encoder);
                backend.write(&mut signum.z.w_enc, latent * d, &encoder);
                backend.read(&params.w_dec, latent * out, &mut decoder);
                backend.write(&mut signum.z.w_dec, latent * out, &decoder);
                backend.write(&mut signum.z.b_enc, latent, &[0.0]);
            }
        }
    }

    /// What the coder is evaluated with, where that is not its parameters.
    pub fn averaged(&self, backend: &B, params: &Params<B>) -> Option<Params<B>> {
        match self {
            Self::Adam(_) | Self::Muon(_) => None,
            Self::Signum(signum) => Some(signum.averaged(backend, params)),
        }
    }
}

#[cfg(test)]
mod tests;
