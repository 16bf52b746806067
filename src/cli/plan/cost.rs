//! Requests to remote stores, bytes kept there, and what both cost by the pipeline's price table.
//!
//! Requests are counted as the code makes them; a test compares the sums with those of real runs.

use serde::Serialize;

use super::estimate::{DatasetPlan, Facts, TimePlan, TrainerPlan};
use super::stored::PartPlan;
use crate::catalog::compact::COMPACT_AFTER;
use crate::sae::config::CoderConfig;
use crate::sae::rows::RowScaling;
use crate::store::prices::Usage;
use crate::store::upload::UploadOptions;
use crate::trainer::config::TrainerConfig;
use crate::trainer::target::TargetConfig;

/// Bytes that one request for a corpus asks for.
const CORPUS_BLOCK_BYTES: f64 = (1 << 20) as f64;
/// Bytes that are read at a unit's end to find the end of its last document.
const CORPUS_TAIL_BYTES: f64 = (1 << 16) as f64;
/// Names on a page of a listing.
const PAGE: f64 = 1000.0;
/// Files of a checkpoint, beside the one that makes it count, and of a coder exported for SAELens, with its metrics.
const CHECKPOINT_FILES: f64 = 3.0;
/// Files of a coder that is boosted, in a checkpoint and where it is read from.
const BASE_FILES: f64 = 2.0;
/// Files of a coder exported for sparsify.
const SPARSIFY_FILES: f64 = 2.0;
/// Seconds between two looks at what other runs have committed: where a request takes some 30 ms, 5% of the time.
const LOOK_SECONDS: f64 = 5.0;
/// Seconds between two applications of retention.
const KEEP_SECONDS: f64 = 600.0;

/// Requests, bytes and money; of remote stores only.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct CostPlan {
    /// What the run asks of stores.
    pub(super) requests: Usage,
    /// What stays there.
    pub(super) kept_bytes: f64,
    /// What the run costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) run: Option<f64>,
    /// What keeping it costs a month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) month: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) currency: Option<String>,
    /// Where the prices are from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<String>,
}

/// The cost of a plan; nothing where nothing is remote.
pub(super) fn cost(
    facts: &Facts<'_>,
    dataset: Option<&DatasetPlan>,
    trainers: &[TrainerPlan],
    time: &TimePlan,
) -> CostPlan {
    let mut plan = CostPlan::default();
    let seconds = time.forward_seconds + time.trainer_seconds;
    if facts.harvest.corpus.paths().iter().any(|path| remote(path)) {
        corpus(facts, &mut plan.requests);
    }
    if let Some(dataset) = dataset.filter(|d| remote(&d.url)) {
        storing(facts, dataset, seconds, &mut plan.requests);
        plan.kept_bytes += dataset.stored_bytes as f64 + dataset.bytes;
    }
    for (trainer, config) in trainers.iter().zip(&facts.pipeline.trainers) {
        if remote(&config.checkpoint.url) {
            checkpoints(trainer, config, seconds, &mut plan.requests);
            plan.kept_bytes += trainer.checkpoint_bytes;
        }
    }
    if let Some(prices) = &facts.pipeline.prices {
        plan.run = Some(prices.of(&plan.requests));
        plan.month = Some(prices.month(plan.kept_bytes));
        plan.currency = Some(prices.currency.clone());
        plan.source.clone_from(&prices.source);
    }
    plan
}

fn remote(url: &str) -> bool {
    url.contains("://") && !url.starts_with("file://") && !url.starts_with("memory://")
}

/// Blocks of units, and a little more where a unit ends within a file.
fn corpus(facts: &Facts<'_>, requests: &mut Usage) {
    let (files, units, bytes) = (facts.files as f64, f64::from(facts.units), facts.bytes as f64);
    let (ends, blocks) = ((units - files).max(0.0), (bytes / units.max(1.0) / CORPUS_BLOCK_BYTES).ceil());
    let whole = units * blocks + ends;
    let mut passes = 1.0;
    if facts.harvest.tokens.exclude.norm_above_median.is_some() {
        // norm limits are measured on the first units, and the next one is begun
        passes += (f64::from(facts.harvest.tokens.interleave + 1) / units.max(1.0)).min(1.0);
    }
    let held_out = facts.estimate.tokens * facts.harvest.corpus.holdout().share();
    if !facts.pipeline.trainers.is_empty() && held_out > 0.0 {
        passes += (facts.pipeline.evaluate_tokens as f64 / held_out).min(1.0);
    }
    // a listing, or a look at each file that is named
    requests.list += (files / PAGE).ceil();
    requests.read += whole * passes;
    requests.read_bytes += (bytes + ends * CORPUS_TAIL_BYTES) * passes;
}

