//! The numbers of a plan. All of them are estimates but widths, and each says from what.

use serde::Serialize;

use super::cost::{self, CostPlan};
use super::memory::{self, MemoryPlan};
use super::rate::Rates;
use super::stored::{self, PartPlan, Stored, StoredPart};
use super::work;
use crate::compute::cpu::Arithmetic;
use crate::config::sites::{self, SiteWidth};
use crate::config::{Harvest, Pipeline, Sites};
use crate::dataset::header::SpecialTokens;
use crate::error::Result;
use crate::hooks::HookPoint;
use crate::model::{ModelSpec, WeightCount};
use crate::store::redact;
use crate::tokens::config::{Packing, PrependBos, Separator, TokensConfig};
use crate::tokens::estimate::Estimate;
use crate::trainer::config::TrainerConfig;
use crate::trainer::target::TargetConfig;
use crate::units::ByteSize;

/// What the corpus is.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CorpusPlan {
    pub(super) files: usize,
    pub(super) units: u32,
    pub(super) bytes: u64,
    /// Documents and tokens, held-out ones included.
    pub(super) documents: f64,
    pub(super) tokens: f64,
    /// Share that is held out.
    pub(super) holdout: f64,
    /// Documents that were looked into.
    pub(super) documents_sampled: u64,
}

/// What the forward pass does.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ForwardPlan {
    /// Tokens that it computes: BOS and separators included, held-out text not.
    pub(super) tokens: f64,
    /// Rows that are kept.
    pub(super) rows: f64,
    /// The last captured site.
    pub(super) last_site: String,
    /// Floating-point operations a token up to there.
    pub(super) flops_per_token: f64,
}

/// One captured site.
#[derive(Clone, Debug, Serialize)]
pub(super) struct SitePlan {
    pub(super) name: String,
    pub(super) width: usize,
    /// Bytes that a token costs in the dataset; 0 if it is not stored.
    pub(super) stored_bytes_per_token: f64,
    pub(super) stored_bytes: f64,
    /// Trainers that read it.
    pub(super) trainers: Vec<String>,
}

/// The dataset: what the run adds to it, column groups included.
#[derive(Clone, Debug, Serialize)]
pub(super) struct DatasetPlan {
    pub(super) url: String,
    pub(super) rows: f64,
    pub(super) shards: f64,
    pub(super) bytes: f64,
    /// Requests that write: a shard's parts, a commit for each.
    pub(super) put_requests: f64,
    /// Bytes that are there before the run.
    pub(super) stored_bytes: u64,
    /// The dataset itself, then the column groups that the run writes to.
    pub(super) parts: Vec<PartPlan>,
}

/// One trainer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TrainerPlan {
    pub(super) name: String,
    pub(super) input: String,
    pub(super) rows: u64,
    /// Rows that the forward pass must keep for it.
    pub(super) rows_needed: f64,
    pub(super) steps: u64,
    /// 0 if it shares another's.
    pub(super) buffer_bytes: u64,
    /// Whose buffer it shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shares_buffer_of: Option<String>,
    pub(super) coder_bytes: u64,
    /// All checkpoints that are kept at a time.
    pub(super) checkpoint_bytes: f64,
    pub(super) seconds: f64,
}

/// What the forward pass comes to if trainers draw each row so often.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ReusePlan {
    pub(super) reuse: u32,
    /// Rows that it keeps.
    pub(super) rows: f64,
    pub(super) forward_seconds: f64,
    /// Whether the corpus has as many.
    pub(super) corpus_is_enough: bool,
}

/// Time, in seconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TimePlan {
    pub(super) rates: Rates,
    pub(super) forward_seconds: f64,
    pub(super) trainer_seconds: f64,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Plan {
    pub(super) pipeline: String,
    pub(super) parameters: f64,
    pub(super) corpus: CorpusPlan,
    pub(super) forward: ForwardPlan,
    pub(super) sites: Vec<SitePlan>,
    pub(super) dataset: Option<DatasetPlan>,
    pub(super) trainers: Vec<TrainerPlan>,
    pub(super) memory: MemoryPlan,
    /// How the CPU computes, and why so.
    pub(super) arithmetic: Arithmetic,
    pub(super) time: TimePlan,
    /// What other values of `buffer.reuse` would save; empty if a dataset is stored, which needs every row, or nothing is trained.
    pub(super) reuse: Vec<ReusePlan>,
    /// Requests to remote stores and what they cost.
    pub(super) cost: CostPlan,
    /// Special tokens, and whether BOS is prepended.
    pub(super) special_tokens: SpecialTokens,
    /// What the reader should know before starting.
    pub(super) warnings: Vec<String>,
}

