//! Matching pursuit: latents are chosen one after the other, each from what those before it left. With unit rows `w_i` of one
//! matrix, which encodes and decodes,
//!
//! ```text
//! r_0 = y - b_dec;   for t in 0..k:  i = argmax <r_t, w_i>,  c = <r_t, w_i>,  r_(t+1) = r_t - c w_i   (while c > 0)
//! ```
//!
//! A latent's value is the sum of its `c`; `r_k` is what the reconstruction leaves. Its gradient goes back through the loop in
//! reverse: with `h_k` that with respect to `r_k`, and `g = -<w_i, h_(t+1)>`,
//!
//! ```text
//! dL/dw_i += g r_t - c h_(t+1);   h_t = h_(t+1) + g w_i;   dL/db_dec = -sum_b h_0
//! ```
//!
//! The choices are not differentiated. Residuals of the loop are not kept: backwards, `r_t = r_(t+1) + c w_i`.

use crate::compute::CoderOps;
use crate::compute::coder_ops::{ByLatent, Code, CoderDims, GradientTerm, LatentGradients, NO_LATENT};
use crate::sae::params::Gradients;
use crate::sae::selection::{Input, Pass, Selection, SelectionLosses, make_room};

/// The choices of a batch, and what is left.
pub(crate) struct Steps<B: CoderOps> {
    /// One latent a row for each step.
    steps: Vec<Code<B>>,
    /// `[rows, d]` what is left, and room for the next.
    left: B::Tensor,
    next: B::Tensor,
    /// `[f]`: the encoder has no bias.
    no_bias: B::Tensor,
}

impl<B: CoderOps> Steps<B> {
    /// For up to `rows` rows of `k` steps.
    pub(crate) fn new(backend: &B, dims: CoderDims, rows: usize, k: usize) -> Self {
        Self {
            steps: (0..k).map(|_| Code::new(backend, rows, 1)).collect(),
            left: backend.zeros(rows * dims.d),
            next: backend.zeros(rows * dims.d),
            no_bias: backend.zeros(dims.f),
        }
    }

    /// Pursue `c` `[n, d]` with the rows of `w` `[f, d]`.
    pub(crate) fn encode(
        &mut self,
        backend: &B,
        (c, n): (&B::Tensor, usize),
        w: &B::Tensor,
        dims: CoderDims,
        code: &mut Code<B>,
    ) {
        backend.combine(1.0, c, 0.0, &mut self.left, n * dims.d);
        for step in &mut self.steps {
            step.rows = n;
            backend.encode_topk(&self.left, w, &self.no_bias, dims, None, step);
            backend.residual(step, 0..u32::MAX, w, &self.left, &mut self.next, dims.d);
            std::mem::swap(&mut self.left, &mut self.next);
        }
        self.write(backend, n, code);
    }

    /// The sum of the steps: a latent that was chosen twice is one entry.
    fn write(&self, backend: &B, n: usize, code: &mut Code<B>) {
        let mut rows: Vec<Vec<(u32, f64)>> = vec![Vec::new(); n];
        let (mut latents, mut values) = (vec![0; n], vec![0.0; n]);
        for step in &self.steps {
            backend.read_index(&step.latents, &mut latents);
            backend.read_f64(&step.values, 0, &mut values);
            for ((row, &latent), &value) in rows.iter_mut().zip(&latents).zip(&values) {
                match row.iter_mut().find(|entry| entry.0 == latent) {
                    Some(entry) => entry.1 += value,
                    None if latent != NO_LATENT => row.push((latent, value)),
                    None => {}
                }
            }
        }
        let k = rows.iter().map(Vec::len).max().unwrap_or(0);
        (code.rows, code.k) = (n, k);
        let (mut latents, mut values) = (vec![NO_LATENT; n * k], vec![0.0; n * k]);
        for (b, row) in rows.iter_mut().enumerate() {
            row.sort_unstable_by_key(|entry| entry.0);
            for (at, &(latent, value)) in row.iter().enumerate() {
                (latents[b * k + at], values[b * k + at]) = (latent, value);
            }
        }
        if code.places() > 0 {
            *code = Code { latents: backend.index(n * k), values: backend.zeros(n * k), rows: n, k };
            backend.write_index(&mut code.latents, &latents);
            backend.write_f64(&mut code.values, 0, &values);
        }
    }
}

