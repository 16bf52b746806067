//! `type: switch` (Mudide et al. 2024): a router sends each row to one of several groups of latents, TopK within it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::CoderDims;
use crate::sae::coders::{Common, Fault, Faults, default_dead_after};
use crate::sae::settings::{CoderSettings, ExpertSettings, SelectionSettings};
use crate::units::Count;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct SwitchConfig {
    /// Latents of all experts together: a multiple of `experts`.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// Groups of latents, of which a row has one.
    #[schemars(range(min = 1))]
    pub experts: u32,
    /// Latents kept a row.
    #[schemars(range(min = 1))]
    pub k: u32,
    /// Weight of the loss that spreads rows over experts, in units of the input's width.
    #[serde(default = "default_balance")]
    #[schemars(range(min = 0.0))]
    pub balance: f64,
    /// Whether a row's code is multiplied by the probability that the router gave its expert.
    #[serde(default = "default_weighted")]
    pub weighted: bool,
    /// A latent that fired for none of this many tokens counts as dead.
    #[serde(default = "default_dead_after")]
    pub dead_after_tokens: Count,
}

fn default_balance() -> f64 {
    3.0
}

fn default_weighted() -> bool {
    true
}

impl SwitchConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: Some(f64::from(self.k)) }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        let experts = self.experts;
        faults.check(experts >= 1, "experts", experts, "must be at least 1");
        let divides = experts >= 1 && self.width.is_multiple_of(experts);
        faults.check(divides, "width", self.width, format!("must be a multiple of `experts` ({experts})"));
        let most = self.width / experts.max(1);
        let rule = format!("must be between 1 and the latents of an expert ({most})");
        faults.check(self.k >= 1 && self.k <= most, "k", self.k, rule);
        faults.not_negative("balance", self.balance);
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let dims = CoderDims::square(d, self.width as usize);
        let own = ExpertSettings {
            k: self.k as usize,
            experts: self.experts as usize,
            balance: self.balance,
            weighted: self.weighted,
        };
        CoderSettings::plain(dims, SelectionSettings::Experts(own), self.dead_after_tokens.0)
    }
}
