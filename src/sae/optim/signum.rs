//! Steps of one size in the direction of the gradient's signs, schedule-free (Defazio et al. 2024): what sparsify trains
//! with.
//!
//! ```text
//! z <- z - rate sign(g(y))        x <- (1 - c) x + c z        y = (1 - beta) z + beta x        c = rate^2 / sum rate^2
//! ```
//!
//! Gradients are taken at `y`, which the coder's parameters are; `x`, an average of all `z`, is what it is evaluated and
//! exported with, and takes the place of a falling rate.

use crate::compute::CoderOps;
use crate::compute::coder_ops::SignStep;
use crate::sae::params::{self, Gradients, Params, PerParam};
use crate::sae::settings::CoderSettings;

/// `z` and the weights so far.
pub struct Signum<B: CoderOps> {
    /// Weight of `x` in `y`.
    pub beta: f64,
    /// Updates so far.
    pub t: u64,
    /// `sum rate^2`.
    pub weight: f64,
    /// `z`; `y` before the first update.
    pub z: PerParam<B::Tensor>,
}

impl<B: CoderOps> Signum<B> {
    /// Before the first update.
    pub fn new(backend: &B, settings: &CoderSettings, beta: f64) -> Self {
        let z = params::zeros(backend, settings);
        Self { beta, t: 0, weight: 0.0, z }
    }

    /// One update. Signs do not change with the gradients' size, so there is nothing to clip.
    pub fn update(&mut self, backend: &B, params: &mut Params<B>, gradients: &Gradients<B>, learning_rate: f64) {
        if self.t == 0 {
            for (z, y) in self.z.each_mut().into_iter().zip(params.each()) {
                let len = backend.len(y);
                backend.combine(1.0, y, 0.0, z, len);
            }
        }
        self.t += 1;
        self.weight += learning_rate * learning_rate;
        let share = if self.weight > 0.0 { learning_rate * learning_rate / self.weight } else { 1.0 };
        let step = SignStep { learning_rate, beta: self.beta, share };
        for ((y, g), z) in params.each_mut().into_iter().zip(gradients.each()).zip(self.z.each_mut()) {
            let len = backend.len(y);
            backend.schedule_free_sign(y, g, z, len, &step);
        }
    }

    /// `x`, from `y`: what is evaluated. It equals `y` before the first update.
    pub fn averaged(&self, backend: &B, y: &Params<B>) -> Params<B> {
        let extra: Vec<&'static str> = y.extra.iter().map(|(name, _)| *name).collect();
        let (each_y, each_z) = (y.each(), self.z.each());
        let made: Result<_, std::convert::Infallible> = PerParam::build(&extra, |i| {
            let len = backend.len(each_y[i]);
            let mut x = backend.zeros(len);
            backend.combine(1.0, each_y[i], 0.0, &mut x, len);
            if self.t > 0 {
                backend.combine(-(1.0 - self.beta) / self.beta, each_z[i], 1.0 / self.beta, &mut x, len);
            }
            Ok(x)
        });
        match made {
            Ok(x) => x,
        }
    }
}
