//! Biases of the encoder that follow how often latents fire, not a gradient (group bias adaptation, arXiv 2506.14002).
//!
//! Latents are in groups of as many, each with a share of rows on which they should fire: `highest` for the first, `lowest` for
//! the last, a geometric sequence between. Every `every` steps, with `p` the share of rows since the last time on which a
//! latent fired, `r` its largest value on them, and `R` the rows' root mean square norm:
//!
//! ```text
//! p above its group's    b = max(b - rate r, -R)
//! p = 0                  b = min(b + rate mean of r over the group's latents that fired, 0)
//! ```
//!
//! The bounds are those of rows of norm 1, as in the paper, times `R`.

use serde::{Deserialize, Serialize};

use crate::compute::CoderOps;
use crate::sae::coder::BatchReport;
use crate::sae::selection::host;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BiasControlSettings {
    /// Groups of latents.
    pub groups: usize,
    /// Share of rows on which latents of the first group are to fire.
    pub highest: f64,
    /// The same of the last group.
    pub lowest: f64,
    /// Steps between changes.
    pub every: u64,
    /// Size of a change.
    pub rate: f64,
}

impl BiasControlSettings {
    /// The group of a latent, of `f`: they are ranges.
    fn group(&self, latent: usize, f: usize) -> usize {
        latent * self.groups / f
    }

    /// The share of rows on which latents of a group are to fire.
    pub fn target(&self, group: usize) -> f64 {
        let share = if self.groups > 1 { group as f64 / (self.groups - 1) as f64 } else { 0.0 };
        self.highest * (self.lowest / self.highest).powf(share)
    }
}

/// What was seen since the biases were changed last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BiasControl {
    rows: u64,
    /// `sum |c|^2` of the rows.
    squares: f64,
    /// `[f]` rows on which each latent fired.
    fired: Vec<u64>,
    /// `[f]` the largest value of each.
    largest: Vec<f64>,
}

impl BiasControl {
    /// Take in a batch; true: it is time to change the biases.
    pub fn update(&mut self, settings: &BiasControlSettings, report: &BatchReport, steps: u64) -> bool {
        let f = report.largest_of_each.len();
        self.fired.resize(f, 0);
        self.largest.resize(f, 0.0);
        self.rows += report.rows as u64;
        self.squares += report.input_squares;
        for (count, ends) in self.fired.iter_mut().zip(report.fired.windows(2)) {
            *count += u64::from(ends[1] - ends[0]);
        }
        for (largest, new) in self.largest.iter_mut().zip(&report.largest_of_each) {
            *largest = largest.max(*new);
        }
        steps.is_multiple_of(settings.every)
    }

    /// Change the biases `[f]`, and forget what was seen.
    pub fn apply<B: CoderOps>(&mut self, settings: &BiasControlSettings, backend: &B, b_enc: &mut B::Tensor) {
        let f = self.fired.len();
        let mut biases = host(backend, b_enc, f);
        self.adapt(settings, &mut biases);
        backend.write_f64(b_enc, 0, &biases);
        *self = Self::default();
    }

    fn adapt(&self, settings: &BiasControlSettings, biases: &mut [f64]) {
        let f = biases.len();
        let rows = (self.rows as f64).max(1.0);
        let floor = -(self.squares / rows).sqrt();
        let mut values = vec![(0.0, 0.0); settings.groups];
        for (i, largest) in self.largest.iter().enumerate().filter(|(_, largest)| **largest > 0.0) {
            let (sum, count) = &mut values[settings.group(i, f)];
            *sum += largest;
            *count += 1.0;
        }
        for (i, bias) in biases.iter_mut().enumerate() {
            let group = settings.group(i, f);
            let (sum, count): (f64, f64) = values[group];
            if self.fired[i] as f64 > settings.target(group) * rows {
                *bias = (*bias - settings.rate * self.largest[i]).max(floor);
            } else if self.fired[i] == 0 && count > 0.0 {
                *bias = (*bias + settings.rate * sum / count).min(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_fall_where_latents_fire_too_often_and_rise_where_they_never_do() {
        let settings = BiasControlSettings { groups: 2, highest: 0.5, lowest: 0.02, every: 10, rate: 0.1 };
        let seen = BiasControl {
            rows: 100,
            squares: 400.0, // a norm of 2
            fired: vec![60, 40, 0, 10, 1, 0],
            largest: vec![3.0, 1.0, 0.0, 4.0, 2.0, 0.0],
        };
        let mut biases = [-0.5, -0.5, -0.5, -1.9, -0.5, -0.1];
        seen.adapt(&settings, &mut biases);
        // too often; as wanted; never, by 0.1 mean(3, 1); too often, down to the floor; as wanted; never, up to 0
        let expected = [-0.8, -0.5, -0.3, -2.0, -0.5, 0.0];
        for (found, expected) in biases.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{biases:?}");
        }
    }

    #[test]
    fn targets_fall_by_a_constant_factor() {
        let settings = BiasControlSettings { groups: 3, highest: 0.1, lowest: 0.001, every: 50, rate: 0.01 };
        let targets: Vec<f64> = (0..3).map(|group| settings.target(group)).collect();
        for (found, expected) in targets.iter().zip([0.1, 0.01, 0.001]) {
            assert!((found / expected - 1.0).abs() < 1e-12, "{targets:?}");
        }
        let ranges: Vec<usize> = (0..7).map(|i| settings.group(i, 7)).collect();
        assert_eq!(ranges, [0, 0, 0, 1, 1, 2, 2]);
    }
}
