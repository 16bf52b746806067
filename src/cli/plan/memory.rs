//! How much memory a run needs at its worst moment.
//!
//! Weights, workspace, buffers and coders are counted; what lives around them is estimated from what the code holds at a
//! time. Constants carry where they are from; `tests/memory.rs` holds the sum against real runs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::estimate::{Facts, TrainerPlan};
use super::work;
use crate::compute::backend::MatrixFormat;
use crate::dataset::config::StoredDtype;
use crate::hooks::{HookPoint, SiteWidth};
use crate::pipeline::evaluate::LOGIT_ROWS;
use crate::pipeline::prepare::QUEUE_SHARE;
use crate::store::upload::UploadOptions;

const MIB: f64 = (1 << 20) as f64;
/// The program's own pages, threads, and the allocator's slack: measured on a model of 3 million parameters.
const PROCESS_BYTES: f64 = 34.0 * MIB;
/// Memory of a loaded tokenizer for each byte of `tokenizer.json`: 16 and 19 were measured.
const TOKENIZER_FACTOR: f64 = 18.0;
/// A reader's blocks in the queue and under way, and what it takes apart.
const READER_BYTES: f64 = 5.0 * MIB;
/// Batches between the forward pass and those who take them, when these keep up: one each that is made, that is passed
/// on, and that is used.
const BATCHES_AHEAD: f64 = 3.0;
/// A row's own columns in an activation batch, and ids and segments of tokens that wait for the forward pass.
const TOKEN_BYTES: f64 = 96.0;
/// Parts of a shard that a store takes at a time: a local disk is done with one before the next is full.
const LOCAL_PARTS_IN_FLIGHT: f64 = 1.0;

/// Memory, in bytes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct MemoryPlan {
    /// The most that is held at a time: all below, but of what happens while the model runs and of the evaluation after it
    /// only the larger.
    pub(super) peak: f64,
    /// The program, the tokenizer, and readers of the corpus.
    pub(super) process: f64,
    /// Weights.
    pub(super) model: f64,
    /// Buffers of the forward pass.
    pub(super) workspace: f64,
    /// Captured rows on their way. Where a trainer is slower than the model, its queue is full.
    pub(super) batches: f64,
    /// Shards that are filled and uploaded.
    pub(super) dataset: f64,
    /// Mixing buffers and coders.
    pub(super) trainers: f64,
    /// Checkpoints while they are written.
    pub(super) checkpoints: f64,
    /// The evaluation at the end.
    pub(super) evaluation: f64,
    /// What `limits.memory` leaves for queues; they fill only where somebody is slow.
    pub(super) queues_at_most: f64,
}

/// Make the plan. `forward_seconds` is what the forward pass takes.
pub(super) fn memory(
    facts: &Facts<'_>,
    points: &[HookPoint],
    trainers: &[TrainerPlan],
    forward_seconds: f64,
) -> MemoryPlan {
    let tokens = &facts.harvest.tokens;
    let context = tokens.context_length as usize;
    let batch_tokens = tokens.batch_sequences() * context;
    let open_units = f64::from(tokens.interleave.min(facts.units).max(1));
    let process = PROCESS_BYTES + TOKENIZER_FACTOR * facts.tokenizer_bytes as f64 + READER_BYTES * open_units;
    let model = match facts.harvest.model.dtype.matrix_format() {
        MatrixFormat::F32 => facts.weights.bytes(4) as f64,
        MatrixFormat::Bf16 => facts.weights.bytes(2) as f64,
    };
    let workspace = facts.of_models(points, |spec, points| work::workspace_bytes(spec, points, batch_tokens, context));
    let queues = facts.pipeline.memory_limit.0 as f64 / QUEUE_SHARE as f64;
    let batches = batches(facts, batch_tokens as f64, trainers, queues, forward_seconds);
    let dataset = dataset(facts, open_units);
    let held = trainers.iter().map(|t| (t.buffer_bytes + t.coder_bytes) as f64).sum();
    let checkpoints = groups(trainers).values().map(|group| checkpoint(facts, group)).sum();
    let evaluation = evaluation(facts, batch_tokens as f64);
    let running: f64 = batches + dataset + checkpoints;
    MemoryPlan {
        peak: process + model + workspace + held + running.max(evaluation),
        process,
        model,
        workspace,
        batches,
        dataset,
        trainers: held,
        checkpoints,
        evaluation,
        queues_at_most: queues,
    }
}

