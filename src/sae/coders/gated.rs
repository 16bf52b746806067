//! `type: gated` (Rajamanoharan et al. 2024a): a gate and a magnitude for each latent.
//!
//! With decoder rows of norm 1 the penalty is on the gate's values, and the gate's own reconstruction does not train the
//! decoder, as in the paper. With free norms these multiply the penalty and the decoder is trained by both, as in SAELens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::{CoderDims, PenaltyShape};
use crate::sae::coders::jumprelu::FreeDecoder;
use crate::sae::coders::{Common, Fault, Faults, default_dead_after, default_warmup_steps};
use crate::sae::settings::{CoderSettings, PenaltySettings, SelectionSettings};
use crate::units::Count;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct GatedConfig {
    /// Latents.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// Weight of the penalty on the gate's values; the reconstruction losses are summed over dimensions.
    #[schemars(range(min = 0.0))]
    pub l1_coefficient: f64,
    /// Steps over which the weight rises from 0.
    #[serde(default = "default_warmup_steps")]
    pub l1_warmup_steps: u64,
    /// Norms of decoder rows.
    #[serde(default)]
    pub decoder: FreeDecoder,
    /// A latent that fired for none of this many tokens is dead.
    #[serde(default = "default_dead_after")]
    pub dead_after_tokens: Count,
}

impl GatedConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: None }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.not_negative("l1_coefficient", self.l1_coefficient);
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let dims = CoderDims::square(d, self.width as usize);
        let free = self.decoder == FreeDecoder::Free;
        let penalty = PenaltySettings {
            shape: PenaltyShape::Linear,
            coefficient: self.l1_coefficient,
            by_norm: free,
            warmup_steps: self.l1_warmup_steps,
        };
        let selection = SelectionSettings::Gated { trains_decoder: free };
        CoderSettings {
            decoder: self.decoder.norm(),
            decoder_map: self.decoder.map(),
            penalties: vec![penalty],
            ..CoderSettings::plain(dims, selection, self.dead_after_tokens.0)
        }
    }
}
