//! `type: gba` (group bias adaptation, arXiv 2506.14002): ReLU without a penalty, biases by how often latents fire.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::CoderDims;
use crate::sae::bias_control::BiasControlSettings;
use crate::sae::coders::{Common, Fault, Faults, default_dead_after};
use crate::sae::settings::{CoderSettings, DecoderMapSettings, DecoderNorm, SelectionSettings, TargetSettings};
use crate::units::Count;

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct GbaConfig {
    /// Latents.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// Groups of latents, each with a share of rows on which its latents are to fire.
    #[serde(default = "default_groups")]
    #[schemars(range(min = 1))]
    pub groups: u32,
    /// That share for the first group.
    #[serde(default = "default_highest")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1.0))]
    pub highest_density: f64,
    /// That share for the last group; those between make a geometric sequence.
    #[serde(default = "default_lowest")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1.0))]
    pub lowest_density: f64,
    /// Steps between changes of biases.
    #[serde(default = "default_every")]
    #[schemars(range(min = 1))]
    pub adapt_every: u64,
    /// Size of a change, as a share of a latent's largest value.
    #[serde(default = "default_rate")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub adapt_rate: f64,
    /// A latent that fired for none of this many tokens counts as dead.
    #[serde(default = "default_dead_after")]
    pub dead_after_tokens: Count,
}

fn default_groups() -> u32 {
    10
}

fn default_highest() -> f64 {
    0.1
}

fn default_lowest() -> f64 {
    1e-3
}

fn default_every() -> u64 {
    50
}

fn default_rate() -> f64 {
    0.01
}

impl GbaConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: None }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        let (groups, width) = (self.groups, self.width);
        let rule = format!("must be between 1 and `coder.width` ({width})");
        faults.check(groups >= 1 && groups <= width, "groups", groups, rule);
        for (key, density) in [("highest_density", self.highest_density), ("lowest_density", self.lowest_density)] {
            faults.check(density > 0.0 && density <= 1.0, key, density, "must be above 0 and at most 1");
        }
        let (highest, lowest) = (self.highest_density, self.lowest_density);
        let rule = format!("must be at most `highest_density` ({highest})");
        faults.check(lowest <= highest, "lowest_density", lowest, rule);
        faults.check(self.adapt_every >= 1, "adapt_every", self.adapt_every, "must be at least 1");
        faults.positive("adapt_rate", self.adapt_rate);
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let dims = CoderDims::square(d, self.width as usize);
        let control = BiasControlSettings {
            groups: self.groups as usize,
            highest: self.highest_density,
            lowest: self.lowest_density,
            every: self.adapt_every,
            rate: self.adapt_rate,
        };
        let plain = CoderSettings::plain(dims, SelectionSettings::Positive, self.dead_after_tokens.0);
        CoderSettings {
            // a `b_dec` that is trained takes up what is done to the biases, and latents stay as dense as they were
            target: TargetSettings { bias: false, ..plain.target },
            decoder: DecoderNorm::Free,
            decoder_map: DecoderMapSettings::Scaled,
            bias_control: Some(control),
            ..plain
        }
    }
}
