//! What verbs ask of a pipeline's model without loading its weights.

use std::path::Path;

use super::Failure;
use crate::config::sites::ModelLimits;
use crate::config::{Loaded, Problems, Sites};
use crate::error::Error;
use crate::model::{ModelSource, ModelSpec};
use crate::tokens::{SpecialIds, Tokenizer};

/// Whether the model's folder is on this machine.
pub(crate) fn is_here(loaded: &Loaded) -> bool {
    Path::new(&loaded.pipeline.model.source).is_dir()
}

/// Open the model's folder and resolve the pipeline's sites in it.
pub(crate) fn open(loaded: &Loaded) -> Result<(ModelSource, Sites), Failure> {
    let source = ModelSource::open(&loaded.pipeline.model.source)?;
    let limits = loaded.check_limits(limits(source.spec()));
    let points = source.spec().points(loaded.pipeline.tokens.context_length as usize);
    match loaded.sites(&points, source.spec().module_paths()) {
        Ok(sites) if limits.is_empty() => Ok((source, sites)),
        found => {
            let sites = found.err().map(|p| p.problems).unwrap_or_default();
            let problems = limits.into_iter().chain(sites).collect();
            Err(Problems::new(&loaded.source.display().to_string(), problems).into())
        }
    }
}

/// The model's tokenizer, or none if the corpus is token ids already.
pub(crate) fn tokenizer(loaded: &Loaded, source: &ModelSource) -> Result<Tokenizer, Error> {
    let spec = source.spec();
    let ids = SpecialIds { bos: spec.bos, eos: spec.eos.first().copied(), pad: spec.pad };
    let vocab = u32::try_from(spec.vocab_size)
        .map_err(|_| Error::data(format!("a vocabulary of {} is not supported", spec.vocab_size)))?;
    match source.tokenizer_file() {
        _ if loaded.pipeline.corpus.pre_tokenised() => Tokenizer::none(ids, vocab),
        Some(file) => Tokenizer::load(&file, ids, vocab),
        None => Err(Error::config(format!(
            "`{}` has no tokenizer.json: add it, or read token ids with `corpus.tokens_field`",
            source.folder().display()
        ))),
    }
}

fn limits(spec: &ModelSpec) -> ModelLimits {
    ModelLimits {
        positions: spec.rope.is_none().then_some(spec.max_positions),
        has_bos: spec.bos.is_some(),
        has_eos: !spec.eos.is_empty(),
    }
}
