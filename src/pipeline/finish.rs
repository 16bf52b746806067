//! After the stages: judge the trained coders on held-out text, export them, and sum up.

use std::sync::Arc;
use std::time::Duration;

use crate::activation::KeepRule;
use crate::catalog::Catalog;
use crate::compute::CoderOps;
use crate::config::Loaded;
use crate::corpus::Corpus;
use crate::error::{Error, ErrorKind, Result};
use crate::evaluation::Evaluation;
use crate::hooks::SiteWidth;
use crate::model::Model;
use crate::pipeline::build::{Ended, Shared};
use crate::pipeline::coders::EXPORT_FOLDER;
use crate::pipeline::evaluate::{CoderSums, Depth, Reconstruct, evaluate, evaluate_rows};
use crate::pipeline::judge::names;
use crate::pipeline::stages::train::Trained;
use crate::pipeline::status::RunState;
use crate::pipeline::summary::{DatasetSummary, RunSummary, StageSummary, TrainerSummary};
use crate::replay::{Reader, ReplayConfig, Source};
use crate::sae::codes::Codes;
use crate::sae::export::ExportMetadata;
use crate::sae::formats::Format;
use crate::store::{Location, objects};
use crate::testing::failpoint;
use crate::tokens::config::TokensConfig;
use crate::tokens::stream::HoldoutStream;
use crate::tokens::tokenizer::Tokenizer;
use crate::trainer::Trainer;

/// Folder, below a trainer's checkpoints, with the coder for sparsify, which reads TopK coders only.
const SPARSIFY_FOLDER: &str = "sparsify";
/// The same for circuit-tracer, of cross-layer transcoders.
const CIRCUIT_TRACER_FOLDER: &str = "circuit-tracer";
/// Folder with the metrics of a coder that no folder of others' formats can hold.
const EVALUATION_FOLDER: &str = "evaluation";
/// File, in that folder or in SAELens', with the metrics on held-out text.
const EVALUATION_FILE: &str = "evaluation.json";

/// What the stages do not need and the end does.
pub struct Rest<B: CoderOps> {
    /// What coders are judged on, if something is held out.
    pub judged_on: Option<JudgedOn>,
    /// What is said of exported coders.
    pub about: ExportMetadata,
    /// The dataset, if one is stored, and its column groups that the run wrote to.
    pub catalogs: Vec<Catalog>,
    /// Trainers that had all their rows before this run began, with their checkpoints.
    pub finished: Vec<Option<(Trainer<B>, String)>>,
}

/// What was held out.
pub enum JudgedOn {
    /// Documents of the corpus.
    Text {
        /// The corpus.
        corpus: Arc<Corpus>,
        /// The tokenizer.
        tokenizer: Arc<Tokenizer>,
        /// How documents become sequences.
        tokens: Box<TokensConfig>,
        /// Which rows are kept.
        keep: KeepRule,
    },
    /// Rows of a stored dataset.
    Rows(Box<Source>, ReplayConfig),
}

/// One trainer at the end of the run.
struct Outcome<B: CoderOps> {
    trainer: Option<Trainer<B>>,
    checkpoint: String,
    error: Option<Error>,
    evaluation: Option<Evaluation>,
    exported: Written,
}

/// Folders that a coder was written to.
#[derive(Default)]
struct Written {
    saelens: Option<String>,
    circuit_tracer: Option<String>,
}

impl<B: CoderOps> Outcome<B> {
    /// Whether there is something to judge.
    fn is_judged(&self) -> bool {
        self.is_trained() && self.trainer.as_ref().is_some_and(Trainer::reconstructs_rows)
    }

    /// Whether there is a coder: the corpus may have ended before the buffer was full even once.
    fn is_trained(&self) -> bool {
        self.trainer.as_ref().is_some_and(|trainer| trainer.report().step > 0)
    }
}

impl<B: CoderOps> Reconstruct for Trainer<B> {
    fn reads(&self) -> &[SiteWidth] {
        self.settings().reads()
    }

    fn writes(&self) -> &[SiteWidth] {
        self.settings().writes()
    }

    fn n_latents(&self) -> usize {
        Trainer::n_latents(self)
    }

