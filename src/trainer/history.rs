//! What the steps were like, from the first to the last, in bounded space: the curves of a trainer.

use serde::{Deserialize, Serialize};

use crate::trainer::StepReport;

/// Points that are kept, at most.
const POINTS_MAX: usize = 256;

/// Reports of every n-th step; n doubles whenever there are too many. It depends on the steps alone, so an interrupted
/// trainer has the same one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    every: u64,
    points: Vec<HistoryPoint>,
}

/// One step: its numbers are as in [`StepReport`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryPoint {
    /// The step, counted from 1.
    pub step: u64,
    /// Rows trained on by then.
    pub rows: u64,
    /// Loss with penalties and auxiliary losses.
    pub loss: f64,
    /// The part of penalties for sparsity.
    pub sparsity_loss: f64,
    /// The part of auxiliary losses.
    pub auxiliary_loss: f64,
    /// Fraction of variance unexplained, of the batch.
    pub fvu: f64,
    /// Latents that fired, a row.
    pub l0: f64,
    /// Share of dead latents.
    pub dead_fraction: f64,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
}

impl Default for History {
    fn default() -> Self {
        Self { every: 1, points: Vec::new() }
    }
}

impl History {
    /// Take note of a step that updated the coder.
    pub(super) fn add(&mut self, report: &StepReport) {
        // the first step has no neighbours to be like, so counting starts at it
        let keeps = |step: u64, every: u64| step.saturating_sub(1).is_multiple_of(every);
        if !keeps(report.step, self.every) {
            return;
        }
        if self.points.len() == POINTS_MAX {
            self.every *= 2;
            self.points.retain(|point| keeps(point.step, self.every));
            if !keeps(report.step, self.every) {
                return;
            }
        }
        self.points.push(HistoryPoint {
            step: report.step,
            rows: report.rows,
            loss: report.loss,
            sparsity_loss: report.sparsity_loss,
            auxiliary_loss: report.auxiliary_loss,
            fvu: report.fvu,
            l0: report.l0,
            dead_fraction: report.dead_fraction,
            grad_norm: report.grad_norm,
            learning_rate: report.learning_rate,
        });
    }

    /// The points, in the order of their steps.
    pub fn points(&self) -> &[HistoryPoint] {
        &self.points
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_history_stays_short_and_even() {
        let (mut history, mut longest) = (History::default(), 0);
        for step in 1..=100_000 {
            history.add(&StepReport { step, loss: step as f64, ..StepReport::default() });
            longest = longest.max(history.points().len());
        }
        let steps: Vec<u64> = history.points().iter().map(|point| point.step).collect();
        assert_eq!((longest, steps[0]), (POINTS_MAX, 1));
        assert!(steps.len() > POINTS_MAX / 2 && steps.windows(2).all(|pair| pair[1] - pair[0] == 512), "{steps:?}");
        assert!(history.points().iter().all(|point| point.loss == point.step as f64));
        let text = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
    }
}
