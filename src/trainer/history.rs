//! What the steps were like, from the first to the last, in bounded space: the curves of a trainer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::trainer::StepReport;

/// Points that are kept, at most.
const POINTS_MAX: usize = 256;
/// Steps over which the FVU of batches is averaged, about.
const AVERAGED_STEPS: f64 = 32.0;
/// Held-out rows are explained so much worse than training rows when the gap between them is open: a tenth.
const OPEN_GAP: f64 = 0.1;

/// Reports of every n-th step; n doubles whenever there are too many. It depends on the steps alone, so an interrupted
/// trainer has the same one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    every: u64,
    points: Vec<HistoryPoint>,
    #[serde(default, skip_serializing_if = "HeldOutHistory::is_empty")]
    held_out: HeldOutHistory,
}

/// Every n-th evaluation on held-out rows, and the last; n doubles whenever there are too many.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct HeldOutHistory {
    /// Evaluations made.
    made: u64,
    /// `log2 n`.
    doublings: u32,
    points: Vec<HeldOutPoint>,
    /// That of the last batches, where it is judged at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    training_fvu: Option<f64>,
}

/// The coder on held-out rows, in raw space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HeldOutPoint {
    /// Steps made.
    pub step: u64,
    /// Rows trained on.
    pub rows: u64,
    /// Fraction of variance unexplained.
    pub fvu: f64,
    /// Mean cosine of rows and reconstructions.
    pub cosine: f64,
    /// Latents that fired, a row.
    pub l0: f64,
    /// Share of latents that fired on none of the rows.
    pub dead_fraction: f64,
    /// Fraction of variance unexplained of the batches before it: an average over the last ones, each before its update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_fvu: Option<f64>,
}

impl HeldOutPoint {
    /// How much less of held-out rows is explained than of those it is trained on. Near 0 while every row is new; it opens when
    /// rows are learnt by heart.
    pub fn gap(&self) -> Option<f64> {
        self.training_fvu.map(|training| self.fvu - training)
    }

    /// Whether the gap is more than a tenth of the held-out FVU.
    pub fn gap_is_open(&self) -> bool {
        self.gap().is_some_and(|gap| gap > OPEN_GAP * self.fvu)
    }
}

impl HeldOutHistory {
    fn is_empty(&self) -> bool {
        self.made == 0 && self.training_fvu.is_none()
    }

    fn add(&mut self, point: HeldOutPoint) {
        let keeps = |number: u64, doublings: u32| number.is_multiple_of(1 << doublings);
        // the one before was kept as the last, if for nothing else
        if self.made > 0 && !keeps(self.made - 1, self.doublings) {
            self.points.pop();
        }
        if self.points.len() == POINTS_MAX {
            let mut number = 0;
            self.points.retain(|_| {
                number += 1;
                (number - 1) % 2 == 0
            });
            self.doublings += 1;
        }
        self.points.push(point);
        self.made += 1;
    }
}

/// One step: its numbers are as in [`StepReport`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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
        Self { every: 1, points: Vec::new(), held_out: HeldOutHistory::default() }
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

    /// Take note of the FVU of a batch, for the next evaluation.
    pub(super) fn add_training_fvu(&mut self, fvu: f64) {
        let average = self.held_out.training_fvu.get_or_insert(fvu);
        *average += (fvu - *average) / AVERAGED_STEPS;
    }

    /// Take note of an evaluation on held-out rows.
    pub(super) fn add_held_out(&mut self, point: HeldOutPoint) {
        let training_fvu = self.held_out.training_fvu;
        self.held_out.add(HeldOutPoint { training_fvu, ..point });
    }

    /// Evaluations on held-out rows while it trained, in order; the last one is always there.
    pub fn held_out(&self) -> &[HeldOutPoint] {
        &self.held_out.points
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty() && self.held_out.points.is_empty()
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

    #[test]
    fn a_gap_opens_when_batches_are_explained_a_tenth_better() {
        let mut history = History::default();
        let judged = |history: &mut History| {
            history.add_held_out(HeldOutPoint { fvu: 0.2, ..HeldOutPoint::default() });
            *history.held_out().last().unwrap()
        };
        assert_eq!((judged(&mut history).gap(), judged(&mut history).gap_is_open()), (None, false), "no batch yet");
        history.add_training_fvu(0.21);
        assert!((judged(&mut history).gap().unwrap() + 0.01).abs() < 1e-12 && !judged(&mut history).gap_is_open());
        (0..1000).for_each(|_| history.add_training_fvu(0.17));
        let open = judged(&mut history);
        assert!((open.gap().unwrap() - 0.03).abs() < 1e-6 && open.gap_is_open(), "{open:?}");
        (0..1000).for_each(|_| history.add_training_fvu(0.185));
        assert!(!judged(&mut history).gap_is_open());
        let text = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
    }

    #[test]
    fn many_evaluations_stay_few_and_even_and_end_with_the_last() {
        let mut history = History::default();
        for step in 0..3000 {
            history.add_held_out(HeldOutPoint { step, ..HeldOutPoint::default() });
            let (last, evenly) = history.held_out().split_last().unwrap();
            assert_eq!(last.step, step);
            let gap = evenly.get(1).map_or(1, |point| point.step);
            assert!(
                gap.is_power_of_two() && evenly.iter().enumerate().all(|(i, p)| p.step == i as u64 * gap),
                "{step}"
            );
            assert!(evenly.len() <= POINTS_MAX && (step < 300 || evenly.len() >= POINTS_MAX / 2 - 1), "{step}");
        }
    }
}
