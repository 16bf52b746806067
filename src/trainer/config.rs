//! One entry of the `trainers:` section of a pipeline.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sae::config::{CoderConfig, OptimizerConfig};
use crate::sae::rows::RowScaling;
use crate::trainer::target::TargetConfig;
use crate::units::{Count, HumanDuration};

/// Train one coder online.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainerConfig {
    /// Name in metrics, logs and the summary; unique in the pipeline. Letters, digits, `-`, `_`, `.`.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    #[schemars(extend("x-rule" = "must be letters, digits, `-`, `_` and `.`, and begin with a letter or digit"))]
    pub name: String,
    /// Train one coder for each combination of these values: keys of this section, such as `coder.k`, with lists. Each has its
    /// name from the values (`<name>-k32-learning_rate0.001`) and its checkpoints in a folder of the same name below
    /// `checkpoint.url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "grid_schema")]
    pub grid: Option<serde_json::Value>,
    /// Seed of its weights, and of what is random in its steps; the pipeline's if left out. Trainers with the same seed and coders
    /// of the same shape start from the same weights. The order of rows is of the pipeline's seed alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The site whose rows the coder reads. It is captured whether or not `capture` names it.
    #[schemars(length(min = 1))]
    pub input: String,
    /// What is reconstructed.
    #[serde(default, skip_serializing_if = "TargetConfig::is_autoencoder")]
    pub target: TargetConfig,
    /// Scale of rows; each site has its own.
    #[serde(default)]
    pub normalize: Normalize,
    /// The mixing buffer.
    #[serde(default)]
    pub buffer: BufferConfig,
    /// The coder.
    pub coder: CoderConfig,
    /// Go on from a trained coder: a folder that SAELens, sparsify or this program wrote. Shape, architecture and the scaling
    /// of single rows must fit. Its optimiser's memory is not in it: schedules start anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub start_from: Option<String>,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
    /// Rows in a step. Two at least: the FVU of a step is about the mean of its rows.
    #[serde(default = "default_batch_rows")]
    #[schemars(range(min = 2))]
    pub batch_rows: u32,
    /// Rows to train on in all (a row that is drawn twice counts twice); the schedule's length.
    #[schemars(extend("minimum" = 1))]
    pub rows: Count,
    /// Judge the coder on the held-out rows (`evaluate.tokens` of them, which are kept in memory) each time it was trained on so
    /// many rows more: FVU, cosine, L0 and dead latents, as at the end of the run. It changes nothing of how it is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1))]
    pub evaluate_every_rows: Option<Count>,
    /// Where and how often the state is saved.
    pub checkpoint: CheckpointConfig,
    /// What happens when this trainer does not keep up.
    #[serde(default)]
    pub when_slow: WhenSlow,
}

/// What is done to rows before the coder reads them. One constant is folded into the weights on export; scaling of each row
/// by itself is named in the exported configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalize {
    /// Multiply by one constant so that the mean norm is the square root of the width; measured on the first full buffer.
    #[default]
    SqrtD,
    /// Multiply by one constant so that the mean square of a value is 1; measured on the first full buffer.
    UnitRms,
    /// Multiply by one constant so that the mean square of the norm is 1 (dictionary_learning); measured on the first full
    /// buffer.
    UnitNorm,
    /// Scale each row to a norm of the square root of the width.
    RowNorm,
    /// Shift and scale each row to mean 0 and standard deviation 1.
    LayerNorm,
    /// As it comes.
    None,
}

/// The mixing buffer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BufferConfig {
    /// Rows held; batches are drawn at random while it is full.
    #[serde(default = "default_buffer_rows")]
    #[schemars(extend("minimum" = 1, "maximum" = 4_294_967_295u32))]
    pub rows: Count,
    /// Draws after which a row leaves.
    #[serde(default = "default_reuse")]
    #[schemars(range(min = 1, max = 255))]
    pub reuse: u32,
}

impl Default for BufferConfig {
    fn default() -> Self {
        Self { rows: default_buffer_rows(), reuse: default_reuse() }
    }
}

/// Where and how often a trainer's state is saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Folder: a local path or an object-store URL.
    #[schemars(length(min = 1))]
    pub url: String,
    /// Time between checkpoints; one is also written at the end and on SIGTERM.
    #[serde(default = "default_every")]
    pub every: HumanDuration,
    /// Newest checkpoints that are kept.
    #[serde(default = "default_keep")]
    #[schemars(range(min = 1))]
    pub keep: u32,
}

/// What happens when a trainer does not keep up with the forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenSlow {
    /// The forward pass waits: every row is seen, runs are reproducible.
    #[default]
    Block,
    /// Rows it has no room for are dropped and counted.
    Drop,
}

/// Grids are taken apart before anything is checked.
fn grid_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object" })
}

fn default_batch_rows() -> u32 {
    4096
}

fn default_buffer_rows() -> Count {
    Count(131_072)
}

fn default_reuse() -> u32 {
    1
}

fn default_every() -> HumanDuration {
    HumanDuration(std::time::Duration::from_secs(600))
}

fn default_keep() -> u32 {
    3
}

impl Normalize {
    /// What is done to each row by itself.
    pub fn rows(self) -> RowScaling {
        match self {
            Self::RowNorm => RowScaling::Norm,
            Self::LayerNorm => RowScaling::Standard,
            Self::SqrtD | Self::UnitRms | Self::UnitNorm | Self::None => RowScaling::None,
        }
    }
}
