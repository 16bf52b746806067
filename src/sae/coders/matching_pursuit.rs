//! `type: matching_pursuit` (MP-SAE): latents are chosen one after the other, each from what those before it left.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::CoderDims;
use crate::sae::coders::{Common, Fault, Faults, default_dead_after};
use crate::sae::settings::{CoderSettings, SelectionSettings};
use crate::units::Count;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct MatchingPursuitConfig {
    /// Latents.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// Steps a row; a latent may be chosen more than once.
    #[schemars(range(min = 1))]
    pub k: u32,
    /// A latent that fired for none of this many tokens counts as dead.
    #[serde(default = "default_dead_after")]
    pub dead_after_tokens: Count,
}

impl MatchingPursuitConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: Some(f64::from(self.k)) }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.kept(self.width, f64::from(self.k));
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let dims = CoderDims::square(d, self.width as usize);
        CoderSettings::plain(dims, SelectionSettings::Pursuit { k: self.k as usize }, self.dead_after_tokens.0)
    }
}
