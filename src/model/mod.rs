//! Token batches to hidden states: architectures, weights, and their sites.
//!
//! A [`Model`] owns its weights and one workspace, planned for a [`BatchShape`] when it is loaded; a forward pass
//! allocates nothing (but attention patterns and normalized copies get their buffers when they are first wanted).
//! Values equal Hugging Face's: nothing is folded or centred.
//! It does not know where tokens come from or where activations go: it calls [`Taps`] at each point, and stops after the
//! last point that is wanted.
//!
//! The forward pass is one for all families (`decoder.rs`, built from `blocks/`). A new family is one file in
//! [`architectures`] that says which pieces its blocks have and what their tensors are called; `docs/adding-a-model.md` is
//! the recipe.

pub mod architectures;
mod blocks;
pub mod config;
mod decoder;
pub mod gguf;
mod json;
mod pair;
mod rope;
pub mod selftest;
pub mod source;
pub mod spec;
pub mod weights;

use std::sync::Arc;

use crate::compute::backend::MatrixFormat;
pub use crate::compute::model_ops::BatchShape;
use crate::compute::{Backend, ModelOps};
use crate::error::{Error, Result};
use crate::hooks::{PointShape, Taps};
pub use crate::model::architectures::{ARCHITECTURES, Architecture};
use crate::model::decoder::Decoder;
use crate::model::pair::Pair;
pub use crate::model::source::{Fingerprint, ModelSource};
pub use crate::model::spec::ModelSpec;
pub use crate::model::weights::WeightCount;
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

    /// What rows `[n, d]`, added to the residual stream before the final norm, add to the logits, `[n, v]`, as far as that
    /// is linear: the final norm's weight (and, of a layer norm, its centring) and the head's matrix. What the norm divides
    /// by and a soft cap depend on the rest of the stream and are left out. `effects` is overwritten.
    fn token_effects(&mut self, directions: &[f32], effects: &mut Vec<f32>) -> Result<()>;
}

/// Load `source`, and its second model if it has one, onto `backend`, for batches within `shape`, matrices in `format`.
pub fn load<B: ModelOps>(
    backend: Arc<B>,
    source: &ModelSource,
    shape: BatchShape,
    format: MatrixFormat,
) -> Result<Box<dyn Model<B>>> {
    let first = load_one(Arc::clone(&backend), source, shape, format)?;
    let Some(second) = source.second() else { return Ok(first) };
    let second = load_one(backend, second, shape, format).map_err(|e| e.context("load the second model"))?;
    Ok(Box::new(Pair::new(first, second)))
}

fn load_one<B: ModelOps>(
    backend: Arc<B>,
    source: &ModelSource,
    shape: BatchShape,
    format: MatrixFormat,
) -> Result<Box<dyn Model<B>>> {
    let spec = source.spec().clone();
    check_shape(&spec, shape)?;
    warn_of_dynamic(&spec, shape);
    let mut weights = Weights::open(source.weight_files())?;
    let model = Decoder::load(backend, spec, shape, &mut weights, format);
    weights.finish(|name| is_unused(source.spec(), name))?;
    Ok(Box::new(model))
}

/// How many numbers [`load`] would load, by the headers of the files.
pub fn weight_count(source: &ModelSource) -> Result<WeightCount> {
    let weights = Weights::open(source.weight_files())?;
    let first = weights.count(|name| is_unused(source.spec(), name));
    let Some(second) = source.second() else { return Ok(first) };
    let second = weight_count(second)?;
    Ok(WeightCount { matrices: first.matrices + second.matrices, vectors: first.vectors + second.vectors })
}

/// Whether a model is whole without the tensor `name`: constants, and heads that are written out though they are tied.
fn is_unused(spec: &ModelSpec, name: &str) -> bool {
    let head = spec.architecture.tensors.head;
    is_buffer(name) || (spec.tied_head && name.strip_suffix(".weight") == Some(head))
}

/// Where transformers and this program part: see [`spec::RopeScaling::Dynamic`].
fn warn_of_dynamic(spec: &ModelSpec, shape: BatchShape) {
    let dynamic = spec.ropes.iter().any(|rope| matches!(rope.scaling, spec::RopeScaling::Dynamic { .. }));
    if dynamic && shape.context_length > spec.max_positions {
        tracing::warn!(
            context_length = shape.context_length,
            made_for = spec.max_positions,
            "rotary embedding of type `dynamic` follows the context's length here, for every document; transformers follows \
             the longest sequence of each batch, so shorter documents differ"
        );
    }
}

/// Learned positions end; rotary ones only grow less accurate, as they do in Hugging Face.
fn check_shape(spec: &ModelSpec, shape: BatchShape) -> Result<()> {
    if shape.max_tokens == 0 || shape.context_length == 0 {
        return Err(Error::config("a batch and a context must hold at least one token"));
    }
    if spec.has_learned_positions() && shape.context_length > spec.max_positions {
        return Err(Error::config(format!(
            "context_length {} is more than the {} positions that the model has embeddings for",
            shape.context_length, spec.max_positions
        )));
    }
    Ok(())
}

/// Constants that older versions of transformers stored with the weights.
fn is_buffer(name: &str) -> bool {
    const BUFFERS: [&str; 7] = [
        ".rotary_emb.inv_freq",
        ".attn.bias",
        ".attn.masked_bias",
        ".attention.bias",
        ".attention.masked_bias",
        ".attn.attention.bias",
        ".attn.attention.masked_bias",
    ];
    BUFFERS.iter().any(|suffix| name.ends_with(suffix))
}
