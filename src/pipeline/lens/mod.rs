//! Looks into coders while they train: what their latents do on the rows that just came, and the curves of their training.
//!
//! A [`Looker`] belongs to a stage of trainers. Now and then, within a fixed share of the stage's time, it codes some rows of
//! the present batch and adds them to the [`Lens`] of each trainer. Coding changes nothing of a trainer, so the coders are the
//! same bytes whether anybody looks or not; and nobody looks where nobody could see it ([`Lenses::watch`]).
//!
//! A lens holds two *looks*: one that grows, and the one before it. A look begins anew when the trainer has learnt from twice as
//! many rows as at its start, or when it is long enough, so what is shown is always of a recent coder. What tokens a latent
//! promotes is computed when somebody asks: the stage of trainers reads the direction, the stage that owns the model multiplies.

mod looker;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::compute::coder_ops::CoderOps;
use crate::error::Result;
use crate::features::directions::{self, Effects};
use crate::features::{Collector, Settings};
use crate::hooks::SiteWidth;
use crate::pipeline::features::{columns, promoting, summed};
use crate::sae::codes::Codes;
use crate::tokens::{Pieces, TokenBatch};
use crate::trainer::Trainer;
use crate::trainer::history::{HeldOutPoint, History, HistoryPoint};

pub use looker::Looker;
pub use view::{
    ContextView, Curves, FeatureLine, FeatureList, FeatureQuery, FeatureView, FeaturesRefused, SizesView, SortBy,
    TokenEffect,
};

/// Memory that the contexts of one look may take, about.
const LOOK_BYTES: usize = 16 << 20;
/// Contexts of a latent, at most.
const TOP_MAX: usize = 10;
/// Rows after which a look is long enough.
const LOOK_ROWS: u64 = 200_000;
/// Rows that a look has at least before another begins.
const LOOK_ROWS_MIN: u64 = 8192;
/// Latents whose tokens are wanted or known at a time.
const EFFECTS_MAX: usize = 256;
/// Tokens promoted most, and as many suppressed most.
const EFFECT_TOKENS: usize = 12;

/// The lenses of a pipeline's trainers.
#[derive(Default)]
pub struct Lenses {
    watched: AtomicBool,
    pieces: Mutex<Option<Arc<Pieces>>>,
    by_trainer: Mutex<BTreeMap<String, Arc<Lens>>>,
    /// Whether a direction waits for the model.
    model_asked: AtomicBool,
}

/// What is seen of one trainer.
pub struct Lens {
    latents: usize,
    /// Sites that it reconstructs.
    writes: Vec<SiteWidth>,
    inner: Mutex<Inner>,
}

struct Inner {
    curves: Curves,
    shown: Option<Look>,
    growing: Look,
    /// Latents whose tokens somebody wants to see.
    wanted: BTreeSet<u32>,
    /// Their directions, for the model.
    directions: Vec<(u32, Vec<f32>)>,
    effects: BTreeMap<u32, Arc<Effects>>,
    /// Why there are no effects of any latent.
    without_effects: Option<&'static str>,
}

/// What latents did on rows.
#[derive(Clone)]
struct Look {
    collector: Collector,
    /// Rows that the trainer had learnt from when it began.
    from: u64,
    /// And at the last of its rows.
    to: u64,
}

impl Lenses {
    /// Look from now on: somebody can see it.
    pub fn watch(&self) {
        self.watched.store(true, Ordering::Relaxed);
    }

    /// Whether anybody could see it.
    pub fn are_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    /// Say what token ids stand for.
    pub fn set_pieces(&self, pieces: impl FnOnce() -> Pieces) {
        if self.are_watched() {
            *lock(&self.pieces) = Some(Arc::new(pieces()));
        }
    }

    fn pieces(&self) -> Arc<Pieces> {
        lock(&self.pieces).clone().unwrap_or_default()
    }

    /// The lens of trainer `name`, whose coder has so many latents: the same one for the same name, unless its coder is another.
    fn of(&self, name: &str, latents: usize, writes: &[SiteWidth]) -> Arc<Lens> {
        let mut all = lock(&self.by_trainer);
        let lens = all.get(name).filter(|lens| lens.latents == latents && lens.writes == writes).map(Arc::clone);
        let lens = lens.unwrap_or_else(|| Arc::new(Lens::new(latents, writes)));
        all.insert(name.to_owned(), Arc::clone(&lens));
        lens
    }

    /// Show what a trainer's checkpoint says of its past.
    pub fn show_past<B: CoderOps>(&self, trainer: &Trainer<B>) {
        if self.are_watched() {
            let settings = trainer.settings();
            let lens = self.of(&settings.config.name, trainer.n_latents(), settings.writes());
            lens.set_curves(trainer.history());
        }
    }

    fn find(&self, name: &str) -> Option<Arc<Lens>> {
        lock(&self.by_trainer).get(name).cloned()
    }