/// What a plan is made from.
pub(super) struct Facts<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) harvest: &'a Harvest,
    pub(super) sites: &'a Sites,
    pub(super) spec: &'a ModelSpec,
    /// A model that runs on the same tokens.
    pub(super) second: Option<&'a ModelSpec>,
    pub(super) weights: WeightCount,
    /// Of `tokenizer.json`; 0 if none is needed.
    pub(super) tokenizer_bytes: u64,
    pub(super) files: usize,
    pub(super) units: u32,
    pub(super) bytes: u64,
    pub(super) estimate: &'a Estimate,
    pub(super) special_tokens: SpecialTokens,
    pub(super) rates: Rates,
    pub(super) arithmetic: Arithmetic,
    /// The dataset, if there is one already.
    pub(super) stored: Option<&'a Stored>,
}

impl Facts<'_> {
    /// The sum of something over the models, each with those of `points` that are its.
    pub(super) fn of_models(&self, points: &[HookPoint], of: impl Fn(&ModelSpec, &[HookPoint]) -> f64) -> f64 {
        let first = of(self.spec, &work::points_of(false, points));
        first + self.second.map_or(0.0, |second| of(second, &work::points_of(true, points)))
    }
}

/// Make the plan.
pub(super) fn plan(facts: &Facts<'_>) -> Result<Plan> {
    let pipeline = facts.pipeline;
    let holdout = facts.harvest.corpus.holdout().share();
    let mut stream = stream(&facts.harvest.tokens, facts.estimate, 1.0 - holdout);
    let trainers = trainers(facts)?;
    let mut warnings = Vec::new();
    let needed = trainers.iter().map(|t| t.rows_needed).fold(0.0, f64::max);
    for trainer in trainers.iter().filter(|t| t.rows_needed > stream.rows) {
        let (name, rows) = (&trainer.name, trainer.rows);
        warnings.push(format!("trainer `{name}` wants {rows} rows; the corpus gives about {:.0}", stream.rows));
    }
    let whole = stream;
    if pipeline.dataset.is_none() && needed < stream.rows {
        // without a dataset the run ends when every trainer has enough
        let share = needed / stream.rows.max(1.0);
        stream = Stream { tokens: stream.tokens * share, rows: needed };
    }
    let dataset = dataset(facts, stream.rows);
    if let (Some(stored), true) = (facts.stored, trainers.is_empty()) {
        // batches that nobody needs are not computed
        let left = stored.parts.iter().map(|part| part.left(facts.units)).fold(0.0, f64::max);
        stream = Stream { tokens: stream.tokens * left, rows: stream.rows * left };
    }
    warnings.extend(dataset.as_ref().and_then(|dataset| too_large(facts, dataset)));
    let points: Vec<HookPoint> = facts.sites.captured.iter().map(|(point, _)| *point).collect();
    let forward = forward(facts, &points, &stream);
    let time = TimePlan {
        rates: facts.rates,
        forward_seconds: forward.flops_per_token * forward.tokens
            / work::usable(facts.rates.flops_per_second, facts.spec.d_model as f64),
        trainer_seconds: trainers.iter().map(|t| t.seconds).sum(),
    };
    let reuse = match &pipeline.dataset {
        None => reuse(&trainers, &whole, time.forward_seconds / stream.tokens.max(1.0)),
        Some(_) => Vec::new(),
    };
    let cost = cost::cost(facts, dataset.as_ref(), &trainers, &time);
    let memory = memory::memory(facts, &points, &trainers, time.forward_seconds);
    Ok(Plan {
        pipeline: pipeline.name.clone(),
        parameters: facts.weights.values() as f64,
        corpus: CorpusPlan {
            files: facts.files,
            units: facts.units,
            bytes: facts.bytes,
            documents: facts.estimate.documents,
            tokens: facts.estimate.tokens,
            holdout,
            documents_sampled: facts.estimate.documents_sampled,
        },
        sites: facts.sites.captured.iter().map(|site| site_plan(facts, *site, stream.rows)).collect(),
        forward,
        dataset,
        trainers,
        memory,
        arithmetic: facts.arithmetic.clone(),
        time,
        reuse,
        cost,
        special_tokens: facts.special_tokens.clone(),
        warnings,
    })
}

