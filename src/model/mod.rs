//! Token batches to hidden states: architectures, weights, and their sites.
//!
//! A [`Model`] owns its weights and one workspace, planned for a [`BatchShape`] when it is loaded; a forward pass
//! allocates nothing (but attention patterns and normalized copies get their buffers when they are first wanted).
//! Values equal Hugging Face's: nothing is folded or centred.
//! It does not know where tokens come from or where activations go: it calls [`Taps`] at each point, and stops after the
//! last point that is wanted.
//!
//! A new architecture is one file with its loader and a straight-line forward pass, an arm in each `match` over
//! [`Architecture`], and a line in [`ARCHITECTURES`].

mod blocks;
pub mod config;
mod gpt2;
mod llama;
pub mod selftest;
pub mod source;
pub mod spec;
pub mod weights;

use std::sync::Arc;

pub use crate::compute::model_ops::BatchShape;
use crate::compute::{Backend, ModelOps};
use crate::error::{Error, Result};
use crate::hooks::{ModulePaths, PointShape, Taps};
pub use crate::model::source::{Fingerprint, ModelSource};
pub use crate::model::spec::ModelSpec;
use crate::model::weights::Weights;
use crate::tokens::TokenBatch;

/// A language model on a device.
pub trait Model<B: Backend>: Send {
    /// What it computes.
    fn spec(&self) -> &ModelSpec;

    /// The batches that it was planned for.
    fn shape(&self) -> BatchShape;

    /// The points that it has, along the forward pass.
    fn points(&self) -> &[PointShape];

    /// Run `batch` and show `taps` what they want, until the last point they want. A batch without tokens visits nothing.
    ///
    /// Errors: a token id outside the vocabulary ([`crate::error::ErrorKind::Data`]); an edit wanted at a point whose edits
    /// do not propagate ([`crate::error::ErrorKind::Config`]); a batch larger than planned, or an error of the taps.
    fn forward(&mut self, batch: &TokenBatch, taps: &mut dyn Taps<B>) -> Result<()>;

    /// Logits `[n, v]` of `hidden`, rows `[n, d]` of `ln_final.hook_out`; `logits` is overwritten.
    fn unembed(&mut self, hidden: &[f32], logits: &mut Vec<f32>) -> Result<()>;
}

/// A family of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// RMS norm, rotary positions, grouped-query attention, gated SiLU MLP.
    Llama,
    /// Layer norm, learned positions, GELU MLP, biases.
    Gpt2,
}

/// `model_type` in `config.json`, and the architecture that it names.
pub const ARCHITECTURES: [(&str, Architecture); 2] = [("llama", Architecture::Llama), ("gpt2", Architecture::Gpt2)];

impl Architecture {
    /// All architectures.
    pub const ALL: [Self; 2] = [Self::Llama, Self::Gpt2];

    /// What Hugging Face calls its sites.
    pub fn module_paths(self) -> &'static ModulePaths {
        match self {
            Self::Llama => &llama::MODULE_PATHS,
            Self::Gpt2 => &gpt2::MODULE_PATHS,
        }
    }

    /// The architecture that `config.json` names.
    pub fn from_model_type(model_type: &str) -> Result<Self> {
        let found = ARCHITECTURES.iter().find(|(name, _)| *name == model_type);
        found.map(|(_, architecture)| *architecture).ok_or_else(|| {
            let known: Vec<&str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
            Error::data(format!(
                "config.json: `model_type` {model_type} is not supported: there are {}",
                known.join(", ")
            ))
        })
    }
}

/// Load `source` onto `backend`, for batches within `shape`.
pub fn load<B: ModelOps>(backend: Arc<B>, source: &ModelSource, shape: BatchShape) -> Result<Box<dyn Model<B>>> {
    let spec = source.spec().clone();
    check_shape(&spec, shape)?;
    let mut weights = Weights::open(source.weight_files())?;
    let model: Box<dyn Model<B>> = match spec.architecture {
        Architecture::Llama => Box::new(llama::Llama::load(backend, spec, shape, &mut weights)),
        Architecture::Gpt2 => Box::new(gpt2::Gpt2::load(backend, spec, shape, &mut weights)),
    };
    let tied = model.spec().tied_head;
    weights.finish(|name| is_buffer(name) || (tied && name == "lm_head.weight"))?;
    Ok(model)
}

/// Learned positions end; rotary ones only grow less accurate, as they do in Hugging Face.
fn check_shape(spec: &ModelSpec, shape: BatchShape) -> Result<()> {
    if shape.max_tokens == 0 || shape.context_length == 0 {
        return Err(Error::config("a batch and a context must hold at least one token"));
    }
    if spec.rope.is_none() && shape.context_length > spec.max_positions {
        return Err(Error::config(format!(
            "context_length {} is more than the {} positions that the model has embeddings for",
            shape.context_length, spec.max_positions
        )));
    }
    Ok(())
}

/// Constants that older versions of transformers stored with the weights.
fn is_buffer(name: &str) -> bool {
    [".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"].iter().any(|suffix| name.ends_with(suffix))
}
