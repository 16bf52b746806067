//! Learning rate by step: linear warm-up, constant, a fall to zero at the end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The learning rate as a function of the step alone, so that it needs no state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Between warm-up and decay.
    pub peak: f64,
    /// Steps of warm-up.
    pub warmup_steps: u64,
    /// All steps.
    pub total_steps: u64,
    /// Share of all steps, at the end, over which the rate falls.
    pub decay_share: f64,
    /// How it falls.
    pub decay_shape: DecayShape,
}

/// How the rate falls to zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecayShape {
    /// In equal steps.
    #[default]
    Linear,
    /// Along half a wave of the cosine: slowly, fast, slowly.
    Cosine,
}

impl Schedule {
    /// The rate of step `step`, from 0. The first step of the warm-up already moves, and so does the last step.
    pub fn rate(&self, step: u64) -> f64 {
        let done = (step + 1) as f64;
        let warm = if step < self.warmup_steps { done / self.warmup_steps as f64 } else { 1.0 };
        let decay_steps = self.decay_share * self.total_steps as f64;
        let left = self.total_steps.saturating_sub(step) as f64;
        let cool = if left < decay_steps { left / decay_steps } else { 1.0 };
        let cool = match self.decay_shape {
            DecayShape::Linear => cool,
            DecayShape::Cosine => 0.5 * (1.0 - (std::f64::consts::PI * cool).cos()),
        };
        self.peak * warm.min(cool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_stays_and_falls() {
        let decay_shape = DecayShape::Linear;
        let s = Schedule { peak: 2.0, warmup_steps: 10, total_steps: 100, decay_share: 0.2, decay_shape };
        assert!((s.rate(0) - 0.2).abs() < 1e-12);
        assert_eq!(s.rate(9), 2.0);
        assert_eq!(s.rate(50), 2.0);
        assert_eq!(s.rate(80), 2.0);
        assert!((s.rate(90) - 1.0).abs() < 1e-12);
        assert!((s.rate(99) - 0.1).abs() < 1e-12);
        assert_eq!(s.rate(100), 0.0);
        let s = Schedule { decay_shape: DecayShape::Cosine, ..s };
        assert_eq!((s.rate(50), s.rate(80), s.rate(100)), (2.0, 2.0, 0.0));
        assert!((s.rate(90) - 1.0).abs() < 1e-12 && s.rate(85) > 1.5 && s.rate(95) < 0.5);
    }

    #[test]
    fn no_warm_up_and_no_decay_is_constant() {
        let decay_shape = DecayShape::Cosine;
        let s = Schedule { peak: 1e-3, warmup_steps: 0, total_steps: 7, decay_share: 0.0, decay_shape };
        assert!((0..7).all(|step| s.rate(step) == 1e-3));
    }
}
