//! Rows that are never trained on, and trainers that are judged on them while they train.

use std::sync::Arc;

use crate::compute::CoderOps;
use crate::error::Result;
use crate::evaluation::reconstruction::ReconstructionSums;
use crate::evaluation::sparsity::SparsitySums;
use crate::sae::codes::Codes;
use crate::sae::rows::RowScaling;
use crate::trainer::Trainer;
use crate::trainer::history::HeldOutPoint;

/// Held-out rows of a trainer's sites, in raw space.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeldOut {
    batches: Vec<(Vec<f32>, Option<Vec<f32>>)>,
}

impl HeldOut {
    /// Add rows: what the coder reads, side by side, `[n, d]`; and what it reconstructs, `[n, out]`, where that is another.
    pub fn add(&mut self, input: Vec<f32>, target: Option<Vec<f32>>) {
        if !input.is_empty() {
            self.batches.push((input, target));
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}

impl<B: CoderOps> Trainer<B> {
    /// Whether it is to be judged on held-out rows while it trains: a coder from whose codes no rows come cannot be.
    pub fn is_judged_online(&self) -> bool {
        self.settings.config.evaluate_every_rows.is_some() && self.reconstructs_rows()
    }

    /// The rows on which it is judged each time it was trained on `evaluate_every_rows` more. They change nothing of how it
    /// is trained.
    pub fn judge_on(&mut self, held_out: Arc<HeldOut>) {
        self.held_out = Some(held_out);
    }

    /// Take note of the FVU of the last batch, for the next evaluation. Rows that are scaled each by itself, or are what another
    /// coder left, have none that could be compared.
    pub(super) fn compare_if_judged(&mut self) {
        let config = &self.settings.config;
        let compares = config.normalize.rows() == RowScaling::None && self.base.is_none();
        if compares && config.evaluate_every_rows.is_some() {
            self.history.add_training_fvu(self.report.fvu);
        }
    }

    /// Judge it if it is time: the last step, before which there were `before` rows, reached or passed a multiple of
    /// `evaluate_every_rows`.
    pub(super) fn judge_if_due(&mut self, before: u64) -> Result<()> {
        let (Some(every), Some(held_out)) = (self.settings.config.evaluate_every_rows, &self.held_out) else {
            return Ok(());
        };
        let every = every.0.max(1);
        if before / every == self.report.rows / every || held_out.is_empty() {
            return Ok(());
        }
        if let Some(point) = self.judged(held_out)? {
            self.history.add_held_out(point);
        }
        Ok(())
    }

    /// How good it is now on `held_out`: the coder that would be exported. `None` if a number is not finite.
    fn judged(&self, held_out: &HeldOut) -> Result<Option<HeldOutPoint>> {
        let width = self.settings.writes().iter().map(|(_, width)| width).sum();
        let (mut reconstruction, mut sparsity) = (ReconstructionSums::new(width), SparsitySums::new(self.n_latents()));
        let (mut out, mut codes) = (Vec::new(), Codes::default());
        for (input, target) in &held_out.batches {
            self.code(input, &mut out, &mut codes)?;
            reconstruction.add(target.as_ref().unwrap_or(input), &out);
            sparsity.add(&codes);
        }
        let found = reconstruction.finish().zip(sparsity.finish());
        Ok(found.and_then(|(reconstruction, sparsity)| {
            let point = HeldOutPoint {
                step: self.report.step,
                rows: self.report.rows,
                fvu: reconstruction.fvu,
                cosine: reconstruction.cosine,
                l0: sparsity.l0,
                dead_fraction: sparsity.dead_fraction,
                training_fvu: None,
            };
            [point.fvu, point.cosine, point.l0].iter().all(|x| x.is_finite()).then_some(point)
        }))
    }
}

#[cfg(test)]
mod tests;
