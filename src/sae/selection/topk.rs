//! The k largest positive pre-activations of each row (Makhzani & Frey 2013; Gao et al. 2024).

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, CoderDims, Rule};
use crate::sae::selection::{Input, Selection};
use crate::sae::settings::KAnneal;

/// `f = u` where `u` (or `u |w_dec|`) is among the `k` largest of its row and positive.
pub struct TopK<B: CoderOps> {
    k: usize,
    anneal: Option<KAnneal>,
    /// `[rows, f]` where the ranking needs all pre-activations: by decoder norms.
    u: Option<B::Tensor>,
}

impl<B: CoderOps> TopK<B> {
    /// For batches of up to `rows` rows; `ranked`: by `u |w_dec|`.
    pub fn new(backend: &B, dims: CoderDims, rows: usize, (k, anneal): (usize, Option<KAnneal>), ranked: bool) -> Self {
        Self { k, anneal, u: ranked.then(|| backend.zeros(rows * dims.f)) }
    }
}

impl<B: CoderOps> Selection<B> for TopK<B> {
    fn encode(&mut self, input: &Input<'_, B>, code: &mut Code<B>) {
        let Input { backend, params, dims, c, n, norms, step, .. } = *input;
        code.rows = n;
        let k = self.anneal.map_or(self.k, |anneal| anneal.at(step, self.k as f64).round() as usize);
        code.k = k;
        match &mut self.u {
            None => backend.encode_topk(c, &params.w_enc, &params.b_enc, dims, None, code),
            Some(u) => {
                backend.pre_activations(c, &params.w_enc, &params.b_enc, u, n, dims);
                backend.select(u, dims.f, Rule::RowLargest { k, score: Some(norms), signed: false }, code);
            }
        }
    }
}
