//! Requests to remote stores, bytes kept there, and what both cost by the pipeline's price table.

use serde::Serialize;

use super::estimate::{DatasetPlan, Facts, TimePlan, TrainerPlan};
use crate::store::prices::Usage;
use crate::store::upload::UploadOptions;

/// Bytes that one request for a corpus asks for.
const CORPUS_BLOCK_BYTES: f64 = (1 << 20) as f64;

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
    let remote = |url: &str| url.contains("://") && !url.starts_with("file://") && !url.starts_with("memory://");
    if facts.harvest.corpus.paths().iter().any(|path| remote(path)) {
        // a listing has a thousand names a page
        plan.requests.list += (facts.files as f64 / 1000.0).ceil();
        plan.requests.read += (facts.bytes as f64 / CORPUS_BLOCK_BYTES).ceil() + facts.files as f64;
        plan.requests.read_bytes += facts.bytes as f64;
    }
    if let Some(dataset) = dataset.filter(|d| remote(&d.url)) {
        plan.requests.write += dataset.put_requests;
        // every shard is looked at once it is there
        plan.requests.read += dataset.shards;
        plan.requests.list += (dataset.shards / 1000.0).ceil();
        plan.kept_bytes += dataset.bytes;
    }
    let seconds = time.forward_seconds + time.trainer_seconds;
    for (trainer, config) in trainers.iter().zip(&facts.pipeline.trainers) {
        if !remote(&config.checkpoint.url) {
            continue;
        }
        let one = trainer.checkpoint_bytes / f64::from(config.checkpoint.keep).max(1.0);
        let checkpoints = (seconds / config.checkpoint.every.0.as_secs_f64().max(1e-3)).floor() + 1.0;
        plan.requests.write += checkpoints * (one / UploadOptions::default().part_bytes as f64 + 3.0).ceil();
        plan.requests.list += checkpoints;
        plan.kept_bytes += trainer.checkpoint_bytes;
    }
    if let Some(prices) = &facts.pipeline.prices {
        plan.run = Some(prices.of(&plan.requests));
        plan.month = Some(prices.month(plan.kept_bytes));
        plan.currency = Some(prices.currency.clone());
        plan.source.clone_from(&prices.source);
    }
    plan
}