    fn reconstruct(&self, rows: &[f32], out: &mut Vec<f32>, codes: &mut Codes) -> Result<()> {
        self.code(rows, out, codes)
    }
}

/// Finish a run whose stages took `took`.
pub fn finish<B: CoderOps>(
    loaded: &Loaded,
    shared: &Shared<'_>,
    ended: Ended<B>,
    rest: Rest<B>,
    took: Duration,
) -> Result<RunSummary> {
    failpoint("stages_ended");
    let Ended { model, trainers, complete } = ended;
    let about = rest.about;
    let pairs = trainers.into_iter().zip(rest.finished);
    let mut outcomes: Vec<Outcome<B>> = pairs.map(|(ended, finished)| outcome(ended, finished)).collect();
    if complete {
        for (outcome, config) in outcomes.iter_mut().zip(&loaded.pipeline.trainers) {
            let stores = loaded.stores.counted(shared.status.metrics.store("checkpoints"));
            let Some(trainer) = &outcome.trainer else { continue };
            let place = stores.open(&config.checkpoint.url)?.child(export_folder(trainer));
            outcome.evaluation = read_evaluation(loaded, &place, outcome, shared);
        }
        if let Some(held_out) = rest.judged_on.filter(|_| loaded.pipeline.evaluate_tokens > 0) {
            shared.status.enter(RunState::Evaluating);
            judge(&mut outcomes, held_out, model, loaded.pipeline.evaluate_tokens, shared)?;
        }
        for (i, outcome) in outcomes.iter_mut().enumerate() {
            match export(loaded, shared, i, outcome, &about) {
                Ok(place) => outcome.exported = place,
                // one trainer's trouble is not the others'
                Err(error) => outcome.error = Some(error),
            }
        }
    }
    summarise(loaded, shared, outcomes, &rest.catalogs, complete, took)
}

/// Judge the coders that were trained and not judged by a former run.
fn judge<B: CoderOps>(
    outcomes: &mut [Outcome<B>],
    held_out: JudgedOn,
    model: Option<Box<dyn Model<B>>>,
    tokens: u64,
    shared: &Shared<'_>,
) -> Result<()> {
    let todo: Vec<usize> =
        (0..outcomes.len()).filter(|&i| outcomes[i].is_judged() && outcomes[i].evaluation.is_none()).collect();
    let coders: Vec<&dyn Reconstruct> =
        todo.iter().filter_map(|&i| outcomes[i].trainer.as_ref().map(|t| t as &dyn Reconstruct)).collect();
    if coders.is_empty() {
        return Ok(());
    }
    let results = match (held_out, model) {
        (JudgedOn::Text { corpus, tokenizer, tokens: policy, keep }, Some(mut model)) => {
            let mut stream = HoldoutStream::new(corpus, tokenizer, &policy)?;
            evaluate(model.as_mut(), &coders, &keep, tokens, &Depth::default(), || stream.next_batch())?
        }
        (JudgedOn::Text { .. }, None) => return Err(Error::internal("there is no model to evaluate with")),
        (JudgedOn::Rows(source, config), _) => {
            let mut reader = Reader::held_out(*source, &config)?;
            evaluate_rows(&coders, tokens, &Depth::default(), || shared.io.block_on(reader.next()))?
        }
    };
    let results: Vec<Option<Evaluation>> = results.iter().map(CoderSums::evaluation).collect();
    if results.iter().all(Option::is_none) {
        tracing::warn!("nothing is held out: raise corpus.holdout (or replay.holdout) to have coders evaluated");
    }
    for (i, evaluation) in todo.into_iter().zip(results) {
        outcomes[i].evaluation = evaluation;
    }
    Ok(())
}

fn outcome<B: CoderOps>(ended: Option<Result<Trained<B>>>, finished: Option<(Trainer<B>, String)>) -> Outcome<B> {
    let empty = Outcome {
        trainer: None,
        checkpoint: String::new(),
        error: None,
        evaluation: None,
        exported: Written::default(),
    };
    match (ended, finished) {
        (Some(Ok(trained)), _) => Outcome { trainer: Some(trained.trainer), checkpoint: trained.checkpoint, ..empty },
        (Some(Err(error)), _) => Outcome { error: Some(error), ..empty },
        (None, Some((trainer, checkpoint))) => Outcome { trainer: Some(trainer), checkpoint, ..empty },
        (None, None) => empty,
    }
}

