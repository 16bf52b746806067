//! What a pipeline needs to know of its model: which sites its names mean, and whether everything fits in memory.

use globset::GlobBuilder;

use super::problems::{Problem, Problems, Severity, nearest};
use super::rules::located;
use super::{Loaded, Pipeline};
use crate::hooks::HookPoint;
use crate::sae::config::CoderConfig;
use crate::units::ByteSize;

/// A site and the number of values a row of it has.
pub type SiteWidth = (HookPoint, usize);

/// The sites of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sites {
    /// Every site that the forward pass copies out, in its order.
    pub captured: Vec<SiteWidth>,
    /// Those that the dataset stores, in the order of the forward pass; empty without a dataset.
    pub stored: Vec<SiteWidth>,
    /// The input of each trainer, in the order of the trainers.
    pub inputs: Vec<SiteWidth>,
}

/// Memory that a run holds for as long as it lasts, the model aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainerMemory {
    /// The trainer.
    pub name: String,
    /// Its mixing buffer.
    pub buffer: ByteSize,
    /// Parameters, gradients and the optimiser's two moments.
    pub coder: ByteSize,
}

impl Loaded {
    /// Resolve site names against the sites that a model declares, with their widths, and check the memory that the
    /// trainers need.
    pub fn sites(&self, declared: &[SiteWidth]) -> Result<Sites, Problems> {
        let mut problems = Vec::new();
        let mut named = |path: &str, pattern: &str| match matching(pattern, declared) {
            Ok(found) => found,
            Err((rule, hint)) => {
                problems.push(located(&self.tree, Severity::Error, path, rule, hint));
                Vec::new()
            }
        };
        let pipeline = &self.pipeline;
        let patterns = pipeline.capture.iter().enumerate();
        let mut stored: Vec<SiteWidth> = patterns.flat_map(|(i, p)| named(&format!("capture[{i}]"), p)).collect();
        let mut inputs = Vec::new();
        let mut ambiguous = Vec::new();
        for (i, trainer) in pipeline.trainers.iter().enumerate() {
            let path = format!("trainers[{i}].input");
            match named(&path, &trainer.input).as_slice() {
                [] => {}
                [one] => inputs.push(*one),
                several => ambiguous.push((path, several.len())),
            }
        }
        for (path, n) in ambiguous {
            let rule = format!("must name one site, and this matches {n}");
            problems.push(located(&self.tree, Severity::Error, &path, rule, None));
        }
        in_forward_order(&mut stored);
        let mut captured: Vec<SiteWidth> = stored.iter().chain(&inputs).copied().collect();
        in_forward_order(&mut captured);
        if pipeline.dataset.is_none() {
            stored.clear();
        }
        if problems.is_empty() {
            problems.extend(self.too_little_memory(&inputs));
        }
        if problems.is_empty() {
            return Ok(Sites { captured, stored, inputs });
        }
        Err(Problems::new(&self.source.display().to_string(), problems))
    }

    fn too_little_memory(&self, inputs: &[SiteWidth]) -> Option<Problem> {
        let memory = trainer_memory(&self.pipeline, inputs);
        let needed: u64 = memory.iter().map(|m| m.buffer.0.saturating_add(m.coder.0)).fold(0, u64::saturating_add);
        if needed <= self.pipeline.memory_limit.0 {
            return None;
        }
        let parts: Vec<String> =
            memory.iter().map(|m| format!("{}: buffer {}, coder {}", m.name, m.buffer, m.coder)).collect();
        let rule = format!("the trainers need {} ({})", ByteSize(needed), parts.join("; "));
        let hint = "raise it, or lower a trainer's buffer.rows or coder.width".to_owned();
        Some(located(&self.tree, Severity::Error, "limits.memory", rule, Some(hint)))
    }
}

/// Memory of each trainer whose input has been resolved.
pub fn trainer_memory(pipeline: &Pipeline, inputs: &[SiteWidth]) -> Vec<TrainerMemory> {
    const F32: u64 = 4;
    /// Parameters, gradients, first and second moments.
    const COPIES: u64 = 4;
    let one = |(trainer, (_, input_width)): (&crate::trainer::config::TrainerConfig, &SiteWidth)| {
        let d = *input_width as u64;
        let CoderConfig::Topk { width, .. } = &trainer.coder;
        let f = u64::from(*width);
        // encoder and decoder [f, d] and their biases
        let parameters = (2 * d * f).saturating_add(d + f);
        TrainerMemory {
            name: trainer.name.clone(),
            buffer: ByteSize(trainer.buffer.rows.0.saturating_mul(d * F32)),
            coder: ByteSize(parameters.saturating_mul(F32 * COPIES)),
        }
    };
    pipeline.trainers.iter().zip(inputs).map(one).collect()
}

/// Sort along the forward pass, each site once.
fn in_forward_order(sites: &mut Vec<SiteWidth>) {
    sites.sort_by_key(|(point, _)| point.forward_order());
    sites.dedup();
}

type Miss = (String, Option<String>);

/// The declared sites that a name or pattern means.
fn matching(pattern: &str, declared: &[SiteWidth]) -> Result<Vec<SiteWidth>, Miss> {
    let glob = GlobBuilder::new(pattern).literal_separator(false).build().map_err(|e| (e.kind().to_string(), None))?;
    let matcher = glob.compile_matcher();
    let found: Vec<SiteWidth> =
        declared.iter().filter(|(point, _)| matcher.is_match(point.to_string())).copied().collect();
    if found.is_empty() {
        let names: Vec<String> = declared.iter().map(|(point, _)| point.to_string()).collect();
        let near = nearest(pattern, names.iter().map(String::as_str)).map(|n| format!("did you mean `{n}`?"));
        return Err(("is not a site of this model".to_owned(), near));
    }
    Ok(found)
}
