//! Everything a run needs, opened, checked and restored before the first batch.

use std::collections::HashMap;
use std::sync::Arc;

use crate::activation::KeepRule;
use crate::catalog::Catalog;
use crate::catalog::compact::GRACE;
use crate::catalog::gc::Keeper;
use crate::compute::{Backend, CoderOps, ModelOps};
use crate::config::{Harvest, Loaded, Pipeline, Problems, Sites};
use crate::corpus::cursor::SourceCursor;
use crate::corpus::{Corpus, Followed, Follower, Growth};
use crate::dataset::header::{DatasetHeader, SpecialTokens};
use crate::dataset::paths::CORPUS;
use crate::error::{Error, ErrorKind, Result};
use crate::hooks::SiteWidth;
use crate::model::{self, BatchShape, Model, ModelSource};
use crate::pipeline::build::{Head, ModelParts, Parts, Shared};
use crate::pipeline::calibrate::{CALIBRATION_BATCHES, norm_limits};
use crate::pipeline::columns::{self, Division, Storing};
use crate::pipeline::finish::{JudgedOn, Rest};
use crate::pipeline::header::{self, Stream};
use crate::pipeline::locate::Located;
use crate::pipeline::online;
use crate::pipeline::others::{Lookout, Others};
use crate::pipeline::trainers::{self, Trainers};
use crate::pipeline::wanted::{DatasetNeed, Wanted};
use crate::runtime::readiness::Latch;
use crate::sae::export::ExportMetadata;
use crate::store::Location;
use crate::tokens::Pieces;
use crate::tokens::chat::ChatRules;
use crate::tokens::config::TokensConfig;
use crate::tokens::stream::{HoldoutStream, TokenStream};
use crate::tokens::tokenizer::Tokenizer;
use crate::trainer::Trainer;

/// Queues may hold this fraction (one in so many) of `limits.memory`.
pub const QUEUE_SHARE: u64 = 8;

/// What a run computes on.
pub struct Backends<B> {
    /// The model's operations.
    pub of_model: Arc<B>,
    /// Those of the trainers' coders; the same on the CPU.
    pub of_coders: Arc<B>,
    /// In words.
    pub shown: String,
}

/// What a run works with.
pub struct Prepared<B: CoderOps> {
    model: Box<dyn Model<B>>,
    sites: Sites,
    corpus: Arc<Corpus>,
    growth: Option<Growth>,
    tokenizer: Arc<Tokenizer>,
    keep: KeepRule,
    storing: Option<Storing>,
    trainers: Trainers<B>,
}

/// The batches that a forward pass is planned for.
pub fn batch_shape(tokens: &TokensConfig) -> BatchShape {
    let context_length = tokens.context_length as usize;
    BatchShape { max_tokens: tokens.batch_sequences() * context_length, context_length }
}

/// The tokenizer of a model's folder; none is needed where the corpus is token ids.
pub fn open_tokenizer(harvest: &Harvest, source: &ModelSource) -> Result<Tokenizer> {
    let tokenizer = match source.tokenizer()? {
        Some(tokenizer) => Ok(tokenizer),
        None if harvest.corpus.pre_tokenised() => source.tokenizer_for_ids(),
        None => Err(Error::config(format!(
            "`{}` has no tokenizer.json: add it, or give a pre-tokenised corpus (tokens_field)",
            source.folder().display()
        ))),
    }?;
    with_chat(harvest, source, tokenizer)
}

/// The tokenizer with the model's chat template, if the corpus is conversations.
pub fn with_chat(harvest: &Harvest, source: &ModelSource, tokenizer: Tokenizer) -> Result<Tokenizer> {
    if harvest.corpus.messages_field().is_none() {
        return Ok(tokenizer);
    }
    let chat = harvest.tokens.chat.clone().unwrap_or_default();
    tokenizer.with_chat(ChatRules::new(&chat, source.folder(), &source.token_files()?)?)
}

/// The model's files, found and opened.
pub struct Opened {
    located: Located,
    /// The model.
    pub(super) source: ModelSource,
    tokenizer: Tokenizer,
    special_tokens: SpecialTokens,
}

