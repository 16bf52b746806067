//! An exponential moving average of the parameters, for evaluation (Gao et al. 2024).

use crate::compute::CoderOps;
use crate::sae::params::{self, Params, PerParam};
use crate::sae::settings::CoderSettings;

/// The average, and how fast it forgets.
pub struct Average<B: CoderOps> {
    /// Share of the average that stays in an update.
    pub decay: f64,
    /// It; zeros before the first update.
    pub params: PerParam<B::Tensor>,
}

impl<B: CoderOps> Average<B> {
    /// Before the first update.
    pub fn new(backend: &B, settings: &CoderSettings, decay: f64) -> Self {
        Self { decay, params: params::zeros(backend, settings) }
    }

    /// After the `t`-th update (from 1). Early on, all parameters so far weigh the same.
    pub fn update(&mut self, backend: &B, params: &Params<B>, t: u64) {
        let keep = self.decay.min(1.0 - 1.0 / t as f64);
        for (average, value) in self.params.each_mut().into_iter().zip(params.each()) {
            let len = backend.len(value);
            backend.combine(1.0 - keep, value, keep, average, len);
        }
    }
}
