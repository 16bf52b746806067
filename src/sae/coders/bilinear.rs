//! `type: bilinear`: latents are products of two directions, and what is reconstructed are all products of a row's values.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::CoderDims;
use crate::sae::coders::{Common, Fault, Faults};
use crate::sae::settings::{
    CoderSettings, DecoderNorm, ProductSettings, SelectionSettings, StartSettings, TargetSettings,
};

/// The keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct BilinearConfig {
    /// Latents. Memory and time of a step grow with their square.
    #[schemars(range(min = 1))]
    pub width: u32,
    /// Weight of the mean density of latents over a batch.
    #[serde(default = "default_density")]
    #[schemars(range(min = 0.0))]
    pub density_coefficient: f64,
    /// Steps over which the weight rises from 0.
    #[serde(default = "default_steps")]
    pub density_warmup_steps: u64,
}

fn default_density() -> f64 {
    0.1
}

fn default_steps() -> u64 {
    256
}

impl BilinearConfig {
    pub(in crate::sae) fn common(&self) -> Common {
        Common { width: self.width, k: None }
    }

    pub(in crate::sae) fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        faults.not_negative("density_coefficient", self.density_coefficient);
        faults.0
    }

    pub(in crate::sae) fn settings(&self, d: usize) -> CoderSettings {
        let dims = CoderDims::square(d, self.width as usize);
        let own = ProductSettings { density: self.density_coefficient, warmup_steps: self.density_warmup_steps };
        // no latent is ever dead: each is the product of two numbers that are not 0
        let plain = CoderSettings::plain(dims, SelectionSettings::Products(own), u64::MAX);
        CoderSettings {
            target: TargetSettings { bias: false, ..plain.target },
            decoder: DecoderNorm::Free,
            subtract_bias: false,
            start: StartSettings { norm: 1.0, median: false, tied: false },
            ..plain
        }
    }
}
