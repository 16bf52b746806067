//! AuxK (Gao et al. 2024): while latents are dead, the largest of their pre-activations reconstruct what the coder left.
//!
//! ```text
//! L = coefficient s / D sum_b |r_b - r^_b|^2          r = y - y^          r^ = a W_dec
//! ```
//!
//! with `a` the `k` largest pre-activations among the dead latents. Implementations differ in `D`, in `s`, in whether `a` must
//! be positive (a latent whose pre-activation never is gets no gradient then), and in whether `r` is a constant:
//! [`AuxSettings`].

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, CoderDims, GradientTerm, SquareSums, Subset};
use crate::sae::loss::branch::{Among, Branch, BranchInput};
use crate::sae::loss::reconstruction::Reconstruction;
use crate::sae::selection::{Input, Selection};
use crate::sae::settings::{AuxDivisor, AuxSettings, DecoderNorm};

/// The loss, and what a step gathers.
pub struct Aux<B: CoderOps> {
    settings: AuxSettings,
    holds: bool,
    ranked: bool,
    branch: Branch<B>,
    latents: B::Index,
    on: bool,
}

impl<B: CoderOps> Aux<B> {
    /// For batches of up to `rows` rows.
    pub fn new(backend: &B, dims: CoderDims, settings: AuxSettings, decoder: DecoderNorm, rows: usize) -> Self {
        Self {
            settings,
            holds: settings.holds_pre_activations(decoder),
            ranked: decoder == DecoderNorm::Ranked,
            branch: Branch::new(backend, dims, rows, settings.k),
            latents: backend.index(dims.f),
            on: false,
        }
    }

    /// The loss of a batch, after its reconstruction, which left these squares; `encoder` where latents have no rows of `w_enc`. Where the residual is not a constant, the
    /// reconstruction takes in its gradient.
    pub fn forward(
        &mut self,
        input: &Input<'_, B>,
        dead: &[u32],
        reconstruction: &mut Reconstruction<B>,
        (left, encoder): (SquareSums, Option<&dyn Selection<B>>),
    ) -> f64 {
        let Input { backend, params, dims, c, n, norms, .. } = *input;
        let divisor = match self.settings.per {
            AuxDivisor::Residual => left.about_mean,
            AuxDivisor::Rows => n as f64,
        };
        self.on = !dead.is_empty() && divisor > 0.0;
        if !self.on {
            return 0.0;
        }
        let share = self.settings.full_at.map_or(1.0, |full| (dead.len() as f64 / full).min(1.0));
        let weight = self.settings.coefficient * share / divisor;
        backend.write_index(&mut self.latents, dead);
        let among = Among {
            subset: Subset { latents: &self.latents, len: dead.len() },
            holds: self.holds,
            score: self.ranked.then_some(norms),
            signed: !self.settings.relu,
        };
        let target = reconstruction.residual();
        self.branch.limit_k(dead.len());
        match encoder {
            None => self.branch.forward(backend, params, dims, BranchInput { c, target, n }, Some(among)),
            Some(encoder) => {
                let encode = |code: &mut Code<B>| encoder.encode_among(input, &among.subset, code);
                self.branch.forward_by(backend, params, dims, (target, n), encode);
            }
        }
        self.branch.backward(backend, params, dims, -2.0 * weight);
        if !self.settings.detached {
            reconstruction.pull(backend, self.branch.residual(), -2.0 * weight, n * dims.out);
        }
        weight * backend.sum_squares(self.branch.residual(), n * dims.out)
    }

    /// What the parameters' gradients need, if there was a loss.
    pub fn term(&self) -> Option<GradientTerm<'_, B>> {
        self.on.then(|| self.branch.term())
    }
}
