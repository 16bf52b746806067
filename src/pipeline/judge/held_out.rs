//! Coders go through what is held out.

use std::collections::HashMap;
use std::sync::Arc;

use crate::activation::KeepRule;
use crate::catalog::Catalog;
use crate::catalog::columns::View;
use crate::compute::cpu::Cpu;
use crate::config::Loaded;
use crate::corpus::Corpus;
use crate::corpus::cursor::SourceCursor;
use crate::error::{Error, Result};
use crate::hooks::{HookPoint, PointShape, SiteWidth};
use crate::model::{self, Model};
use crate::pipeline::columns::Division;
use crate::pipeline::evaluate::{CoderSums, Depth, Means, Reconstruct, evaluate, evaluate_rows};
use crate::pipeline::header;
use crate::pipeline::judge::Wanted;
use crate::pipeline::judge::coders::Judged;
use crate::pipeline::locate::Located;
use crate::pipeline::prepare::{self, KeepSource};
use crate::replay::{Reader, ReplayConfig, Source};
use crate::runtime::rng::Seed;
use crate::tokens::config::TokensConfig;
use crate::tokens::{HoldoutStream, TokenStream, Tokenizer};

/// The model and the documents of a pipeline, as its run would have them.
pub(in crate::pipeline) struct Text {
    pub(in crate::pipeline) model: Box<dyn Model<Cpu>>,
    /// The rows that coders are trained on.
    pub(in crate::pipeline) keep: KeepRule,
    pub(in crate::pipeline) tokenizer: Arc<Tokenizer>,
    corpus: Arc<Corpus>,
    tokens: TokensConfig,
    seed: Seed,
}

impl Text {
    /// Open the model and the corpus, for coders that are checked against what the model has. `special_tokens`: every row is
    /// kept.
    pub(in crate::pipeline) fn open(
        loaded: &Loaded,
        located: &Located,
        special_tokens: bool,
        coders: &[Judged],
        backend: &Arc<Cpu>,
        io: &tokio::runtime::Handle,
    ) -> Result<Self> {
        let source = located.open()?;
        let tokenizer = prepare::open_tokenizer(loaded.pipeline.harvest()?, &source)?;
        let (loaded, _) = header::decided(loaded, &tokenizer)?;
        let harvest = loaded.pipeline.harvest()?;
        let (spec, tokenizer) = (source.spec(), Arc::new(tokenizer));
        let declared = source.points(harvest.tokens.context_length as usize);
        coders.iter().try_for_each(|coder| fits(coder, |point| width_of(point, &declared)))?;
        let sites = loaded.sites(&declared, spec.module_paths()).map_err(prepare::site_error)?;
        let stored = loaded.pipeline.dataset.as_ref().map(|d| loaded.stores.open(&d.url)).transpose()?;
        let stored = match stored {
            Some(location) => io.block_on(Catalog::read_header(&location))?,
            None => None,
        };
        let division = match &stored {
            Some(header) => Division::of(header, &[], &sites, &declared, spec.module_paths())?,
            None => Division::whole(&sites),
        };
        let corpus = Arc::new(io.block_on(Corpus::open_in(&harvest.corpus, &loaded.stores))?);
        tracing::info!(model = %source.folder().display(), "loading");
        let shape = prepare::batch_shape(&harvest.tokens);
        let format = harvest.model.dtype.matrix_format();
        let mut model = model::load(Arc::clone(backend), &source, shape, format)?;
        let from =
            KeepSource { corpus: &corpus, tokenizer: &tokenizer, judged: &division.judged, stored: stored.as_ref() };
        let keep = match special_tokens {
            true => KeepRule::default(),
            false => prepare::keep_rule(&loaded.pipeline, model.as_mut(), &from)?,
        };
        Ok(Self { model, keep, tokenizer, corpus, tokens: harvest.tokens.clone(), seed: loaded.pipeline.seed })
    }

    /// Held-out documents.
    pub(in crate::pipeline) fn held_out(&self) -> Result<HoldoutStream> {
        HoldoutStream::new(Arc::clone(&self.corpus), Arc::clone(&self.tokenizer), &self.tokens)
    }

