//! `type: batch_topk` (Bussmann et al. 2024): TopK whose budget is shared by the rows of a batch.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::CoderDims;
use crate::sae::coders::{
    AuxConfig, Common, Fault, Faults, RankedDecoder, aux, default_dead_after, default_threshold_rate, k_anneal,
};
use crate::sae::settings::{CoderSettings, SelectionSettings};
use crate::units::Count;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct BatchTopkConfig {
    /// Latents.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// Latents kept a row, on average over a batch.
    #[schemars(range(min = 1.0))]
    pub k: f64,
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
    /// Latents kept a row at first; the number falls to `k` over `k_anneal_steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub k_start: Option<u32>,
    /// Steps over which the number of latents kept falls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub k_anneal_steps: Option<u64>,
    /// Norms of decoder rows.
    #[serde(default)]
    pub decoder: RankedDecoder,
}

impl BatchTopkConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: Some(self.k) }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.kept(self.width, self.k);
        self.aux.faults(self.width, &mut faults);
        faults.annealed(self.width, self.k, self.k_start, self.k_anneal_steps);
        let rate = self.threshold_rate;
        faults.check(rate > 0.0 && rate <= 1.0, "threshold_rate", rate, "must be above 0 and at most 1");
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let dims = CoderDims::square(d, self.width as usize);
        let selection = SelectionSettings::BatchTopK { k: self.k, threshold_rate: self.threshold_rate };
        CoderSettings {
            decoder: self.decoder.norm(),
            decoder_map: self.decoder.map(),
            k_anneal: k_anneal(self.k_start, self.k_anneal_steps),
            aux: self.aux.settings(d, self.width),
            ..CoderSettings::plain(dims, selection, self.dead_after_tokens.0)
        }
    }
}
