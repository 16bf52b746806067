//! The `k n` largest positive pre-activations of a batch of `n` rows (Bussmann et al. 2024): rows share a budget.
//!
//! Single rows have no batch: at inference a latent is active above a threshold, the moving average of the least value
//! that batches kept ([`crate::sae::state`]).

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, Rule};
use crate::sae::selection::{Input, Selection};
use crate::sae::settings::KAnneal;

/// `f = u` where `u` (or `u |w_dec|`) is among the `k n` largest of the batch and positive.
pub struct BatchTopK {
    k: f64,
    anneal: Option<KAnneal>,
    ranked: bool,
}

impl BatchTopK {
    /// `ranked`: by `u |w_dec|`.
    pub fn new((k, anneal): (f64, Option<KAnneal>), ranked: bool) -> Self {
        Self { k, anneal, ranked }
    }
}

impl<B: CoderOps> Selection<B> for BatchTopK {
    fn encode(&mut self, input: &Input<'_, B>, code: &mut Code<B>) {
        let Input { backend, params, dims, c, n, norms, step, .. } = *input;
        code.rows = n;
        let k = self.anneal.map_or(self.k, |anneal| anneal.at(step, self.k));
        let count = (k * n as f64).floor() as usize;
        let rule = Rule::BatchLargest { count, score: self.ranked.then_some(norms) };
        backend.encode(c, &params.w_enc, &params.b_enc, dims, rule, code);
    }
}