/// The metrics that a former run wrote for exactly this state of the trainer.
fn read_evaluation<B: CoderOps>(
    loaded: &Loaded,
    place: &Location,
    outcome: &Outcome<B>,
    shared: &Shared<'_>,
) -> Option<Evaluation> {
    let file = place.child(EVALUATION_FILE);
    // metrics that cannot be read are computed again
    let bytes = shared.io.block_on(objects::read(&file)).ok()??;
    let stored: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    let trainer = outcome.trainer.as_ref()?;
    let wanted = evaluation_key(loaded, trainer);
    (stored["of"] == wanted).then(|| serde_json::from_value(stored["metrics"].clone()).ok())?
}

/// What an evaluation is of: the trainer's state and the text it was judged on.
fn evaluation_key<B: CoderOps>(loaded: &Loaded, trainer: &Trainer<B>) -> serde_json::Value {
    serde_json::json!({
        "trained_rows": trainer.report().rows,
        "evaluated_tokens": loaded.pipeline.evaluate_tokens,
        "stream": trainer.settings().stream,
    })
}

/// Where a coder's export and its metrics go.
fn export_folder<B: CoderOps>(trainer: &Trainer<B>) -> &'static str {
    if trainer.not_in_saelens().is_none() { EXPORT_FOLDER } else { EVALUATION_FOLDER }
}

/// Write the coder in SAELens' format with its metrics; `cfg.json` goes last, so that a folder that has one is whole. The
/// place of the coder, if that format has a form of it.
fn export<B: CoderOps>(
    loaded: &Loaded,
    shared: &Shared<'_>,
    index: usize,
    outcome: &Outcome<B>,
    about: &ExportMetadata,
) -> Result<Written> {
    let Some(trainer) = outcome.trainer.as_ref().filter(|_| outcome.is_trained()) else {
        return Ok(Written::default());
    };
    let pipeline = &loaded.pipeline;
    let stores = loaded.stores.counted(shared.status.metrics.store("checkpoints"));
    let checkpoints = stores.open(&pipeline.trainers[index].checkpoint.url)?;
    // weights first: a folder with a configuration is whole
    for (name, bytes) in trainer.export_as(Format::Sparsify, about.clone())?.into_iter().flatten().rev() {
        let file = checkpoints.child(SPARSIFY_FOLDER).child(&name);
        shared.io.block_on(objects::replace(&file, bytes.into()))?;
    }
    let mut written = Written::default();
    if trainer.settings().config.target.is_cross_layer() {
        let place = checkpoints.child(CIRCUIT_TRACER_FOLDER);
        written.circuit_tracer = write_for_circuit_tracer(&place, trainer, shared, about)?;
    }
    let place = checkpoints.child(export_folder(trainer));
    let mut files = match trainer.not_in_saelens() {
        None => trainer.export(about.clone())?,
        Some(_) => Vec::new(),
    };
    if let Some(evaluation) = &outcome.evaluation {
        let stored = serde_json::json!({ "of": evaluation_key(loaded, trainer), "metrics": evaluation });
        let text = serde_json::to_vec_pretty(&stored).unwrap_or_default();
        files.push((EVALUATION_FILE.to_owned(), text));
    }
    files.sort_by_key(|(name, _)| name == "cfg.json");
    failpoint("export_begun");
    for (name, bytes) in files {
        let file = place.child(&name);
        shared.io.block_on(objects::replace(&file, bytes.into()))?;
        failpoint("export_file");
    }
    failpoint("export_done");
    written.saelens = trainer.not_in_saelens().is_none().then_some(place.shown);
    Ok(written)
}

