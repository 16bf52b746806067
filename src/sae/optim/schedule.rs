//! Learning rate by step: linear warm-up, constant, linear fall to zero at the end.

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
}

impl Schedule {
    /// The rate of step `step`, from 0. The first step of the warm-up already moves, and so does the last step.
    pub fn rate(&self, step: u64) -> f64 {
        let done = (step + 1) as f64;
        let warm = if step < self.warmup_steps { done / self.warmup_steps as f64 } else { 1.0 };
        let decay_steps = self.decay_share * self.total_steps as f64;
        let left = self.total_steps.saturating_sub(step) as f64;
        let cool = if left < decay_steps { left / decay_steps } else { 1.0 };
        self.peak * warm.min(cool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_stays_and_falls() {
        let s = Schedule { peak: 2.0, warmup_steps: 10, total_steps: 100, decay_share: 0.2 };
        assert!((s.rate(0) - 0.2).abs() < 1e-12);
        assert_eq!(s.rate(9), 2.0);
        assert_eq!(s.rate(50), 2.0);
        assert_eq!(s.rate(80), 2.0);
        assert!((s.rate(90) - 1.0).abs() < 1e-12);
        assert!((s.rate(99) - 0.1).abs() < 1e-12);
        assert_eq!(s.rate(100), 0.0);
    }

    #[test]
    fn no_warm_up_and_no_decay_is_constant() {
        let s = Schedule { peak: 1e-3, warmup_steps: 0, total_steps: 7, decay_share: 0.0 };
        assert!((0..7).all(|step| s.rate(step) == 1e-3));
    }
}
