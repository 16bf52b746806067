//! An exponent that falls while training (Karvonen et al. 2024), of a coder whose first penalty is `sum f^p`.
//!
//! The exponent takes the values `1, 1 - 1/n, ..., 1/n`, at steps evenly between a first and a last one. When it falls,
//! the penalty's weight is multiplied by the ratio of the penalty with the old exponent to that with the new one, over the
//! last batches: the loss goes on at the size it had.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::compute::coder_ops::PenaltyShape;
use crate::sae::settings::{AnnealSettings, PenaltySettings};

/// What is remembered: see the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anneal {
    /// Times that the exponent has fallen.
    fallen: u32,
    /// What the penalty's weight was multiplied by so far.
    factor: f64,
    /// Sums of the last batches: with the exponent, and with the next one.
    sums: VecDeque<[f64; 2]>,
}

impl Anneal {
    /// At exponent 1.
    pub fn new() -> Self {
        Self { fallen: 0, factor: 1.0, sums: VecDeque::new() }
    }

    fn exponent(settings: &AnnealSettings, fallen: u32) -> f64 {
        1.0 - f64::from(fallen) / f64::from(settings.exponents)
    }

    /// The penalty as it is now.
    pub fn penalty(&self, settings: &AnnealSettings, start: PenaltySettings) -> PenaltySettings {
        let shape = PenaltyShape::Power { p: Self::exponent(settings, self.fallen) };
        PenaltySettings { shape, coefficient: start.coefficient * self.factor, ..start }
    }

    /// The shape that the penalty has next, while there is one.
    pub fn next(&self, settings: &AnnealSettings) -> Option<PenaltyShape> {
        let fallen = self.fallen + 1;
        (fallen < settings.exponents).then(|| PenaltyShape::Power { p: Self::exponent(settings, fallen) })
    }

    /// After a step: the batch's sums, and how many steps were made.
    pub fn update(&mut self, settings: &AnnealSettings, sums: [f64; 2], steps: u64) {
        self.sums.push_back(sums);
        if self.sums.len() > settings.window {
            self.sums.pop_front();
        }
        let falls = u64::from(settings.exponents - 1);
        let span = settings.end_step - settings.start_step;
        let due = |fallen: u32| settings.start_step + span * u64::from(fallen) / falls.max(2).saturating_sub(1);
        if u64::from(self.fallen) >= falls || steps < due(self.fallen) {
            return;
        }
        let [now, next] = self.sums.iter().fold([0.0, 0.0], |a, s| [a[0] + s[0], a[1] + s[1]]);
        if now > 0.0 && next > 0.0 {
            self.factor *= now / next;
        }
        self.fallen += 1;
        self.sums.clear();
    }
}

impl Default for Anneal {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponent_falls_to_the_last_value_and_the_penalty_goes_on() {
        let settings = AnnealSettings { start_step: 10, end_step: 50, exponents: 5, window: 3 };
        let shape = PenaltyShape::Power { p: 1.0 };
        let start = PenaltySettings { shape, coefficient: 0.1, by_norm: false, warmup_steps: 0 };
        let values = [0.3f64, 2.0, 0.01];
        let sum = |shape: PenaltyShape| match shape {
            PenaltyShape::Power { p } => values.iter().map(|v| v.powf(p)).sum::<f64>(),
            other => panic!("{other:?}"),
        };
        let mut anneal = Anneal::new();
        let mut falls = Vec::new();
        for steps in 1..100 {
            let before = anneal.penalty(&settings, start);
            let next = anneal.next(&settings).unwrap_or(before.shape);
            anneal.update(&settings, [sum(before.shape), sum(next)], steps);
            let after = anneal.penalty(&settings, start);
            let size = |p: PenaltySettings| p.coefficient * sum(p.shape);
            assert!((size(after) / size(before) - 1.0).abs() < 1e-12, "the penalty jumps at step {steps}");
            if after != before {
                falls.push(steps);
            }
        }
        assert_eq!(falls, [10, 23, 36, 50]);
        assert!(matches!(anneal.penalty(&settings, start).shape, PenaltyShape::Power { p } if (p - 0.2).abs() < 1e-12));
    }
}
