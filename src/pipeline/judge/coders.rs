//! The coders of an evaluation: checkpoints of trainers, and folders of other tools.

use std::sync::Arc;

use crate::catalog::checkpoints::{self, Checkpoint};
use crate::compute::cpu::Cpu;
use crate::config::Loaded;
use crate::error::{Error, Result};
use crate::evaluation::geometry::Dictionary;
use crate::hooks::{HookPoint, SiteWidth};
use crate::pipeline::coders;
use crate::pipeline::evaluate::Reconstruct;
use crate::pipeline::judge::{CODERS_MAX, Chosen, Given};
use crate::pipeline::locate::Located;
use crate::sae::Params;
use crate::sae::codes::Codes;
use crate::sae::export::ExportedCoder;
use crate::store::Location;
use crate::trainer::history::{HeldOutPoint, HistoryPoint};
use crate::trainer::{Trainer, TrainerSettings};

/// A coder to be judged.
pub(in crate::pipeline) struct Judged {
    pub(in crate::pipeline) name: String,
    /// Where it was found.
    pub(in crate::pipeline) from: String,
    pub(in crate::pipeline) trained_rows: Option<u64>,
    pub(in crate::pipeline) history: Vec<HistoryPoint>,
    pub(in crate::pipeline) held_out_history: Vec<HeldOutPoint>,
    /// What it reads and what it reconstructs, of a coder that is not a trainer.
    reads: [SiteWidth; 1],
    writes: [SiteWidth; 1],
    kind: Kind,
}

enum Kind {
    /// Restored from a checkpoint.
    Trainer(Box<Trainer<Cpu>>),
    /// Read from a folder.
    Folder { coder: Box<ExportedCoder>, params: Params<Cpu>, backend: Arc<Cpu> },
}

impl Reconstruct for Judged {
    fn reads(&self) -> &[SiteWidth] {
        match &self.kind {
            Kind::Trainer(trainer) => trainer.settings().reads(),
            Kind::Folder { .. } => &self.reads,
        }
    }

    fn writes(&self) -> &[SiteWidth] {
        match &self.kind {
            Kind::Trainer(trainer) => trainer.settings().writes(),
            Kind::Folder { .. } => &self.writes,
        }
    }

    fn n_latents(&self) -> usize {
        match &self.kind {
            Kind::Trainer(trainer) => trainer.n_latents(),
            Kind::Folder { coder, .. } => coder.dims.f,
        }
    }

    fn reconstruct(&self, rows: &[f32], out: &mut Vec<f32>, codes: &mut Codes) -> Result<()> {
        match &self.kind {
            Kind::Trainer(trainer) => trainer.code(rows, out, codes),
            Kind::Folder { coder, params, backend } => {
                coder.inference(&**backend, params).code(&**backend, &coder.scales(), rows, out, codes);
                Ok(())
            }
        }
    }
}

impl Judged {
    /// Its directions in raw space.
    pub(in crate::pipeline) fn dictionary(&self) -> Option<Dictionary> {
        match &self.kind {
            Kind::Folder { coder, .. } => Some(Dictionary::from(&**coder)),
            Kind::Trainer(trainer) => trainer.dictionary(),
        }
    }
}

/// All coders, each checked against its site.
pub(in crate::pipeline) fn open(
    loaded: &Loaded,
    located: Option<&Located>,
    wanted: &Chosen,
    backend: &Arc<Cpu>,
    io: &tokio::runtime::Handle,
) -> Result<Vec<Judged>> {
    let mut coders = Vec::new();
    for config in loaded.pipeline.trainers.iter().filter(|_| wanted.trainers) {
        let place = loaded.stores.open(&config.checkpoint.url)?;
        match io.block_on(checkpoints::latest(&place))? {
            Some(found) => coders.extend(restored(&config.name, found, backend)?),
            None => tracing::warn!(trainer = config.name, place = %place.shown, "has no checkpoint: left out"),
        }
    }
    for given in &wanted.coders {
        let found = match io.block_on(checkpoints::at(&given.folder))? {
            Some(found) => restored(&given.name, found, backend)?,
            None => Some(folder(given, located, backend, io)?),
        };
        coders.push(found.ok_or_else(|| {
            Error::data(format!("the coder in `{}` cannot be judged: see the warning", given.folder.shown))
        })?);
    }
    if coders.is_empty() {
        return Err(Error::config(
            "there is no coder to evaluate: no trainer of the pipeline has a checkpoint, and none is given with --coder",
        ));
    }
    if coders.len() > CODERS_MAX {
        return Err(Error::config(format!(
            "{} coders are too many: at most {CODERS_MAX} at once; choose some with --only-given and --coder NAME=FOLDER",
            coders.len()
        )));
    }
    for (i, coder) in coders.iter().enumerate() {
        if coders[..i].iter().any(|other| other.name == coder.name) {
            return Err(Error::config(format!("two coders are named `{}`: names must differ", coder.name)));
        }
    }
    Ok(coders)
}