/// Bring the model here and open its files; the pipeline with what it left to them.
pub fn open(loaded: &Loaded, shared: &Shared<'_>) -> Result<(Loaded, Opened)> {
    let located = Located::fetch_model(&loaded.pipeline.harvest()?.model, shared.shutdown, &shared.status.download);
    let located = shared.io.block_on(located)?;
    let source = located.open()?;
    let tokenizer = open_tokenizer(loaded.pipeline.harvest()?, &source)?;
    tokenizer.warnings().iter().for_each(|disagreement| tracing::warn!(disagreement, "the model's files disagree"));
    let (loaded, special_tokens) = header::decided(loaded, &tokenizer)?;
    tracing::info!(tokens = special_tokens.shown(), "special tokens");
    Ok((loaded, Opened { located, source, tokenizer, special_tokens }))
}

/// Check and restore everything else. `loaded` is the pipeline that [`open`] gives.
pub fn prepare<B: ModelOps + CoderOps>(
    loaded: &Loaded,
    opened: Opened,
    backends: &Backends<B>,
    shared: &Shared<'_>,
) -> Result<Prepared<B>> {
    let Opened { located, source, tokenizer, special_tokens } = opened;
    let pipeline = &loaded.pipeline;
    let harvest = pipeline.harvest()?;
    let declared = source.points(harvest.tokens.context_length as usize);
    let mut sites = loaded.sites(&declared, source.spec().module_paths()).map_err(site_error)?;
    let tokenizer = Arc::new(tokenizer);
    shared.status.lenses.set_pieces(|| Pieces::of(&tokenizer));
    let metrics = &shared.status.metrics;
    let (corpus, growth) = open_corpus(loaded, shared)?;
    metrics.run.units_total.set(f64::from(corpus.n_units()));
    // a run may go on with the numbers of a former one
    metrics.run.units_done.set(0.0);
    tracing::info!(
        model = %source.folder().display(), device = backends.shown, units = corpus.n_units(),
        corpus_bytes = corpus.bytes(), "loading"
    );
    let format = harvest.model.dtype.matrix_format();
    let mut model = model::load(Arc::clone(&backends.of_model), &source, batch_shape(&harvest.tokens), format)?;
    shared.status.readiness.release(Latch::ModelLoaded);
    let in_dataset = loaded.stores.counted(metrics.store("dataset"));
    let stored = pipeline.dataset.as_ref().map(|d| in_dataset.open(&d.url)).transpose()?;
    let found = match &stored {
        Some(location) => shared.io.block_on(stored_headers(location))?,
        None => None,
    };
    let division = match &found {
        Some((header, groups)) => Division::of(header, groups, &sites, &declared, source.spec().module_paths())?,
        None => Division::whole(&sites),
    };
    // what a dataset was begun with decides which of its rows are kept, whatever is captured now
    sites.capture_too(&division.judged);
    let stored_header = found.as_ref().map(|(header, _)| header);
    let from = KeepSource { corpus: &corpus, tokenizer: &tokenizer, judged: &division.judged, stored: stored_header };
    let mut keep = keep_rule(pipeline, model.as_mut(), &from)?;
    let identity = Stream::of(loaded, &located, &source, &division.judged, &tokenizer, &corpus)?;
    let storing = match (stored, &pipeline.dataset) {
        (Some(location), Some(config)) => {
            let mut header = header::describe(loaded, config, &identity, &division, &corpus, &keep);
            header.special_tokens = Some(special_tokens);
            let opened = columns::open(location.clone(), header, config, &division, shared);
            let storing = opened.map_err(|e| begun_meanwhile(e, found.is_none(), &location, shared))?;
            // another writer may have begun the dataset meanwhile: its limits are those that count
            let stored = storing.parts.first().map(|base| base.catalog.header());
            if let Some(limits) = stored.and_then(|header| header::stored_limits(header, &division.judged)) {
                keep = keep.with_norm_limits(limits);
            }
            Some(storing)
        }
        _ => None,
    };
    shared.status.readiness.release(Latch::DatasetOpen);
    let mut trainers = trainers::restore(loaded, &sites.inputs, &identity.to_json(), &backends.of_coders, shared)?;
    shared.status.readiness.release(Latch::StoreReachable);
    if trainers.training().any(Trainer::is_judged_online) {
        let mut stream = HoldoutStream::new(Arc::clone(&corpus), Arc::clone(&tokenizer), &harvest.tokens)?;
        online::text(&mut trainers, model.as_mut(), &keep, pipeline.evaluate_tokens, || stream.next_batch())?;
    }
    Ok(Prepared { model, sites, corpus, growth, tokenizer, keep, storing, trainers })
}

