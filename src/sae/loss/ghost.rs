//! Ghost gradients (Jermyn & Templeton, January 2024; as in the code of Dunefsky et al. 2024): dead latents, with `exp` for the
//! ReLU, reconstruct what the coder left.
//!
//! ```text
//! a = exp(u)    o = a W_dec    o' = o |r| / (1e-6 + 2 |o|)    l = (o' - r)^2 / |r|    L = 1/n sum l q / (l + 1e-6)
//! ```
//!
//! over dead latents, rows and values, with `r = y - y^` and `q = r^2`. `r`, `q / (l + 1e-6)` and `|r| / (1e-6 + 2 |o|)` are
//! constants: the loss is as large as the reconstruction's, and only dead latents get a gradient.

use crate::compute::CoderOps;
use crate::compute::coder_ops::{ByLatent, Code, CoderDims, GradientTerm, Subset};
use crate::sae::selection::{Input, host, make_room};

/// Against divisions by 0.
const EPSILON: f64 = 1e-6;
/// Pre-activations count as at most this: their exponential has to stay finite.
const LARGEST: f64 = 20.0;

/// The loss, and what a step gathers.
pub struct Ghost<B: CoderOps> {
    latents: B::Index,
    w_enc: B::Tensor,
    u: B::Tensor,
    code: Code<B>,
    by_latent: ByLatent<B>,
    g_pre: B::Tensor,
    /// `[rows, out]` the gradient with respect to `o`.
    g: B::Tensor,
    on: bool,
}

impl<B: CoderOps> Ghost<B> {
    /// For batches of up to `rows` rows.
    pub fn new(backend: &B, dims: CoderDims, rows: usize) -> Self {
        Self {
            latents: backend.index(dims.f),
            w_enc: backend.zeros(0),
            u: backend.zeros(0),
            code: Code::new(backend, 0, 0),
            by_latent: ByLatent::new(backend, 0, 0, dims.f),
            g_pre: backend.zeros(0),
            g: backend.zeros(rows * dims.out),
            on: false,
        }
    }

    /// The loss of a batch of which the reconstruction left `residual`.
    pub fn forward(&mut self, input: &Input<'_, B>, residual: &B::Tensor) -> f64 {
        let Input { backend, params, dims, n, dead, .. } = *input;
        let out = dims.out;
        self.on = !dead.is_empty();
        if !self.on {
            return 0.0;
        }
        let values = self.encode(input);
        let zeros = backend.zeros(n * out);
        backend.residual(&self.code, 0..u32::MAX, &params.w_dec, &zeros, &mut self.g, out);
        let (mut g, left) = (host(backend, &self.g, n * out), host(backend, residual, n * out));
        let mut loss = 0.0;
        for (g, r) in g.chunks_exact_mut(out).zip(left.chunks_exact(out)) {
            g.iter_mut().for_each(|o| *o = -*o);
            loss += row(g, r, n as f64);
        }
        backend.write_f64(&mut self.g, 0, &g);
        make_room(backend, &mut self.g_pre, self.code.places());
        backend.entry_dots(&self.code, 0..u32::MAX, &params.w_dec, &self.g, 1.0, &mut self.g_pre, out);
        let mut slopes = host(backend, &self.g_pre, self.code.places());
        slopes.iter_mut().zip(&values).for_each(|(g, value)| *g *= value);
        backend.write_f64(&mut self.g_pre, 0, &slopes);
        backend.group_by_latent(&self.code, dims.f, &mut self.by_latent);
        loss
    }

    /// `a` of all dead latents, on the host too.
    fn encode(&mut self, input: &Input<'_, B>) -> Vec<f64> {
        let Input { backend, params, dims, c, n, dead, .. } = *input;
        let (d, len) = (dims.d, dead.len());
        backend.write_index(&mut self.latents, dead);
        make_room(backend, &mut self.w_enc, len * d);
        make_room(backend, &mut self.u, n * len);
        backend.take_rows(&params.w_enc, &Subset { latents: &self.latents, len }, &mut self.w_enc, d);
        let all = host(backend, &params.b_enc, dims.f);
        let mut b_enc = backend.zeros(len);
        backend.write_f64(&mut b_enc, 0, &dead.iter().map(|&i| all[i as usize]).collect::<Vec<_>>());
        let among = CoderDims { f: len, ..dims };
        backend.pre_activations(c, &self.w_enc, &b_enc, &mut self.u, n, among);
        let values: Vec<f64> = host(backend, &self.u, n * len).into_iter().map(|u| u.min(LARGEST).exp()).collect();
        self.code = Code::new(backend, n, len);
        backend.write_index(&mut self.code.latents, &dead.repeat(n));
        backend.write_f64(&mut self.code.values, 0, &values);
        values
    }

    /// What the parameters' gradients need, if there was a loss.
    pub fn term(&self) -> Option<GradientTerm<'_, B>> {
        self.on.then_some(GradientTerm {
            code: &self.code,
            by_latent: &self.by_latent,
            g_pre: &self.g_pre,
            residual: &self.g,
            residual_scale: 1.0,
            latents: 0..u32::MAX,
        })
    }
}

/// The loss of a row; `o` becomes its gradient.
fn row(o: &mut [f64], r: &[f64], n: f64) -> f64 {
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let left = norm(r);
    if left == 0.0 {
        o.fill(0.0);
        return 0.0;
    }
    let scale = left / (EPSILON + 2.0 * norm(o));
    let mut loss = 0.0;
    for (o, r) in o.iter_mut().zip(r) {
        let error = *o * scale - r;
        let own = error * error / left;
        let weight = r * r / (own + EPSILON) / n;
        loss += own * weight;
        *o = scale * weight * 2.0 * error / left;
    }
    loss
}
