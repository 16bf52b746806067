//! `latent_*`: the gradient and the update of what belongs to one latent; a block a latent.
//!
//! [`LatentStep`] is a whole step without a gradient in memory. Where gradients must be seen as a whole (clipping), or come from
//! more than one code (dead latents that are revived), [`LatentGrad`] writes or adds them and [`LatentApply`] takes the step.

use super::{Bf16, Entry, In, Launch, Out, Source, arguments, size};
use crate::compute::coder_ops::AdamStep;

/// The file.
pub const SOURCE: Source =
    Source { name: "latent", text: include_str!("latent.cu"), entries: &[LATENT_STEP, LATENT_GRAD, LATENT_APPLY] };
const LATENT_STEP: Entry = Entry { name: "latent_step", threads: 256, registers: 64 };
const LATENT_GRAD: Entry = Entry { name: "latent_grad", threads: 256, registers: 56 };
const LATENT_APPLY: Entry = Entry { name: "latent_apply", threads: 256, registers: 48 };

arguments! {
    /// One update of Adam, its scalars made ready.
    pub struct Adam = "AdamRates" {
        /// Learning rate.
        pub learning_rate: f32,
        /// Of the first moment.
        pub beta_1: f32,
        /// Of the second moment.
        pub beta_2: f32,
        /// Added to the denominator.
        pub epsilon: f32,
        /// What weights are multiplied by first.
        pub decay: f32,
        /// Of the first moment: `1 / (1 - beta_1^t)`.
        pub correct_1: f32,
        /// Of the second moment: `1 / (1 - beta_2^t)`.
        pub correct_2: f32,
        /// Of gradients.
        pub gradient_scale: f32,
    }
}

impl From<&AdamStep> for Adam {
    fn from(step: &AdamStep) -> Self {
        let [b1, b2] = step.betas;
        Self {
            learning_rate: step.learning_rate as f32,
            beta_1: b1 as f32,
            beta_2: b2 as f32,
            epsilon: step.epsilon as f32,
            decay: (1.0 - step.learning_rate * step.weight_decay) as f32,
            correct_1: (1.0 / (1.0 - b1.powf(step.t as f64))) as f32,
            correct_2: (1.0 / (1.0 - b2.powf(step.t as f64))) as f32,
            gradient_scale: step.gradient_scale as f32,
        }
    }
}

arguments! {
    /// The entries of a code, and what their gradients are made of: `g = scale <residual[b], w_dec[i]> + extra[place]`.
    pub struct Entries = "EntriesArgs" {
        /// `[f + 1]`.
        pub starts: In<u32>,
        /// Places of the entries by latent.
        pub places: In<u32>,
        /// `[n, k]`.
        pub values: In<f32>,
        /// `[n, k]` what is added to the gradient of each pre-activation, or none.
        pub extra: In<f32>,
        /// `[n, out]`; not looked at where `scale` is 0.
        pub residual: In<Bf16>,
        /// `[n, d]` what the encoder saw.
        pub x: In<Bf16>,
        /// Places a row.
        pub k: i32,
        /// The gradient with respect to the reconstruction is this times the residual; 0: none reaches the decoder.
        pub scale: f32,
    }
}

arguments! {
    /// Weights, moments and copies; all but the copies in f32.
    pub struct Weights = "WeightsArgs" {
        /// `[f, d]`.
        pub w_enc: Out<f32>,
        /// `[f]`.
        pub b_enc: Out<f32>,
        /// `[f, out]`.
        pub w_dec: Out<f32>,
        /// `[f, d]` first moments.
        pub m_enc: Out<f32>,
        /// `[f]`.
        pub m_bias: Out<f32>,
        /// `[f, out]`.
        pub m_dec: Out<f32>,
        /// `[f, d]` second moments.
        pub v_enc: Out<f32>,
        /// `[f]`.
        pub v_bias: Out<f32>,
        /// `[f, out]`.
        pub v_dec: Out<f32>,
        /// `[f, d]` what products read.
        pub copy_enc: Out<Bf16>,
        /// `[f, out]` what products read.
        pub copy_dec: Out<Bf16>,
        /// `[f]` rows since each latent's last entry, or none; of [`LatentStep`] only.
        pub idle: Out<u32>,
        /// Input width.
        pub d: i32,
        /// Output width.
        pub out: i32,
        /// Rows of the batch.
        pub rows: i32,
        /// 1: what would change a decoder row's norm is taken out of its gradient.
        pub project: i32,
        /// 1: decoder rows end with norm 1.
        pub normalize: i32,
    }
}

arguments! {
    /// Gradients, projection, Adam, norms and copies of every latent.
    pub struct LatentStep = "LatentStepArgs" {
        /// What the gradients are made of.
        pub entries: Entries,
        /// What is updated.
        pub weights: Weights,
        /// How.
        pub adam: Adam,
    }
}

arguments! {
    /// Gradients of every latent, as [`crate::compute::CoderOps::latent_gradients`] has them for one term.
    pub struct LatentGrad = "LatentGradArgs" {
        /// What they are made of.
        pub entries: Entries,
        /// `[f, out]`.
        pub w_dec: In<f32>,
        /// `[f, d]`.
        pub g_enc: Out<f32>,
        /// `[f]`.
        pub g_bias: Out<f32>,
        /// `[f, out]`.
        pub g_dec: Out<f32>,
        /// Input width.
        pub d: i32,
        /// Output width.
        pub out: i32,
        /// 1: they are added to what is there.
        pub accumulate: i32,
    }
}

arguments! {
    /// Projection, Adam, norms and copies from gradients in memory.
    pub struct LatentApply = "LatentApplyArgs" {
        /// What is updated.
        pub weights: Weights,
        /// How.
        pub adam: Adam,
        /// `[f, d]`.
        pub g_enc: In<f32>,
        /// `[f]`.
        pub g_bias: In<f32>,
        /// `[f, out]`.
        pub g_dec: In<f32>,
    }
}

/// Shared memory of a decoder row and its gradients.
fn shared(d: i32, out: i32) -> usize {
    assert!(d > 0 && out > 0 && out % 2 == 0, "residuals are read in pairs");
    (size(d) + 2 * size(out)) * size_of::<f32>()
}

impl LatentStep {
    /// Its launch over `f` latents.
    pub fn launch(&self, f: usize) -> Launch<'_> {
        Launch::new(LATENT_STEP, [f, 1], shared(self.weights.d, self.weights.out), self)
    }
}

impl LatentGrad {
    /// Its launch over `f` latents.
    pub fn launch(&self, f: usize) -> Launch<'_> {
        Launch::new(LATENT_GRAD, [f, 1], shared(self.d, self.out), self)
    }
}

impl LatentApply {
    /// Its launch over `f` latents.
    pub fn launch(&self, f: usize) -> Launch<'_> {
        Launch::new(LATENT_APPLY, [f, 1], size(self.weights.out) * size_of::<f32>(), self)
    }
}
