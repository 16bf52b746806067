//! A gate decides which latents are active, a magnitude path with the same directions how strongly (Rajamanoharan et al.
//! 2024a). With `q = c W_enc^T`:
//!
//! ```text
//! p = q + b_enc          m = q exp(r_mag) + b_mag          f = 1[p > 0] max(m, 0)
//! L = 1/n sum |target - f W_dec|^2 + 1/n sum |target - max(p, 0) W_dec|^2 + penalties of max(p, 0)
//! ```
//!
//! No gradient flows through the step; the gate learns from the second term and from the penalties, which act on
//! `max(p, 0)`. In the second term the decoder is constant unless `trains_decoder`.

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, CoderDims, GradientTerm, Rule};
use crate::sae::params::Gradients;
use crate::sae::selection::{Entries, Input, Pass, Selection, SelectionLosses, host, latent_sums};

/// See the module.
pub struct Gated<B: CoderOps> {
    trains_decoder: bool,
    /// `[rows, f]`.
    pre: B::Tensor,
    gate: Entries<B>,
    /// `[f]` `exp(r_mag)`, and `b_mag - exp(r_mag) b_enc`: the magnitude is affine in the gate.
    gain: B::Tensor,
    offset: B::Tensor,
    /// `[rows, out]` what the gate's reconstruction leaves.
    residual: B::Tensor,
    residual_scale: f64,
}

impl<B: CoderOps> Gated<B> {
    /// For batches of up to `rows` rows.
    pub fn new(backend: &B, dims: CoderDims, rows: usize, trains_decoder: bool) -> Self {
        Self {
            trains_decoder,
            pre: backend.zeros(rows * dims.f),
            gate: Entries::new(backend, dims.f),
            gain: backend.zeros(dims.f),
            offset: backend.zeros(dims.f),
            residual: backend.zeros(rows * dims.out),
            residual_scale: 0.0,
        }
    }
}

/// `gain` and `offset` of `m = gain p + offset`, from the parameters.
pub(crate) fn magnitude(r_mag: &[f64], b_mag: &[f64], b_gate: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let gain: Vec<f64> = r_mag.iter().map(|r| r.exp()).collect();
    let offset = gain.iter().zip(b_mag).zip(b_gate).map(|((gain, b_mag), b_gate)| b_mag - gain * b_gate).collect();
    (gain, offset)
}

impl<B: CoderOps> Selection<B> for Gated<B> {
    fn encode(&mut self, input: &Input<'_, B>, code: &mut Code<B>) {
        let Input { backend, params, dims, c, n, .. } = *input;
        let of = |t: &B::Tensor| host(backend, t, dims.f);
        let (gain, offset) = magnitude(&of(params.extra("r_mag")), &of(params.extra("b_mag")), &of(&params.b_enc));
        backend.write_f64(&mut self.gain, 0, &gain);
        backend.write_f64(&mut self.offset, 0, &offset);
        backend.pre_activations(c, &params.w_enc, &params.b_enc, &mut self.pre, n, dims);
        self.gate.code.rows = n;
        backend.select(&self.pre, dims.f, Rule::Positive, &mut self.gate.code);
        self.gate.group(backend, dims.f);
        backend.affine_entries(&self.gate.code, &self.gain, &self.offset, code);
    }

    fn backward(&mut self, input: &Input<'_, B>, pass: &mut Pass<'_, B>) -> SelectionLosses {
        let Input { backend, params, dims, target, n, .. } = *input;
        let CoderDims { f, out: d, .. } = dims;
        // the magnitude path: g_code is the gradient with respect to m
        let g_m = latent_sums(backend, pass.by_latent, pass.g_code, None, f);
        let g_m_m = latent_sums(backend, pass.by_latent, pass.g_code, Some(&pass.code.values), f);
        let b_mag = host(backend, params.extra("b_mag"), f);
        let g_r: Vec<f64> = (0..f).map(|i| g_m_m[i] - b_mag[i] * g_m[i]).collect();
        backend.write_f64(pass.gradients.extra_mut("b_mag"), 0, &g_m);
        backend.write_f64(pass.gradients.extra_mut("r_mag"), 0, &g_r);
        backend.scale_entries(pass.code, &self.gain, pass.g_code);
        // the gate
        let gate = &mut self.gate;
        backend.residual(&gate.code, 0..u32::MAX, &params.w_dec, target, &mut self.residual, d);
        self.residual_scale = -2.0 / n as f64;
        let (r, scale) = (&self.residual, self.residual_scale);
        backend.entry_dots(&gate.code, 0..u32::MAX, &params.w_dec, r, scale, &mut gate.g, d);
        let sparsity = pass.penalties.apply(input, &gate.code, &gate.by_latent, &mut gate.g);
        SelectionLosses { sparsity, auxiliary: backend.sum_squares(&self.residual, n * d) / n as f64 }
    }

    fn terms<'a>(&'a self, _: &Input<'a, B>) -> Vec<GradientTerm<'a, B>> {
        vec![GradientTerm {
            code: &self.gate.code,
            by_latent: &self.gate.by_latent,
            g_pre: &self.gate.g,
            residual: &self.residual,
            residual_scale: if self.trains_decoder { self.residual_scale } else { 0.0 },
            latents: 0..u32::MAX,
        }]
    }

    fn penalized(&self) -> Option<&Code<B>> {
        Some(&self.gate.code)
    }

    /// The sum over all terms was that of `q`, which the input's bias needs; `b_enc` is the gate's alone.
    fn finish(&mut self, input: &Input<'_, B>, gradients: &mut Gradients<B>) {
        input.backend.entry_sums(&self.gate.by_latent, &self.gate.g, None, input.dims.f, &mut gradients.b_enc);
    }
}
