//! `type: standard`: ReLU, and a penalty on the sizes of the code's values, in two forms.
//!
//! - `april` (Anthropic, April 2024): decoder norms are free and multiply the values in the penalty, the input is not
//!   shifted. Scaling a latent's encoder up and its decoder down changes nothing.
//! - `bricken` (Bricken et al. 2023): decoder rows of norm 1, `b_dec` is subtracted from the input.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::{CoderDims, PenaltyShape};
use crate::sae::coders::{Common, Fault, Faults, default_dead_after, default_warmup_steps};
use crate::sae::settings::{CoderSettings, DecoderNorm, PenaltySettings, SelectionSettings, StartSettings};
use crate::units::Count;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct StandardConfig {
    /// Latents.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// Weight of the penalty; the reconstruction loss is summed over dimensions.
    #[schemars(range(min = 0.0))]
    pub l1_coefficient: f64,
    /// Which form.
    #[serde(default)]
    pub form: StandardForm,
    /// Steps over which the weight rises from 0.
    #[serde(default = "default_warmup_steps")]
    pub l1_warmup_steps: u64,
    /// The penalty is a row's norm of this order.
    #[serde(default = "default_lp_norm", skip_serializing_if = "is_one")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub lp_norm: f64,
    /// Whether `b_dec` is subtracted from the encoder's input; default: as the form says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply_b_dec_to_input: Option<bool>,
    /// Every so many steps, dead latents start anew in the direction of rows that are reconstructed badly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub resample_every_steps: Option<u64>,
    /// Dead latents reconstruct the residual by the exponentials of their pre-activations (ghost gradients).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ghost_gradients: bool,
    /// A latent that fired for none of this many tokens is dead.
    #[serde(default = "default_dead_after")]
    pub dead_after_tokens: Count,
}

/// The two forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StandardForm {
    /// Free decoder norms, which multiply the values in the penalty.
    #[default]
    April,
    /// Decoder rows of norm 1.
    Bricken,
}

fn default_lp_norm() -> f64 {
    1.0
}

fn is_one(p: &f64) -> bool {
    *p == 1.0
}

impl StandardConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: None }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.not_negative("l1_coefficient", self.l1_coefficient);
        faults.positive("lp_norm", self.lp_norm);
        faults.check(self.resample_every_steps != Some(0), "resample_every_steps", 0, "must be at least 1");
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let dims = CoderDims::square(d, self.width as usize);
        let free = self.form == StandardForm::April;
        let shape = if self.lp_norm == 1.0 { PenaltyShape::Linear } else { PenaltyShape::RowNorm { p: self.lp_norm } };
        let (coefficient, warmup_steps) = (self.l1_coefficient, self.l1_warmup_steps);
        CoderSettings {
            resample_every: self.resample_every_steps,
            ghost: self.ghost_gradients,
            decoder: if free { DecoderNorm::Free } else { DecoderNorm::Unit },
            subtract_bias: self.apply_b_dec_to_input.unwrap_or(!free),
            penalties: vec![PenaltySettings { shape, coefficient, by_norm: free, warmup_steps }],
            start: StartSettings { norm: if free { 0.1 } else { 1.0 }, median: !free, tied: true },
            ..CoderSettings::plain(dims, SelectionSettings::Positive, self.dead_after_tokens.0)
        }
    }
}
