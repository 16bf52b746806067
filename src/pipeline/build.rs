//! The wiring: queues and stages, last stage first. The only place that makes queues.

use std::sync::Arc;
use std::time::Duration;

use crate::activation::{ActivationBatch, KeepRule};
use crate::catalog::gc::Keeper;
use crate::compute::coder_ops::CoderOps;
use crate::corpus::Growth;
use crate::error::{Error, Result};
use crate::hooks::SiteWidth;
use crate::model::Model;
use crate::pipeline::demand::Demand;
use crate::pipeline::lens::Looker;
use crate::pipeline::others::Lookout;
use crate::pipeline::stages::Completion;
use crate::pipeline::stages::deliver::Deliver;
use crate::pipeline::stages::fan_out::{FanOut, SharedBatch, TrainerOutput};
use crate::pipeline::stages::forward::Forward;
use crate::pipeline::stages::replay::Replay;
use crate::pipeline::stages::tokenize::Tokenize;
use crate::pipeline::stages::train::{CheckpointPolicy, Line, Saved, Train, Trained};
use crate::pipeline::status::RunStatus;
use crate::pipeline::wanted::Wanted;
use crate::replay::Reader;
use crate::runtime::channel::{Receiver, Sender, channel};
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::supervisor::{OnFault, Supervisor};
use crate::sink::ParquetSink;
use crate::tokens::TokenBatch;
use crate::tokens::stream::TokenStream;
use crate::trainer::Trainer;
use crate::trainer::config::WhenSlow;
use crate::trainer::group::Group;

/// Token batches that wait for the forward pass: enough that tokenising the next one is never waited for, few enough that
/// stopping is quick.
const TOKEN_QUEUE_BATCHES: u64 = 4;

/// What the stages work on.
pub struct Parts<B: CoderOps> {
    /// Where rows come from.
    pub head: Head<B>,
    /// Who needs what.
    pub wanted: Arc<Wanted>,
    /// Where rows are stored.
    pub sinks: Vec<ParquetSink>,
    /// Applies retention to the dataset.
    pub keeper: Option<Arc<Keeper>>,
    /// Who trains: a stage for each group of trainers that draw from one buffer.
    pub groups: Vec<GroupParts<B>>,
    /// Trainers of the pipeline, those that are done already too.
    pub n_trainers: usize,
    /// Bytes that the queues behind the head may hold in all.
    pub queue_bytes: u64,
}

/// The stages that rows come from.
pub enum Head<B: CoderOps> {
    /// A model reads a corpus.
    Model(Box<ModelParts<B>>),
    /// They were stored before.
    Stored(Box<Reader>),
}

/// What the stages up to the forward pass work on.
pub struct ModelParts<B: CoderOps> {
    /// The corpus, tokenised.
    pub stream: TokenStream,
    /// The model.
    pub model: Box<dyn Model<B>>,
    /// What is captured.
    pub sites: Vec<SiteWidth>,
    /// Which rows are kept.
    pub keep: KeepRule,
    /// Finds units that other writers of the dataset finished, if there may be others.
    pub lookout: Option<Lookout>,
    /// Makes the corpus grow, if it does.
    pub growth: Option<Growth>,
    /// Tokens in a full batch.
    pub batch_tokens: u64,
}

/// The part of trainers that draw from one buffer.
pub struct GroupParts<B: CoderOps> {
    /// The trainers.
    pub group: Group<B>,
    /// What is particular to each, by its number in the group.
    pub members: Vec<TrainerParts>,
    /// What happens when they are slow.
    pub when_slow: WhenSlow,
}

/// One trainer's part.
pub struct TrainerParts {
    /// Its place in the pipeline.
    pub index: usize,
    /// Its checkpoints.
    pub checkpoints: CheckpointPolicy,
    /// The checkpoint that its state is from, if it is from one.
    pub restored_from: Option<Saved>,
}

/// Everything that stages share.
pub struct Shared<'a> {
    /// State and numbers.
    pub status: &'a Arc<RunStatus>,
    /// How the run ends early.
    pub shutdown: &'a Shutdown,
    /// Where uploads run.
    pub io: &'a tokio::runtime::Handle,
    /// The time.
    pub clock: &'a Clock,
}

/// How the stages ended.
pub struct Ended<B: CoderOps> {
    /// The model, for evaluation; none if rows came from a store.
    pub model: Option<Box<dyn Model<B>>>,
    /// Each trainer, or why it failed; `None` where there was nothing to do.
    pub trainers: Vec<Option<Result<Trained<B>>>>,
    /// Whether the whole corpus went through, or everybody had enough.
    pub complete: bool,
}

