//! `type: kron` (KronSAE, Kurochkin et al. 2025): latents are pairs of parts, TopK of them, AuxK.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::{CoderDims, PairShape};
use crate::sae::coders::{AuxConfig, Common, Fault, Faults, aux, default_dead_after, k_anneal};
use crate::sae::settings::{CoderSettings, SelectionSettings};
use crate::units::Count;

/// Under the root, so that its slope is bounded.
const EPSILON: f64 = 1e-5;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct KronConfig {
    /// Latents: a multiple of `first` times `second`, which are those of a head.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// Latents kept a row.
    #[schemars(range(min = 1))]
    pub k: u32,
    /// First parts of a head.
    #[serde(default = "default_first")]
    #[schemars(range(min = 1))]
    pub first: u32,
    /// Second parts of a head.
    #[serde(default = "default_second")]
    #[schemars(range(min = 1))]
    pub second: u32,
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
}

fn default_first() -> u32 {
    2
}

fn default_second() -> u32 {
    4
}

impl KronConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: Some(f64::from(self.k)) }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.kept(self.width, f64::from(self.k));
        self.aux.faults(self.width, &mut faults);
        faults.annealed(self.width, f64::from(self.k), self.k_start, self.k_anneal_steps);
        for (key, value) in [("first", self.first), ("second", self.second)] {
            faults.check(value >= 1, key, value, "must be at least 1");
        }
        let head = u64::from(self.first) * u64::from(self.second);
        let rule = format!("must be a multiple of `first` times `second` ({head})");
        faults.check(head > 0 && u64::from(self.width).is_multiple_of(head), "width", self.width, rule);
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let dims = CoderDims::square(d, self.width as usize);
        let (first, second) = (self.first as usize, self.second as usize);
        let shape = PairShape { heads: dims.f / (first * second), first, second, epsilon: EPSILON };
        let selection = SelectionSettings::Pairs { shape, k: self.k as usize };
        CoderSettings {
            k_anneal: k_anneal(self.k_start, self.k_anneal_steps),
            aux: self.aux.settings(d, self.width),
            ..CoderSettings::plain(dims, selection, self.dead_after_tokens.0)
        }
    }
}
