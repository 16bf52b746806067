//! `type: topk` (Gao et al. 2024): the k largest of each row, unit decoder rows, AuxK.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::CoderDims;
use crate::sae::coders::{AuxConfig, Common, Fault, Faults, RankedDecoder, aux, default_dead_after, k_anneal};
use crate::sae::settings::{CoderSettings, MultiSettings, SelectionSettings};
use crate::units::Count;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct TopkConfig {
    /// Latents.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// Latents kept a row.
    #[schemars(range(min = 1))]
    pub k: u32,
    /// Dead latents reconstruct the residual (AuxK).
    #[serde(default, skip_serializing_if = "aux::is_default")]
    pub aux: AuxConfig,
    /// A latent that fired for none of this many tokens is dead.
    #[serde(default = "default_dead_after")]
    pub dead_after_tokens: Count,
    /// Weight of another reconstruction, from `multi_k` latents a row (multi-TopK); 0: off.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0.0))]
    pub multi_coefficient: f64,
    /// Latents of that reconstruction; default: four times `k`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multi_k: Option<u32>,
    /// Latents kept a row at first; the number falls to `k` over `k_anneal_steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub k_start: Option<u32>,
    /// Steps over which the number of latents kept falls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub k_anneal_steps: Option<u64>,
    /// Norms of decoder rows.
    #[serde(default, skip_serializing_if = "RankedDecoder::is_unit")]
    pub decoder: RankedDecoder,
}

fn is_zero(x: &f64) -> bool {
    *x == 0.0
}

impl TopkConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: Some(f64::from(self.k)) }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.kept(self.width, f64::from(self.k));
        self.aux.faults(self.width, &mut faults);
        faults.annealed(self.width, f64::from(self.k), self.k_start, self.k_anneal_steps);
        faults.not_negative("multi_coefficient", self.multi_coefficient);
        if let Some(multi_k) = self.multi_k {
            let rule = format!("must be above `coder.k` and at most `coder.width` ({})", self.width);
            faults.check(multi_k > self.k && multi_k <= self.width, "multi_k", multi_k, rule);
            faults.check(self.multi_coefficient > 0.0, "multi_k", multi_k, "needs `multi_coefficient`");
        }
        let plain = self.multi_coefficient == 0.0 || self.decoder.is_unit();
        faults.check(plain, "multi_coefficient", self.multi_coefficient, "needs `decoder: unit`");
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let dims = CoderDims::square(d, self.width as usize);
        let selection = SelectionSettings::TopK { k: self.k as usize };
        let multi_k = self.multi_k.unwrap_or(self.k.saturating_mul(4)).min(self.width) as usize;
        let multi = MultiSettings { k: multi_k, coefficient: self.multi_coefficient };
        CoderSettings {
            multi: (multi.coefficient > 0.0).then_some(multi),
            decoder: self.decoder.norm(),
            decoder_map: self.decoder.map(),
            k_anneal: k_anneal(self.k_start, self.k_anneal_steps),
            aux: self.aux.settings(d, self.width),
            ..CoderSettings::plain(dims, selection, self.dead_after_tokens.0)
        }
    }
}