/// Requests of the dataset and the column groups that are written.
fn storing(facts: &Facts<'_>, dataset: &DatasetPlan, seconds: f64, requests: &mut Usage) {
    let Some((base, groups)) = dataset.parts.split_first() else { return };
    let known = facts.stored.map_or(0.0, |stored| stored.groups as f64);
    let exists = f64::from(u8::from(base.exists));
    // the store is tried out: two writes of an object that is then deleted
    requests.write += 2.0;
    requests.delete += 1.0;
    // headers: is there one, and its groups' ...; is there still none; put if absent, and read if that was refused
    requests.read += 2.0 + exists * (2.0 + known);
    requests.list += if base.exists { 1.0 } else { 2.0 };
    for part in &dataset.parts {
        requests.write += 1.0 + part.shards * (part.uploads + 1.0);
        // each shard is looked at once it is there
        requests.read += part.shards;
        one(part, requests);
    }
    for group in groups {
        let begun = f64::from(u8::from(group.exists));
        // the register and all headers; its own header; the dataset's parts and its own
        requests.write += 1.0 - begun;
        requests.read += 2.0 * known + 1.0 + begun;
        requests.list += 2.0 + 2.0 * (1.0 - begun);
        state(base.stored_shards.min(base.uncovered) as f64 + base.shards, requests);
        state(group.uncovered as f64, requests);
    }
    let config = facts.pipeline.dataset.as_ref();
    let everything: f64 = dataset.parts.iter().map(|part| uncovered_at_end(part) / 2.0).sum();
    let mut again = 0.0;
    if config.is_some_and(|config| config.shared) && groups.is_empty() {
        again += (seconds / LOOK_SECONDS).floor();
    }
    if facts.pipeline.store_limit.is_some() {
        // what is there is measured once, and again near the limit
        requests.list += 1.0;
        requests.read += known;
        dataset.parts.iter().filter(|part| part.exists || part.column_group.is_none()).for_each(|part| {
            state(part.uncovered as f64, requests);
        });
    }
    if config.is_some_and(|config| !config.keep.keeps_all()) {
        // each time what is committed is read four times, and every folder is listed
        let times = 1.0 + (seconds / KEEP_SECONDS).floor();
        again += 4.0 * times;
        requests.list += 7.0 * times;
    }
    requests.list += 3.0 * again;
    requests.read += everything * again;
}

/// Commits that no manifest covers when the run ends.
fn uncovered_at_end(part: &PartPlan) -> f64 {
    (part.uncovered as f64 + part.shards) % COMPACT_AFTER as f64
}

/// What is read of the dataset or a group alone: where units stand at first, manifests now and then, totals at the end.
fn one(part: &PartPlan, requests: &mut Usage) {
    state(part.uncovered as f64, requests);
    let made = ((part.uncovered as f64 + part.shards) / COMPACT_AFTER as f64).floor();
    for _ in 0..made as u64 {
        state(COMPACT_AFTER as f64, requests);
        // a segment and a manifest; both are read, and old ones looked for
        requests.write += 2.0;
        requests.read += 3.0;
        requests.list += 2.0;
    }
    state(uncovered_at_end(part), requests);
}

/// One look at what is committed: manifests, commits, manifests; then every commit that is not covered.
fn state(uncovered: f64, requests: &mut Usage) {
    requests.list += 2.0 + (uncovered / PAGE).ceil().max(1.0);
    requests.read += uncovered;
}

/// Requests of a trainer's checkpoints and of the coder that is exported at the end.
fn checkpoints(trainer: &TrainerPlan, config: &TrainerConfig, seconds: f64, requests: &mut Usage) {
    let keep = f64::from(config.checkpoint.keep).max(1.0);
    let one = trainer.checkpoint_bytes / keep;
    let saves = (seconds / config.checkpoint.every.0.as_secs_f64().max(1e-3)).floor() + 1.0;
    let in_parts = (one / UploadOptions::default().part_bytes as f64).floor();
    // large files go in parts; each is looked at; then the marker, and the markers of those that are kept
    let begun = if in_parts > 0.0 { 2.0 } else { 0.0 };
    requests.write += saves * (CHECKPOINT_FILES + in_parts + begun + 1.0);
    requests.read += saves * (CHECKPOINT_FILES + keep.min(saves - 1.0));
    requests.list += 1.0 + saves;
    let deleted = (saves - keep).max(0.0);
    requests.delete += deleted * (CHECKPOINT_FILES + 1.0);
    requests.list += deleted;
    // the coder with its metrics; those of a former run are looked for
    if config.target.base().is_some() {
        // the coder that is boosted: read once, and in every checkpoint
        requests.read += BASE_FILES + saves * BASE_FILES;
        requests.write += saves * BASE_FILES;
        requests.delete += deleted * BASE_FILES;
    }
    requests.write += CHECKPOINT_FILES;
    let of_sparsify =
        matches!(config.coder, CoderConfig::Topk(_) | CoderConfig::NestedTopk(_) | CoderConfig::GroupMax(_));
    if of_sparsify && config.normalize.rows() == RowScaling::None {
        requests.write += SPARSIFY_FILES;
    }
    if let TargetConfig::CrossLayer { outputs, .. } = &config.target {
        // two for each layer, and the configuration, of circuit-tracer
        requests.write += 2.0 * outputs.len() as f64 + 1.0;
    }
    requests.read += 1.0;
}
