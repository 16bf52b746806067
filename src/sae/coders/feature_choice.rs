//! `type: feature_choice` (Ayonrinde 2024): each latent keeps the rows of a batch on which it is largest.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::CoderDims;
use crate::sae::coders::{AuxConfig, Common, Fault, Faults, aux, default_dead_after, default_threshold_rate};
use crate::sae::settings::{AuxSettings, Budget, CoderSettings, FeatureChoiceSettings, SelectionSettings};
use crate::units::Count;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct FeatureChoiceConfig {
    /// Latents.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// Latents kept a row, on average over a batch; `k * batch_rows` must be at least `width`.
    #[schemars(range(min = 1.0))]
    pub k: f64,
    /// How many rows of a batch each latent keeps.
    #[serde(default)]
    pub budget: BudgetKind,
    /// With `budget: zipf`: a latent's budget falls with its rank to the power of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub zipf_exponent: Option<f64>,
    /// With `budget: zipf`: share of the rows that the first latent keeps, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1.0))]
    pub zipf_top: Option<f64>,
    /// Steps between new orders of the latents, by how often each fires.
    #[serde(default = "default_rank_every")]
    #[schemars(range(min = 1))]
    pub rank_every_steps: u64,
    /// Weight of a new batch in the moving averages of what latents kept: the least values, which are their thresholds at
    /// inference, and how often they fire.
    #[serde(default = "default_threshold_rate")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1.0))]
    pub threshold_rate: f64,
    /// Dead latents reconstruct the residual (AuxK).
    #[serde(default, skip_serializing_if = "aux::is_default")]
    pub aux: AuxConfig,
    /// Instead of dead latents, those that fire less often than this share of their budget reconstruct the residual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1.0))]
    pub aux_zipf: Option<f64>,
    /// A latent that fired for none of this many tokens is dead.
    #[serde(default = "default_dead_after")]
    pub dead_after_tokens: Count,
}

/// How many rows of a batch each latent keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BudgetKind {
    /// As many each.
    #[default]
    Uniform,
    /// By Zipf's law: few latents keep many rows.
    Zipf,
}

fn default_rank_every() -> u64 {
    100
}

impl FeatureChoiceConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: Some(self.k) }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.kept(self.width, self.k);
        self.aux.faults(self.width, &mut faults);
        faults.check(self.rank_every_steps > 0, "rank_every_steps", 0, "must be at least 1");
        let share = |faults: &mut Faults, key, value: f64| {
            faults.check(value > 0.0 && value <= 1.0, key, value, "must be above 0 and at most 1");
        };
        share(&mut faults, "threshold_rate", self.threshold_rate);
        for (key, value) in [("zipf_exponent", self.zipf_exponent), ("zipf_top", self.zipf_top)] {
            if let Some(value) = value {
                faults.positive(key, value);
                faults.check(self.budget == BudgetKind::Zipf, key, value, "is only for `budget: zipf`");
            }
        }
        share(&mut faults, "zipf_top", self.zipf_top.unwrap_or(1.0));
        if let Some(aux_zipf) = self.aux_zipf {
            share(&mut faults, "aux_zipf", aux_zipf);
            let on = self.aux.settings(2, self.width).is_some();
            faults.check(on, "aux_zipf", aux_zipf, "needs `aux.coefficient` above 0");
        }
        faults.0
    }

    /// What `batch_rows` must be at least, for every latent to have a place in a batch.
    pub fn least_batch_rows(&self) -> u64 {
        (f64::from(self.width) / self.k.max(1.0)).ceil() as u64
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let budget = match self.budget {
            BudgetKind::Uniform => Budget::Uniform,
            BudgetKind::Zipf => {
                let (exponent, top) = (self.zipf_exponent.unwrap_or(1.0), self.zipf_top.unwrap_or(0.1));
                Budget::Zipf { exponent, top }
            }
        };
        let selection = SelectionSettings::FeatureChoice(FeatureChoiceSettings {
            k: self.k,
            budget,
            rate: self.threshold_rate,
            rank_every: self.rank_every_steps,
        });
        let aux = self.aux.settings(d, self.width);
        CoderSettings {
            aux: aux.map(|aux| AuxSettings { rare_below: self.aux_zipf, ..aux }),
            ..CoderSettings::plain(CoderDims::square(d, self.width as usize), selection, self.dead_after_tokens.0)
        }
    }
}