/// Tokens that go through the model, and rows that are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stream {
    tokens: f64,
    rows: f64,
}

/// What trainers that draw each row 1, 2, 4 or 8 times need of the `whole` stream.
fn reuse(trainers: &[TrainerPlan], whole: &Stream, seconds_per_token: f64) -> Vec<ReusePlan> {
    let drawn = trainers.iter().map(|trainer| trainer.rows as f64).fold(0.0, f64::max);
    let plan = |reuse: u32| {
        let rows = drawn / f64::from(reuse);
        let tokens = whole.tokens * rows / whole.rows.max(1.0);
        ReusePlan { reuse, rows, forward_seconds: tokens * seconds_per_token, corpus_is_enough: rows <= whole.rows }
    };
    if drawn > 0.0 { [1, 2, 4, 8].map(plan).to_vec() } else { Vec::new() }
}

/// The stream that `share` of the corpus makes; whether it has BOS is decided.
fn stream(tokens: &TokensConfig, estimate: &Estimate, share: f64) -> Stream {
    let context = f64::from(tokens.context_length);
    let documents = estimate.documents * share;
    let mean = estimate.tokens_per_document;
    let separator = if tokens.separator == Separator::None { 0.0 } else { 1.0 };
    let text = match tokens.packing {
        Packing::Concat | Packing::Pad => documents * mean,
        Packing::Truncate => documents * mean.min(context),
    };
    // runs of tokens whose positions start at 0
    let contexts = match (tokens.packing, tokens.attend_across_documents) {
        (Packing::Concat, true) => text / context,
        (Packing::Concat, false) => documents + text / context,
        (Packing::Pad, _) => documents * (mean / context).ceil(),
        (Packing::Truncate, _) => documents,
    };
    let prepends = tokens.prepend_bos == PrependBos::Yes;
    let bos = if prepends { contexts } else { 0.0 };
    let computed = text + bos + documents * separator;
    let special = tokens.exclude.special;
    let excluded = tokens.exclude.positions.iter().filter(|&&p| !(p == 0 && prepends && special)).count() as f64;
    let kept = if special { text } else { computed } - text * estimate.outside_share;
    Stream { tokens: computed, rows: (kept - excluded * contexts).max(0.0) }
}

fn forward(facts: &Facts<'_>, points: &[HookPoint], stream: &Stream) -> ForwardPlan {
    let last = points.last().map_or_else(|| "nothing".to_owned(), ToString::to_string);
    let context = facts.harvest.tokens.context_length as usize;
    ForwardPlan {
        tokens: stream.tokens,
        rows: stream.rows,
        last_site: last,
        flops_per_token: facts.of_models(points, |spec, points| work::flops_per_token(spec, points, context)),
    }
}

fn site_plan(facts: &Facts<'_>, (point, width): SiteWidth, rows: f64) -> SitePlan {
    let stored = facts.sites.stored.iter().any(|(p, _)| *p == point);
    let dataset = facts.pipeline.dataset.as_ref().filter(|_| stored);
    let per_token = dataset.map_or(0.0, |d| width as f64 * stored::value_bytes(d.dtype) * d.sample.share());
    let reads = facts.sites.inputs.iter().zip(&facts.pipeline.trainers);
    let reads = reads.filter(|(sites, _)| sites.iter().any(|(p, _)| *p == point));
    SitePlan {
        name: point.to_string(),
        width,
        stored_bytes_per_token: per_token,
        stored_bytes: per_token * rows,
        trainers: reads.map(|(_, trainer)| trainer.name.clone()).collect(),
    }
}

