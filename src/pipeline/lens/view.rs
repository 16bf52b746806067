//! What a lens shows: lists of latents, and one of them.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use crate::features::Context;
use crate::features::collector::Seen;
use crate::features::directions::Effects;
use crate::pipeline::lens::{EFFECTS_MAX, Inner, Lens, Lenses, Look};
use crate::tokens::Pieces;
use crate::trainer::history::{HeldOutPoint, HistoryPoint};

/// Different tokens that are listed of a latent.
const LINE_TOKENS: usize = 6;
/// Bins a power of two of a histogram.
const PER_OCTAVE: u32 = 4;
/// Bins a power of ten of the densities, and the smallest power.
const PER_DECADE: f64 = 4.0;
const SMALLEST_DECADE: f64 = -6.0;

/// The curves of a trainer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Curves {
    /// Steps, evenly, from the first on.
    pub steps: Vec<HistoryPoint>,
    /// Evaluations on held-out rows.
    pub held_out: Vec<HeldOutPoint>,
}

/// Which latents are listed, and in which order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FeatureQuery {
    /// Order.
    pub sort: SortBy,
    /// Smallest first.
    pub ascending: bool,
    /// Only those that fire most, somewhere, on a token that holds this, or are known to promote one.
    pub token: Option<String>,
    /// Those too that never fired.
    pub silent: bool,
    /// Latents that are left out before the first.
    pub offset: usize,
    /// Latents that are listed.
    pub limit: usize,
}

/// What latents are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortBy {
    /// How often they fire.
    #[default]
    Density,
    /// How strongly, at most.
    Max,
    /// Their numbers.
    Latent,
}

/// Why there is nothing to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeaturesRefused {
    /// There is no such trainer, or it was not looked at yet.
    NoTrainer,
    /// It has no latent of this number.
    NoLatent,
}

/// Latents of a coder while it trains.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FeatureList {
    /// Latents of the coder.
    pub latents: usize,
    /// Rows that were looked at.
    pub rows: u64,
    /// Rows that the trainer had learnt from at the first of them.
    pub trained_rows_from: u64,
    /// And at the last.
    pub trained_rows_to: u64,
    /// Latents that fired on none of them.
    pub silent: usize,
    /// Latents by the logarithm of their density: bins of a quarter of a power of ten, from `1e-6` to 1.
    pub densities: Vec<u64>,
    /// Latents that fit the query.
    pub matched: usize,
    /// Those of them that are listed.
    pub features: Vec<FeatureLine>,
}

/// One latent in a list.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FeatureLine {
    /// Its number.
    pub latent: u32,
    /// Share of the rows on which it fired.
    pub density: f64,
    /// Its largest activation.
    pub max: f32,
    /// Its mean activation where it fires.
    pub mean: f64,
    /// Tokens on which it fires most, strongest first, each once.
    pub tokens: Vec<String>,
    /// Where it fires most.
    pub context: Option<ContextView>,
}

/// Tokens around a peak.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ContextView {
    /// The activation at the peak.
    pub activation: f32,
    /// Which token is the peak.
    pub peak: u32,
    /// The tokens.
    pub tokens: Vec<String>,
    /// The activation at each, 0 where it does not fire.
    pub activations: Vec<f32>,
}

/// How strongly a latent fires.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct SizesView {
    /// Edges of the bins, one more than there are counts.
    pub edges: Vec<f32>,
    /// Rows in each.
    pub counts: Vec<u64>,
}

/// A token and what is added to its logit.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct TokenEffect {
    /// The token.
    pub token: String,
    /// What is added, but for the scale of the final norm.
    pub logit: f32,
}

/// One latent.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FeatureView {
    /// Its number.
    pub latent: u32,
    /// Latents of the coder.
    pub latents: usize,
    /// Rows that were looked at.
    pub rows: u64,
    /// Rows that the trainer had learnt from at the last of them.
    pub trained_rows_to: u64,
    /// Rows on which it fired.
    pub fired: u64,
    /// Share of the rows.
    pub density: f64,
    /// Mean activation where it fires.
    pub mean: f64,
    /// Median activation where it fires.
    pub median: f32,
    /// Largest activation.
    pub max: f32,
    /// How strongly it fires.
    pub sizes: SizesView,
    /// Where it fires most, strongest first.
    pub contexts: Vec<ContextView>,
    /// Tokens that it promotes most; none until they are computed.
    pub promoted: Option<Vec<TokenEffect>>,
    /// Tokens that it suppresses most.
    pub suppressed: Option<Vec<TokenEffect>>,
    /// Why these tokens will not come, if they will not.
    pub without_tokens: Option<&'static str>,
}

impl Lenses {
    /// The curves of a trainer, if it was looked at.
    pub fn curves(&self, trainer: &str) -> Option<Curves> {
        Some(self.find(trainer)?.lock().curves.clone())
    }

    /// Latents of a trainer.
    ///
    /// # Errors
    /// If there is no such trainer, or it was not looked at yet.
    pub fn list(&self, trainer: &str, query: &FeatureQuery) -> Result<FeatureList, FeaturesRefused> {
        let lens = self.find(trainer).ok_or(FeaturesRefused::NoTrainer)?;
        let pieces = self.pieces();
        // before anything is locked: a vocabulary is long
        let hits = query.token.as_deref().filter(|token| !token.is_empty()).map(|token| pieces.holding(token));
        let inner = lens.lock();
        Ok(inner.list(&lens, query, hits.as_ref(), &pieces))
    }

