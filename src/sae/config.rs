//! The `coder:` and `optimizer:` sections of a trainer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sae::coders::{
    ArchetypalConfig, BatchTopkConfig, BilinearConfig, Common, Fault, FeatureChoiceConfig, GatedConfig, GbaConfig,
    GroupMaxConfig, JumpreluConfig, KSparseConfig, KronConfig, MatchingPursuitConfig, MatryoshkaConfig,
    NestedTopkConfig, PAnnealConfig, StandardConfig, SwitchConfig, TopAfaConfig, TopkConfig,
};
use crate::sae::optim::schedule::DecayShape;
use crate::sae::settings::CoderSettings;
use crate::units::Percent;

/// Which sparse coder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CoderConfig {
    /// Keep the k largest pre-activations of each row (Gao et al. 2024), with AuxK for dead latents.
    Topk(TopkConfig),
    /// Keep every positive pre-activation, and penalise their sizes: ReLU and L1 (Bricken et al. 2023; Anthropic, April
    /// 2024).
    Standard(StandardConfig),
    /// Keep the k largest pre-activations a row of each batch as a whole (Bussmann et al. 2024).
    BatchTopk(BatchTopkConfig),
    /// Keep pre-activations above thresholds that are trained, and penalise how many there are (Rajamanoharan et al.
    /// 2024).
    Jumprelu(JumpreluConfig),
    /// A gate decides which latents are active, a second path how strongly (Rajamanoharan et al. 2024a).
    Gated(GatedConfig),
    /// BatchTopK whose first latents must reconstruct the input alone, for several widths (Bussmann et al. 2025).
    Matryoshka(MatryoshkaConfig),
    /// ReLU with a penalty whose exponent falls from 1 towards 0 while training (Karvonen et al. 2024).
    PAnneal(PAnnealConfig),
    /// Each latent keeps the rows of a batch on which it is largest (Ayonrinde 2024).
    FeatureChoice(FeatureChoiceConfig),
    /// Each row keeps as many latents as make the code as long as the row (top-AFA, 2025).
    TopAfa(TopAfaConfig),
    /// Keep the largest pre-activation of each of k ranges of latents (sparsify's groupmax).
    GroupMax(GroupMaxConfig),
    /// TopK whose largest latents must reconstruct the input alone, for several k (Zaigrajew et al. 2025).
    NestedTopk(NestedTopkConfig),
    /// One matrix for encoder and decoder, the k largest values of each row whatever their sign (Makhzani & Frey 2013).
    KSparse(KSparseConfig),
    /// A router sends each row to one of several groups of latents (Switch SAE, Mudide et al. 2024).
    Switch(SwitchConfig),
    /// Latents are pairs of parts, active where both are: a small encoder for many latents (KronSAE, Kurochkin et al. 2025).
    Kron(KronConfig),
    /// Choose latents one after the other, each from what those before it left (MP-SAE, Costa et al. 2025).
    MatchingPursuit(MatchingPursuitConfig),
    /// Decoder rows near the convex hull of rows of the data (Fel et al. 2025); latents as in `topk` or `batch_topk`.
    Archetypal(ArchetypalConfig),
    /// ReLU without a penalty: biases are moved so that groups of latents fire as often as they should (arXiv 2506.14002).
    Gba(GbaConfig),
    /// Latents are products of two directions, and what is reconstructed are the products of a row's values (bilinear
    /// autoencoders).
    Bilinear(BilinearConfig),
}

impl CoderConfig {
    /// What all coders have.
    pub fn common(&self) -> Common {
        match self {
            Self::Topk(c) => c.common(),
            Self::Standard(c) => c.common(),
            Self::BatchTopk(c) => c.common(),
            Self::Jumprelu(c) => c.common(),
            Self::Gated(c) => c.common(),
            Self::Matryoshka(c) => c.common(),
            Self::PAnneal(c) => c.common(),
            Self::FeatureChoice(c) => c.common(),
            Self::TopAfa(c) => c.common(),
            Self::GroupMax(c) => c.common(),
            Self::NestedTopk(c) => c.common(),
            Self::KSparse(c) => c.common(),
            Self::Switch(c) => c.common(),
            Self::Kron(c) => c.common(),
            Self::MatchingPursuit(c) => c.common(),
            Self::Archetypal(c) => c.common(),
            Self::Gba(c) => c.common(),
            Self::Bilinear(c) => c.common(),
        }
    }

    /// Whether it has no other target than its input.
    pub fn reconstructs_its_input_only(&self) -> bool {
        matches!(
            self,
            Self::KSparse(_)
                | Self::Archetypal(_)
                | Self::MatchingPursuit(_)
                | Self::Kron(_)
                | Self::Switch(_)
                | Self::Gba(_)
                | Self::Bilinear(_)
        )
    }

    /// Keys whose values do not go together.
    pub fn faults(&self) -> Vec<Fault> {
        match self {
            Self::Topk(c) => c.faults(),
            Self::Standard(c) => c.faults(),
            Self::BatchTopk(c) => c.faults(),
            Self::Jumprelu(c) => c.faults(),
            Self::Gated(c) => c.faults(),
            Self::Matryoshka(c) => c.faults(),
            Self::PAnneal(c) => c.faults(),
            Self::FeatureChoice(c) => c.faults(),
            Self::TopAfa(c) => c.faults(),
            Self::GroupMax(c) => c.faults(),
            Self::NestedTopk(c) => c.faults(),
            Self::KSparse(c) => c.faults(),
            Self::Switch(c) => c.faults(),
            Self::Kron(c) => c.faults(),
            Self::MatchingPursuit(c) => c.faults(),
            Self::Archetypal(c) => c.faults(),
            Self::Gba(c) => c.faults(),
            Self::Bilinear(c) => c.faults(),
        }
    }

