//! The `coder:` and `optimizer:` sections of a trainer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Count, Percent};

/// Which sparse coder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum CoderConfig {
    /// Keep the k largest pre-activations of each row (Gao et al. 2024), with AuxK for dead latents.
    Topk {
        /// Latents.
        #[schemars(range(min = 1))]
        width: u32,
        /// Latents kept a row.
        #[schemars(range(min = 1))]
        k: u32,
        /// Weight of the auxiliary loss that lets dead latents reconstruct the residual; 0: off.
        #[serde(default = "default_aux_coefficient")]
        #[schemars(range(min = 0.0))]
        aux_coefficient: f64,
        /// Dead latents that the auxiliary loss uses a row; default: half the input width.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        aux_k: Option<u32>,
        /// A latent that fired for none of this many tokens is dead.
        #[serde(default = "default_dead_after")]
        dead_after_tokens: Count,
    },
}

/// How parameters are updated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Adam (Kingma & Ba 2015), with linear warm-up and linear decay to zero at the end.
    Adam {
        /// Peak learning rate.
        #[schemars(extend("exclusiveMinimum" = 0))]
        learning_rate: f64,
        /// Decay rates of the moments.
        #[serde(default = "default_betas")]
        #[schemars(inner(range(min = 0.0, max = 0.999_999_9)))]
        betas: [f64; 2],
        /// Added to the denominator.
        #[serde(default = "default_epsilon")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        epsilon: f64,
        /// Steps of linear warm-up.
        #[serde(default = "default_warmup_steps")]
        warmup_steps: u64,
        /// Share of all steps, at the end, over which the rate falls linearly to zero.
        #[serde(default = "default_decay")]
        decay: Percent,
        /// Largest norm of all gradients together; 0: no clipping.
        #[serde(default = "default_clip")]
        #[schemars(range(min = 0.0))]
        clip_norm: f64,
    },
}

fn default_aux_coefficient() -> f64 {
    1.0 / 32.0
}

fn default_dead_after() -> Count {
    Count(10_000_000)
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_epsilon() -> f64 {
    1e-8
}

fn default_warmup_steps() -> u64 {
    50
}

fn default_decay() -> Percent {
    Percent::from_share(0.2)
}

fn default_clip() -> f64 {
    1.0
}