/// Run all stages to their end. The fault of a stage that everything depends on is returned; a trainer's is its own.
pub fn run_stages<B: CoderOps>(parts: Parts<B>, shared: &Shared<'_>) -> Result<Ended<B>> {
    let metrics = &shared.status.metrics;
    let mut stages = Supervisor::new(shared.shutdown.clone()).reporting_to(shared.status.health.clone());
    let consumers = parts.groups.len() as u64 + u64::from(!parts.sinks.is_empty()) + 1;
    let queue_bytes = parts.queue_bytes / consumers;
    let (computed, distributed) = (Completion::default(), Completion::default());
    let cut_short = Completion::default();

    let mut trainer_outputs = Vec::new();
    let mut training = Vec::new();
    for (part, need) in parts.groups.into_iter().zip(&parts.wanted.trainers) {
        let (sender, input) = batch_queue("train", queue_bytes);
        trainer_outputs.push(TrainerOutput { sender: Some(sender), when_slow: part.when_slow });
        let ends = (distributed.clone(), cut_short.clone());
        training.push(start_trainers(&mut stages, part, (input, ends, Arc::clone(&need.demand)), shared)?);
    }

    let mut deliver_output = None;
    if !parts.sinks.is_empty() {
        let (sender, input) = batch_queue("deliver", queue_bytes);
        metrics.queue("deliver", input.stats());
        deliver_output = Some(sender);
        let stage = Deliver {
            sinks: parts.sinks,
            keeper: parts.keeper,
            others: parts.wanted.datasets.first().map(|d| d.others.clone()).unwrap_or_default(),
            others_seen: 0,
            input,
            io: shared.io.clone(),
            stats: metrics.stage("deliver"),
            run: metrics.run.clone(),
            status: Arc::clone(shared.status),
            shutdown: shared.shutdown.clone(),
        };
        stages.spawn("deliver", OnFault::StopRun, move |heartbeat| stage.run(heartbeat))?;
    }

    let (to_fan_out, input) = channel("fan_out", queue_bytes, |batch: &ActivationBatch| batch.bytes() as u64);
    metrics.queue("fan_out", input.stats());
    let stage = FanOut {
        input,
        input_complete: computed.clone(),
        wanted: Arc::clone(&parts.wanted),
        deliver: deliver_output,
        trainers: trainer_outputs,
        complete: distributed.clone(),
        stats: metrics.stage("fan_out"),
        run: metrics.run.clone(),
    };
    stages.spawn("fan_out", OnFault::StopRun, move |heartbeat| stage.run(heartbeat))?;

    let outlet = Outlet { wanted: parts.wanted, output: to_fan_out, complete: computed };
    let model = match parts.head {
        Head::Model(head) => Some(start_model(&mut stages, *head, outlet, shared)?),
        Head::Stored(reader) => {
            start_replay(&mut stages, *reader, outlet, shared)?;
            None
        }
    };

    stages.join().result()?;
    Ok(Ended {
        trainers: trained(training, parts.n_trainers),
        model: match model {
            Some(left) => Some(left.try_recv().map_err(|_| Error::internal("the forward stage left no model behind"))?),
            None => None,
        },
        complete: distributed.is_set() && !cut_short.is_set(),
    })
}

/// Trainers that ended, by their places in the pipeline.
type AllTrained<B> = Vec<(usize, Result<Trained<B>>)>;

/// A stage of trainers: their places in the pipeline, and the queue of one through which they come back; it stays empty
/// if the stage panics.
type Training<B> = (Vec<usize>, crossbeam_channel::Receiver<AllTrained<B>>);

/// The stage of trainers that draw from one buffer.
fn start_trainers<B: CoderOps>(
    stages: &mut Supervisor,
    part: GroupParts<B>,
    (input, (input_complete, cut_short), demand): (Receiver<SharedBatch>, (Completion, Completion), Arc<Demand>),
    shared: &Shared<'_>,
) -> Result<Training<B>> {
    let metrics = &shared.status.metrics;
    let indices: Vec<usize> = part.members.iter().map(|member| member.index).collect();
    let line = |(member, (_, trainer)): (TrainerParts, &(usize, Trainer<B>))| Line {
        index: member.index,
        name: trainer.settings().config.name.clone(),
        checkpoints: member.checkpoints,
        saved: member.restored_from,
        saved_at: Duration::ZERO,
        numbers: metrics.trainer(&trainer.settings().config.name),
        reported: trainer.dropped().clone(),
        gap_is_open: false,
    };
    let lines: Vec<Line> = part.members.into_iter().zip(part.group.members()).map(line).collect();
    let name = match &lines[..] {
        [first, others @ ..] if !others.is_empty() => format!("train {} and {} more", first.name, others.len()),
        _ => format!("train {}", part.group.settings().config.name),
    };
    metrics.queue(&name, input.stats());
    let stage = Train {
        group: part.group,
        lines,
        input,
        input_complete,
        cut_short,
        demand,
        io: shared.io.clone(),
        stats: metrics.stage(&name),
        status: Arc::clone(shared.status),
        shutdown: shared.shutdown.clone(),
        clock: shared.clock.clone(),
        looker: Looker::new(Arc::clone(&shared.status.lenses)),
        asked: 0,
        ended: Vec::new(),
    };
    let (leave, left) = crossbeam_channel::bounded(1);
    stages.spawn(&name, OnFault::StopAlone, move |heartbeat| {
        let ended = stage.run(heartbeat);
        let first = ended.iter().find_map(|(_, result)| result.as_ref().err());
        let fault = first.map(|e| Error::new(e.kind(), e.to_string()));
        leave_behind(&leave, ended);
        fault.map_or(Ok(()), Err)
    })?;
    Ok((indices, left))
}

