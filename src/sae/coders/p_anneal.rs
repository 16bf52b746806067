//! `type: p_anneal` (Karvonen et al. 2024): ReLU, or a gate, with a penalty whose exponent falls from 1 towards 0 while
//! training.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::{CoderDims, PenaltyShape};
use crate::sae::coders::{Common, Fault, Faults, default_dead_after, default_warmup_steps};
use crate::sae::settings::{AnnealSettings, CoderSettings, PenaltySettings, SelectionSettings};
use crate::units::Count;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct PAnnealConfig {
    /// Latents.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// What is penalised.
    #[serde(default, skip_serializing_if = "is_standard")]
    pub base: AnnealedBase,
    /// Weight of the penalty to start from; the reconstruction loss is summed over dimensions.
    #[schemars(range(min = 0.0))]
    pub sparsity_coefficient: f64,
    /// Steps over which the weight rises from 0.
    #[serde(default = "default_warmup_steps")]
    pub sparsity_warmup_steps: u64,
    /// The first step at which the exponent falls.
    #[serde(default = "default_start")]
    pub anneal_start_step: u64,
    /// The step at which it has fallen for the last time.
    pub anneal_end_step: u64,
    /// How many values the exponent takes: 1, 1 - 1/n, ..., 1/n.
    #[serde(default = "default_exponents")]
    #[schemars(range(min = 2, max = 1000))]
    pub exponents: u32,
    /// Batches over which the penalty is made to go on at the size it had.
    #[serde(default = "default_window")]
    #[schemars(range(min = 1, max = 1000))]
    pub window: u32,
    /// Every so many steps, dead latents start anew in the direction of rows that are reconstructed badly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub resample_every_steps: Option<u64>,
    /// A latent that fired for none of this many tokens is dead.
    #[serde(default = "default_dead_after")]
    pub dead_after_tokens: Count,
}

/// The coder whose penalty is annealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnnealedBase {
    /// ReLU: the values of the code.
    #[default]
    Standard,
    /// Gated, decoder rows of norm 1: the values of the gate.
    Gated,
}

fn is_standard(base: &AnnealedBase) -> bool {
    *base == AnnealedBase::Standard
}

fn default_start() -> u64 {
    15_000
}

fn default_exponents() -> u32 {
    10
}

fn default_window() -> u32 {
    10
}

impl PAnnealConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: None }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.not_negative("sparsity_coefficient", self.sparsity_coefficient);
        let (start, end) = (self.anneal_start_step, self.anneal_end_step);
        faults.check(end > start, "anneal_end_step", end, format!("must be above `anneal_start_step` ({start})"));
        faults.check((2..=1000).contains(&self.exponents), "exponents", self.exponents, "must be between 2 and 1000");
        faults.check((1..=1000).contains(&self.window), "window", self.window, "must be between 1 and 1000");
        faults.check(self.resample_every_steps != Some(0), "resample_every_steps", 0, "must be at least 1");
        if let Some(every) = self.resample_every_steps {
            faults.check(is_standard(&self.base), "resample_every_steps", every, "is only for `base: standard`");
        }
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let dims = CoderDims::square(d, self.width as usize);
        let penalty = PenaltySettings {
            shape: PenaltyShape::Power { p: 1.0 },
            coefficient: self.sparsity_coefficient,
            by_norm: false,
            warmup_steps: self.sparsity_warmup_steps,
        };
        let selection = match self.base {
            AnnealedBase::Standard => SelectionSettings::Positive,
            AnnealedBase::Gated => SelectionSettings::Gated { trains_decoder: false },
        };
        CoderSettings {
            resample_every: self.resample_every_steps,
            penalties: vec![penalty],
            anneal: Some(AnnealSettings {
                start_step: self.anneal_start_step,
                end_step: self.anneal_end_step,
                exponents: self.exponents,
                window: self.window as usize,
            }),
            ..CoderSettings::plain(dims, selection, self.dead_after_tokens.0)
        }
    }
}
