//! Pre-activations above a threshold that is trained (Rajamanoharan et al. 2024): `f = u 1[u > t]`.
//!
//! The threshold gets a straight-through gradient from entries in a window of width `e` around it,
//!
//! ```text
//! dL/dt_i = -1/e sum_b 1[|u_bi - t_i| < e/2] (t_i dL/df_bi + w_i)
//! ```
//!
//! where `dL/df` is taken in the whole window, also where `f` is 0, and `w_i` is the weight of the penalty on active
//! latents ([`L0Penalty`]). Thresholds are kept at 0 or above.
//!
//! With `encoder_gradient` what reaches the threshold reaches `u` too, with the other sign: moving `u` up is as good as
//! moving the threshold down. Otherwise nothing of the window does.

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, CoderDims, GradientTerm, PenaltyGradients, PenaltyShape, Rule, Subset};
use crate::sae::selection::{Entries, Input, Pass, Selection, SelectionLosses, host, make_room};
use crate::sae::settings::{JumpReluSettings, L0Penalty, warmup};

/// See the module.
pub struct JumpRelu<B: CoderOps> {
    settings: JumpReluSettings,
    /// `[rows, f]`, where all pre-activations are held.
    u: B::Tensor,
    /// Those above the windows' lower ends, where only they are.
    few: Code<B>,
    holds_all: bool,
    window: Entries<B>,
    /// Entries that the pre-activation loss lifts, while it is on.
    below: Entries<B>,
    below_set: B::Index,
    has_below: bool,
}

impl<B: CoderOps> JumpRelu<B> {
    /// For batches of up to `rows` rows.
    pub fn new(backend: &B, dims: CoderDims, rows: usize, settings: JumpReluSettings) -> Self {
        let f = dims.f;
        let (window, below) = (Entries::new(backend, f), Entries::new(backend, f));
        let few = Code::new(backend, rows, 0);
        let (below_set, u) = (backend.index(f), backend.zeros(0));
        Self { settings, u, few, holds_all: true, window, below, below_set, has_below: false }
    }

    /// The pre-activations of a batch: those that can be in the code or in a window if they are few, else all.
    fn pre_activations(&mut self, input: &Input<'_, B>) {
        let Input { backend, params, dims, c, n, .. } = *input;
        let half = self.settings.bandwidth / 2.0;
        let floor: Vec<f64> = host(backend, params.extra("threshold"), dims.f);
        // a hair below: the window's ends are compared with what was rounded
        let floor: Vec<f64> = floor.into_iter().map(|t| t.min(t - half) - 1e-5 * (t.abs() + half)).collect();
        let mut floors = backend.zeros(dims.f);
        backend.write_f64(&mut floors, 0, &floor);
        self.few.rows = n;
        let lifts_all = self.settings.pre_act_all && self.settings.pre_act_coefficient > 0.0;
        self.holds_all =
            lifts_all || !backend.encode_above(c, &params.w_enc, &params.b_enc, dims, &floors, &mut self.few);
        if self.holds_all {
            make_room(backend, &mut self.u, n * dims.f);
            backend.pre_activations(c, &params.w_enc, &params.b_enc, &mut self.u, n, dims);
        }
    }

    /// The entries by a rule, of the pre-activations that are held.
    fn choose(&self, backend: &B, f: usize, rule: Rule<'_, B>, code: &mut Code<B>) {
        match self.holds_all {
            true => backend.select(&self.u, f, rule, code),
            false => backend.select_entries(&self.few, rule, code),
        }
    }

    /// What is below the thresholds of some latents, whose pre-activations are computed if they are not held.
    fn choose_below(&mut self, input: &Input<'_, B>, latents: &[u32]) {
        let Input { backend, params, dims, c, n, .. } = *input;
        let threshold = params.extra("threshold");
        backend.write_index(&mut self.below_set, latents);
        let among = Subset { latents: &self.below_set, len: latents.len() };
        self.below.code.rows = n;
        if self.holds_all {
            let rule = Rule::Below { threshold, among };
            return backend.select(&self.u, dims.f, rule, &mut self.below.code);
        }
        let gathered = |from: &B::Tensor, d| {
            let mut to = backend.zeros(among.len * d);
            backend.take_rows(from, &among, &mut to, d);
            to
        };
        let (w, b) = (gathered(&params.w_enc, dims.d), gathered(&params.b_enc, 1));
        let (threshold, len) = (gathered(threshold, 1), among.len);
        let mut u = backend.zeros(n * len);
        backend.pre_activations(c, &w, &b, &mut u, n, CoderDims { f: len, ..dims });
        let mut each = backend.index(len);
        backend.write_index(&mut each, &(0..len as u32).collect::<Vec<_>>());
        let rule = Rule::Below { threshold: &threshold, among: Subset { latents: &each, len } };
        backend.select(&u, len, rule, &mut self.below.code);
        backend.rename(&mut self.below.code, &among);
    }

