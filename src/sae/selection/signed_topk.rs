//! The k largest pre-activations of each row, whatever their sign, as they are (Makhzani & Frey 2013): no ReLU.

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, Rule};
use crate::sae::selection::{Input, Selection};
use crate::sae::settings::KAnneal;

/// `f = u` where `u` is among the `k` largest of its row.
pub struct SignedTopK {
    k: usize,
    anneal: Option<KAnneal>,
}

impl SignedTopK {
    /// With `k` latents a row in the end.
    pub fn new(k: usize, anneal: Option<KAnneal>) -> Self {
        Self { k, anneal }
    }
}

impl<B: CoderOps> Selection<B> for SignedTopK {
    fn encode(&mut self, input: &Input<'_, B>, code: &mut Code<B>) {
        let Input { backend, params, dims, c, n, step, .. } = *input;
        code.rows = n;
        let k = self.anneal.map_or(self.k, |anneal| anneal.at(step, self.k as f64).round() as usize);
        let rule = Rule::RowLargest { k, score: None, signed: true };
        backend.encode(c, &params.w_enc, &params.b_enc, dims, rule, code);
    }
}
