//! `type: k_sparse` (Makhzani & Frey 2013): one matrix for encoder and decoder, the k largest values of each row as they are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::CoderDims;
use crate::sae::coders::{Common, Fault, Faults, default_dead_after, k_anneal};
use crate::sae::settings::{CoderSettings, DecoderMapSettings, DecoderNorm, SelectionSettings, StartSettings};
use crate::units::Count;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct KSparseConfig {
    /// Latents.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// Latents kept a row.
    #[schemars(range(min = 1))]
    pub k: u32,
    /// Latents kept a row at first; the number falls to `k` over `k_anneal_steps`. It keeps latents alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub k_start: Option<u32>,
    /// Steps over which the number of latents kept falls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub k_anneal_steps: Option<u64>,
    /// Latents kept a row at inference; default: `k`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub inference_k: Option<u32>,
    /// A latent that fired for none of this many tokens counts as dead.
    #[serde(default = "default_dead_after")]
    pub dead_after_tokens: Count,
}

impl KSparseConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: Some(f64::from(self.k)) }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.kept(self.width, f64::from(self.k));
        faults.annealed(self.width, f64::from(self.k), self.k_start, self.k_anneal_steps);
        if let Some(k) = self.inference_k {
            let rule = format!("must be between 1 and `coder.width` ({})", self.width);
            faults.check(k >= 1 && k <= self.width, "inference_k", k, rule);
        }
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let dims = CoderDims::square(d, self.width as usize);
        let inference_k = self.inference_k.unwrap_or(self.k) as usize;
        let selection = SelectionSettings::SignedTopK { k: self.k as usize, inference_k };
        CoderSettings {
            decoder: DecoderNorm::Free,
            decoder_map: DecoderMapSettings::Tied,
            subtract_bias: false,
            k_anneal: k_anneal(self.k_start, self.k_anneal_steps),
            start: StartSettings { norm: 1.0, median: false, tied: true },
            ..CoderSettings::plain(dims, selection, self.dead_after_tokens.0)
        }
    }
}