/// The corpus; and what makes it grow, if it is followed. What is written down of its files lies beside the dataset, or the
/// checkpoints of the first trainer.
fn open_corpus(loaded: &Loaded, shared: &Shared<'_>) -> Result<(Arc<Corpus>, Option<Growth>)> {
    let (pipeline, metrics) = (&loaded.pipeline, &shared.status.metrics);
    let config = &pipeline.harvest()?.corpus;
    let stores = loaded.stores.counted(metrics.store("corpus"));
    if config.follow().is_off() {
        return Ok((Arc::new(shared.io.block_on(Corpus::open_in(config, &stores))?), None));
    }
    let (url, of) = match (&pipeline.dataset, pipeline.trainers.first()) {
        (Some(dataset), _) => (&dataset.url, "dataset"),
        (None, Some(trainer)) => (&trainer.checkpoint.url, "checkpoints"),
        (None, None) => return Err(Error::config("there is nothing to do: neither a dataset nor a trainer")),
    };
    let log = loaded.stores.counted(metrics.store(of)).open(url)?.child(CORPUS);
    let opened = Follower::open(config, &stores, log, shared.clock, shared.shutdown);
    let Followed { corpus, follower } = shared.io.block_on(opened)?;
    Ok((Arc::new(corpus), Some(Growth { follower, io: shared.io.clone() })))
}

/// What decides which rows are kept.
pub(super) struct KeepSource<'a> {
    pub(super) corpus: &'a Arc<Corpus>,
    pub(super) tokenizer: &'a Arc<Tokenizer>,
    /// Sites whose values decide.
    pub(super) judged: &'a [SiteWidth],
    /// The dataset, which may know the norm limits.
    pub(super) stored: Option<&'a DatasetHeader>,
}

/// The rule by which the pipeline's rows are kept; norm limits that no dataset knows are measured.
pub(super) fn keep_rule<B: Backend>(
    pipeline: &Pipeline,
    model: &mut dyn Model<B>,
    from: &KeepSource<'_>,
) -> Result<KeepRule> {
    let exclude = &pipeline.harvest()?.tokens.exclude;
    let special: Vec<u32> = from.tokenizer.special_ids().collect();
    let keep = KeepRule::new(exclude, &special).judging(from.judged.iter().map(|&(point, _)| point));
    let Some(factor) = exclude.norm_above_median else { return Ok(keep) };
    let limits = match from.stored.and_then(|header| header::stored_limits(header, from.judged)) {
        Some(limits) => limits,
        None => {
            let batches = first_batches(pipeline, from.corpus, from.tokenizer)?;
            norm_limits(model, from.judged, &keep, factor, batches)?
        }
    };
    Ok(keep.with_norm_limits(limits))
}

/// The headers of the dataset at `location`, if there is one, and of its column groups.
async fn stored_headers(location: &Location) -> Result<Option<(DatasetHeader, Vec<DatasetHeader>)>> {
    if Catalog::read_header(location).await?.is_none() {
        return Ok(None);
    }
    let catalog = Catalog::open(location.clone()).await?;
    let groups = catalog.groups().await?.iter().map(|group| group.header().clone()).collect();
    Ok(Some((catalog.header().clone(), groups)))
}

/// `error`, or what to do if it comes from another run that began the dataset while this one was being prepared: started
/// again, this one finds its sites there, or adds them.
fn begun_meanwhile(error: Error, was_absent: bool, location: &Location, shared: &Shared<'_>) -> Error {
    let is_there = || matches!(shared.io.block_on(Catalog::read_header(location)), Ok(Some(_)));
    if error.kind() != ErrorKind::Config || !was_absent || !is_there() {
        return error;
    }
    let what = format!("another run began `{}` at the same time: start this one again", location.shown);
    Error::with_source(ErrorKind::Unavailable, what, error)
}

/// All problems with sites, as one configuration error.
pub(super) fn site_error(problems: Problems) -> Error {
    Error::config(problems.to_string())
}

