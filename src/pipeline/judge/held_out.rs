//! Coders go through what is held out.

use std::sync::Arc;

use crate::activation::KeepRule;
use crate::catalog::Catalog;
use crate::catalog::columns::View;
use crate::compute::cpu::Cpu;
use crate::config::Loaded;
use crate::corpus::Corpus;
use crate::error::{Error, Result};
use crate::hooks::{HookPoint, PointShape, SiteWidth};
use crate::model;
use crate::pipeline::columns::Division;
use crate::pipeline::evaluate::{CoderSums, Depth, Means, Reconstruct, evaluate, evaluate_rows};
use crate::pipeline::header;
use crate::pipeline::judge::Wanted;
use crate::pipeline::judge::coders::Judged;
use crate::pipeline::locate::Located;
use crate::pipeline::prepare::{self, KeepSource};
use crate::replay::{Reader, ReplayConfig, Source};
use crate::tokens::stream::HoldoutStream;

/// On documents of the corpus, through the model.
pub(super) fn text(
    loaded: &Loaded,
    located: &Located,
    wanted: &Wanted,
    coders: &[Judged],
    backend: &Arc<Cpu>,
    io: &tokio::runtime::Handle,
) -> Result<Vec<CoderSums>> {
    let source = located.open()?;
    let tokenizer = prepare::open_tokenizer(loaded.pipeline.harvest()?, &source)?;
    let (loaded, _) = header::decided(loaded, &tokenizer)?;
    let harvest = loaded.pipeline.harvest()?;
    let (spec, tokenizer) = (source.spec(), Arc::new(tokenizer));
    let declared = spec.points(harvest.tokens.context_length as usize);
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
    let from = KeepSource { corpus: &corpus, tokenizer: &tokenizer, judged: &division.judged, stored: stored.as_ref() };
    let keep = match wanted.special_tokens {
        true => KeepRule::default(),
        false => prepare::keep_rule(&loaded.pipeline, model.as_mut(), &from)?,
    };
    let stream = || HoldoutStream::new(Arc::clone(&corpus), Arc::clone(&tokenizer), &harvest.tokens);
    let coders: Vec<&dyn Reconstruct> = coders.iter().map(|coder| coder as &dyn Reconstruct).collect();
    let tokens = wanted.tokens;
    tracing::info!(tokens, coders = coders.len(), "evaluating on held-out text");
    let mut batches = stream()?;
    let means = Means::of_text(model.as_mut(), &coders, &keep, tokens, || batches.next_batch())?;
    let depth = Depth { means: Some(means), closely: true };
    let mut batches = stream()?;
    evaluate(model.as_mut(), &coders, &keep, tokens, &depth, || batches.next_batch())
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
