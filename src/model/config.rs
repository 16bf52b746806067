//! The `model:` section of a pipeline.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::backend::MatrixFormat;

/// Which model, and how it is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A folder in Hugging Face's layout: `config.json`, `*.safetensors`, `tokenizer.json`; a GGUF file; or a model on a
    /// hub: `hf://owner/name`, `hf://owner/name@revision`.
    pub source: String,
    /// Another model with the same vocabulary, which runs on the same tokens: its sites have `second.` before their names
    /// (`second.blocks.6.hook_resid_post`). For crosscoders of two models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<String>,
    /// Arithmetic of the forward pass.
    #[serde(default)]
    pub dtype: ModelDtype,
    /// Where it is computed: `auto`, `cpu`, `cuda`, `cuda:N`.
    #[serde(default = "default_device")]
    #[schemars(regex(pattern = r"^(auto|cpu|cuda(:[0-9]+)?)$"))]
    #[schemars(extend("x-rule" = "must be `auto`, `cpu`, `cuda` or `cuda:N`"))]
    pub device: String,
    /// Compute threads on the CPU; 0: one for each core.
    #[serde(default)]
    #[schemars(range(max = 1024))]
    pub threads: u32,
}

/// What [`ModelConfig::device`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// Whatever is best.
    Auto,
    /// The processor.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl DeviceChoice {
    /// `auto`, `cpu`, `cuda` (the first) or `cuda:N`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            _ => text.strip_prefix("cuda:")?.parse().ok().map(Self::Cuda),
        }
    }
}

/// Arithmetic of the forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelDtype {
    /// Results within 2e-5 (norm-wise) of f64.
    #[default]
    Float32,
    /// Matrices are kept in bfloat16, which halves their memory and loses nothing of a model published so; the rows that they
    /// multiply are rounded to bfloat16 too, sums and all else are float32. Results within 2e-2 (norm-wise) of f64 on the
    /// golden models.
    Bfloat16,
}

impl ModelDtype {
    /// How matrices are kept.
    pub fn matrix_format(self) -> MatrixFormat {
        match self {
            Self::Float32 => MatrixFormat::F32,
            Self::Bfloat16 => MatrixFormat::Bf16,
        }
    }
}

fn default_device() -> String {
    "auto".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        let all = ["auto", "cpu", "cuda", "cuda:3", "cuda:", "gpu"].map(DeviceChoice::parse);
        let cuda = |ordinal| Some(DeviceChoice::Cuda(ordinal));
        assert_eq!(all, [Some(DeviceChoice::Auto), Some(DeviceChoice::Cpu), cuda(0), cuda(3), None, None]);
    }
}