/// What became of the trainers that stages had, in the order of the pipeline.
fn trained<B: CoderOps>(stages: Vec<Training<B>>, n_trainers: usize) -> Vec<Option<Result<Trained<B>>>> {
    let mut all: Vec<Option<Result<Trained<B>>>> = (0..n_trainers).map(|_| None).collect();
    let died = || Error::internal("the stage panicked; the log has its message");
    for (indices, left) in stages {
        indices.into_iter().for_each(|index| all[index] = Some(Err(died())));
        for (index, result) in left.try_recv().into_iter().flatten() {
            all[index] = Some(result);
        }
    }
    all
}

/// Where the head's batches go.
struct Outlet {
    wanted: Arc<Wanted>,
    output: Sender<ActivationBatch>,
    complete: Completion,
}

/// Tokenize and forward; the queue is the model's way back.
fn start_model<B: CoderOps>(
    stages: &mut Supervisor,
    head: ModelParts<B>,
    outlet: Outlet,
    shared: &Shared<'_>,
) -> Result<crossbeam_channel::Receiver<Box<dyn Model<B>>>> {
    let metrics = &shared.status.metrics;
    let tokenized = Completion::default();
    let token_budget = head.batch_tokens * TOKEN_QUEUE_BATCHES;
    let (to_forward, input) = channel("forward", token_budget, |batch: &TokenBatch| batch.n_tokens() as u64);
    metrics.queue("forward", input.stats());
    let stage = Forward {
        model: head.model,
        sites: head.sites,
        keep: head.keep,
        input,
        input_complete: tokenized.clone(),
        wanted: Arc::clone(&outlet.wanted),
        output: outlet.output,
        complete: outlet.complete,
        stats: metrics.stage("forward"),
        run: metrics.run.clone(),
        lenses: Arc::clone(&shared.status.lenses),
        shutdown: shared.shutdown.clone(),
    };
    let (leave, model) = crossbeam_channel::bounded(1);
    stages.spawn("forward", OnFault::StopRun, move |heartbeat| {
        leave_behind(&leave, stage.run(heartbeat)?);
        Ok(())
    })?;
    let stage = Tokenize {
        stream: head.stream,
        wanted: outlet.wanted,
        lookout: head.lookout,
        growth: head.growth,
        output: to_forward,
        complete: tokenized,
        stats: metrics.stage("tokenize"),
        run: metrics.run.clone(),
        shutdown: shared.shutdown.clone(),
    };
    stages.spawn("tokenize", OnFault::StopRun, move |heartbeat| stage.run(heartbeat))?;
    Ok(model)
}

fn start_replay(stages: &mut Supervisor, reader: Reader, outlet: Outlet, shared: &Shared<'_>) -> Result<()> {
    let metrics = &shared.status.metrics;
    let stage = Replay {
        reader,
        wanted: outlet.wanted,
        output: outlet.output,
        complete: outlet.complete,
        io: shared.io.clone(),
        stats: metrics.stage("replay"),
        run: metrics.run.clone(),
        shutdown: shared.shutdown.clone(),
    };
    stages.spawn("replay", OnFault::StopRun, move |heartbeat| stage.run(heartbeat))
}

fn batch_queue(name: &'static str, bytes: u64) -> (Sender<SharedBatch>, Receiver<SharedBatch>) {
    channel(name, bytes, |batch: &SharedBatch| batch.bytes() as u64)
}

/// The receiver lives until all stages are joined, and each stage leaves one thing.
fn leave_behind<T>(queue: &crossbeam_channel::Sender<T>, value: T) {
    // nobody is left to take it only if the run already failed
    drop(queue.try_send(value));
}
