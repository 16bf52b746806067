//! Everything a run needs, opened, checked and restored before the first batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::activation::KeepRule;
use crate::catalog::compact::GRACE;
use crate::catalog::gc::Keeper;
use crate::catalog::{Catalog, checkpoints};
use crate::compute::cpu::Cpu;
use crate::config::{Harvest, Loaded, Pipeline, Problems, Sites};
use crate::corpus::Corpus;
use crate::corpus::cursor::SourceCursor;
use crate::dataset::header::{DatasetHeader, SpecialTokens};
use crate::error::{Error, ErrorKind, Result};
use crate::hooks::SiteWidth;
use crate::model::{self, BatchShape, Model, ModelSource};
use crate::pipeline::build::{Head, ModelParts, Parts, Shared, TrainerParts};
use crate::pipeline::calibrate::{CALIBRATION_BATCHES, norm_limits};
use crate::pipeline::coders;
use crate::pipeline::columns::{self, Division, Storing};
use crate::pipeline::finish::{JudgedOn, Rest};
use crate::pipeline::header::{self, Stream};
use crate::pipeline::locate::Located;
use crate::pipeline::others::{Lookout, Others};
use crate::pipeline::stages::train::CheckpointPolicy;
use crate::pipeline::status::TrainerStatus;
use crate::pipeline::wanted::{DatasetNeed, TrainerNeed, Wanted};
use crate::runtime::readiness::Latch;
use crate::sae::export::ExportMetadata;
use crate::store::Location;
use crate::tokens::chat::ChatRules;
use crate::tokens::config::TokensConfig;
use crate::tokens::stream::TokenStream;
use crate::tokens::tokenizer::Tokenizer;
use crate::trainer::config::TrainerConfig;
use crate::trainer::{Trainer, TrainerSettings};

/// Queues may hold this fraction (one in so many) of `limits.memory`.
pub const QUEUE_SHARE: u64 = 8;

/// What a run works with.
pub struct Prepared {
    model: Box<dyn Model<Cpu>>,
    sites: Sites,
    corpus: Arc<Corpus>,
    tokenizer: Arc<Tokenizer>,
    keep: KeepRule,
    storing: Option<Storing>,
    trainers: Vec<Restored>,
}

