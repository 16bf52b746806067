//! Metrics of trained coders on held-out text: how well they reconstruct, and what the model loses when it reads the
//! reconstruction instead of the activation.
//!
//! Each held-out batch is computed once clean and, for each coder, twice more: with the coder's reconstruction in place
//! of the activation, and with zeros. Both replacements touch exactly the rows that training would keep (special tokens,
//! excluded positions and outliers stay as they are), and cross-entropy is averaged over those of them that have a next
//! token in their attention context. Of a coder of one head only that head is replaced. Definitions are those of [`crate::trainer::metrics`].

use serde::{Deserialize, Serialize};

use crate::activation::capture::columns;
use crate::activation::keep::squared_norm;
use crate::activation::{ActivationBatch, KeepRule};
use crate::compute::Backend;
use crate::error::Result;
use crate::hooks::{HookPoint, Site, SiteWidth, Taps, Want};
use crate::model::Model;
use crate::tokens::TokenBatch;
use crate::trainer::metrics::{
    LanguageModelMetrics, LanguageModelSums, ReconstructionMetrics, ReconstructionSums, TokenLosses,
};

/// A coder under evaluation: something that reconstructs rows of one site in raw space.
pub trait Reconstruct {
    /// The site.
    fn point(&self) -> HookPoint;

    /// Values a row.
    fn width(&self) -> usize;

    /// Latents.
    fn n_latents(&self) -> usize;

    /// `out = decode(encode(rows))`, `[n, width]`; `l0` gets the number of active latents of each row; `fired[i]` counts
    /// the rows in which latent `i` is active.
    fn reconstruct(&self, rows: &[f32], out: &mut Vec<f32>, l0: &mut Vec<u32>, fired: &mut [u64]) -> Result<()>;
}

/// Metrics of one coder on held-out text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Reconstruction metrics.
    #[serde(flatten)]
    pub reconstruction: ReconstructionMetrics,
    /// Metrics in the host model; absent where changing the site changes nothing downstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language_model: Option<LanguageModelMetrics>,
}

/// Running sums for one coder.
struct Sums {
    reconstruction: ReconstructionSums,
    language_model: Option<LanguageModelSums>,
}

/// Rows of logits computed at a time.
pub const LOGIT_ROWS: usize = 128;

/// Evaluate `coders` on batches of held-out text until `tokens` have been computed. `None` for all where there is no
/// held-out text.
pub fn evaluate<B: Backend>(
    model: &mut dyn Model<B>,
    coders: &[&dyn Reconstruct],
    keep: &KeepRule,
    tokens: u64,
    mut next_batch: impl FnMut() -> Result<Option<TokenBatch>>,
) -> Result<Vec<Option<Evaluation>>> {
    let mut sums: Vec<Sums> = coders
        .iter()
        .map(|coder| Sums {
            reconstruction: ReconstructionSums::new(coder.width(), coder.n_latents()),
            language_model: coder.point().site.edits_propagate().then(LanguageModelSums::default),
        })
        .collect();
    let mut seen = 0;
    while seen < tokens {
        let Some(batch) = next_batch()? else { break };
        if batch.n_tokens() == 0 {
            continue;
        }
        seen += batch.n_tokens() as u64;
        evaluate_batch(model, coders, keep, &batch, &mut sums)?;
    }
    let finish = |s: &Sums| {
        let language_model = s.language_model.as_ref().and_then(LanguageModelSums::finish);
        s.reconstruction.finish().map(|reconstruction| Evaluation { reconstruction, language_model })
    };
    Ok(sums.iter().map(finish).collect())
}