    fn ask_model(&self) {
        self.model_asked.store(true, Ordering::Release);
    }

    /// Compute what was asked: `logits` gives what rows `[m, d_model]`, added to the residual stream, add to the logits.
    pub fn answer(&self, d_model: usize, mut logits: impl FnMut(&[f32], &mut Vec<f32>) -> Result<()>) {
        if !self.model_asked.swap(false, Ordering::AcqRel) {
            return;
        }
        let lenses: Vec<Arc<Lens>> = lock(&self.by_trainer).values().cloned().collect();
        for lens in lenses {
            if let Err(error) = lens.answer(d_model, &mut logits) {
                tracing::warn!(%error, "what latents promote cannot be shown");
            }
        }
    }
}

impl Lens {
    fn new(latents: usize, writes: &[SiteWidth]) -> Self {
        let inner = Inner {
            curves: Curves::default(),
            shown: None,
            growing: Look::new(latents, 0),
            wanted: BTreeSet::new(),
            directions: Vec::new(),
            effects: BTreeMap::new(),
            without_effects: None,
        };
        Self { latents, writes: writes.to_vec(), inner: Mutex::new(inner) }
    }

    /// Add the codes of `rows` of `batch`, of a coder that learnt from `trained` rows. Not while somebody reads: the next rows
    /// do as well.
    fn add(&self, batch: &TokenBatch, rows: &[u32], codes: &Codes, trained: u64) {
        let mut inner = match self.inner.try_lock() {
            Ok(inner) => inner,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return,
        };
        // a trainer that went back to a checkpoint is another than the one that was looked at
        if trained < inner.growing.to {
            (inner.growing, inner.shown) = (Look::new(self.latents, trained), None);
        }
        let growing = &mut inner.growing;
        if growing.collector.rows() == 0 {
            growing.from = trained;
        }
        growing.collector.add(batch, rows, codes);
        growing.to = trained;
        let rows = growing.collector.rows();
        if rows >= LOOK_ROWS || (rows >= LOOK_ROWS_MIN && trained >= 2 * growing.from.max(1)) {
            let next = Look::new(self.latents, trained);
            inner.shown = Some(std::mem::replace(&mut inner.growing, next));
            // the directions have moved too
            inner.effects.clear();
        }
    }

    fn set_curves(&self, history: &History) {
        let (steps, held_out): (Vec<HistoryPoint>, Vec<HeldOutPoint>) =
            (history.points().to_vec(), history.held_out().to_vec());
        self.lock().curves = Curves { steps, held_out };
    }

    /// Latents whose directions are to be read now.
    fn take_wanted(&self) -> Vec<u32> {
        std::mem::take(&mut self.lock().wanted).into_iter().collect()
    }

    fn put_directions(&self, directions: Vec<(u32, Vec<f32>)>) {
        self.lock().directions.extend(directions);
    }

    fn never_effects(&self, why: &'static str) {
        self.lock().without_effects = Some(why);
    }

    fn answer(&self, d_model: usize, logits: &mut impl FnMut(&[f32], &mut Vec<f32>) -> Result<()>) -> Result<()> {
        let directions = std::mem::take(&mut self.lock().directions);
        if directions.is_empty() {
            return Ok(());
        }
        let promoting = promoting(&self.writes, d_model);
        if promoting.is_empty() {
            self.never_effects("what it reconstructs is not in the residual stream");
            return Ok(());
        }
        let parts = columns(&self.writes, &promoting);
        let width: usize = self.writes.iter().map(|(_, width)| width).sum();
        let rows: Vec<f32> = directions.iter().flat_map(|(_, row)| row).copied().collect();
        let found = directions::effects(&summed(&rows, width, &parts, d_model), d_model, EFFECT_TOKENS, |r, out| {
            logits(r, out)
        })?;
        let mut inner = self.lock();
        if inner.effects.len() + found.len() > EFFECTS_MAX {
            inner.effects.clear();
        }
        inner.effects.extend(directions.iter().map(|(latent, _)| *latent).zip(found.into_iter().map(Arc::new)));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

impl Look {
    fn new(latents: usize, from: u64) -> Self {
        let (before, after) = (12, 6);
        let one = Settings { top: 1, sampled: 0, neighbours: 0, before, after, ..Settings::default() };
        let each = one.bytes_max(latents).max(1) as usize;
        let top = (LOOK_BYTES / each).clamp(1, TOP_MAX);
        Self { collector: Collector::new(latents, Settings { top, ..one }), from, to: from }
    }
}

impl Inner {
    /// What there is to see: the look that has more rows.
    fn look(&self) -> &Look {
        match &self.shown {
            Some(shown) if shown.collector.rows() > self.growing.collector.rows() => shown,
            _ => &self.growing,
        }
    }
}

/// What is locked stays whole through a panic: looks are shown, never computed with.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
