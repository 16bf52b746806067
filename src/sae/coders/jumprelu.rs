//! `type: jumprelu` (Rajamanoharan et al. 2024; Anthropic, January 2025): thresholds that are trained.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::{CoderDims, PenaltyShape};
use crate::sae::coders::{Common, Fault, Faults, default_dead_after, default_warmup_steps};
use crate::sae::settings::{
    CoderSettings, DecoderMapSettings, DecoderNorm, JumpReluSettings, L0Penalty, PenaltySettings, SelectionSettings,
};
use crate::units::Count;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct JumpreluConfig {
    /// Latents.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// What is penalised.
    #[serde(default)]
    pub sparsity: Sparsity,
    /// Weight of the penalty; the reconstruction loss is summed over dimensions.
    #[schemars(range(min = 0.0))]
    pub l0_coefficient: f64,
    /// Steps over which the weight rises from 0.
    #[serde(default = "default_warmup_steps")]
    pub l0_warmup_steps: u64,
    /// With `sparsity: target`: active latents a row to aim at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub target_l0: Option<f64>,
    /// With `sparsity: tanh`: steepness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub tanh_scale: Option<f64>,
    /// With `sparsity: quadratic`: the share of rows at which a latent's penalty has doubled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub frequency_scale: Option<f64>,
    /// Threshold to start from, in units of the scaled input.
    #[serde(default = "default_start_threshold")]
    #[schemars(range(min = 0.0))]
    pub start_threshold: f64,
    /// Width of the window around a threshold whose rows move it.
    #[serde(default = "default_bandwidth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub bandwidth: f64,
    /// Weight of a loss that lifts pre-activations of dead latents towards their thresholds; 0: off.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub pre_act_coefficient: f64,
    /// Whether that loss is of all latents.
    #[serde(default)]
    pub pre_act_all_latents: bool,
    /// Whether the gradient of the thresholds' window goes on to the encoder (Anthropic, January 2025).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encoder_gradient: bool,
    /// Norms of decoder rows.
    #[serde(default)]
    pub decoder: FreeDecoder,
    /// A latent that fired for none of this many tokens is dead.
    #[serde(default = "default_dead_after")]
    pub dead_after_tokens: Count,
}

/// What a JumpReLU coder penalises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sparsity {
    /// The number of active latents.
    #[default]
    Step,
    /// `tanh(tanh_scale f |w_dec|)` of each value.
    Tanh,
    /// The share of rows on which each latent is active, and its square: dense latents pay more.
    Quadratic,
    /// The squared relative distance of the number of active latents from `target_l0`.
    Target,
}

/// Norms of decoder rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FreeDecoder {
    /// 1, held by projection and renormalisation.
    #[default]
    Unit,
    /// Whatever the loss makes them.
    Free,
    /// Free; the decoder that is used has rows divided by their norms.
    Normalized,
}

impl FreeDecoder {
    pub(super) fn norm(self) -> DecoderNorm {
        if self == Self::Unit { DecoderNorm::Unit } else { DecoderNorm::Free }
    }

    pub(super) fn map(self) -> DecoderMapSettings {
        if self == Self::Normalized { DecoderMapSettings::Normalized } else { DecoderMapSettings::Identity }
    }
}

fn default_start_threshold() -> f64 {
    0.01
}

fn default_bandwidth() -> f64 {
    0.05
}

impl JumpreluConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: self.target_l0 }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.not_negative("l0_coefficient", self.l0_coefficient);
        faults.not_negative("start_threshold", self.start_threshold);
        faults.not_negative("pre_act_coefficient", self.pre_act_coefficient);
        faults.positive("bandwidth", self.bandwidth);
        let of_mode = [
            ("target_l0", self.target_l0, Sparsity::Target, "target"),
            ("tanh_scale", self.tanh_scale, Sparsity::Tanh, "tanh"),
            ("frequency_scale", self.frequency_scale, Sparsity::Quadratic, "quadratic"),
        ];
        for (key, value, mode, name) in of_mode {
            if let Some(value) = value {
                faults.positive(key, value);
                faults.check(self.sparsity == mode, key, value, format!("is only for `sparsity: {name}`"));
            }
        }
        if let Some(aim) = self.target_l0.filter(|&aim| aim > f64::from(self.width)) {
            faults.check(false, "target_l0", aim, format!("must be at most `coder.width` ({})", self.width));
        }
        let aims = self.sparsity != Sparsity::Target || self.target_l0.is_some();
        faults.check(aims, "sparsity", "target", "needs `target_l0`");
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let dims = CoderDims::square(d, self.width as usize);
        let sparsity = match self.sparsity {
            Sparsity::Step => L0Penalty::Mean,
            Sparsity::Tanh => L0Penalty::Off,
            Sparsity::Quadratic => L0Penalty::Frequency(self.frequency_scale.unwrap_or(0.01)),
            Sparsity::Target => L0Penalty::Target(self.target_l0.unwrap_or(1.0)),
        };
        let tanh = PenaltySettings {
            shape: PenaltyShape::Tanh { scale: self.tanh_scale.unwrap_or(4.0) },
            coefficient: self.l0_coefficient,
            by_norm: true,
            warmup_steps: self.l0_warmup_steps,
        };
        let selection = SelectionSettings::JumpRelu(JumpReluSettings {
            start: self.start_threshold,
            bandwidth: self.bandwidth,
            sparsity,
            coefficient: self.l0_coefficient,
            warmup_steps: self.l0_warmup_steps,
            pre_act_coefficient: self.pre_act_coefficient,
            pre_act_all: self.pre_act_all_latents,
            encoder_gradient: self.encoder_gradient,
        });
        CoderSettings {
            decoder: self.decoder.norm(),
            decoder_map: self.decoder.map(),
            penalties: (self.sparsity == Sparsity::Tanh).then_some(tanh).into_iter().collect(),
            ..CoderSettings::plain(dims, selection, self.dead_after_tokens.0)
        }
    }
}
