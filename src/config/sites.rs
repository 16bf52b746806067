//! What a pipeline needs to know of its model: which sites its names mean, and whether everything fits in memory.

use super::problems::{Problem, Problems, Severity};
use super::rules::located;
use super::{Harvest, Loaded, Pipeline};
use crate::error::Result;
pub use crate::hooks::SiteWidth;
use crate::hooks::{ModulePaths, PointShape, selection};
use crate::model::config::DeviceChoice;
use crate::tokens::config::{PrependBos, Separator};
use crate::trainer::TrainerSettings;
use crate::trainer::config::TrainerConfig;
use crate::units::ByteSize;

/// The sites of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sites {
    /// Every site that the forward pass copies out, in its order.
    pub captured: Vec<SiteWidth>,
    /// Those that the dataset stores, in the order of the forward pass; empty without a dataset.
    pub stored: Vec<SiteWidth>,
    /// The sites of each trainer, in the order of the trainers: its input, then the others of its target.
    pub inputs: Vec<Vec<SiteWidth>>,
}

/// Memory that a run holds for as long as it lasts, the model aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainerMemory {
    /// The trainer.
    pub name: String,
    /// Its mixing buffer; 0 if it shares another's.
    pub buffer: ByteSize,
    /// The trainer before it whose buffer it shares.
    pub shares: Option<String>,
    /// Everything else: parameters, gradients, the optimiser's moments, a step's scratch; and the held-out rows that it is
    /// judged on while it trains, if it is the first with these sites.
    pub coder: ByteSize,
}

/// What a model can do, as far as pipelines may ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelLimits {
    /// Positions that it has embeddings for; none if they are computed.
    pub positions: Option<usize>,
    /// Whether it names a beginning-of-sequence token.
    pub has_bos: bool,
    /// Whether it names an end-of-sequence token.
    pub has_eos: bool,
    /// Why it is not computed on a GPU, if it is not.
    pub not_on_gpu: Option<&'static str>,
}

impl Sites {
    /// Capture these as well, though nobody stores them or trains on them.
    pub fn capture_too(&mut self, sites: &[SiteWidth]) {
        self.captured.extend_from_slice(sites);
        in_forward_order(&mut self.captured);
    }
}

impl Loaded {
    /// What the `tokens` section asks for and the model does not have.
    pub fn check_limits(&self, limits: ModelLimits) -> Vec<Problem> {
        let Ok(Harvest { tokens, .. }) = self.pipeline.harvest() else { return Vec::new() };
        let mut problems = Vec::new();
        let mut broken = |path: &str, rule: String| {
            problems.push(located(&self.tree, Severity::Error, path, rule, None));
        };
        if let Some(positions) = limits.positions
            && tokens.context_length as usize > positions
        {
            broken("tokens.context_length", format!("must be at most {positions}: the model has no more positions"));
        }
        if tokens.prepend_bos == PrependBos::Yes && !limits.has_bos {
            broken("tokens.prepend_bos", "must be false: the model names no BOS token".to_owned());
        }
        if let Some(why) = limits.not_on_gpu.filter(|_| self.asks_for_gpu()) {
            broken("model.device", format!("must be cpu: the model is not computed on a GPU ({why})"));
        }
        let named = match tokens.separator {
            Separator::Eos => limits.has_eos,
            Separator::Bos => limits.has_bos,
            Separator::None => true,
        };
        if !named {
            broken("tokens.separator", "must be another one: the model names no such token".to_owned());
        }
        problems
    }

    /// Names that no model can have; `tables` are the module paths of all architectures. For when there is no model to ask.
    pub fn check_names(&self, tables: &[&ModulePaths]) -> Vec<Problem> {
        let capture = self.capture().iter().enumerate().map(|(i, name)| (format!("capture[{i}]"), name.as_str()));
        let inputs = self.pipeline.trainers.iter().enumerate().flat_map(|(i, trainer)| trainer_sites(i, trainer));
        let check = |(path, name): (String, &str)| {
            let found = selection::check(name, tables).err()?;
            let hint = found.nearest.map(|nearest| format!("did you mean `{nearest}`?"));
            Some(located(&self.tree, Severity::Error, &path, found.reason, hint))
        };
        capture.chain(inputs).filter_map(check).collect()
    }

