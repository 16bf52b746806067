//! Rules between a coder and the rest of its trainer.

use super::Rules;
use crate::sae::config::{CoderConfig, OptimizerConfig};
use crate::units::Count;

impl Rules<'_> {
    /// What the coder of trainer `i` asks of the other keys of the trainer.
    pub(super) fn coder(&mut self, i: usize, coder: &CoderConfig) {
        let at = |key: &str| format!("trainers[{i}].{key}");
        match coder {
            CoderConfig::Gba(_) => {
                let optimizer = self.written::<OptimizerConfig>(&at("optimizer"));
                if optimizer.is_some_and(|optimizer| optimizer.moves_everything()) {
                    let rule =
                        "must be `adam` without `weight_decay`, or `muon`: biases that have no gradient must not move";
                    self.broken(&at("optimizer"), rule);
                }
            }
            CoderConfig::FeatureChoice(choice) => {
                let (batch, least) = (self.value::<u64>(&at("batch_rows")), choice.least_batch_rows());
                if batch.is_some_and(|batch| batch < least) {
                    let rule =
                        format!("must be at least {least} (coder.width / coder.k): a place in a batch for each latent");
                    self.broken(&at("batch_rows"), rule);
                } else if batch.is_some_and(|batch| batch < 8 * least) {
                    let rule =
                        format!("should be at least {} (8 coder.width / coder.k): latents choose few rows", 8 * least);
                    self.note(&at("batch_rows"), rule);
                }
            }
            CoderConfig::Archetypal(own) => {
                let buffer = self.value::<Count>(&at("buffer.rows"));
                if let Some(Count(rows)) = buffer.filter(|buffer| buffer.0 < u64::from(own.points)) {
                    let rule = format!("must be at most buffer.rows ({rows}): points come from the first full buffer");
                    self.broken(&at("coder.points"), rule);
                }
            }
            CoderConfig::Bilinear(_) if self.written::<Count>(&at("evaluate_every_rows")).is_some() => {
                let rule = "must be left out: such a coder reconstructs no row, so it is not judged";
                self.broken(&at("evaluate_every_rows"), rule);
            }
            _ => {}
        }
        self.reached(i, coder);
    }

    /// That what rises or falls over steps gets there before the training ends.
    fn reached(&mut self, i: usize, coder: &CoderConfig) {
        let at = |key: &str| format!("trainers[{i}].{key}");
        let (Some(batch), Some(Count(rows))) = (self.value::<u64>(&at("batch_rows")), self.value::<Count>(&at("rows")))
        else {
            return;
        };
        let steps = rows / batch.max(1);
        let keys = serde_json::to_value(coder).unwrap_or_default();
        let weight = "the penalty's weight never reaches what is written";
        let (power, kept) = ("the power never reaches its end", "latents kept never fall to `k`");
        for (key, what) in [
            ("l1_warmup_steps", weight),
            ("l0_warmup_steps", weight),
            ("sparsity_warmup_steps", weight),
            ("density_warmup_steps", weight),
            ("anneal_end_step", power),
            ("k_anneal_steps", kept),
        ] {
            if steps > 0 && keys.get(key).and_then(serde_json::Value::as_u64).is_some_and(|wanted| wanted >= steps) {
                let rule = format!("{what}: {steps} steps in all (rows / batch_rows)");
                self.note(&at(&format!("coder.{key}")), rule);
            }
        }
    }
}