    /// The coder, composed, for inputs of width `d`.
    ///
    /// # Errors
    /// `Config` if a value is out of range or does not go with another.
    pub fn settings(&self, d: usize) -> Result<CoderSettings> {
        let width = self.common().width;
        if d == 0 || width == 0 {
            return Err(Error::config(format!(
                "a coder of input width {d} and `coder.width` {width}: both must be positive"
            )));
        }
        if let Some(Fault { key, value, rule }) = self.faults().into_iter().next() {
            return Err(Error::config(format!("`coder.{key}` is {value}: it {rule}")));
        }
        Ok(match self {
            Self::Topk(c) => c.settings(d),
            Self::Standard(c) => c.settings(d),
            Self::BatchTopk(c) => c.settings(d),
            Self::Jumprelu(c) => c.settings(d),
            Self::Gated(c) => c.settings(d),
            Self::Matryoshka(c) => c.settings(d),
            Self::PAnneal(c) => c.settings(d),
            Self::FeatureChoice(c) => c.settings(d),
            Self::TopAfa(c) => c.settings(d),
            Self::GroupMax(c) => c.settings(d),
            Self::NestedTopk(c) => c.settings(d),
            Self::KSparse(c) => c.settings(d),
            Self::Switch(c) => c.settings(d),
            Self::Kron(c) => c.settings(d),
            Self::MatchingPursuit(c) => c.settings(d),
            Self::Archetypal(c) => c.settings(d),
            Self::Gba(c) => c.settings(d),
            Self::Bilinear(c) => c.settings(d),
        })
    }
}

/// How parameters are updated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Adam (Kingma & Ba 2015), with linear warm-up and decay to zero at the end.
    Adam {
        /// Peak learning rate.
        #[schemars(extend("exclusiveMinimum" = 0))]
        learning_rate: f64,
        /// Decay rates of the moments.
        #[serde(default = "default_betas")]
        #[schemars(inner(range(min = 0.0, max = 0.999_999_9)))]
        betas: [f64; 2],
        /// Added to the denominator.
        #[serde(default = "default_epsilon")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        epsilon: f64,
        /// Steps of linear warm-up.
        #[serde(default = "default_warmup_steps")]
        warmup_steps: u64,
        /// Share of all steps, at the end, over which the rate falls to zero.
        #[serde(default = "default_decay")]
        decay: Percent,
        /// How it falls.
        #[serde(default, skip_serializing_if = "is_default")]
        decay_shape: DecayShape,
        /// Share of the weights, times the rate, that each step takes off (AdamW).
        #[serde(default, skip_serializing_if = "is_default")]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
        /// The coder is judged and exported with a moving average of its weights, of which an update keeps this share.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 0.0, max = 0.999_999_9))]
        average: Option<f64>,
        /// Largest norm of all gradients together; 0: no clipping.
        #[serde(default = "default_clip")]
        #[schemars(range(min = 0.0))]
        clip_norm: f64,
    },
    /// Steps by the signs of gradients, schedule-free (Defazio et al. 2024), as sparsify trains: the coder is judged and
    /// exported with an average of its weights, and the rate does not fall.
    Signum {
        /// Learning rate.
        #[schemars(extend("exclusiveMinimum" = 0))]
        learning_rate: f64,
        /// Weight of the average in the point where gradients are taken.
        #[serde(default = "default_beta")]
        #[schemars(extend("exclusiveMinimum" = 0), range(max = 1.0))]
        beta: f64,
        /// Steps of linear warm-up.
        #[serde(default = "default_warmup_steps")]
        warmup_steps: u64,
    },
    /// Steps along orthogonalised momentum for encoder and decoder, Adam for the rest (Jordan et al. 2024), as in sparsify.
    Muon {
        /// Peak learning rate, of both.
        #[schemars(extend("exclusiveMinimum" = 0))]
        learning_rate: f64,
        /// Decay rate of the momentum.
        #[serde(default = "default_beta")]
        #[schemars(range(min = 0.0, max = 0.999_999_9))]
        momentum: f64,
        /// Share of encoder and decoder, times the rate, that each step takes off.
        #[serde(default = "default_weight_decay")]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
        /// Steps of linear warm-up.
        #[serde(default = "default_warmup_steps")]
        warmup_steps: u64,
        /// Share of all steps, at the end, over which the rate falls to zero.
        #[serde(default = "default_decay")]
        decay: Percent,
        /// The coder is judged and exported with a moving average of its weights, of which an update keeps this share.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 0.0, max = 0.999_999_9))]
        average: Option<f64>,
        /// Largest norm of all gradients together; 0: no clipping.
        #[serde(default = "default_clip")]
        #[schemars(range(min = 0.0))]
        clip_norm: f64,
    },
}

impl OptimizerConfig {
    /// Whether it moves parameters whose gradient is always 0.
    pub fn moves_everything(&self) -> bool {
        match self {
            Self::Adam { weight_decay, .. } => *weight_decay > 0.0,
            Self::Signum { .. } => true,
            Self::Muon { .. } => false,
        }
    }

    /// The share that a moving average of the weights keeps, if the coder is judged with one.
    pub fn average(&self) -> Option<f64> {
        match self {
            Self::Adam { average, .. } | Self::Muon { average, .. } => *average,
            // it keeps one of its own
            Self::Signum { .. } => None,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn default_weight_decay() -> f64 {
    0.1
}

fn default_beta() -> f64 {
    0.95
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_epsilon() -> f64 {
    1e-8
}

fn default_warmup_steps() -> u64 {
    50
}

fn default_decay() -> Percent {
    Percent::from_share(0.2)
}

fn default_clip() -> f64 {
    1.0
}