    /// One latent. The tokens that it promotes are computed from now on, if they are not known.
    ///
    /// # Errors
    /// If there is no such trainer, or no such latent.
    pub fn feature(&self, trainer: &str, latent: u32) -> Result<FeatureView, FeaturesRefused> {
        let lens = self.find(trainer).ok_or(FeaturesRefused::NoTrainer)?;
        if latent as usize >= lens.latents {
            return Err(FeaturesRefused::NoLatent);
        }
        let pieces = self.pieces();
        let mut inner = lens.lock();
        if !inner.effects.contains_key(&latent) && inner.wanted.len() < EFFECTS_MAX {
            inner.wanted.insert(latent);
        }
        Ok(inner.feature(&lens, latent, &pieces))
    }
}

impl Inner {
    fn list(&self, lens: &Lens, query: &FeatureQuery, hits: Option<&HashSet<u32>>, pieces: &Pieces) -> FeatureList {
        let Look { collector, from, to } = self.look();
        let rows = collector.rows();
        let density = |seen: &Seen| seen.sizes.n() as f64 / rows.max(1) as f64;
        let mut densities = vec![0; (-SMALLEST_DECADE * PER_DECADE) as usize];
        let (mut silent, mut chosen) = (0, Vec::new());
        for latent in 0..lens.latents {
            let seen = collector.latent(latent);
            if seen.sizes.n() == 0 {
                silent += 1;
            } else {
                let place = (density(seen).log10() - SMALLEST_DECADE) * PER_DECADE;
                densities[(place.max(0.0) as usize).min((-SMALLEST_DECADE * PER_DECADE) as usize - 1)] += 1;
            }
            let wanted = hits.is_none_or(|hits| {
                let peaks = seen.top().iter().any(|context| hits.contains(&peak_id(context)));
                peaks || self.promotes(latent as u32, hits)
            });
            if wanted && (query.silent || seen.sizes.n() > 0) {
                chosen.push((latent as u32, seen));
            }
        }
        let key = |seen: &Seen| match query.sort {
            SortBy::Density => seen.sizes.n() as f64,
            SortBy::Max => f64::from(seen.sizes.max()),
            SortBy::Latent => 0.0,
        };
        chosen.sort_by(|(i, a), (j, b)| {
            let by_number = if query.sort == SortBy::Latent && !query.ascending { j.cmp(i) } else { i.cmp(j) };
            let (a, b) = (key(a), key(b));
            if query.ascending { a.total_cmp(&b) } else { b.total_cmp(&a) }.then(by_number)
        });
        let matched = chosen.len();
        let lines = chosen.into_iter().skip(query.offset).take(query.limit);
        let features = lines.map(|(latent, seen)| FeatureLine {
            latent,
            density: density(seen),
            max: seen.sizes.max(),
            mean: seen.sizes.mean(),
            tokens: peak_tokens(seen, hits, pieces),
            context: seen.top().first().map(|context| shown(context, pieces)),
        });
        let (trained_rows_from, trained_rows_to) = (*from, *to);
        FeatureList {
            latents: lens.latents,
            rows,
            trained_rows_from,
            trained_rows_to,
            silent,
            densities,
            matched,
            features: features.collect(),
        }
    }

    fn promotes(&self, latent: u32, hits: &HashSet<u32>) -> bool {
        self.effects.get(&latent).is_some_and(|effects| effects.promoted.iter().any(|(id, _)| hits.contains(id)))
    }

    fn feature(&self, lens: &Lens, latent: u32, pieces: &Pieces) -> FeatureView {
        let Look { collector, to, .. } = self.look();
        let seen = collector.latent(latent as usize);
        let (edges, counts) = seen.sizes.histogram(PER_OCTAVE);
        let effects: Option<&Arc<Effects>> = self.effects.get(&latent);
        let tokens = |list: &[(u32, f32)]| {
            list.iter().map(|&(id, logit)| TokenEffect { token: pieces.shown(id), logit }).collect()
        };
        FeatureView {
            latent,
            latents: lens.latents,
            rows: collector.rows(),
            trained_rows_to: *to,
            fired: seen.sizes.n(),
            density: seen.sizes.n() as f64 / collector.rows().max(1) as f64,
            mean: seen.sizes.mean(),
            median: seen.sizes.quantile(0.5),
            max: seen.sizes.max(),
            sizes: SizesView { edges, counts },
            contexts: seen.top().iter().map(|context| shown(context, pieces)).collect(),
            promoted: effects.map(|effects| tokens(&effects.promoted)),
            suppressed: effects.map(|effects| tokens(&effects.suppressed)),
            without_tokens: self.without_effects,
        }
    }
}

fn peak_id(context: &Context) -> u32 {
    context.ids[context.peak as usize]
}

/// The tokens at the peaks; those that were searched first.
fn peak_tokens(seen: &Seen, hits: Option<&HashSet<u32>>, pieces: &Pieces) -> Vec<String> {
    let mut known = BTreeSet::new();
    let mut ids: Vec<u32> = seen.top().iter().map(peak_id).filter(|id| known.insert(*id)).collect();
    if let Some(hits) = hits {
        ids.sort_by_key(|id| !hits.contains(id));
    }
    ids.into_iter().take(LINE_TOKENS).map(|id| pieces.shown(id)).collect()
}

fn shown(context: &Context, pieces: &Pieces) -> ContextView {
    ContextView {
        activation: context.activation,
        peak: context.peak,
        tokens: context.ids.iter().map(|&id| pieces.shown(id)).collect(),
        activations: context.activations.to_vec(),
    }
}