/// Evaluate `coders` on stored rows, at least `rows` of them where there are as many: how well they reconstruct. `None` for
/// all where nothing is held out.
pub fn evaluate_rows(
    coders: &[&dyn Reconstruct],
    rows: u64,
    mut next_batch: impl FnMut() -> Result<Option<ActivationBatch>>,
) -> Result<Vec<Option<Evaluation>>> {
    let new = |coder: &&dyn Reconstruct| ReconstructionSums::new(coder.width(), coder.n_latents());
    let mut sums: Vec<ReconstructionSums> = coders.iter().map(new).collect();
    let mut seen = 0;
    while seen < rows {
        let Some(batch) = next_batch()? else { break };
        seen += batch.n_rows() as u64;
        for (coder, sums) in coders.iter().zip(&mut sums) {
            let Some(site) = batch.site(coder.point()) else { continue };
            let (mut out, mut l0) = (Vec::new(), Vec::new());
            coder.reconstruct(&site.data, &mut out, &mut l0, sums.fired_mut())?;
            sums.add(&site.data, &out, &l0);
        }
    }
    let finish = |sums: &ReconstructionSums| {
        sums.finish().map(|reconstruction| Evaluation { reconstruction, language_model: None })
    };
    Ok(sums.iter().map(finish).collect())
}

fn evaluate_batch<B: Backend>(
    model: &mut dyn Model<B>,
    coders: &[&dyn Reconstruct],
    keep: &KeepRule,
    batch: &TokenBatch,
    sums: &mut [Sums],
) -> Result<()> {
    let mut dropped = vec![Default::default(); batch.n_sequences()];
    let allowed = keep.by_token(batch, &mut dropped);
    let any_language_model = sums.iter().any(|s| s.language_model.is_some());
    let mut clean = SpliceTap::default();
    for coder in coders {
        clean.capture(coder.point(), coder.width(), &allowed);
    }
    if any_language_model {
        let width = model.spec().d_model;
        clean.capture(HookPoint::outside(Site::LnFinalOut), width, &allowed);
    }
    model.forward(batch, &mut clean)?;
    let next_token = targets(batch);
    for (i, coder) in coders.iter().enumerate() {
        let (point, width) = (coder.point(), coder.width());
        let values = &clean.captured[i].data;
        let kept: Vec<usize> = (0..allowed.len())
            .filter(|&j| keep.by_value(point, squared_norm(&values[j * width..][..width])).is_none())
            .collect();
        let rows: Vec<f32> = kept.iter().flat_map(|&j| &values[j * width..][..width]).copied().collect();
        let (mut out, mut l0) = (Vec::new(), Vec::new());
        coder.reconstruct(&rows, &mut out, &mut l0, sums[i].reconstruction.fired_mut())?;
        sums[i].reconstruction.add(&rows, &out, &l0);
        let Some(sums) = &mut sums[i].language_model else { continue };
        let positions: Vec<u32> = kept.iter().map(|&j| allowed[j]).collect();
        let scored: Vec<usize> = kept.iter().copied().filter(|&j| next_token[allowed[j] as usize].is_some()).collect();
        let scored_rows: Vec<u32> = scored.iter().map(|&j| allowed[j]).collect();
        let final_width = model.spec().d_model;
        let spliced = replaced(model, batch, point, width, &positions, &out, &scored_rows)?;
        let ablated = replaced(model, batch, point, width, &positions, &vec![0.0; out.len()], &scored_rows)?;
        let hidden = &clean.captured.last().expect("the final norm was asked for").data;
        let original: Vec<f32> =
            scored.iter().flat_map(|&j| &hidden[j * final_width..][..final_width]).copied().collect();
        let target_ids: Vec<u32> = scored_rows.iter().filter_map(|&r| next_token[r as usize]).collect();
        score(model, [&original, &spliced, &ablated], &target_ids, final_width, sums)?;
    }
    Ok(())
}

/// The final norm's output at `scored` rows when `positions` of `point` hold `values` instead.
fn replaced<B: Backend>(
    model: &mut dyn Model<B>,
    batch: &TokenBatch,
    point: HookPoint,
    width: usize,
    positions: &[u32],
    values: &[f32],
    scored: &[u32],
) -> Result<Vec<f32>> {
    let splice = Splice { site: (point, width), positions, values };
    let mut tap = SpliceTap { splice: Some(splice), ..SpliceTap::default() };
    tap.capture(HookPoint::outside(Site::LnFinalOut), model.spec().d_model, scored);
    model.forward(batch, &mut tap)?;
    Ok(std::mem::take(&mut tap.captured[0].data))
}

