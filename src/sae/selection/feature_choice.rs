//! Each latent keeps the rows of a batch on which it is largest (Ayonrinde 2024, Feature Choice): latents choose rows, so
//! that one with positive pre-activations cannot be dead.
//!
//! Of `n` rows the latents keep `k n` places together, the same number each or, by Zipf's law, fewer the rarer a latent is.
//! How rare it is says a moving average of the share of rows that it fires on ([`Choice`]). At inference there is no batch:
//! a latent is active above the moving average of the least value that it kept.

use serde::{Deserialize, Serialize};

use crate::compute::CoderOps;
use crate::compute::coder_ops::{Code, CoderDims, Rule};
use crate::sae::selection::{Input, Selection};
use crate::sae::settings::{Budget, FeatureChoiceSettings};
use crate::sae::state::MovingAverage;

/// See the module.
pub struct FeatureChoice<B: CoderOps> {
    settings: FeatureChoiceSettings,
    /// `[rows, f]`.
    u: B::Tensor,
    counts: B::Index,
}

impl<B: CoderOps> FeatureChoice<B> {
    /// For batches of up to `rows` rows.
    pub fn new(backend: &B, dims: CoderDims, rows: usize, settings: FeatureChoiceSettings) -> Self {
        Self { settings, u: backend.zeros(rows * dims.f), counts: backend.index(dims.f) }
    }
}

impl<B: CoderOps> Selection<B> for FeatureChoice<B> {
    fn encode(&mut self, input: &Input<'_, B>, code: &mut Code<B>) {
        let Input { backend, params, dims, c, n, state, .. } = *input;
        code.rows = n;
        let by_rank = budgets(&self.settings, n, dims.f);
        let mut counts = vec![0; dims.f];
        match &state.choice {
            Some(choice) => by_rank.iter().zip(&choice.order).for_each(|(&count, &i)| counts[i as usize] = count),
            None => counts = by_rank,
        }
        backend.write_index(&mut self.counts, &counts);
        backend.pre_activations(c, &params.w_enc, &params.b_enc, &mut self.u, n, dims);
        backend.select(&self.u, dims.f, Rule::ColumnLargest { counts: &self.counts }, code);
    }
}

/// How many of `n` rows the latents of each rank keep, `[f]`: together `k n`, each at least one while there are as many, and
/// at most `n`.
pub fn budgets(settings: &FeatureChoiceSettings, n: usize, f: usize) -> Vec<u32> {
    let total = (settings.k * n as f64).floor() as usize;
    if total <= f {
        return (0..f).map(|rank| u32::from(rank < total)).collect();
    }
    let weights: Vec<f64> = match settings.budget {
        Budget::Uniform => vec![1.0; f],
        Budget::Zipf { exponent, top } => zipf(f, exponent, top * n as f64 / total as f64),
    };
    // one each, and the rest by weight; rounding the sums so far gives the whole
    let (all, rest) = (weights.iter().sum::<f64>(), (total - f) as f64);
    let (mut so_far, mut given) = (0.0, 0.0);
    let share = weights.iter().map(|weight| {
        so_far += weight;
        let own = (rest * so_far / all).round() - given;
        given += own;
        (1.0 + own).min(n as f64) as u32
    });
    share.collect()
}

/// Weights `(rank + q)^-exponent`, with the `q` at which the first has the share `top` of all; 0 where that has less.
fn zipf(f: usize, exponent: f64, top: f64) -> Vec<f64> {
    let weights = |q: f64| (0..f).map(|rank| (rank as f64 + 1.0 + q).powf(-exponent)).collect::<Vec<_>>();
    let first = |q: f64| {
        let weights = weights(q);
        weights[0] / weights.iter().sum::<f64>()
    };
    // the share falls with q
    let (mut low, mut high) = (0.0, 1.0);
    while first(high) > top && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if first(middle) > top { low = middle } else { high = middle }
    }
    weights(if first(0.0) <= top { 0.0 } else { high })
}

/// What is remembered of each latent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// `[f]` the least value that it kept.
    thresholds: Vec<MovingAverage>,
    /// `[f]` the share of rows that it fires on.
    density: Vec<f64>,
    /// Latents by rank, the one with the largest budget first.
    pub(super) order: Vec<u32>,
}

impl Choice {
    /// At the start: each latent has the rank of its number, and fires as often as its budget says.
    fn new(settings: &FeatureChoiceSettings, n: usize, f: usize) -> Self {
        let density = budgets(settings, n, f).into_iter().map(|count| f64::from(count) / n as f64);
        Self {
            thresholds: vec![MovingAverage::default(); f],
            density: density.collect(),
            order: (0..f as u32).collect(),
        }
    }