    /// Resolve site names against the points that a model declares and its module paths, and check the memory that the
    /// trainers need.
    pub fn sites(&self, declared: &[PointShape], paths: &ModulePaths) -> Result<Sites, Problems> {
        let mut problems = Vec::new();
        let mut named = |path: &str, pattern: &str| match matching(pattern, declared, paths) {
            Ok(found) => found,
            Err((rule, hint)) => {
                problems.push(located(&self.tree, Severity::Error, path, rule, hint));
                Vec::new()
            }
        };
        let pipeline = &self.pipeline;
        let patterns = self.capture().iter().enumerate();
        let mut stored: Vec<SiteWidth> = patterns.flat_map(|(i, p)| named(&format!("capture[{i}]"), p)).collect();
        let mut inputs = Vec::new();
        let mut ambiguous = Vec::new();
        for (i, trainer) in pipeline.trainers.iter().enumerate() {
            let mut sites = Vec::new();
            for (path, name) in trainer_sites(i, trainer) {
                match named(&path, name).as_slice() {
                    [] => {}
                    [one] => sites.push(*one),
                    several => ambiguous.push((path, several.len())),
                }
            }
            inputs.push(sites);
        }
        for (path, n) in ambiguous {
            let rule = format!("must name one site, and this matches {n}");
            problems.push(located(&self.tree, Severity::Error, &path, rule, None));
        }
        in_forward_order(&mut stored);
        let mut captured: Vec<SiteWidth> = stored.iter().chain(inputs.iter().flatten()).copied().collect();
        in_forward_order(&mut captured);
        if pipeline.dataset.is_none() {
            stored.clear();
        }
        if problems.is_empty() {
            problems.extend(self.not_on_gpu(&inputs));
            problems.extend(self.too_little_memory(&inputs));
        }
        if problems.is_empty() {
            return Ok(Sites { captured, stored, inputs });
        }
        Err(Problems::new(&self.source.display().to_string(), problems))
    }

    /// Trainers that a GPU is asked for and that are not trained on one.
    fn not_on_gpu(&self, inputs: &[Vec<SiteWidth>]) -> Vec<Problem> {
        if !self.asks_for_gpu() {
            return Vec::new();
        }
        let pipeline = &self.pipeline;
        let each = pipeline.trainers.iter().zip(inputs).enumerate().map(|(i, (config, sites))| {
            let (config, sites, seed) = (config.clone(), sites.clone(), pipeline.seed);
            let settings = TrainerSettings { config, sites, seed, stream: serde_json::Value::Null };
            // what is wrong with settings is said where memory is counted
            let why = settings.not_on_gpu().ok()??;
            let rule = format!("is not trained on a GPU: {why}");
            let hint = Some("docs/gpu.md has what is; `device: cpu` trains all".to_owned());
            Some(located(&self.tree, Severity::Error, &format!("trainers[{i}]"), rule, hint))
        });
        each.flatten().collect()
    }

    /// Whether the model is to be computed on a GPU.
    fn asks_for_gpu(&self) -> bool {
        let device = self.pipeline.harvest().ok().map(|harvest| DeviceChoice::parse(&harvest.model.device));
        matches!(device, Some(Some(DeviceChoice::Cuda(_))))
    }

    fn capture(&self) -> &[String] {
        self.pipeline.harvest().map_or(&[], |harvest| &harvest.capture)
    }

