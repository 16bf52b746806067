//! A trainer's settings, checked.

use crate::error::{Error, Result};
use crate::sae::CoderSettings;
use crate::sae::config::OptimizerConfig;
use crate::sae::optim::Schedule;
use crate::sae::optim::schedule::DecayShape;
use crate::sae::rows::RowScaling;
use crate::trainer::TrainerSettings;

/// The settings, checked and in the units of the loop.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) coder: CoderSettings,
    pub(super) batch_rows: usize,
    pub(super) buffer_rows: usize,
    pub(super) reuse: u8,
    pub(super) rows: u64,
    pub(super) schedule: Schedule,
    pub(super) clip_norm: f64,
}

impl Plan {
    /// Check `settings`.
    ///
    /// # Errors
    /// `Config`, naming the key, if a setting is out of range.
    pub(super) fn new(settings: &TrainerSettings) -> Result<Self> {
        let config = &settings.config;
        let coder = config.target.coder(&config.coder, &settings.sites)?;
        let faults = config.target.faults(&config.input, config.normalize, Some(&config.coder));
        if let Some((key, rule)) = faults.into_iter().next() {
            return Err(Error::config(format!("`{key}` {rule}")));
        }
        let wrong =
            |key: &str, value: String, rule: &str| Err(Error::config(format!("`{key}` is {value}: it must be {rule}")));
        if config.batch_rows < 2 {
            return wrong("batch_rows", config.batch_rows.to_string(), "at least 2: FVU is about the batch's mean");
        }
        if config.normalize.rows() == RowScaling::Standard && settings.sites.iter().any(|(_, width)| *width < 2) {
            let rule = "another: of a row 1 wide its mean leaves nothing";
            return wrong("normalize", "layer_norm".to_owned(), rule);
        }
        if config.buffer.rows.0 < u64::from(config.batch_rows) {
            let rule = format!("at least `batch_rows` ({})", config.batch_rows);
            return wrong("buffer.rows", config.buffer.rows.0.to_string(), &rule);
        }
        if config.buffer.rows.0 > u64::from(u32::MAX) {
            return wrong("buffer.rows", config.buffer.rows.0.to_string(), "below 2^32");
        }
        let reuse = match u8::try_from(config.buffer.reuse) {
            Ok(reuse) if reuse > 0 => reuse,
            _ => return wrong("buffer.reuse", config.buffer.reuse.to_string(), "between 1 and 255"),
        };
        let total_steps = config.rows.0.div_ceil(u64::from(config.batch_rows));
        let (schedule, clip_norm) = schedule(&config.optimizer, total_steps)?;
        Ok(Self {
            coder,
            batch_rows: config.batch_rows as usize,
            buffer_rows: config.buffer.rows.0 as usize,
            reuse,
            rows: config.rows.0,
            schedule,
            clip_norm,
        })
    }
}

/// The learning rate by step, and the bound of the gradients' norm.
fn schedule(optimizer: &OptimizerConfig, total_steps: u64) -> Result<(Schedule, f64)> {
    let wrong = |key: &str, value: String, rule: &str| {
        Err(Error::config(format!("`optimizer.{key}` is {value}: it must be {rule}")))
    };
    let share = |x: f64| (0.0..1.0).contains(&x);
    if let Some(average) = optimizer.average().filter(|average| !share(*average)) {
        return wrong("average", average.to_string(), "from 0 up to, not including, 1");
    }
    let (schedule, clip_norm) = match optimizer {
        OptimizerConfig::Adam {
            learning_rate,
            betas,
            warmup_steps,
            decay,
            decay_shape,
            weight_decay,
            clip_norm,
            ..
        } => {
            if !betas.iter().all(|beta| share(*beta)) {
                return wrong("betas", format!("{betas:?}"), "two numbers from 0 up to, not including, 1");
            }
            if !(weight_decay.is_finite() && *weight_decay >= 0.0) {
                return wrong("weight_decay", weight_decay.to_string(), "0 or more");
            }
            let (peak, warmup_steps, decay_shape) = (*learning_rate, *warmup_steps, *decay_shape);
            (Schedule { peak, warmup_steps, total_steps, decay_share: decay.share(), decay_shape }, *clip_norm)
        }
        OptimizerConfig::Signum { learning_rate, beta, warmup_steps } => {
            if !(*beta > 0.0 && *beta <= 1.0) {
                return wrong("beta", beta.to_string(), "above 0 and at most 1");
            }
            let (peak, warmup_steps, decay_shape) = (*learning_rate, *warmup_steps, DecayShape::Linear);
            (Schedule { peak, warmup_steps, total_steps, decay_share: 0.0, decay_shape }, 0.0)
        }
        OptimizerConfig::Muon { learning_rate, momentum, weight_decay, warmup_steps, decay, clip_norm, .. } => {
            if !share(*momentum) {
                return wrong("momentum", momentum.to_string(), "from 0 up to, not including, 1");
            }
            if !(weight_decay.is_finite() && *weight_decay >= 0.0) {
                return wrong("weight_decay", weight_decay.to_string(), "0 or more");
            }
            let (peak, warmup_steps, decay_shape) = (*learning_rate, *warmup_steps, DecayShape::Linear);
            (Schedule { peak, warmup_steps, total_steps, decay_share: decay.share(), decay_shape }, *clip_norm)
        }
    };
    if !(schedule.peak.is_finite() && schedule.peak >= 0.0) {
        return wrong("learning_rate", schedule.peak.to_string(), "0 or more");
    }
    Ok((schedule, clip_norm))
}
