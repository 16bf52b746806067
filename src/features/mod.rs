//! What latents stand for, as people read it: plain maths, without I/O.
//!
//! A [`Collector`] is fed batches of tokens with their codes, and at any moment says of each latent where it fired most, where
//! else, how strongly, and with which others ([`collector`], [`contexts`], [`sizes`], [`coactivation`]). Its memory depends on
//! the number of latents and on [`Settings`], never on how much it was fed. [`directions`] says what a coder's weights tell
//! without any text: tokens that a latent promotes, latents that lie near. [`Features`] is all of it, one [`Feature`] a latent.
//! `docs/features.md` has every definition.

pub mod about;
pub mod cache;
pub mod coactivation;
pub mod collector;
pub mod contexts;
pub mod directions;
pub mod sizes;

pub use about::About;
pub use collector::Collector;
pub use contexts::{Context, Place};

use crate::features::coactivation::{Coactivation, Coactive};
use crate::features::directions::{Directions, Effects, Near};
use crate::features::sizes::Sizes;

/// Contexts that an input score is of, at least.
const SCORED_MIN: usize = 10;
/// And at most.
const SCORED_MAX: usize = 100;

/// How much is kept of each latent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Strongest contexts.
    pub top: usize,
    /// Contexts drawn from all.
    pub sampled: usize,
    /// Slices by strength that these are cut into.
    pub strata: usize,
    /// Tokens of a context before its peak, at most.
    pub before: usize,
    /// And after it.
    pub after: usize,
    /// Nearest latents, and latents that fire on the same rows.
    pub neighbours: usize,
    /// Tokens promoted most, and as many suppressed most.
    pub tokens: usize,
    /// Of the draws.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { top: 20, sampled: 40, strata: 10, before: 20, after: 10, neighbours: 10, tokens: 10, seed: 0 }
    }
}

impl Settings {
    /// Memory that contexts of `f` latents take, at most.
    pub fn bytes_max(&self, f: usize) -> u64 {
        let context = (self.before + self.after + 1) * 8 + std::mem::size_of::<Context>();
        (f * (self.top + self.sampled) * context) as u64
    }
}

/// All that is known of a coder's latents.
#[derive(Debug)]
pub struct Features {
    /// What they did.
    pub collector: Collector,
    /// With which others.
    pub coactivation: Coactivation,
    /// What their weights say, as far as these are known.
    pub directions: Directions,
}

/// One latent.
#[derive(Debug)]
pub struct Feature<'a> {
    /// Its index.
    pub latent: u32,
    /// Share of the rows on which it fired.
    pub density: f64,
    /// How strongly.
    pub sizes: &'a Sizes,
    /// Sequences in which it fired.
    pub sequences: u64,
    /// Places where it peaked.
    pub peaks: u64,
    /// The strongest contexts, strongest first.
    pub top: &'a [Context],
    /// Contexts drawn from all, strongest first, each with its slice: 0 has the strongest.
    pub sampled: Vec<(u32, &'a Context)>,
    /// Norm of its decoder row.
    pub decoder_norm: Option<f32>,
    /// Tokens that it promotes and suppresses.
    pub effects: Option<&'a Effects>,
    /// Latents with the nearest decoder rows.
    pub near_decoder: &'a [Near],
    /// Latents with the nearest encoder rows.
    pub near_encoder: &'a [Near],
    /// Latents that fire on the same rows.
    pub coactive: &'a [Coactive],
}

impl Feature<'_> {
    /// Whether what it fires on is what it promotes: the share of its strongest contexts, of at most 100, whose peak is one
    /// of the 20 tokens that it promotes most. `None` with fewer than 10 contexts, and where these tokens are not known.
    pub fn input_score(&self) -> Option<f64> {
        let lens = &self.effects?.lens;
        let contexts = &self.top[..self.top.len().min(SCORED_MAX)];
        let hits = contexts.iter().filter(|context| lens.contains(&context.ids[context.peak as usize])).count();
        (contexts.len() >= SCORED_MIN).then(|| hits as f64 / contexts.len() as f64)
    }
}

impl Features {
    /// What `collector` saw, and what the weights say.
    pub fn new(collector: Collector, directions: Directions) -> Self {
        Self { coactivation: collector.coactivation(), collector, directions }
    }

    /// Latents.
    pub fn len(&self) -> usize {
        self.collector.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A latent.
    pub fn feature(&self, latent: usize) -> Feature<'_> {
        fn of<T>(lists: &[Vec<T>], latent: usize) -> &[T] {
            lists.get(latent).map_or(&[], |list| list)
        }
        let (seen, directions) = (self.collector.latent(latent), &self.directions);
        Feature {
            latent: latent as u32,
            density: seen.sizes.n() as f64 / self.collector.rows().max(1) as f64,
            sizes: &seen.sizes,
            sequences: seen.sequences,
            peaks: seen.peaks(),
            top: seen.top(),
            sampled: seen.sampled(self.collector.settings().strata),
            decoder_norm: directions.decoder_norms.get(latent).copied(),
            effects: directions.effects.get(latent),
            near_decoder: of(&directions.near_decoder, latent),
            near_encoder: of(&directions.near_encoder, latent),
            coactive: of(&self.coactivation.by_latent, latent),
        }
    }

    /// Every latent.
    pub fn each(&self) -> impl Iterator<Item = Feature<'_>> {
        (0..self.len()).map(|latent| self.feature(latent))
    }
}

#[cfg(test)]
mod tests;
