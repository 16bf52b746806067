//! Latents that are pairs (KronSAE, Kurochkin et al. 2025): a head has first and second parts, each with a direction, and a
//! latent for each pair, which is active where both of its parts are ("mAND"):
//!
//! ```text
//! p = max(c P^T + b_P, 0)    q = max(c Q^T + b_Q, 0)    z_ij = sqrt(p_i q_j + e) where p_i q_j > 0    f = the k largest z
//! ```
//!
//! A latent has no encoder row of its own, so gradients of entries are summed into those of the parts, and their directions
//! get theirs by a dense product: parts are few.

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, CoderDims, GradientTerm, PairShape, Rule, Subset};
use crate::sae::params::{Gradients, Params};
use crate::sae::selection::{Input, Selection};
use crate::sae::settings::KAnneal;

/// Names of its parameters: `[parts, d]` and `[parts]`, for each head first parts, then second ones.
pub(crate) const PARAMS: [&str; 2] = ["w_parts", "b_parts"];

/// See the module.
pub struct Pairs<B: CoderOps> {
    shape: PairShape,
    k: usize,
    anneal: Option<KAnneal>,
    /// `[rows, parts]` before the ReLU.
    parts: B::Tensor,
    /// `[rows, f]`.
    z: B::Tensor,
}

impl<B: CoderOps> Pairs<B> {
    /// For batches of up to `rows` rows.
    pub fn new(backend: &B, rows: usize, shape: PairShape, k: usize, anneal: Option<KAnneal>) -> Self {
        let (parts, z) = (backend.zeros(rows * shape.parts()), backend.zeros(rows * shape.latents()));
        Self { shape, k, anneal, parts, z }
    }
}

/// `z` of `c` `[n, d]`.
pub(crate) fn pre_activations<B: CoderOps>(
    backend: &B,
    params: &Params<B>,
    (c, n, dims): (&B::Tensor, usize, CoderDims),
    shape: PairShape,
    (parts, z): (&mut B::Tensor, &mut B::Tensor),
) {
    let [w, b] = PARAMS.map(|name| params.extra(name));
    backend.pre_activations(c, w, b, parts, n, CoderDims { f: shape.parts(), ..dims });
    backend.pair_heads(parts, shape, z, n);
}

impl<B: CoderOps> Selection<B> for Pairs<B> {
    fn encode(&mut self, input: &Input<'_, B>, code: &mut Code<B>) {
        let Input { backend, params, dims, c, n, step, .. } = *input;
        code.rows = n;
        pre_activations(backend, params, (c, n, dims), self.shape, (&mut self.parts, &mut self.z));
        let k = self.anneal.map_or(self.k, |anneal| anneal.at(step, self.k as f64).round() as usize);
        backend.select(&self.z, dims.f, Rule::RowLargest { k, score: None, signed: false }, code);
    }

    fn encode_among(&self, input: &Input<'_, B>, among: &Subset<'_, B>, code: &mut Code<B>) {
        let Input { backend, dims, n, .. } = *input;
        let mut latents = vec![0; among.len];
        backend.read_index(among.latents, &mut latents);
        let mut weights = vec![0.0; dims.f];
        latents.iter().for_each(|&i| weights[i as usize] = 1.0);
        let mut score = backend.zeros(dims.f);
        backend.write_f64(&mut score, 0, &weights);
        code.rows = n;
        backend.select(&self.z, dims.f, Rule::RowLargest { k: code.k, score: Some(&score), signed: false }, code);
    }

    fn encoder_gradients(
        &self,
        input: &Input<'_, B>,
        terms: &[GradientTerm<'_, B>],
        subtract_bias: bool,
        gradients: &mut Gradients<B>,
    ) {
        let Input { backend, params, dims, c, n, .. } = *input;
        let parts = self.shape.parts();
        let mut g = backend.zeros(n * parts);
        for term in terms {
            backend.pair_gradients(&self.parts, self.shape, term.code, term.g_pre, &mut g);
        }
        backend.products(&g, c, gradients.extra_mut(PARAMS[0]), n, parts, dims.d);
        let mut sums = backend.zeros(parts);
        backend.column_sums(&g, 1.0, &mut sums, n, parts);
        if subtract_bias {
            backend.add_weighted_rows(&sums, params.extra(PARAMS[0]), -1.0, &mut gradients.b_dec, parts, dims.d);
        }
        *gradients.extra_mut(PARAMS[1]) = sums;
    }
}