    /// That the trainers, whose inputs are known, need more memory than they may have.
    pub fn too_little_memory(&self, inputs: &[Vec<SiteWidth>]) -> Option<Problem> {
        let memory = match trainer_memory(&self.pipeline, inputs) {
            Ok(memory) => memory,
            // a setting that only shows itself to be wrong beside the input's width
            Err(e) => return Some(self.problem(Severity::Error, "trainers", e.to_string())),
        };
        let needed: u64 = memory.iter().map(|m| m.buffer.0.saturating_add(m.coder.0)).fold(0, u64::saturating_add);
        if needed <= self.pipeline.memory_limit.0 {
            return None;
        }
        let part = |m: &TrainerMemory| match &m.shares {
            Some(other) => format!("{}: buffer of {other}, coder {}", m.name, m.coder),
            None => format!("{}: buffer {}, coder {}", m.name, m.buffer, m.coder),
        };
        let parts: Vec<String> = memory.iter().map(part).collect();
        let rule = format!("the trainers need {} ({})", ByteSize(needed), parts.join("; "));
        let hint = "raise it, or lower a trainer's buffer.rows or coder.width".to_owned();
        Some(located(&self.tree, Severity::Error, "limits.memory", rule, Some(hint)))
    }
}

/// The names of the sites of a trainer, with their paths in the pipeline.
fn trainer_sites(i: usize, trainer: &TrainerConfig) -> Vec<(String, &str)> {
    let others = trainer.target.others().into_iter();
    let others = others.map(|(key, name)| (format!("trainers[{i}].target.{key}"), name));
    std::iter::once((format!("trainers[{i}].input"), trainer.input.as_str())).chain(others).collect()
}

/// Memory of each trainer, given its sites. Those that draw the same batches have one buffer.
pub fn trainer_memory(pipeline: &Pipeline, inputs: &[Vec<SiteWidth>]) -> Result<Vec<TrainerMemory>> {
    let settings = |(config, sites): (&TrainerConfig, &Vec<SiteWidth>)| {
        let (config, sites, seed) = (config.clone(), sites.clone(), pipeline.seed);
        TrainerSettings { config, sites, seed, stream: serde_json::Value::Null }
    };
    let all: Vec<TrainerSettings> = pipeline.trainers.iter().zip(inputs).map(settings).collect();
    let one = |(i, settings): (usize, &TrainerSettings)| {
        let bytes = settings.memory_bytes()?;
        let name = |settings: &TrainerSettings| settings.config.name.clone();
        let shares = all[..i].iter().find(|other| other.draws_like(settings)).map(name);
        let buffer = ByteSize(if shares.is_some() { 0 } else { bytes.buffer });
        let judged = |settings: &TrainerSettings| settings.config.evaluate_every_rows.is_some();
        let first = !all[..i].iter().any(|other| judged(other) && other.sites == settings.sites);
        let width: usize = settings.sites.iter().map(|(_, width)| width).sum();
        let held_out = if judged(settings) && first { pipeline.evaluate_tokens * 4 * width as u64 } else { 0 };
        let coder = ByteSize(bytes.coder.saturating_add(held_out));
        Ok(TrainerMemory { name: name(settings), buffer, shares, coder })
    };
    all.iter().enumerate().map(one).collect()
}

/// Sort along the forward pass, each site once.
fn in_forward_order(sites: &mut Vec<SiteWidth>) {
    sites.sort_by_key(|(point, _)| point.forward_order());
    sites.dedup();
}

/// The sites that a name or pattern means; or the rule it breaks and a hint.
fn matching(
    pattern: &str,
    declared: &[PointShape],
    paths: &ModulePaths,
) -> Result<Vec<SiteWidth>, (String, Option<String>)> {
    selection::resolve(&[pattern], declared, paths).map_err(|problems| {
        let first = problems.into_iter().next();
        let nearest = first.as_ref().and_then(|p| p.nearest.clone()).map(|n| format!("did you mean `{n}`?"));
        (first.map_or_else(|| "is not a site".to_owned(), |p| p.reason), nearest)
    })
}
