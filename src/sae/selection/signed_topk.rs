//! The k largest pre-activations of each row, whatever their sign, as they are (Makhzani & Frey 2013): no ReLU.

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, CoderDims, Rule};
use crate::sae::selection::{Input, Selection};
use crate::sae::settings::KAnneal;

/// `f = u` where `u` is among the `k` largest of its row.
pub struct SignedTopK<B: CoderOps> {
    k: usize,
    anneal: Option<KAnneal>,
    /// `[rows, f]`.
    u: B::Tensor,
}

impl<B: CoderOps> SignedTopK<B> {
    /// For batches of up to `rows` rows.
    pub fn new(backend: &B, dims: CoderDims, rows: usize, k: usize, anneal: Option<KAnneal>) -> Self {
        Self { k, anneal, u: backend.zeros(rows * dims.f) }
    }
}

impl<B: CoderOps> Selection<B> for SignedTopK<B> {
    fn encode(&mut self, input: &Input<'_, B>, code: &mut Code<B>) {
        let Input { backend, params, dims, c, n, step, .. } = *input;
        code.rows = n;
        let k = self.anneal.map_or(self.k, |anneal| anneal.at(step, self.k as f64).round() as usize);
        backend.pre_activations(c, &params.w_enc, &params.b_enc, &mut self.u, n, dims);
        backend.select(&self.u, dims.f, Rule::RowLargest { k, score: None, signed: true }, code);
    }
}
