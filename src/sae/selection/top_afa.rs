//! As many latents of a row as its own norm asks for (2025, top-AFA): with nearly orthogonal decoder rows of norm 1 the
//! code is as long as what it reconstructs, so no `k` has to be chosen.
//!
//! ```text
//! k_b = argmin_k | |the k largest of u_b| - |y_b - b_dec| |          f = the k_b largest of u, where positive
//! L  += coefficient / n sum_b (|f_b| - |y_b|)^2
//! ```
//!
//! Values count times the norms of their decoder rows. The encoder has no bias: `b_enc` stays 0. At inference a latent is
//! active above a threshold, as in [`crate::sae::selection::batch_topk`].

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, CoderDims, Rule};
use crate::sae::params::Gradients;
use crate::sae::selection::{Input, Pass, Selection, SelectionLosses, host};

/// See the module.
pub struct TopAfa<B: CoderOps> {
    coefficient: f64,
    /// `[rows, f]`.
    u: B::Tensor,
    /// `[rows]` norms.
    lengths: B::Tensor,
}

impl<B: CoderOps> TopAfa<B> {
    /// For batches of up to `rows` rows.
    pub fn new(backend: &B, dims: CoderDims, rows: usize, coefficient: f64) -> Self {
        Self { coefficient, u: backend.zeros(rows * dims.f), lengths: backend.zeros(rows) }
    }
}

impl<B: CoderOps> Selection<B> for TopAfa<B> {
    fn encode(&mut self, input: &Input<'_, B>, code: &mut Code<B>) {
        let Input { backend, params, dims, c, target, n, norms, .. } = *input;
        code.rows = n;
        backend.pre_activations(c, &params.w_enc, &params.b_enc, &mut self.u, n, dims);
        backend.row_norms(target, &mut self.lengths, n, dims.out);
        backend.select(&self.u, dims.f, Rule::RowNorm { norm: &self.lengths, score: Some(norms) }, code);
    }

    fn backward(&mut self, input: &Input<'_, B>, pass: &mut Pass<'_, B>) -> SelectionLosses {
        let Input { backend, params, dims, target, n, .. } = *input;
        let mut sparsity = pass.penalties.apply(input, pass.code, pass.by_latent, pass.g_code);
        if self.coefficient > 0.0 {
            let minus: Vec<f64> = host(backend, &params.b_dec, dims.out).into_iter().map(|b| -b).collect();
            let mut center = backend.zeros(dims.out);
            backend.write_f64(&mut center, 0, &minus);
            backend.row_distances(target, &center, &mut self.lengths, n, dims.out);
            let weight = self.coefficient / n as f64;
            sparsity += weight * backend.norm_distance(pass.code, &self.lengths, weight, pass.g_code);
        }
        SelectionLosses { sparsity, auxiliary: 0.0 }
    }

    fn finish(&mut self, input: &Input<'_, B>, gradients: &mut Gradients<B>) {
        input.backend.write_f64(&mut gradients.b_enc, 0, &vec![0.0; input.dims.f]);
    }
}
