//! The pipeline file, key by key. Its doc comments are the user's reference and its JSON Schema is what files are
//! checked against; each section's struct lives beside the code that it configures.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::corpus::config::CorpusConfig;
use crate::dataset::config::DatasetConfig;
use crate::model::config::ModelConfig;
use crate::replay::ReplayConfig;
use crate::store::config::StoreConfig;
use crate::store::prices::PricesConfig;
use crate::tokens::config::TokensConfig;
use crate::trainer::config::TrainerConfig;
use crate::units::{ByteSize, Count, HumanDuration};

/// A harvestd pipeline: read a corpus, run a language model over it, capture activations; store them, train sparse
/// coders on them, or both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "harvestd pipeline")]
#[serde(deny_unknown_fields)]
pub struct RawPipeline {
    /// Version of the pipeline format.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Name in metrics, logs and datasets. Letters, digits, `-`, `_`, `.`.
    #[schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    #[schemars(extend("x-rule" = "must be letters, digits, `-`, `_` and `.`, and begin with a letter or digit"))]
    pub name: String,
    /// Seed of everything random: the order of units, the mixing of rows, initial weights. Same seed, same run.
    #[serde(default)]
    pub seed: u64,
    /// Which model, and how it is computed. Required without `replay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelConfig>,
    /// Where the text comes from. Required without `replay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corpus: Option<CorpusConfig>,
    /// Train from a stored dataset: stands in place of `model`, `corpus`, `tokens`, `capture` and `dataset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayConfig>,
    /// How documents become sequences, and which positions are kept.
    #[serde(default)]
    pub tokens: TokensConfig,
    /// The sites to capture: TransformerLens names (`blocks.6.hook_resid_post`) or Hugging Face module paths; globs
    /// (`blocks.*.hook_mlp_out`) and heads (`blocks.3.attn.hook_z[5]`, `[0,3]`, `[0-3]`, `[*]`) allowed; `harvestd sites`
    /// lists them. A dataset stores exactly these; trainers' inputs are captured in any case.
    #[serde(default)]
    #[schemars(inner(length(min = 1)))]
    pub capture: Vec<String>,
    /// Store activations as a dataset of Parquet shards. At least one of `dataset` and `trainers` is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetConfig>,
    /// Train sparse coders online, straight from the forward pass; any number, each isolated from the others.
    #[serde(default)]
    pub trainers: Vec<TrainerConfig>,
    /// How trained coders are judged at the end.
    #[serde(default)]
    pub evaluate: EvaluateConfig,
    /// The HTTP endpoint with metrics, health and status; none if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<AdminConfig>,
    /// How object stores are reached: endpoints, regions, retries. Credentials come from the environment (docs/stores.md).
    #[serde(default)]
    pub stores: Vec<StoreConfig>,
    /// What the stores' provider bills: `plan`, the summary and `/v1/status` then say what a run costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices: Option<PricesConfig>,
    /// Budgets.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// How a run ends when it is told to.
    #[serde(default)]
    pub shutdown: ShutdownConfig,
}

/// How trained coders are judged at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluateConfig {
    /// Tokens of the held-out share of the corpus (of a replay: held-out rows) to judge on; 0: do not.
    #[serde(default = "default_evaluate_tokens")]
    pub tokens: Count,
}

impl Default for EvaluateConfig {
    fn default() -> Self {
        Self { tokens: default_evaluate_tokens() }
    }
}

/// The HTTP endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// Address and port, such as `127.0.0.1:9464`. Only loopback addresses: the endpoint has no authentication.
    pub listen: String,
}

/// Budgets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// Memory for mixing buffers, coders and queues together.
    #[serde(default = "default_memory")]
    pub memory: ByteSize,
    /// Bytes of the dataset's shards, at most: those of all its column groups, of all that write to it, and retired ones
    /// until they are deleted. Rows of shards that are not full yet count as if they were written. A run that would write
    /// more first applies `dataset.keep`; if that makes no room it stops at its last whole shard and exits with 73; with a
    /// larger limit it continues. No limit if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_bytes: Option<ByteSize>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { memory: default_memory(), store_bytes: None }
    }
}

/// How a run ends when it is told to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShutdownConfig {
    /// Time, after SIGTERM or SIGINT, to drain, commit what is whole and write checkpoints.
    #[serde(default = "default_grace")]
    pub grace: HumanDuration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { grace: default_grace() }
    }
}

fn default_evaluate_tokens() -> Count {
    Count(65_536)
}

fn default_memory() -> ByteSize {
    ByteSize(8 << 30)
}

fn default_grace() -> HumanDuration {
    HumanDuration(std::time::Duration::from_secs(30))
}