    /// After the `steps`-th batch, of `n` rows: `fired` `[f + 1]` as in a report, `least` `[f]` the least values kept,
    /// infinite where there was none.
    pub fn update(
        this: &mut Option<Self>,
        settings: &FeatureChoiceSettings,
        (fired, least): (&[u32], &[f64]),
        n: usize,
        steps: u64,
    ) {
        let choice = this.get_or_insert_with(|| Self::new(settings, n, least.len()));
        let rate = settings.rate;
        for (i, &least) in least.iter().enumerate() {
            let share = f64::from(fired[i + 1] - fired[i]) / n as f64;
            choice.density[i] += rate * (share - choice.density[i]);
            if least.is_finite() {
                choice.thresholds[i].add(least, rate);
            }
        }
        if steps.is_multiple_of(settings.rank_every) {
            // stable: latents that fire as often keep their order
            choice.order.sort_by(|&a, &b| choice.density[b as usize].total_cmp(&choice.density[a as usize]));
        }
    }

    /// `[f]` what `u` must exceed at inference.
    pub fn thresholds(&self) -> Vec<f64> {
        self.thresholds.iter().map(|average| average.value).collect()
    }

    /// The latents that fire on fewer than `share` of the rows that their budget in a batch of `n` allows, ascending.
    pub fn rare(&self, settings: &FeatureChoiceSettings, n: usize, share: f64) -> Vec<u32> {
        let budgets = budgets(settings, n, self.order.len());
        let due =
            |(&i, budget): (&u32, u32)| (self.density[i as usize] < share * f64::from(budget) / n as f64).then_some(i);
        let mut rare: Vec<u32> = self.order.iter().zip(budgets).filter_map(due).collect();
        rare.sort_unstable();
        rare
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(k: f64, budget: Budget) -> FeatureChoiceSettings {
        FeatureChoiceSettings { k, budget, rate: 0.1, rank_every: 10 }
    }

    #[test]
    fn budgets_are_the_whole_and_fall_with_the_rank() {
        for (n, f, k) in [(512, 128, 4.0), (2048, 300, 3.5), (4096, 1000, 32.0)] {
            let uniform = budgets(&settings(k, Budget::Uniform), n, f);
            assert_eq!(uniform.iter().sum::<u32>() as usize, (k * n as f64) as usize);
            assert!(uniform.iter().max().unwrap() - uniform.iter().min().unwrap() <= 1);
            let zipf = budgets(&settings(k, Budget::Zipf { exponent: 1.0, top: 0.1 }), n, f);
            assert_eq!(zipf.iter().sum::<u32>() as usize, (k * n as f64) as usize);
            assert!(zipf.iter().all(|&count| count >= 1) && zipf.windows(2).all(|pair| pair[0] + 1 >= pair[1]));
            assert!((f64::from(zipf[0]) / n as f64) < 0.12, "{}", zipf[0]);
            assert!(zipf[0] > 2 * zipf[f / 2], "{} and {}", zipf[0], zipf[f / 2]);
        }
        assert_eq!(budgets(&settings(0.5, Budget::Uniform), 4, 5), [1, 1, 0, 0, 0]);
    }

    #[test]
    fn latents_that_do_not_use_their_budget_lose_it_and_are_rare() {
        let own = settings(4.0, Budget::Zipf { exponent: 1.0, top: 0.9 });
        let (n, mut choice) = (100, None);
        // latent 0 never fires, the others as often as they may
        for step in 1..=200 {
            let by_rank = budgets(&own, n, 8);
            let order = choice.as_ref().map_or((0..8).collect::<Vec<u32>>(), |c: &Choice| c.order.clone());
            let mut fired = vec![0; 9];
            for i in 0..8u32 {
                let rank = order.iter().position(|&latent| latent == i).unwrap();
                fired[i as usize + 1] = fired[i as usize] + if i == 0 { 0 } else { by_rank[rank] };
            }
            let least: Vec<f64> = (0..8).map(|i| if i == 0 { f64::INFINITY } else { 0.5 }).collect();
            Choice::update(&mut choice, &own, (&fired, &least), n, step);
        }
        let choice = choice.unwrap();
        assert_eq!(choice.order.last(), Some(&0));
        assert_eq!(choice.rare(&own, n, 0.5), [0]);
        assert_eq!(choice.thresholds()[0], 0.0);
        assert!((choice.thresholds()[3] - 0.5).abs() < 1e-12);
    }
}
