//! What verbs ask of a pipeline's model without loading its weights.

use std::sync::Arc;
use std::time::Duration;

use super::progress::Progress;
use super::{Failure, async_runtime};
use crate::config::sites::ModelLimits;
use crate::config::{Loaded, Problems, Sites};
use crate::error::Error;
use crate::hub;
use crate::model::config::ModelConfig;
use crate::model::{ModelSource, ModelSpec};
use crate::pipeline::locate::Located;
use crate::pipeline::prepare;
use crate::runtime::shutdown::Shutdown;
use crate::tokens::Tokenizer;
use crate::tokens::special::ModelFiles;

/// Bring the model here if it is on a hub, showing how far that is; open it and resolve the pipeline's sites in it.
pub(crate) fn open(loaded: &Loaded) -> Result<(ModelSource, Sites), Failure> {
    open_located(loaded, &fetch_model(&loaded.pipeline.harvest()?.model)?)
}

/// Where the model `source` is, after it was downloaded if it is on a hub.
pub(crate) fn fetch(source: &str) -> Result<Located, Error> {
    fetching(async |shutdown: &Shutdown, progress: &hub::Progress| Located::fetch(source, shutdown, progress).await)
}

/// As [`fetch`], of a pipeline's model and a second one beside it.
pub(crate) fn fetch_model(model: &ModelConfig) -> Result<Located, Error> {
    fetching(async |shutdown: &Shutdown, progress: &hub::Progress| {
        Located::fetch_model(model, shutdown, progress).await
    })
}

fn fetching(fetch: impl AsyncFnOnce(&Shutdown, &hub::Progress) -> Result<Located, Error>) -> Result<Located, Error> {
    let progress = Arc::new(hub::Progress::default());
    let shown = Progress::of_download(Arc::clone(&progress));
    // a signal ends the process; what came by then is gone on with
    let shutdown = Shutdown::new(Duration::ZERO);
    let located = async_runtime()?.block_on(fetch(&shutdown, &progress));
    drop(shown);
    located
}

/// Open the model and resolve the pipeline's sites in it.
pub(crate) fn open_located(loaded: &Loaded, located: &Located) -> Result<(ModelSource, Sites), Failure> {
    let source = located.open()?;
    let files = source.token_files()?;
    let limits = loaded.check_limits(limits(source.spec(), &files));
    let points = source.points(loaded.pipeline.harvest()?.tokens.context_length as usize);
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
    let harvest = loaded.pipeline.harvest()?;
    if harvest.corpus.pre_tokenised() {
        return source.tokenizer_for_ids();
    }
    let tokenizer = source.tokenizer()?.ok_or_else(|| {
        Error::config(format!(
            "`{}` has no tokenizer.json: add it, or read token ids with `corpus.tokens_field`",
            source.folder().display()
        ))
    })?;
    prepare::with_chat(harvest, source, tokenizer)
}

fn limits(spec: &ModelSpec, files: &ModelFiles) -> ModelLimits {
    ModelLimits {
        positions: spec.has_learned_positions().then_some(spec.max_positions),
        has_bos: spec.bos.is_some() || files.names("bos"),
        has_eos: !spec.eos.is_empty() || files.names("eos"),
        not_on_gpu: spec.not_on_gpu(),
    }
}