/// The trainers, by whose buffer they draw from.
fn groups(trainers: &[TrainerPlan]) -> BTreeMap<&str, Vec<&TrainerPlan>> {
    let mut groups = BTreeMap::<&str, Vec<&TrainerPlan>>::new();
    for trainer in trainers {
        groups.entry(trainer.shares_buffer_of.as_ref().unwrap_or(&trainer.name)).or_default().push(trainer);
    }
    groups
}

/// A checkpoint of each of a group while they are written, one after the other, with the same buffer.
fn checkpoint(facts: &Facts<'_>, group: &[&TrainerPlan]) -> f64 {
    let of = |plan: &TrainerPlan| {
        let config = facts.pipeline.trainers.iter().find(|config| config.name == plan.name);
        plan.checkpoint_bytes / config.map_or(1.0, |config| f64::from(config.checkpoint.keep.max(1)))
    };
    group.iter().map(|plan| of(plan)).fold(0.0, f64::max)
}

/// Bytes of a row of all of `sites`.
fn row_bytes(sites: &[SiteWidth]) -> f64 {
    sites.iter().map(|(_, width)| *width as f64 * 4.0).sum()
}

fn batches(facts: &Facts<'_>, batch_tokens: f64, trainers: &[TrainerPlan], queues: f64, forward_seconds: f64) -> f64 {
    let row = row_bytes(&facts.sites.captured) + TOKEN_BYTES;
    let moving = BATCHES_AHEAD * batch_tokens * row;
    let groups = groups(trainers);
    let consumers = groups.len() as f64 + f64::from(u8::from(facts.pipeline.dataset.is_some())) + 1.0;
    let slow = groups.values().filter(|group| group.iter().map(|t| t.seconds).sum::<f64>() > forward_seconds);
    let rows_needed = |group: &[&TrainerPlan]| group.iter().map(|t| t.rows_needed).fold(0.0, f64::max);
    // batches are shared: queues that are full hold the same ones, if not all from the same row on
    slow.map(|group| (queues / consumers).min(rows_needed(group) * row)).fold(moving, f64::max)
}

/// Row groups that are filled, parts that are filled, and parts that are uploaded, of each unit that is open.
fn dataset(facts: &Facts<'_>, open_units: f64) -> f64 {
    let Some(config) = &facts.pipeline.dataset else { return 0.0 };
    let value = match config.dtype {
        StoredDtype::Float16 | StoredDtype::Bfloat16 => 2.0,
        StoredDtype::Float32 => 4.0,
    };
    let values: usize = facts.sites.stored.iter().map(|(_, width)| width).sum();
    let row = values as f64 * value + 24.0;
    let upload = UploadOptions::default();
    let in_flight = if config.url.contains("://") { upload.parts_in_flight as f64 } else { LOCAL_PARTS_IN_FLIGHT };
    let parts = (1.0 + in_flight) * upload.part_bytes as f64;
    let shard = config.rows_per_shard.0 as f64 * row;
    open_units * (config.rows_per_group.0 as f64 * row + parts.min(shard))
}

/// A batch's rows as they are, reconstructed and replaced, and the logits of a few rows of each.
fn evaluation(facts: &Facts<'_>, batch_tokens: f64) -> f64 {
    let pipeline = facts.pipeline;
    if pipeline.evaluate_tokens == 0 || pipeline.trainers.is_empty() || facts.harvest.corpus.holdout().share() == 0.0 {
        return 0.0;
    }
    let (d, v) = (facts.spec.d_model as f64 * 4.0, facts.spec.vocab_size as f64 * 4.0);
    let widest = facts.sites.inputs.iter().flatten().map(|(_, width)| *width as f64 * 4.0).fold(0.0, f64::max);
    // as captured, those that are judged, and their reconstructions, of every coder
    let rows = 3.0 * facts.sites.inputs.iter().map(|sites| row_bytes(sites)).sum::<f64>() + 2.0 * widest + 4.0 * d;
    // the head's own buffer is bounded by 64 MiB; three kinds of logits, each as f32, and a row as f64
    let head = (64.0 * MIB).min(256.0 * v) + 256.0 * d;
    batch_tokens * rows + head + 3.0 * LOGIT_ROWS as f64 * v + 6.0 * v
}