/// The first batches of the stream that hold tokens: what norm limits are measured on.
fn first_batches(
    pipeline: &Pipeline,
    corpus: &Arc<Corpus>,
    tokenizer: &Arc<Tokenizer>,
) -> Result<Vec<crate::tokens::TokenBatch>> {
    let (corpus, tokenizer) = (Arc::clone(corpus), Arc::clone(tokenizer));
    let start = SourceCursor::default();
    let tokens = &pipeline.harvest()?.tokens;
    let mut stream = TokenStream::new(corpus, tokenizer, tokens, pipeline.seed, start, HashMap::new())?;
    let mut batches = Vec::new();
    while batches.len() < CALIBRATION_BATCHES {
        let Some(batch) = stream.next(&mut |_, _, _| true)? else { break };
        if batch.n_tokens() > 0 {
            batches.push(batch);
        }
    }
    Ok(batches)
}

impl<B: CoderOps> Prepared<B> {
    /// The stages' parts, and what is left for the end.
    pub fn split(self, loaded: &Loaded, shared: &Shared<'_>) -> Result<(Parts<B>, Rest<B>)> {
        let pipeline = &loaded.pipeline;
        let harvest = pipeline.harvest()?;
        let needs = self.trainers.needs();
        let start = self.start();
        let (mut lengths, mut datasets, mut sinks) = (HashMap::new(), Vec::new(), Vec::new());
        let (mut catalogs, mut keeper) = (Vec::new(), None);
        let (mut order, mut lookout) = (pipeline.seed, None);
        if let (Some(storing), Some(config)) = (self.storing, &pipeline.dataset) {
            lengths = storing.unit_lengths();
            if let (Some(attempt), true) = (&storing.attempt, self.trainers.is_empty()) {
                // writers that take the units in orders of their own seldom meet
                order = order.of_worker(attempt);
            }
            let others = Others::default();
            if let (Some(_), [alone]) = (&storing.attempt, &storing.parts[..]) {
                lookout = Some(Lookout::new(alone.catalog.clone(), others.clone(), shared));
            }
            for stored in &storing.parts {
                let (progress, others) = (stored.progress.clone(), others.clone());
                // one that grows never has all
                let n_units = if self.corpus.follows() { u32::MAX } else { self.corpus.n_units() };
                datasets.push(DatasetNeed { progress, others, n_units });
                catalogs.push(stored.catalog.clone());
            }
            if let (Some(base), false) = (catalogs.first(), config.keep.keeps_all()) {
                keeper = Some(Arc::new(Keeper::new(base.clone(), config.keep, GRACE, shared.clock.clone())?));
            }
            sinks = shared.io.block_on(storing.into_sinks(
                loaded,
                config,
                keeper.clone(),
                shared.status.metrics.traces(),
            ))?;
        }
        let batch_sequences = harvest.tokens.batch_sequences() as u32;
        let wanted = Arc::new(Wanted { datasets, trainers: needs, batch_sequences });
        let (corpus, tokenizer) = (Arc::clone(&self.corpus), Arc::clone(&self.tokenizer));
        let stream = TokenStream::new(corpus, tokenizer, &harvest.tokens, order, start, lengths)?;
        let (groups, finished) = self.trainers.split();
        let shape = batch_shape(&harvest.tokens);
        let head = ModelParts {
            stream,
            model: self.model,
            sites: self.sites.captured,
            keep: self.keep.clone(),
            lookout,
            growth: self.growth,
            batch_tokens: shape.max_tokens as u64,
        };
        let (head, queue_bytes) = (Head::Model(Box::new(head)), pipeline.memory_limit.0 / QUEUE_SHARE);
        let parts = Parts { head, wanted, sinks, keeper, groups, n_trainers: finished.len(), queue_bytes };
        let judged_on = (harvest.corpus.holdout().share() > 0.0).then(|| {
            let (corpus, tokenizer, tokens) = (self.corpus, self.tokenizer, harvest.tokens.clone());
            JudgedOn::Text { corpus, tokenizer, tokens: Box::new(tokens), keep: self.keep }
        });
        Ok((parts, Rest { judged_on, about: about(harvest), catalogs, finished }))
    }

    /// Where the stream begins. A dataset may miss rows anywhere, so with one the order is followed from its start
    /// (passing what is committed without reading it); trainers alone go on from the earliest of their positions.
    fn start(&self) -> SourceCursor {
        if self.storing.is_some() {
            return SourceCursor::default();
        }
        self.trainers.earliest()
    }
}

/// What a harvest says about its coders.
fn about(harvest: &Harvest) -> ExportMetadata {
    let Harvest { model, corpus, tokens, .. } = harvest;
    header::about(&model.source, &corpus.paths().join(" "), tokens)
}