pub(super) struct Restored {
    trainer: Trainer<Cpu>,
    location: Location,
    /// Where its state was found, if it was.
    checkpoint: Option<String>,
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
    source: ModelSource,
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
pub fn prepare(loaded: &Loaded, opened: Opened, shared: &Shared<'_>) -> Result<Prepared> {
    let Opened { located, source, tokenizer, special_tokens } = opened;
    let pipeline = &loaded.pipeline;
    let harvest = pipeline.harvest()?;
    let declared = source.points(harvest.tokens.context_length as usize);
    let mut sites = loaded.sites(&declared, source.spec().module_paths()).map_err(site_error)?;
    let tokenizer = Arc::new(tokenizer);
    let metrics = &shared.status.metrics;
    let corpus = Arc::new(
        shared.io.block_on(Corpus::open_in(&harvest.corpus, &loaded.stores.counted(metrics.store("corpus"))))?,
    );
    shared.status.metrics.run.units_total.set(f64::from(corpus.n_units()));
    let backend = Arc::new(Cpu::new(harvest.model.threads as usize)?);
    tracing::info!(
        model = %source.folder().display(), threads = backend.threads(), units = corpus.n_units(),
        corpus_bytes = corpus.bytes(), "loading"
    );
    let format = harvest.model.dtype.matrix_format();
    let mut model = model::load(Arc::clone(&backend), &source, batch_shape(&harvest.tokens), format)?;
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
    let trainers = restore_trainers(loaded, &sites.inputs, &identity.to_json(), &backend, shared)?;
    shared.status.readiness.release(Latch::StoreReachable);
    Ok(Prepared { model, sites, corpus, tokenizer, keep, storing, trainers })
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
pub(super) fn keep_rule(pipeline: &Pipeline, model: &mut dyn Model<Cpu>, from: &KeepSource<'_>) -> Result<KeepRule> {
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

/// Every trainer, from its newest checkpoint if it has one. `stream` is what the rows of `inputs` are.
pub(super) fn restore_trainers(
    loaded: &Loaded,
    inputs: &[Vec<SiteWidth>],
    stream: &serde_json::Value,
    backend: &Arc<Cpu>,
    shared: &Shared<'_>,
) -> Result<Vec<Restored>> {
    let (mut restored, pipeline) = (Vec::new(), &loaded.pipeline);
    let stores = loaded.stores.counted(shared.status.metrics.store("checkpoints"));
    for (config, sites) in pipeline.trainers.iter().zip(inputs) {
        let (seed, sites, stream) = (pipeline.seed, sites.clone(), stream.clone());
        let settings = TrainerSettings { config: config.clone(), sites, seed, stream };
        let location = stores.open(&config.checkpoint.url)?;
        // a place that cannot even be read is this trainer's own failure, found again when it saves
        let found = shared.io.block_on(checkpoints::latest(&location)).unwrap_or_else(|error| {
            tracing::error!(trainer = config.name, %error, "cannot look for checkpoints");
            None
        });
        let backend = Arc::clone(backend);
        let (mut trainer, checkpoint) = match found {
            Some(found) => {
                let files: Vec<(String, Vec<u8>)> =
                    found.files.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
                let trainer = Trainer::restore(backend, settings, &files)
                    .map_err(|e| e.context(format!("restore trainer `{}` from `{}`", config.name, found.folder)))?;
                tracing::info!(trainer = config.name, checkpoint = found.folder, "restored");
                (trainer, Some(found.folder))
            }
            None => (Trainer::new(backend, settings)?, None),
        };
        if let Some(folder) = trainer.wants_coder() {
            let folder = stores.open(folder)?;
            let coder = shared.io.block_on(coders::read(&folder));
            let found = coder.and_then(|coder| trainer.start_from(coder));
            found.map_err(|e| e.context(format!("start trainer `{}` from `{}`", config.name, folder.shown)))?;
            tracing::info!(trainer = config.name, folder = folder.shown, "starting from a trained coder");
        }
        if let Some(folder) = trainer.wants_base() {
            let folder = stores.open(folder)?;
            let coder = shared.io.block_on(coders::read(&folder));
            let found = coder.and_then(|coder| trainer.boost(coder));
            found.map_err(|e| e.context(format!("boost `{}` in trainer `{}`", folder.shown, config.name)))?;
        }
        restored.push(Restored { trainer, location, checkpoint });
    }
    let lines = restored.iter().map(|r| {
        let report = r.trainer.report();
        TrainerStatus {
            name: r.trainer.settings().config.name.clone(),
            rows: report.rows,
            rows_total: r.trainer.settings().config.rows.0,
            ..TrainerStatus::default()
        }
    });
    shared.status.set_trainers(lines.collect());
    Ok(restored)
}

impl Prepared {
    /// The stages' parts, and what is left for the end.
    pub fn split(self, loaded: &Loaded, shared: &Shared<'_>) -> Result<(Parts<Cpu>, Rest)> {
        let pipeline = &loaded.pipeline;
        let harvest = pipeline.harvest()?;
        let needs = needs(&self.trainers);
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
                datasets.push(DatasetNeed { progress, others, n_units: self.corpus.n_units() });
                catalogs.push(stored.catalog.clone());
            }
            if let (Some(base), false) = (catalogs.first(), config.keep.keeps_all()) {
                keeper = Some(Arc::new(Keeper::new(base.clone(), config.keep, GRACE, shared.clock.clone())?));
            }
            sinks = shared.io.block_on(storing.into_sinks(loaded, config, keeper.clone()))?;
        }
        let batch_sequences = harvest.tokens.batch_sequences() as u32;
        let wanted = Arc::new(Wanted { datasets, trainers: needs, batch_sequences });
        let (corpus, tokenizer) = (Arc::clone(&self.corpus), Arc::clone(&self.tokenizer));
        let stream = TokenStream::new(corpus, tokenizer, &harvest.tokens, order, start, lengths)?;
        let (trainers, finished) = trainer_parts(self.trainers, pipeline);
        let shape = batch_shape(&harvest.tokens);
        let head = ModelParts {
            stream,
            model: self.model,
            sites: self.sites.captured,
            keep: self.keep.clone(),
            lookout,
            batch_tokens: shape.max_tokens as u64,
        };
        let (head, queue_bytes) = (Head::Model(Box::new(head)), pipeline.memory_limit.0 / QUEUE_SHARE);
        let parts = Parts { head, wanted, sinks, keeper, trainers, queue_bytes };
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
        earliest(&self.trainers)
    }
}

/// The earliest position of all trainers that need more rows.
pub(super) fn earliest(trainers: &[Restored]) -> SourceCursor {
    let unfinished = trainers.iter().filter(|r| !r.trainer.done());
    unfinished.map(|r| r.trainer.cursor()).min_by_key(|c| c.next_batch).cloned().unwrap_or_default()
}

/// What the trainers need of the stream.
pub(super) fn needs(trainers: &[Restored]) -> Vec<TrainerNeed> {
    let need = |restored: &Restored| TrainerNeed {
        next_batch: restored.trainer.next_batch_index(),
        finished: Arc::new(AtomicBool::new(restored.trainer.done())),
    };
    trainers.iter().map(need).collect()
}

/// What the stages need of those that need more rows; and those that are done, with their checkpoints.
#[allow(clippy::type_complexity, reason = "two lists in the order of the pipeline")]
pub(super) fn trainer_parts(
    trainers: Vec<Restored>,
    pipeline: &Pipeline,
) -> (Vec<Option<TrainerParts<Cpu>>>, Vec<Option<(Trainer<Cpu>, String)>>) {
    let split = |(restored, config): (Restored, &TrainerConfig)| {
        if restored.trainer.done() {
            return (None, Some((restored.trainer, restored.checkpoint.unwrap_or_default())));
        }
        let every = config.checkpoint.every.0;
        let checkpoints = CheckpointPolicy { location: restored.location, every, keep: config.checkpoint.keep };
        let (trainer, restored_from, when_slow) = (restored.trainer, restored.checkpoint, config.when_slow);
        (Some(TrainerParts { trainer, checkpoints, restored_from, when_slow }), None)
    };
    trainers.into_iter().zip(&pipeline.trainers).map(split).unzip()
}

/// What a harvest says about its coders.
fn about(harvest: &Harvest) -> ExportMetadata {
    let Harvest { model, corpus, tokens, .. } = harvest;
    header::about(&model.source, &corpus.paths().join(" "), tokens)
}
