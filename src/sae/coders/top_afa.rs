//! `type: top_afa` (2025): each row keeps as many latents as make the code as long as the row.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::CoderDims;
use crate::sae::coders::{AuxConfig, Common, Fault, Faults, aux, default_dead_after, default_threshold_rate};
use crate::sae::settings::{CoderSettings, SelectionSettings};
use crate::units::Count;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct TopAfaConfig {
    /// Latents.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// Weight of the squared difference between the norms of a row's code and of the row.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub afa_coefficient: f64,
    /// Weight of a new batch in the moving average of the least value kept, which is the threshold at inference; the first
    /// batches weigh the same.
    #[serde(default = "default_threshold_rate")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1.0))]
    pub threshold_rate: f64,
    /// Dead latents reconstruct the residual (AuxK).
    #[serde(default, skip_serializing_if = "aux::is_default")]
    pub aux: AuxConfig,
    /// A latent that fired for none of this many tokens is dead.
    #[serde(default = "default_dead_after")]
    pub dead_after_tokens: Count,
}

impl TopAfaConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: None }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.not_negative("afa_coefficient", self.afa_coefficient);
        self.aux.faults(self.width, &mut faults);
        let rate = self.threshold_rate;
        faults.check(rate > 0.0 && rate <= 1.0, "threshold_rate", rate, "must be above 0 and at most 1");
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let (coefficient, threshold_rate) = (self.afa_coefficient, self.threshold_rate);
        let selection = SelectionSettings::TopAfa { coefficient, threshold_rate };
        CoderSettings {
            aux: self.aux.settings(d, self.width),
            ..CoderSettings::plain(CoderDims::square(d, self.width as usize), selection, self.dead_after_tokens.0)
        }
    }
}