/// The coder of a checkpoint; `None` if it cannot be judged, with a warning.
fn restored(name: &str, checkpoint: Checkpoint, backend: &Arc<Cpu>) -> Result<Option<Judged>> {
    let files: Vec<(String, Vec<u8>)> = checkpoint.files.into_iter().map(|(name, b)| (name, b.into())).collect();
    let context = |e: Error| e.context(format!("restore `{name}` from `{}`", checkpoint.folder));
    let settings = TrainerSettings::of_checkpoint(&files).map_err(context)?;
    let mut trainer = Trainer::restore(Arc::clone(backend), settings, &files).map_err(context)?;
    trainer.release_buffer();
    if trainer.report().step == 0 {
        tracing::warn!(trainer = name, "has made no step: left out");
        return Ok(None);
    }
    if !trainer.reconstructs_rows() {
        tracing::warn!(trainer = name, "reconstructs no rows, so there is nothing to judge: left out");
        return Ok(None);
    }
    Ok(Some(Judged {
        name: name.to_owned(),
        from: checkpoint.folder.clone(),
        trained_rows: Some(trainer.report().rows),
        history: trainer.history().points().to_vec(),
        held_out_history: trainer.history().held_out().to_vec(),
        reads: [trainer.settings().sites[0]],
        writes: [trainer.settings().sites[0]],
        kind: Kind::Trainer(Box::new(trainer)),
    }))
}

/// The coder of a folder that SAELens or sparsify reads.
fn folder(given: &Given, located: Option<&Located>, backend: &Arc<Cpu>, io: &tokio::runtime::Handle) -> Result<Judged> {
    let Location { shown, .. } = &given.folder;
    let coder = io.block_on(coders::find(&given.folder)).map_err(|e| e.context(format!("read `{shown}`")))?;
    let Some(coder) = coder else {
        let what = "neither a checkpoint nor a coder's cfg.json is there";
        return Err(Error::data(format!("`{shown}` holds no coder: {what}")));
    };
    let point = match (&given.site, coder.metadata.get("hook_name").and_then(|name| name.as_str())) {
        (Some(site), _) => named(site, located)?,
        (None, Some(name)) => {
            let head = coder.metadata.get("hook_head_index").and_then(|head| head.as_u64());
            let point = named(name, located)?;
            head.and_then(|head| u32::try_from(head).ok()).map_or(point, |head| point.at_head(head))
        }
        (None, None) => {
            let name = &given.name;
            return Err(Error::config(format!("`{shown}` does not say its site: give it with --site {name}=SITE")));
        }
    };
    let target = match coder.metadata.get("hook_name_out").and_then(|name| name.as_str()) {
        _ if !coder.transcodes => point,
        Some(name) => named(name, located)?,
        None => {
            let what = "is a transcoder and does not say what it reconstructs (`hook_name_out` in its metadata)";
            return Err(Error::data(format!("`{shown}` {what}: it cannot be judged")));
        }
    };
    let (params, dims) = (coder.upload(&**backend), coder.dims);
    let kind = Kind::Folder { coder: Box::new(coder), params, backend: Arc::clone(backend) };
    let name = given.name.clone();
    let (reads, writes) = ([(point, dims.d)], [(target, dims.out)]);
    let (history, held_out_history) = (Vec::new(), Vec::new());
    Ok(Judged { name, from: shown.clone(), trained_rows: None, history, held_out_history, reads, writes, kind })
}

/// The point of a site's name, which may be a module path of the model.
fn named(name: &str, located: Option<&Located>) -> Result<HookPoint> {
    let by_path = match located {
        Some(located) => located.open()?.spec().module_paths().point(name),
        None => None,
    };
    by_path.map_or_else(
        || HookPoint::stored(name).map_err(|_| Error::config(format!("`{name}` is not the name of a site"))),
        Ok,
    )
}