/// Cross-entropy and divergence of each scored row, a block of logits at a time.
fn score<B: Backend>(
    model: &mut dyn Model<B>,
    hidden: [&[f32]; 3],
    targets: &[u32],
    width: usize,
    sums: &mut LanguageModelSums,
) -> Result<()> {
    let mut logits: [Vec<f32>; 3] = Default::default();
    for (block, targets) in targets.chunks(LOGIT_ROWS).enumerate() {
        let rows = block * LOGIT_ROWS * width..(block * LOGIT_ROWS + targets.len()) * width;
        for (hidden, logits) in hidden.iter().zip(&mut logits) {
            model.unembed(&hidden[rows.clone()], logits)?;
        }
        let v = logits[0].len() / targets.len();
        for (j, &target) in targets.iter().enumerate() {
            let [clean, spliced, ablated] = logits.each_ref().map(|l| log_softmax(&l[j * v..(j + 1) * v]));
            sums.add(&TokenLosses {
                clean: -clean[target as usize],
                spliced: -spliced[target as usize],
                zero_ablated: -ablated[target as usize],
                kl: clean.iter().zip(&spliced).map(|(p, q)| p.exp() * (p - q)).sum(),
            });
        }
    }
    Ok(())
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    let shift = f64::from(max) + sum.ln();
    logits.iter().map(|&x| f64::from(x) - shift).collect()
}

/// `[n_tokens]` the token after each row within its attention context.
fn targets(batch: &TokenBatch) -> Vec<Option<u32>> {
    let mut next = vec![None; batch.n_tokens()];
    for segment in &batch.segments {
        let rows = segment.start as usize..(segment.start + segment.len) as usize;
        let following = batch.ids[rows.clone()].iter().skip(1);
        next[rows].iter_mut().zip(following).for_each(|(next, &id)| *next = Some(id));
    }
    next
}

/// Captures rows of some points, and replaces rows of at most one.
#[derive(Default)]
struct SpliceTap<'a> {
    captured: Vec<Captured<'a>>,
    splice: Option<Splice<'a>>,
}

/// Values `[positions.len(), width]` that stand in for those of a site.
struct Splice<'a> {
    site: SiteWidth,
    positions: &'a [u32],
    values: &'a [f32],
}

struct Captured<'a> {
    site: SiteWidth,
    rows: &'a [u32],
    data: Vec<f32>,
}

impl<'a> SpliceTap<'a> {
    fn capture(&mut self, point: HookPoint, width: usize, rows: &'a [u32]) {
        self.captured.push(Captured { site: (point, width), rows, data: vec![0.0; rows.len() * width] });
    }
}

impl<B: Backend> Taps<B> for SpliceTap<'_> {
    fn wants(&self, point: HookPoint) -> Want {
        if self.splice.as_ref().is_some_and(|splice| splice.site.0.whole() == point) {
            Want::Edit
        } else if self.captured.iter().any(|c| c.site.0.whole() == point) {
            Want::Read
        } else {
            Want::Nothing
        }
    }

    fn visit(&mut self, backend: &B, point: HookPoint, value: &mut B::Tensor, _: usize, width: usize) -> Result<()> {
        if let Some(Splice { site, positions, values }) = &self.splice
            && site.0.whole() == point
        {
            let columns = columns(*site, width)?;
            for (&row, values) in positions.iter().zip(values.chunks_exact(columns.len())) {
                backend.write(value, row as usize * width + columns.start, values);
            }
        }
        for captured in self.captured.iter_mut().filter(|c| c.site.0.whole() == point) {
            backend.gather_rows(value, width, columns(captured.site, width)?, captured.rows, &mut captured.data);
        }
        Ok(())
    }
}
