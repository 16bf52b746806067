//! `type: nested_topk` (Zaigrajew et al. 2025, MSAE): TopK whose largest latents must reconstruct the input alone, for
//! several k.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::CoderDims;
use crate::sae::coders::{AuxConfig, Common, Fault, Faults, aux, default_dead_after};
use crate::sae::settings::{CoderSettings, NestedBy, Prefix, SelectionSettings};
use crate::units::Count;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct NestedTopkConfig {
    /// Latents.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// How many latents of a row reconstruct the input, ascending; the last is what the coder keeps.
    #[schemars(length(min = 1), inner(range(min = 1)))]
    pub ks: Vec<u32>,
    /// Weights of the reconstructions.
    #[serde(default)]
    pub weights: NestedWeights,
    /// Dead latents reconstruct what the widest reconstruction left (AuxK).
    #[serde(default, skip_serializing_if = "aux::is_default")]
    pub aux: AuxConfig,
    /// A latent that fired for none of this many tokens is dead.
    #[serde(default = "default_dead_after")]
    pub dead_after_tokens: Count,
}

/// Weights of nested reconstructions; together 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NestedWeights {
    /// The same each.
    #[default]
    Uniform,
    /// In proportion to n, n - 1, ..., 1: the smallest k weighs most.
    Reversed,
}

impl NestedTopkConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: self.ks.last().map(|&k| f64::from(k)) }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        let ascending = self.ks.windows(2).all(|pair| pair[0] < pair[1]) && self.ks.first().is_some_and(|k| *k > 0);
        let fits = ascending && self.ks.last().is_some_and(|k| *k <= self.width);
        let rule = format!("must ascend from 1 or more to at most `coder.width` ({})", self.width);
        faults.check(fits, "ks", format!("{:?}", self.ks), rule);
        self.aux.faults(self.width, &mut faults);
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let n = self.ks.len();
        let weight = |r: usize| if self.weights == NestedWeights::Reversed { (n - r) as f64 } else { 1.0 };
        let all: f64 = (0..n).map(weight).sum();
        let prefixes = self.ks.iter().enumerate().map(|(r, &k)| Prefix { width: k as usize, weight: weight(r) / all });
        let selection = SelectionSettings::TopK { k: self.ks.last().map_or(1, |&k| k as usize) };
        CoderSettings {
            prefixes: prefixes.collect(),
            nested_by: NestedBy::Rank,
            aux: self.aux.settings(d, self.width),
            ..CoderSettings::plain(CoderDims::square(d, self.width as usize), selection, self.dead_after_tokens.0)
        }
    }
}