    /// All other documents, in the order of a run.
    pub(in crate::pipeline) fn trained_on(&self) -> Result<TokenStream> {
        let (corpus, tokenizer) = (Arc::clone(&self.corpus), Arc::clone(&self.tokenizer));
        TokenStream::new(corpus, tokenizer, &self.tokens, self.seed, SourceCursor::default(), HashMap::new())
    }
}

/// On documents of the corpus, through the model.
pub(super) fn text(
    loaded: &Loaded,
    located: &Located,
    wanted: &Wanted,
    coders: &[Judged],
    backend: &Arc<Cpu>,
    io: &tokio::runtime::Handle,
) -> Result<Vec<CoderSums>> {
    let mut text = Text::open(loaded, located, wanted.special_tokens, coders, backend, io)?;
    let coders: Vec<&dyn Reconstruct> = coders.iter().map(|coder| coder as &dyn Reconstruct).collect();
    let tokens = wanted.tokens;
    tracing::info!(tokens, coders = coders.len(), "evaluating on held-out text");
    let (mut batches, mut again) = (text.held_out()?, text.held_out()?);
    let Text { model, keep, .. } = &mut text;
    let means = Means::of_text(model.as_mut(), &coders, keep, tokens, || batches.next_batch())?;
    let depth = Depth { means: Some(means), closely: true };
    evaluate(model.as_mut(), &coders, keep, tokens, &depth, || again.next_batch())
}

/// On rows of a stored dataset.
pub(super) fn rows(
    loaded: &Loaded,
    replay: &ReplayConfig,
    wanted: &Wanted,
    coders: &[Judged],
    io: &tokio::runtime::Handle,
) -> Result<Vec<CoderSums>> {
    if replay.holdout.share() == 0.0 {
        return Err(Error::config("`replay.holdout` is 0%: there are no held-out rows to evaluate on"));
    }
    if wanted.special_tokens {
        let why = "stored rows are those that were kept when they were stored";
        return Err(Error::config(format!("--special-tokens needs a model and a corpus: {why}")));
    }
    let location = loaded.stores.open(&replay.url)?;
    let mut names: Vec<String> = coders.iter().flat_map(sites_of).map(|(point, _)| point.to_string()).collect();
    names.sort();
    names.dedup();
    let source = io.block_on(async { Source::open(&View::open(location).await?, &names).await })?;
    for coder in coders {
        let width = |point| source.sites().iter().find(|site| site.point == point).map(|site| site.width);
        fits(coder, width)?;
    }
    let coders: Vec<&dyn Reconstruct> = coders.iter().map(|coder| coder as &dyn Reconstruct).collect();
    tracing::info!(rows = wanted.tokens, coders = coders.len(), "evaluating on held-out rows");
    let reader = || {
        // row groups are asked for as soon as the reader exists
        let _entered = io.enter();
        Reader::held_out(source.clone(), replay)
    };
    let mut batches = reader()?;
    let means = Means::of_rows(&coders, wanted.tokens, || io.block_on(batches.next()))?;
    let depth = Depth { means: Some(means), closely: true };
    let mut batches = reader()?;
    evaluate_rows(&coders, wanted.tokens, &depth, || io.block_on(batches.next()))
}

/// The sites of a coder.
fn sites_of(coder: &Judged) -> impl Iterator<Item = &SiteWidth> {
    coder.reads().iter().chain(coder.writes())
}

/// The width of a site among those that a model has.
fn width_of(point: HookPoint, declared: &[PointShape]) -> Option<usize> {
    let shape = declared.iter().find(|shape| shape.point == point.whole())?;
    match point.head {
        None => Some(shape.width),
        Some(head) => ((head as usize) < shape.heads).then(|| shape.head_width()),
    }
}

/// That a coder's rows are as wide as its sites' are.
fn fits(coder: &Judged, width_of: impl Fn(HookPoint) -> Option<usize>) -> Result<()> {
    let name = &coder.name;
    for &(site, of_coder) in sites_of(coder) {
        let problem = match width_of(site) {
            Some(width) if width == of_coder => continue,
            Some(width) => format!("reads rows of {of_coder} values, and `{site}` has {width}"),
            None => format!("is of `{site}`, which is not there"),
        };
        return Err(Error::config(format!("coder `{name}` {problem}: give its site with --site")));
    }
    Ok(())
}
