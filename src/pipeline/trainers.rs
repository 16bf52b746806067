//! The trainers of a run: restored from their checkpoints, and put together where they draw the same batches.

use std::sync::Arc;

use crate::catalog::checkpoints;
use crate::compute::CoderOps;
use crate::config::Loaded;
use crate::corpus::cursor::SourceCursor;
use crate::error::Result;
use crate::hooks::SiteWidth;
use crate::pipeline::build::{GroupParts, Shared, TrainerParts};
use crate::pipeline::coders;
use crate::pipeline::demand::Demand;
use crate::pipeline::stages::train::{CheckpointPolicy, Saved};
use crate::pipeline::status::TrainerStatus;
use crate::pipeline::wanted::TrainerNeed;
use crate::store::{Location, Stores};
use crate::trainer::config::TrainerConfig;
use crate::trainer::group::Group;
use crate::trainer::{Trainer, TrainerSettings};

/// Everybody who trains in this run, or has trained.
pub(super) struct Trainers<B: CoderOps> {
    groups: Vec<GroupParts<B>>,
    /// Those that had all their rows before, with their checkpoints; in the order of the pipeline.
    finished: Vec<Option<(Trainer<B>, String)>>,
}

/// Every trainer, from its newest checkpoint if it has one. `stream` is what the rows of `inputs` are.
///
/// Trainers that stand at the same place of the stream, with the same rows in their buffers, train together; others (one was
/// added to the pipeline later, or was saved earlier than the run was killed) train beside them.
pub(super) fn restore<B: CoderOps>(
    loaded: &Loaded,
    inputs: &[Vec<SiteWidth>],
    stream: &serde_json::Value,
    backend: &Arc<B>,
    shared: &Shared<'_>,
) -> Result<Trainers<B>> {
    let pipeline = &loaded.pipeline;
    let stores = loaded.stores.counted(shared.status.metrics.store("checkpoints"));
    let (mut groups, mut finished, mut lines) = (Vec::<GroupParts<B>>::new(), Vec::new(), Vec::new());
    for (index, (config, sites)) in pipeline.trainers.iter().zip(inputs).enumerate() {
        let (seed, sites, stream) = (pipeline.seed, sites.clone(), stream.clone());
        let settings = TrainerSettings { config: config.clone(), sites, seed, stream };
        let location = stores.open(&config.checkpoint.url)?;
        let (mut trainer, checkpoint) = open(settings, &location, backend, shared)?;
        start_from(&mut trainer, &stores, shared)?;
        boost(&mut trainer, &stores, shared)?;
        let report = trainer.report();
        let (name, rows, rows_total) = (config.name.clone(), report.rows, config.rows.0);
        let line = TrainerStatus {
            name,
            rows,
            rows_total,
            loss: report.loss,
            fvu: report.fvu,
            l0: report.l0,
            dead_fraction: report.dead_fraction,
            buffer_rows: config.buffer.rows.0,
            ..TrainerStatus::default()
        };
        lines.push(line);
        shared.status.lenses.show_past(&trainer);
        if trainer.done() {
            trainer.release_buffer();
            finished.push(Some((trainer, checkpoint.unwrap_or_default())));
            continue;
        }
        finished.push(None);
        let (cursor, step) = (trainer.cursor().clone(), report.step);
        let restored_from = checkpoint.map(|folder| Saved { cursor, step, folder });
        put(&mut groups, trainer, TrainerParts { index, checkpoints: policy(location, config), restored_from })?;
    }
    for group in groups.iter().filter(|group| group.members.len() > 1) {
        let names: Vec<&str> = group.group.members().iter().map(|(_, t)| t.settings().config.name.as_str()).collect();
        tracing::info!(trainers = names.join(", "), "drawing from one buffer");
    }
    shared.status.set_trainers(lines);
    Ok(Trainers { groups, finished })
}

