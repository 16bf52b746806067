//! The `tokens.chat:` section of a pipeline.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How conversations become text, and which of their tokens are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChatConfig {
    /// The chat template: the name of one of the model's, the path of a file, or Jinja itself. The model's default if left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub template: Option<String>,
    /// Whose rows are kept.
    #[serde(default)]
    pub keep: Keep,
    /// End with what asks the model for its next answer.
    #[serde(default)]
    pub add_generation_prompt: bool,
}

/// Whose rows of a conversation are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// All rows.
    #[default]
    All,
    /// Rows of what the assistant wrote; the others are computed, dropped and counted.
    Assistant,
}