/// Write a cross-layer transcoder in circuit-tracer's format, its configuration last.
fn write_for_circuit_tracer<B: CoderOps>(
    place: &Location,
    trainer: &Trainer<B>,
    shared: &Shared<'_>,
    about: &ExportMetadata,
) -> Result<Option<String>> {
    let files = match trainer.export_as(Format::CircuitTracer, about.clone()) {
        // one of other layers, or of sites that are named otherwise there, is in its checkpoint
        Err(error) if error.kind() == ErrorKind::Config => {
            tracing::info!(trainer = trainer.settings().config.name, "not exported: {error}");
            return Ok(None);
        }
        files => files?,
    };
    let written = files.is_some().then(|| place.shown.clone());
    for (name, bytes) in files.into_iter().flatten() {
        shared.io.block_on(objects::replace(&place.child(&name), bytes.into()))?;
    }
    Ok(written)
}

fn summarise<B: CoderOps>(
    loaded: &Loaded,
    shared: &Shared<'_>,
    outcomes: Vec<Outcome<B>>,
    catalogs: &[Catalog],
    complete: bool,
    took: Duration,
) -> Result<RunSummary> {
    let run = &shared.status.metrics.run;
    let seconds = took.as_secs_f64();
    let trainers = outcomes.into_iter().zip(&loaded.pipeline.trainers).map(|(outcome, config)| {
        let report = outcome.trainer.as_ref().map(Trainer::report).unwrap_or_default();
        let evaluation = outcome.evaluation;
        TrainerSummary {
            name: config.name.clone(),
            site: outcome.trainer.as_ref().map_or_else(|| config.input.clone(), |t| names(t.settings().writes())),
            rows: report.rows,
            loss: report.loss,
            fvu: evaluation.as_ref().map_or(report.fvu, |e| e.reconstruction.fvu),
            l0: evaluation.as_ref().map_or(report.l0, |e| e.sparsity.l0),
            dead_fraction: report.dead_fraction,
            checkpoint: outcome.checkpoint,
            exported: outcome.exported.saelens,
            circuit_tracer: outcome.exported.circuit_tracer,
            not_in_saelens: outcome.trainer.as_ref().and_then(Trainer::not_in_saelens).map(str::to_owned),
            evaluation,
            error_kind: outcome.error.as_ref().map(Error::kind),
            error: outcome.error.map(|e| e.to_string()),
        }
    });
    let stages = shared.status.metrics.stages().into_iter().map(|(stage, s)| StageSummary {
        stage,
        items_in: s.items_in,
        items_out: s.items_out,
        bytes: s.bytes,
        busy_seconds: s.busy_seconds,
        blocked_seconds: s.blocked_seconds,
    });
    Ok(RunSummary {
        pipeline: loaded.pipeline.name.clone(),
        interrupted: shared.shutdown.is_draining() && !complete && shared.status.stopped().is_none(),
        stopped: shared.status.stopped(),
        rows_from: shared.status.rows_from(),
        documents: run.documents.get(),
        tokens: run.tokens.get(),
        rows: run.rows.get(),
        shards: run.shards.get(),
        bytes: run.shard_bytes.get(),
        shards_lost: run.shards_lost.get(),
        seconds,
        tokens_per_second: run.tokens.get() as f64 / seconds.max(1e-9),
        rows_per_second: run.rows.get() as f64 / seconds.max(1e-9),
        dropped: run.dropped().iter().map(|(reason, n)| (reason.as_str().to_owned(), n)).collect(),
        dataset: catalogs.split_first().map(|(base, groups)| dataset_summary(base, groups, shared)).transpose()?,
        stores: shared.status.spent(),
        trainers: trainers.collect(),
        stages: stages.collect(),
    })
}

fn dataset_summary(base: &Catalog, groups: &[Catalog], shared: &Shared<'_>) -> Result<DatasetSummary> {
    let mut summary = one_dataset(base, shared)?;
    for group in groups {
        summary.columns.push(one_dataset(group, shared)?);
    }
    Ok(summary)
}

fn one_dataset(catalog: &Catalog, shared: &Shared<'_>) -> Result<DatasetSummary> {
    let totals = shared.io.block_on(catalog.totals())?;
    Ok(DatasetSummary {
        url: catalog.location().shown.clone(),
        rows: totals.rows,
        shards: totals.shards,
        bytes: totals.bytes,
        complete: totals.complete,
        columns: Vec::new(),
    })
}