/// What is added to the dataset and to its column groups; all of it if there is no dataset yet.
fn dataset(facts: &Facts<'_>, rows: f64) -> Option<DatasetPlan> {
    let config = facts.pipeline.dataset.as_ref()?;
    let fresh = [StoredPart::fresh(None, facts.sites.stored.clone())];
    let parts = facts.stored.map_or(&fresh[..], |stored| &stored.parts);
    let parts: Vec<PartPlan> = parts.iter().map(|part| part.plan(config, rows, facts.units)).collect();
    let sum = |of: fn(&PartPlan) -> f64| parts.iter().map(of).sum::<f64>();
    Some(DatasetPlan {
        url: redact(&config.url),
        rows: parts.iter().map(|part| part.rows).fold(0.0, f64::max),
        shards: sum(|part| part.shards),
        bytes: sum(|part| part.bytes),
        put_requests: sum(|part| part.shards * (part.uploads + 1.0) + 1.0),
        stored_bytes: facts.stored.map_or(0, |stored| stored.bytes),
        parts,
    })
}

/// A warning if the dataset grows past its limit.
fn too_large(facts: &Facts<'_>, dataset: &DatasetPlan) -> Option<String> {
    let limit = facts.pipeline.store_limit?;
    let all = dataset.stored_bytes as f64 + dataset.bytes;
    let rounded = |bytes: f64| ByteSize(bytes.round() as u64);
    (all > limit.0 as f64).then(|| {
        let keeps = facts.pipeline.dataset.as_ref().is_some_and(|config| !config.keep.keeps_all());
        let then = match keeps {
            true => "the run stops unless `dataset.keep` makes room",
            false => "the run stops there (exit code 73); raise it to go on",
        };
        let (there, added) = (ByteSize(dataset.stored_bytes), rounded(dataset.bytes));
        format!("limits.store_bytes is {limit}, and the dataset comes to about {} ({there} are there, about {added} are added): {then}", rounded(all))
    })
}

fn trainers(facts: &Facts<'_>) -> Result<Vec<TrainerPlan>> {
    let memory = sites::trainer_memory(facts.pipeline, &facts.sites.inputs)?;
    let configs = facts.pipeline.trainers.iter().zip(&facts.sites.inputs).zip(memory);
    let plans = configs.map(|((config, sites), memory)| {
        let names: Vec<String> = sites.iter().map(|(point, _)| point.to_string()).collect();
        let read: usize = sites.iter().map(|(_, width)| width).sum();
        // a transcoder's two matrices have the widths of its two sites, others' have both that of the whole row
        let both = if matches!(config.target, TargetConfig::Transcoder { .. }) { read } else { 2 * read };
        let parameters = both as f64 * f64::from(config.coder.common().width);
        let steps = config.rows.0 / u64::from(config.batch_rows);
        // each checkpoint is whole, the rows of a buffer that is shared included
        let buffer = config.buffer.rows.0 as f64 * (4 * read + 9) as f64;
        TrainerPlan {
            name: config.name.clone(),
            input: names.join(", "),
            rows: config.rows.0,
            rows_needed: config.rows.0 as f64 / f64::from(config.buffer.reuse),
            steps,
            buffer_bytes: memory.buffer.0,
            shares_buffer_of: memory.shares,
            coder_bytes: memory.coder.0,
            checkpoint_bytes: (parameters * 12.0 + buffer) * f64::from(config.checkpoint.keep),
            seconds: trainer_seconds(config, both as f64 / 2.0, steps as f64, facts.rates),
        }
    });
    Ok(plans.collect())
}

/// The encoder's product is dense: an operation pair for each of its parameters (half of all) and row. Reconstruction and
/// gradients go over the rows of k latents, some six times in all; a coder that names no k may have any, and is guessed
/// to have a hundred. Adam goes over parameters, gradients and two moments
/// once a step, and writes three of them.
fn trainer_seconds(config: &TrainerConfig, width: f64, steps: f64, rates: Rates) -> f64 {
    const SPARSE_PASSES: f64 = 6.0;
    const ADAM_PASSES: f64 = 7.0;
    const UNKNOWN_K: f64 = 100.0;
    let coder = config.coder.common();
    let (parameters, rows) = (2.0 * width * f64::from(coder.width), config.rows.0 as f64);
    let values = rows * coder.k.unwrap_or(UNKNOWN_K) * width * SPARSE_PASSES + parameters * ADAM_PASSES * steps;
    parameters * rows / work::usable(rates.flops_per_second, width) + values * 4.0 / rates.bytes_per_second
}