/// A trainer from its newest checkpoint, and where that is; or a new one.
fn open<B: CoderOps>(
    settings: TrainerSettings,
    location: &Location,
    backend: &Arc<B>,
    shared: &Shared<'_>,
) -> Result<(Trainer<B>, Option<String>)> {
    let name = settings.config.name.clone();
    // a place that cannot even be read is this trainer's own failure, found again when it saves
    let found = shared.io.block_on(checkpoints::latest(location)).unwrap_or_else(|error| {
        tracing::error!(trainer = name, %error, "cannot look for checkpoints");
        None
    });
    let backend = Arc::clone(backend);
    let Some(found) = found else { return Ok((Trainer::new(backend, settings)?, None)) };
    let files: Vec<(String, Vec<u8>)> = found.files.into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
    let trainer = Trainer::restore(backend, settings, &files)
        .map_err(|e| e.context(format!("restore trainer `{name}` from `{}`", found.folder)))?;
    tracing::info!(trainer = name, checkpoint = found.folder, "restored");
    Ok((trainer, Some(found.folder)))
}

/// Read the coder that the trainer is to go on from, if there is one.
fn start_from<B: CoderOps>(trainer: &mut Trainer<B>, stores: &Stores, shared: &Shared<'_>) -> Result<()> {
    let Some(folder) = trainer.wants_coder() else { return Ok(()) };
    let folder = stores.open(folder)?;
    let name = trainer.settings().config.name.clone();
    let coder = shared.io.block_on(coders::read(&folder));
    let found = coder.and_then(|coder| trainer.start_from(coder));
    found.map_err(|e| e.context(format!("start trainer `{name}` from `{}`", folder.shown)))?;
    tracing::info!(trainer = name, folder = folder.shown, "starting from a trained coder");
    Ok(())
}

/// Read the coder that the trainer is to make better, if there is one.
fn boost<B: CoderOps>(trainer: &mut Trainer<B>, stores: &Stores, shared: &Shared<'_>) -> Result<()> {
    let Some(folder) = trainer.wants_base() else { return Ok(()) };
    let folder = stores.open(folder)?;
    let coder = shared.io.block_on(coders::read(&folder));
    let found = coder.and_then(|coder| trainer.boost(coder));
    let name = &trainer.settings().config.name;
    found.map_err(|e| e.context(format!("boost `{}` in trainer `{name}`", folder.shown)))
}

fn policy(location: Location, config: &TrainerConfig) -> CheckpointPolicy {
    CheckpointPolicy { location, every: config.checkpoint.every.0, keep: config.checkpoint.keep }
}

/// Put a trainer into the first group that it fits, or into one of its own.
fn put<B: CoderOps>(groups: &mut Vec<GroupParts<B>>, mut trainer: Trainer<B>, parts: TrainerParts) -> Result<()> {
    for group in groups.iter_mut() {
        match group.group.join(group.members.len(), trainer) {
            None => {
                group.members.push(parts);
                return Ok(());
            }
            Some(back) => trainer = back,
        }
    }
    let when_slow = trainer.settings().config.when_slow;
    groups.push(GroupParts { group: Group::of(0, trainer)?, members: vec![parts], when_slow });
    Ok(())
}

impl<B: CoderOps> Trainers<B> {
    /// Those that need more rows.
    pub(super) fn training(&self) -> impl Iterator<Item = &Trainer<B>> {
        self.groups.iter().flat_map(|group| group.group.members()).map(|(_, trainer)| trainer)
    }

    /// The same, to be told something.
    pub(super) fn training_mut(&mut self) -> impl Iterator<Item = &mut Trainer<B>> {
        self.groups.iter_mut().flat_map(|group| group.group.trainers_mut())
    }

    /// Whether the pipeline has none.
    pub(super) fn is_empty(&self) -> bool {
        self.finished.is_empty()
    }

    /// The earliest position of all that need more rows.
    pub(super) fn earliest(&self) -> SourceCursor {
        let cursors = self.groups.iter().map(|group| group.group.cursor());
        cursors.min_by_key(|cursor| cursor.next_batch).cloned().unwrap_or_default()
    }

    /// What each group needs of the stream.
    pub(super) fn needs(&self) -> Vec<TrainerNeed> {
        let need = |group: &GroupParts<B>| TrainerNeed {
            next_batch: group.group.cursor().next_batch,
            demand: Arc::new(Demand::of(group.group.rows_needed())),
        };
        self.groups.iter().map(need).collect()
    }

    /// What the stages need of those that need more rows; and those that are done, with their checkpoints.
    #[allow(clippy::type_complexity, reason = "a list of groups, and one in the order of the pipeline")]
    pub(super) fn split(self) -> (Vec<GroupParts<B>>, Vec<Option<(Trainer<B>, String)>>) {
        (self.groups, self.finished)
    }
}
