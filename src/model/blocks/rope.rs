//! Tables of rotary position embedding.

use std::f64::consts::PI;

use crate::compute::ModelOps;
use crate::model::spec::{Rope, RopeScaling};

/// Cosines and sines of every position.
pub(in crate::model) struct RopeTables<B: ModelOps> {
    /// `[t, e/2]`.
    pub(in crate::model) cos: B::Tensor,
    /// `[t, e/2]`.
    pub(in crate::model) sin: B::Tensor,
}

impl<B: ModelOps> RopeTables<B> {
    /// Tables for positions below `context_length` and heads of width `e`. Angles are computed in f64 and rounded once, so
    /// far positions are as accurate as near ones.
    pub(in crate::model) fn new(backend: &B, rope: &Rope, e: usize, context_length: usize) -> Self {
        let frequencies = frequencies(rope, e);
        let table = |f: fn(f64) -> f64| -> Vec<f32> {
            let angles = (0..context_length).flat_map(|p| frequencies.iter().map(move |w| p as f64 * w));
            angles.map(|angle| f(angle) as f32).collect()
        };
        Self { cos: backend.upload(&table(f64::cos)), sin: backend.upload(&table(f64::sin)) }
    }
}

/// `[e/2]` radians a position.
fn frequencies(rope: &Rope, e: usize) -> Vec<f64> {
    (0..e / 2).map(|j| scaled(rope.theta.powf(-2.0 * j as f64 / e as f64), rope.scaling)).collect()
}

fn scaled(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::Default => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
            // 0 where the wavelength is long (stretched by the factor), 1 where it is short (kept)
            let waves = original_positions * frequency / (2.0 * PI);
            let kept = ((waves - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            (1.0 - kept) * frequency / factor + kept * frequency
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_short_waves_stretches_long_ones_and_is_monotonic() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_positions: 8192.0,
        };
        let plain = frequencies(&Rope { theta: 5e5, scaling: RopeScaling::Default }, 128);
        let llama3 = frequencies(&Rope { theta: 5e5, scaling }, 128);
        assert_eq!(plain[0], llama3[0]);
        assert_eq!(plain[63] / 8.0, llama3[63]);
        assert!(llama3.is_sorted_by(|a, b| a > b));
        let between = plain.iter().zip(&llama3).filter(|(p, l)| *l < *p && **l > **p / 8.0).count();
        assert!(between > 0);
    }
}
