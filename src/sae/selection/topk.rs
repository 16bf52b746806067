//! The k largest positive pre-activations of each row (Makhzani & Frey 2013; Gao et al. 2024).

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, Rule};
use crate::sae::selection::{Input, Selection};
use crate::sae::settings::KAnneal;

/// `f = u` where `u` (or `u |w_dec|`) is among the `k` largest of its row and positive.
pub struct TopK {
    k: usize,
    anneal: Option<KAnneal>,
    ranked: bool,
}

impl TopK {
    /// `ranked`: by `u |w_dec|`.
    pub fn new((k, anneal): (usize, Option<KAnneal>), ranked: bool) -> Self {
        Self { k, anneal, ranked }
    }
}

impl<B: CoderOps> Selection<B> for TopK {
    fn encode(&mut self, input: &Input<'_, B>, code: &mut Code<B>) {
        let Input { backend, params, dims, c, n, norms, step, .. } = *input;
        code.rows = n;
        let k = self.anneal.map_or(self.k, |anneal| anneal.at(step, self.k as f64).round() as usize);
        code.k = k;
        if !self.ranked {
            return backend.encode_topk(c, &params.w_enc, &params.b_enc, dims, None, code);
        }
        let rule = Rule::RowLargest { k, score: Some(norms), signed: false };
        backend.encode(c, &params.w_enc, &params.b_enc, dims, rule, code);
    }
}
