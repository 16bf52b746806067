//! What a trainer is made from, and what follows from it alone.

use crate::error::{Error, Result};
use crate::hooks::SiteWidth;
use crate::runtime::rng::{Rng, Seed};
use crate::sae::config::OptimizerConfig;
use crate::trainer::checkpoint;
use crate::trainer::config::TrainerConfig;
use crate::trainer::mixing_buffer::MixingBuffer;
use crate::trainer::plan::Plan;

/// What a trainer is made from.
#[derive(Clone, Debug)]
pub struct TrainerSettings {
    /// Its section of the pipeline.
    pub config: TrainerConfig,
    /// The sites whose rows it is offered, side by side, with their widths: the input, then the others of its target.
    pub sites: Vec<SiteWidth>,
    /// The pipeline's seed; streams are named for the trainer.
    pub seed: Seed,
    /// What the rows are (model, corpus, token policy): a checkpoint continues only on the stream that it was made on,
    /// because its cursor counts that stream's batches.
    pub stream: serde_json::Value,
}

/// Memory that a trainer holds once its buffer is full, about, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainerBytes {
    /// The mixing buffer, which trainers may share.
    pub buffer: u64,
    /// Everything else.
    pub coder: u64,
}

impl TrainerSettings {
    /// Memory that the trainer will hold once its buffer is full, about.
    pub fn memory_bytes(&self) -> Result<TrainerBytes> {
        let plan = Plan::new(self)?;
        let (width, n) = (self.width() as u64, plan.batch_rows as u64);
        let average = u64::from(self.config.optimizer.average().is_some());
        let size = |shape: &[usize]| shape.iter().map(|&n| n as u64).product::<u64>();
        let parameters: u64 = plan.coder.params().iter().map(|(_, shape)| size(shape)).sum();
        // with gradients and two moments
        let parameters = (4 + average) * parameters;
        let step = plan.coder.step_numbers(n);
        let coder = 4 * (parameters + step) + 8 * plan.coder.dims.f as u64;
        Ok(TrainerBytes { buffer: plan.buffer_rows as u64 * (4 * width + 17), coder })
    }

    /// Why it is not trained on a GPU, if it is not.
    ///
    /// # Errors
    /// `Config` if a setting is out of range.
    pub fn not_on_gpu(&self) -> Result<Option<&'static str>> {
        let other = |is: bool, why| is.then_some(why);
        let adam = matches!(self.config.optimizer, OptimizerConfig::Adam { .. });
        let base = self.config.target.base().is_some();
        let coder = Plan::new(self)?.coder.not_on_gpu();
        Ok(coder.or(other(!adam, "its optimizer")).or(other(base, "a coder that makes another one better")))
    }

    /// Whether both draw the same batches from the same stream, so that one buffer does for both.
    pub fn draws_like(&self, other: &Self) -> bool {
        let of = |settings: &Self| {
            let TrainerConfig { batch_rows, when_slow, .. } = settings.config;
            (settings.seed, settings.config.buffer.clone(), batch_rows, when_slow)
        };
        self.sites == other.sites && of(self) == of(other)
    }

    /// That there are as many rows as documents.
    pub(super) fn check_rows(&self, rows: &[f32], doc_ids: &[u64]) -> Result<()> {
        let (width, name) = (self.width(), &self.config.name);
        if rows.len() == doc_ids.len() * width {
            return Ok(());
        }
        let (values, n) = (rows.len(), doc_ids.len());
        Err(Error::internal(format!("trainer `{name}` was offered {values} values for {n} rows of width {width}")))
    }

    /// The settings that a checkpoint was made with.
    ///
    /// # Errors
    /// `Data` if `state.json` is missing or damaged.
    pub fn of_checkpoint(files: &[(String, Vec<u8>)]) -> Result<Self> {
        checkpoint::saved_settings(files)
    }

    /// The buffer's stream is of the pipeline's seed and the sites: whoever draws from them draws the same batches.
    pub(super) fn empty_buffer(&self, plan: &Plan) -> MixingBuffer {
        let sites: Vec<String> = self.sites.iter().map(|(point, _)| point.to_string()).collect();
        let rng = self.seed.stream(&format!("buffer/{}", sites.join("+")));
        MixingBuffer::new(self.width(), plan.buffer_rows, plan.reuse, rng)
    }

    /// A stream of the coder's seed alone: of the same seed and shape, coders start from the same weights, whatever else
    /// differs between them.
    pub(super) fn stream(&self, purpose: &str) -> Rng {
        self.config.seed.map_or(self.seed, Seed).stream(&format!("trainer/{purpose}"))
    }
}
