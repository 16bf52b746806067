//! A run whose rows come from a stored dataset: opened, checked and restored before the first batch.

use std::sync::Arc;

use serde_json::Value;

use crate::catalog::columns::View;
use crate::compute::cpu::Cpu;
use crate::config::env;
use crate::config::{Loaded, Problem, Problems};
use crate::error::{Error, Result};
use crate::hooks::SiteWidth;
use crate::pipeline::build::{Head, Parts, Shared};
use crate::pipeline::finish::{JudgedOn, Rest};
use crate::pipeline::header;
use crate::pipeline::online;
use crate::pipeline::prepare::QUEUE_SHARE;
use crate::pipeline::status::RowsFrom;
use crate::pipeline::trainers;
use crate::pipeline::wanted::Wanted;
use crate::replay::{Reader, ReplayConfig, Source, identity};
use crate::runtime::readiness::Latch;
use crate::sae::export::ExportMetadata;
use crate::tokens::config::TokensConfig;
use crate::trainer::Trainer;
use crate::trainer::config::TrainerConfig;

/// Open what is committed now, with the sites that the pipeline's trainers read; and each trainer's sites.
pub async fn open(loaded: &Loaded, view: &View) -> Result<(Source, Vec<Vec<SiteWidth>>)> {
    let trainers = &loaded.pipeline.trainers;
    let mut names: Vec<String> = Vec::new();
    let named = |trainer: &TrainerConfig| {
        let others: Vec<String> = trainer.target.others().into_iter().map(|(_, name)| name.to_owned()).collect();
        std::iter::once(trainer.input.clone()).chain(others)
    };
    for name in trainers.iter().flat_map(named) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let source = Source::open(view, &names).await?;
    let site = |name: String| source.sites().iter().find(|site| site.header.name == name);
    let sites = |trainer| named(trainer).filter_map(site).map(|site| (site.point, site.width)).collect();
    let inputs = trainers.iter().map(sites).collect();
    Ok((source, inputs))
}

/// What is wrong with the trainers, now that the widths of their inputs are known.
pub fn problems(loaded: &Loaded, inputs: &[Vec<SiteWidth>]) -> Option<Problem> {
    loaded.too_little_memory(inputs)
}

/// Everything that the stages and the end need.
pub fn prepare(loaded: &Loaded, replay: &ReplayConfig, shared: &Shared<'_>) -> Result<(Parts<Cpu>, Rest<Cpu>)> {
    let pipeline = &loaded.pipeline;
    shared.status.set_rows_from(RowsFrom::Dataset);
    let location = loaded.stores.counted(shared.status.metrics.store("dataset")).open(&replay.url)?;
    let view = shared.io.block_on(View::open(location))?;
    let (source, inputs) = shared.io.block_on(open(loaded, &view))?;
    if let Some(problem) = problems(loaded, &inputs) {
        let problems = Problems::new(&loaded.source.display().to_string(), vec![problem]);
        return Err(Error::config(problems.to_string()));
    }
    tracing::info!(
        dataset = %source.location().shown, shards = source.shards(), rows = source.rows(), snapshot = source.snapshot(),
        "reading a stored dataset"
    );
    for behind in source.behind() {
        tracing::warn!(
            group = %behind.group, rows = behind.rows, of_rows = behind.of_rows, parts = behind.parts,
            of_parts = behind.of_parts, "a column group is behind its dataset: the other rows are not read"
        );
    }
    shared.status.readiness.release(Latch::ModelLoaded);
    shared.status.readiness.release(Latch::DatasetOpen);
    let backend = Arc::new(env::cpu(0)?);
    let stream = identity(&source, replay, pipeline.seed);
    let mut trainers = trainers::restore(loaded, &inputs, &stream, &backend, shared)?;
    if trainers.training().any(Trainer::is_judged_online) {
        let mut held_out = {
            // row groups are asked for as soon as the reader exists
            let _entered = shared.io.enter();
            Reader::held_out(source.clone(), replay)?
        };
        online::rows(&mut trainers, pipeline.evaluate_tokens, || shared.io.block_on(held_out.next()))?;
    }
    shared.status.readiness.release(Latch::StoreReachable);
    let reader = {
        // row groups are asked for as soon as the reader exists
        let _entered = shared.io.enter();
        Reader::new(source.clone(), replay, pipeline.seed, &trainers.earliest())?
    };
    let wanted = Arc::new(Wanted { datasets: Vec::new(), trainers: trainers.needs(), batch_sequences: 1 });
    let about = about(&source);
    let (groups, finished) = trainers.split();
    let (head, queue_bytes) = (Head::Stored(Box::new(reader)), pipeline.memory_limit.0 / QUEUE_SHARE);
    let parts =
        Parts { head, wanted, sinks: Vec::new(), keeper: None, groups, n_trainers: finished.len(), queue_bytes };
    let judged_on = (replay.holdout.share() > 0.0).then(|| JudgedOn::Rows(Box::new(source), replay.clone()));
    Ok((parts, Rest { judged_on, about, catalogs: Vec::new(), finished }))
}

/// What the dataset's header says about where its rows came from.
fn about(source: &Source) -> ExportMetadata {
    let header = source.header();
    let policy = header.tokens.get("policy").cloned().unwrap_or_default();
    let tokens: TokensConfig = serde_json::from_value(policy).unwrap_or_default();
    let paths = header.pipeline.pointer("/corpus/paths").and_then(Value::as_array);
    let paths: Vec<&str> = paths.into_iter().flatten().filter_map(Value::as_str).collect();
    let corpus = if paths.is_empty() { source.location().shown.clone() } else { paths.join(" ") };
    header::about(&header.model.source, &corpus, &tokens)
}
