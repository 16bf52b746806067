//! One expert a row (Switch SAE, Mudide et al. 2024): latents are in groups of equal size, and a router says which group codes
//! a row, and how much its code counts:
//!
//! ```text
//! p = softmax((y - b_router) W_router^T)    e = argmax p    z = the k largest positive of c W_enc,e^T + b_enc,e    f = p_e z
//! L = ... + a d E sum_e share_e mean_b p_be
//! ```
//!
//! with `share_e` the share of rows that went to expert `e`, a constant: the last term spreads rows over experts. The router
//! learns through `p_e`; with `weighted` off (`f = z`) through the last term alone.

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, CoderDims};
use crate::sae::params::{Gradients, Params};
use crate::sae::selection::{Input, Pass, Selection, SelectionLosses, host};
use crate::sae::settings::ExpertSettings;

/// Names of its parameters: `[experts, d]` and `[d]`.
pub(crate) const PARAMS: [&str; 2] = ["w_router", "b_router"];

/// Where rows go.
pub(crate) struct Routes<B: CoderOps> {
    /// `[n]` experts.
    expert: Vec<usize>,
    index: B::Index,
    /// `[n, experts]` the router's probabilities.
    p: Vec<f64>,
    /// `[n]` those of the experts that were chosen; 1 where they do not count.
    weight: B::Tensor,
}

/// Route the rows that `c + shift` are, `[n, d]`: `shift` `[d]` is what was taken off them.
pub(crate) fn route<B: CoderOps>(
    backend: &B,
    params: &Params<B>,
    (c, n, d): (&B::Tensor, usize, usize),
    shift: &[f64],
    settings: ExpertSettings,
) -> Routes<B> {
    let experts = settings.experts;
    let [w, b] = PARAMS.map(|name| params.extra(name));
    let from: Vec<f64> = shift.iter().zip(host(backend, b, d)).map(|(shift, b)| shift - b).collect();
    let offsets: Vec<f64> =
        host(backend, w, experts * d).chunks(d).map(|w| w.iter().zip(&from).map(|(w, x)| w * x).sum()).collect();
    let (mut bias, mut logits) = (backend.zeros(experts), backend.zeros(n * experts));
    backend.write_f64(&mut bias, 0, &offsets);
    backend.pre_activations(c, w, &bias, &mut logits, n, CoderDims { d, f: experts, out: d, groups: 1 });
    let mut p = host(backend, &logits, n * experts);
    let mut expert = Vec::with_capacity(n);
    for row in p.chunks_exact_mut(experts) {
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        expert.push(row.iter().position(|l| *l == most).unwrap_or(0));
        row.iter_mut().for_each(|l| *l = (*l - most).exp());
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|l| *l /= sum);
    }
    let (mut index, mut weight) = (backend.index(n), backend.zeros(n));
    backend.write_index(&mut index, &expert.iter().map(|&e| e as u32).collect::<Vec<_>>());
    let chosen = |(b, &e): (usize, &usize)| if settings.weighted { p[b * experts + e] } else { 1.0 };
    backend.write_f64(&mut weight, 0, &expert.iter().enumerate().map(chosen).collect::<Vec<_>>());
    Routes { expert, index, p, weight }
}

impl<B: CoderOps> Routes<B> {
    /// The code `z` of the experts, before their weights.
    pub(crate) fn encode(
        &self,
        backend: &B,
        params: &Params<B>,
        (c, dims): (&B::Tensor, CoderDims),
        experts: usize,
        code: &mut Code<B>,
    ) {
        backend.encode_topk_grouped(c, &params.w_enc, &params.b_enc, dims, (&self.index, experts), code);
    }

    /// Give `values` `[n, k]` the experts' weights.
    pub(crate) fn weigh(&self, backend: &B, values: &mut B::Tensor, n: usize, k: usize) {
        backend.scale_rows(&self.weight, values, n, k);
    }
}

/// See the module.
pub struct Experts<B: CoderOps> {
    settings: ExpertSettings,
    subtract_bias: bool,
    routes: Option<Routes<B>>,
    /// `[rows, k]`.
    z: B::Tensor,
}

