//! `type: matryoshka` (Bussmann et al. 2025): BatchTopK with nested reconstructions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sae::coders::{
    AuxConfig, BatchTopkConfig, Common, Fault, Faults, RankedDecoder, aux, default_dead_after, default_threshold_rate,
};
use crate::sae::settings::{CoderSettings, Prefix};
use crate::units::Count;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct MatryoshkaConfig {
    /// Latents.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// Latents kept a row, on average over a batch.
    #[schemars(range(min = 1.0))]
    pub k: f64,
    /// How many of the first latents reconstruct the input alone, ascending; `width` itself need not be named.
    #[schemars(length(min = 1), inner(range(min = 1)))]
    pub widths: Vec<u32>,
    /// Weights of the losses of `widths` and of `width`; default: 1 each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Vec<f64>>,
    /// Weight of a new batch in the moving average of the least value kept, which is the threshold at inference; the first
    /// batches weigh the same.
    #[serde(default = "default_threshold_rate")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1.0))]
    pub threshold_rate: f64,
    /// Dead latents reconstruct what the widest reconstruction left (AuxK).
    #[serde(default, skip_serializing_if = "aux::is_default")]
    pub aux: AuxConfig,
    /// A latent that fired for none of this many tokens is dead.
    #[serde(default = "default_dead_after")]
    pub dead_after_tokens: Count,
    /// Norms of decoder rows.
    #[serde(default)]
    pub decoder: RankedDecoder,
}

impl MatryoshkaConfig {
    fn base(&self) -> BatchTopkConfig {
        BatchTopkConfig {
            width: self.width,
            k: self.k,
            threshold_rate: self.threshold_rate,
            aux: self.aux,
            dead_after_tokens: self.dead_after_tokens,
            k_start: None,
            k_anneal_steps: None,
            decoder: self.decoder,
        }
    }

    /// `widths`, and `width` at the end.
    fn all_widths(&self) -> Vec<u32> {
        let last = (self.widths.last() != Some(&self.width)).then_some(self.width);
        self.widths.iter().copied().chain(last).collect()
    }

    pub(in crate::sae) fn common(&self) -> Common {
        self.base().common()
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults(self.base().faults());
        let widths = self.all_widths();
        let ascending = widths.windows(2).all(|pair| pair[0] < pair[1]) && widths[0] > 0;
        let rule = format!("must ascend from 1 or more to at most `coder.width` ({})", self.width);
        faults.check(ascending, "widths", format!("{:?}", self.widths), rule);
        if let Some(weights) = &self.weights {
            let shown = format!("{weights:?}");
            let fit = weights.len() == widths.len();
            let rule = format!("must have {} numbers: one for each of `widths`, and for `width`", widths.len());
            faults.check(fit, "weights", &shown, rule);
            let fine = weights.iter().all(|w| *w >= 0.0 && w.is_finite()) && weights.last().is_some_and(|w| *w > 0.0);
            faults.check(fine, "weights", shown, "must be 0 or more, the last above 0");
        }
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let widths = self.all_widths();
        let weights = self.weights.clone().unwrap_or_else(|| vec![1.0; widths.len()]);
        let prefixes = widths.into_iter().zip(weights).map(|(width, weight)| Prefix { width: width as usize, weight });
        CoderSettings { prefixes: prefixes.collect(), ..self.base().settings(d) }
    }
}
