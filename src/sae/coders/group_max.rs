//! `type: group_max` (sparsify's `groupmax`): the largest latent of each of `k` ranges.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::CoderDims;
use crate::sae::coders::{AuxConfig, Common, Fault, Faults, aux, default_dead_after};
use crate::sae::settings::{CoderSettings, SelectionSettings};
use crate::units::Count;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct GroupMaxConfig {
    /// Latents.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// Ranges of latents, of which each row keeps the largest one; it divides `width`.
    #[schemars(range(min = 1))]
    pub k: u32,
    /// Dead latents reconstruct the residual (AuxK).
    #[serde(default, skip_serializing_if = "aux::is_default")]
    pub aux: AuxConfig,
    /// A latent that fired for none of this many tokens is dead.
    #[serde(default = "default_dead_after")]
    pub dead_after_tokens: Count,
}

impl GroupMaxConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: Some(f64::from(self.k)) }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.kept(self.width, f64::from(self.k));
        let divides = self.k > 0 && self.width.is_multiple_of(self.k);
        faults.check(divides, "k", self.k, format!("must divide `coder.width` ({})", self.width));
        self.aux.faults(self.width, &mut faults);
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let selection = SelectionSettings::GroupMax { groups: self.k as usize };
        CoderSettings {
            aux: self.aux.settings(d, self.width),
            ..CoderSettings::plain(CoderDims::square(d, self.width as usize), selection, self.dead_after_tokens.0)
        }
    }
}