impl<B: CoderOps> Experts<B> {
    /// For batches of up to `rows` rows.
    pub fn new(backend: &B, rows: usize, settings: ExpertSettings, subtract_bias: bool) -> Self {
        Self { settings, subtract_bias, routes: None, z: backend.zeros(rows * settings.k) }
    }

    /// What was taken off the router's input.
    fn shift(&self, input: &Input<'_, B>) -> Vec<f64> {
        let d = input.dims.d;
        if self.subtract_bias { host(input.backend, &input.params.b_dec, d) } else { vec![0.0; d] }
    }
}

impl<B: CoderOps> Selection<B> for Experts<B> {
    fn encode(&mut self, input: &Input<'_, B>, code: &mut Code<B>) {
        let Input { backend, params, dims, c, n, .. } = *input;
        (code.rows, code.k) = (n, self.settings.k);
        let routes = route(backend, params, (c, n, dims.d), &self.shift(input), self.settings);
        routes.encode(backend, params, (c, dims), self.settings.experts, code);
        backend.combine(1.0, &code.values, 0.0, &mut self.z, code.places());
        routes.weigh(backend, &mut code.values, n, code.k);
        self.routes = Some(routes);
    }

    fn backward(&mut self, input: &Input<'_, B>, pass: &mut Pass<'_, B>) -> SelectionLosses {
        let Input { backend, params, dims, c, n, .. } = *input;
        let ExpertSettings { k, experts, balance, weighted } = self.settings;
        let Some(routes) = &self.routes else { return SelectionLosses::default() };
        let sparsity = pass.penalties.apply(input, pass.code, pass.by_latent, pass.g_code);
        let mut through = backend.zeros(n);
        backend.row_dots(pass.g_code, &self.z, &mut through, n, k);
        let through = host(backend, &through, n);
        routes.weigh(backend, pass.g_code, n, k);

        let mut rows_of = vec![0.0; experts];
        routes.expert.iter().for_each(|&e| rows_of[e] += 1.0);
        let factor = balance * (dims.d * experts) as f64 / (n as f64).powi(2);
        let mut loss = 0.0;
        let mut g = Vec::with_capacity(n * experts);
        for (b, p) in routes.p.chunks_exact(experts).enumerate() {
            let mut g_p: Vec<f64> = rows_of.iter().map(|rows| factor * rows).collect();
            loss += g_p.iter().zip(p).map(|(g, p)| g * p).sum::<f64>();
            if weighted {
                g_p[routes.expert[b]] += through[b];
            }
            let mean: f64 = g_p.iter().zip(p).map(|(g, p)| g * p).sum();
            g.extend(g_p.iter().zip(p).map(|(g, p)| p * (g - mean)));
        }
        self.router_gradients((backend, params, c), (&g, n, dims.d), &self.shift(input), pass.gradients);
        SelectionLosses { sparsity, auxiliary: loss }
    }
}

impl<B: CoderOps> Experts<B> {
    /// From `g` `[n, experts]`, the gradient with respect to the router's logits.
    fn router_gradients(
        &self,
        (backend, params, c): (&B, &Params<B>, &B::Tensor),
        (g, n, d): (&[f64], usize, usize),
        shift: &[f64],
        gradients: &mut Gradients<B>,
    ) {
        let experts = self.settings.experts;
        let mut logits = backend.zeros(n * experts);
        backend.write_f64(&mut logits, 0, g);
        let mut of_w = backend.zeros(experts * d);
        backend.products(&logits, c, &mut of_w, n, experts, d);
        // rows are c + shift - b_router
        let [w, b] = PARAMS.map(|name| params.extra(name));
        let (b, w) = (host(backend, b, d), host(backend, w, experts * d));
        let mut of_w = host(backend, &of_w, experts * d);
        let mut of_b = vec![0.0; d];
        for e in 0..experts {
            let sum: f64 = g.iter().skip(e).step_by(experts).sum();
            for p in 0..d {
                of_w[e * d + p] += sum * (shift[p] - b[p]);
                of_b[p] -= sum * w[e * d + p];
            }
        }
        backend.write_f64(gradients.extra_mut(PARAMS[0]), 0, &of_w);
        backend.write_f64(gradients.extra_mut(PARAMS[1]), 0, &of_b);
    }
}