    /// `sum relu(t - u) |w_dec|` over the rows: sets the term, and gives the loss and the thresholds' gradients.
    fn pre_activation_loss(&mut self, input: &Input<'_, B>, pass: &mut Pass<'_, B>) -> (f64, Vec<f64>) {
        let Input { backend, dims, n, norms, dead, .. } = *input;
        let all: Vec<u32> = (0..dims.f as u32).collect();
        let latents = if self.settings.pre_act_all { &all } else { dead };
        self.has_below = self.settings.pre_act_coefficient > 0.0 && !latents.is_empty();
        if !self.has_below {
            return (0.0, vec![0.0; dims.f]);
        }
        self.choose_below(input, latents);
        self.below.group(backend, dims.f);
        self.below.g = backend.zeros(self.below.code.places());
        let mut g_norms = backend.zeros(self.below.code.places());
        let scale = self.settings.pre_act_coefficient / n as f64;
        let out = PenaltyGradients { values: &mut self.below.g, weights: Some(&mut g_norms) };
        // values are t - u: their gradients are those of -u
        let sum = backend.penalize(&self.below.code, Some(norms), PenaltyShape::Linear, -scale, out);
        pass.penalties.add_norm_gradient(backend, &self.below.by_latent, &g_norms, -1.0);
        let g_threshold = self.below.sums(backend, dims.f, None).into_iter().map(|sum| -sum).collect();
        (scale * sum, g_threshold)
    }
}

/// The loss, and the weight of a window's entry for each latent, of `l0` latents a row and `fired` rows a latent.
fn l0_penalty(penalty: L0Penalty, fired: &[u32], n: usize) -> (f64, Box<dyn Fn(usize) -> f64 + '_>) {
    let n = n as f64;
    let l0 = f64::from(fired.last().copied().unwrap_or(0)) / n;
    let share = move |i: usize| f64::from(fired[i + 1] - fired[i]) / n;
    match penalty {
        L0Penalty::Off => (0.0, Box::new(|_| 0.0)),
        L0Penalty::Mean => (l0, Box::new(move |_| 1.0 / n)),
        L0Penalty::Target(target) => {
            let off = l0 / target - 1.0;
            (off * off, Box::new(move |_| 2.0 * off / (target * n)))
        }
        L0Penalty::Frequency(scale) => {
            let loss = (0..fired.len() - 1).map(|i| share(i) * (1.0 + share(i) / scale)).sum();
            (loss, Box::new(move |i| (1.0 + 2.0 * share(i) / scale) / n))
        }
    }
}

impl<B: CoderOps> Selection<B> for JumpRelu<B> {
    fn encode(&mut self, input: &Input<'_, B>, code: &mut Code<B>) {
        let Input { backend, params, dims, n, .. } = *input;
        code.rows = n;
        self.pre_activations(input);
        self.choose(backend, dims.f, Rule::Above(params.extra("threshold")), code);
    }

    fn backward(&mut self, input: &Input<'_, B>, pass: &mut Pass<'_, B>) -> SelectionLosses {
        let Input { backend, params, dims, n, .. } = *input;
        let bandwidth = self.settings.bandwidth;
        let threshold = params.extra("threshold");
        let penalty = pass.penalties.apply(input, pass.code, pass.by_latent, pass.g_code);

        self.window.code.rows = n;
        let rule = Rule::Near { threshold, half_width: bandwidth / 2.0 };
        let mut window = std::mem::replace(&mut self.window.code, Code::new(backend, 0, 0));
        self.choose(backend, dims.f, rule, &mut window);
        self.window.code = window;
        self.window.group(backend, dims.f);
        make_room(backend, &mut self.window.g, self.window.code.places());
        pass.reconstruction.entry_gradients(input, &self.window.code, &mut self.window.g);
        pass.penalties.apply_to_values(input, &self.window.code, &mut self.window.g);

        let coefficient = self.settings.coefficient * warmup(input.step, self.settings.warmup_steps);
        let (l0_loss, weight) = l0_penalty(self.settings.sparsity, pass.fired, n);
        let sums = self.window.sums(backend, dims.f, None);
        let counts = self.window.counts(backend, dims.f);
        let values = host(backend, threshold, dims.f);
        let (auxiliary, lifted) = self.pre_activation_loss(input, pass);
        if self.settings.encoder_gradient {
            let of_latents = |of: &dyn Fn(usize) -> f64| {
                let mut t = backend.zeros(dims.f);
                backend.write_f64(&mut t, 0, &(0..dims.f).map(of).collect::<Vec<_>>());
                t
            };
            let gain = of_latents(&|i| values[i] / bandwidth);
            let offset = of_latents(&|i| coefficient * weight(i) / bandwidth);
            backend.scale_entries(&self.window.code, &gain, &mut self.window.g);
            // the sum of the latents' weights has these as its gradient
            let out = PenaltyGradients { values: &mut self.window.g, weights: None };
            backend.penalize(&self.window.code, Some(&offset), PenaltyShape::Linear, 1.0, out);
        }
        let gradient: Vec<f64> = (0..dims.f)
            .map(|i| lifted[i] - (values[i] * sums[i] + coefficient * weight(i) * counts[i]) / bandwidth)
            .collect();
        backend.write_f64(pass.gradients.extra_mut("threshold"), 0, &gradient);
        SelectionLosses { sparsity: penalty + coefficient * l0_loss, auxiliary }
    }

    fn terms<'a>(&'a self, input: &Input<'a, B>) -> Vec<GradientTerm<'a, B>> {
        let term = |entries: &'a Entries<B>| GradientTerm {
            code: &entries.code,
            by_latent: &entries.by_latent,
            g_pre: &entries.g,
            residual: input.c,
            residual_scale: 0.0,
            latents: 0..u32::MAX,
        };
        let below = self.has_below.then(|| term(&self.below));
        below.into_iter().chain(self.settings.encoder_gradient.then(|| term(&self.window))).collect()
    }
}
