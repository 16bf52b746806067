//! A run, from a resolved pipeline to its summary.
//!
//! ```text
//! prepare  model, tokenizer, corpus, norm limits, dataset, trainers: opened, checked, restored
//! stages   tokenize -> forward -> fan_out -+-> deliver        (one thread each; queues bounded by tokens or bytes)
//!                                          +-> train 1..n
//!          (replay -> fan_out ... where rows are read from a stored dataset)
//! finish   held-out evaluation, export, summary
//! ```
//!
//! Order of durability: shard, commit, and the cursor is part of the commit; a trainer's cursor is part of its
//! checkpoint. On restart the stream begins where the first of them needs it, and a batch that nobody needs is not
//! computed ([`wanted`]). Compute runs on plain threads, uploads on tokio.

pub mod build;
pub mod calibrate;
pub mod coders;
pub mod columns;
pub mod demand;
pub mod device;
pub mod evaluate;
pub mod features;
pub mod finish;
pub mod header;
pub mod judge;
mod kept;
pub mod lens;
pub mod locate;
mod online;
pub mod others;
pub mod prepare;
pub mod replay;
mod splice;
pub mod stages;
pub mod status;
pub mod summary;
mod trainers;
pub mod wanted;

use std::sync::Arc;

use crate::compute::{CoderOps, ModelOps};
use crate::config::Loaded;
use crate::error::Result;
use crate::pipeline::build::{Parts, Shared};
use crate::pipeline::finish::Rest;
use crate::pipeline::prepare::{Backends, Opened};
use crate::pipeline::status::{RunState, RunStatus};
use crate::pipeline::summary::RunSummary;
use crate::runtime::clock::{Clock, Stopwatch};
use crate::runtime::shutdown::Shutdown;

/// Run a pipeline to its end, or until it is told to stop.
pub fn run(
    loaded: &Loaded,
    status: &Arc<RunStatus>,
    shutdown: &Shutdown,
    io: &tokio::runtime::Handle,
    clock: &Clock,
) -> Result<RunSummary> {
    status.set_prices(loaded.pipeline.prices.clone());
    let shared = Shared { status, shutdown, io, clock };
    let result = run_to_the_end(loaded, &shared);
    status.enter(match &result {
        Ok(_) if status.stopped().is_some() => RunState::StorageFull,
        Ok(_) => RunState::Done,
        Err(_) => RunState::Failed,
    });
    if let Err(error) = &result {
        status.metrics.run.fault(error.kind());
    }
    result
}

fn run_to_the_end(loaded: &Loaded, shared: &Shared<'_>) -> Result<RunSummary> {
    if let Some(replay) = loaded.pipeline.replay() {
        let (parts, rest) = replay::prepare(loaded, replay, shared)?;
        return run_parts(loaded, parts, rest, shared);
    }
    let (loaded, opened) = prepare::open(loaded, shared)?;
    let model = &loaded.pipeline.harvest()?.model;
    let threads = model.threads as usize;
    match device::chosen(&model.device)? {
        None => run_on(&device::cpu(threads)?, &loaded, opened, shared),
        Some(ordinal) => run_on(&device::cuda(ordinal, &opened.source)?, &loaded, opened, shared),
    }
}

fn run_on<B: ModelOps + CoderOps>(
    backends: &Backends<B>,
    loaded: &Loaded,
    opened: Opened,
    shared: &Shared<'_>,
) -> Result<RunSummary> {
    let prepared = prepare::prepare(loaded, opened, backends, shared)?;
    let (parts, rest) = prepared.split(loaded, shared)?;
    run_parts(loaded, parts, rest, shared)
}

fn run_parts<B: CoderOps>(loaded: &Loaded, parts: Parts<B>, rest: Rest<B>, shared: &Shared<'_>) -> Result<RunSummary> {
    shared.status.enter(RunState::Running);
    let watch = Stopwatch::start();
    let watch_draining = show_draining(shared);
    let ended = build::run_stages(parts, shared);
    watch_draining.abort();
    finish::finish(loaded, shared, ended?, rest, watch.elapsed())
}

/// Shows that the run drains, once it does.
fn show_draining(shared: &Shared<'_>) -> tokio::task::JoinHandle<()> {
    let (shutdown, status) = (shared.shutdown.clone(), Arc::clone(shared.status));
    shared.io.spawn(async move {
        shutdown.draining().await;
        status.enter(RunState::Draining);
    })
}