/// See the module.
pub struct Pursuit<B: CoderOps> {
    steps: Steps<B>,
    by_latent: ByLatent<B>,
    /// `[rows]` gradients with respect to a step's values; `[rows]` scratch.
    g: B::Tensor,
    turned: B::Tensor,
    /// `[f, d]` the gradient, and that of one step by its two paths.
    w: B::Tensor,
    encoded: B::Tensor,
    decoded: B::Tensor,
    counts: B::Tensor,
    /// `[d]`.
    bias: B::Tensor,
}

impl<B: CoderOps> Pursuit<B> {
    /// For batches of up to `rows` rows.
    pub fn new(backend: &B, dims: CoderDims, rows: usize, k: usize) -> Self {
        let matrix = || backend.zeros(dims.f * dims.d);
        Self {
            steps: Steps::new(backend, dims, rows, k),
            by_latent: ByLatent::new(backend, rows, 1, dims.f),
            g: backend.zeros(rows),
            turned: backend.zeros(rows),
            w: matrix(),
            encoded: matrix(),
            decoded: matrix(),
            counts: backend.zeros(dims.f),
            bias: backend.zeros(dims.d),
        }
    }

    /// The step `t` in reverse: `h` is the gradient with respect to what it leaves, and becomes that to what it got; `left` is
    /// what it leaves, and becomes what it got.
    fn back(&mut self, input: &Input<'_, B>, t: usize, h: &mut B::Tensor, room: &mut B::Tensor) {
        let Input { backend, params, dims, n, .. } = *input;
        let (w, d) = (&params.w_dec, dims.d);
        let Steps { steps, left, next, .. } = &mut self.steps;
        let step = &mut steps[t];
        backend.entry_dots(step, 0..u32::MAX, w, h, -1.0, &mut self.g, d);
        backend.group_by_latent(step, dims.f, &mut self.by_latent);
        // r_t = r_(t+1) + c w
        backend.combine(-1.0, &step.values, 0.0, &mut self.turned, n);
        std::mem::swap(&mut step.values, &mut self.turned);
        backend.residual(step, 0..u32::MAX, w, left, next, d);
        std::mem::swap(&mut step.values, &mut self.turned);
        std::mem::swap(left, next);
        let term = GradientTerm {
            code: step,
            by_latent: &self.by_latent,
            g_pre: &self.g,
            residual: h,
            residual_scale: -1.0,
            latents: 0..u32::MAX,
        };
        let out = LatentGradients { w_enc: &mut self.encoded, b_enc: &mut self.counts, w_dec: &mut self.decoded };
        backend.latent_gradients(&[term], left, dims, out);
        backend.combine(1.0, &self.encoded, 1.0, &mut self.w, dims.f * d);
        backend.combine(1.0, &self.decoded, 1.0, &mut self.w, dims.f * d);
        // h_t = h_(t+1) + g w
        backend.combine(-1.0, &self.g, 0.0, &mut self.turned, n);
        std::mem::swap(&mut step.values, &mut self.turned);
        backend.residual(step, 0..u32::MAX, w, h, room, d);
        std::mem::swap(&mut step.values, &mut self.turned);
        std::mem::swap(h, room);
    }
}

impl<B: CoderOps> Selection<B> for Pursuit<B> {
    fn encode(&mut self, input: &Input<'_, B>, code: &mut Code<B>) {
        let Input { backend, params, dims, c, n, .. } = *input;
        self.steps.encode(backend, (c, n), &params.w_dec, dims, code);
    }

    fn backward(&mut self, input: &Input<'_, B>, pass: &mut Pass<'_, B>) -> SelectionLosses {
        let Input { backend, dims, n, .. } = *input;
        let len = n * dims.d;
        let (mut h, mut room) = (backend.zeros(len), backend.zeros(len));
        backend.combine(2.0 / n as f64, pass.reconstruction.residual(), 0.0, &mut h, len);
        self.w = backend.zeros(dims.f * dims.d);
        for t in (0..self.steps.steps.len()).rev() {
            self.back(input, t, &mut h, &mut room);
        }
        make_room(backend, &mut self.bias, dims.d);
        backend.column_sums(&h, -1.0, &mut self.bias, n, dims.d);
        SelectionLosses::default()
    }

    /// Both are of the whole loop: what was summed by entries is a part of it.
    fn finish(&mut self, _: &Input<'_, B>, gradients: &mut Gradients<B>) {
        std::mem::swap(&mut self.w, &mut gradients.w_dec);
        std::mem::swap(&mut self.bias, &mut gradients.b_dec);
    }
}
