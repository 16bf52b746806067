//! Trained coders on held-out text: how well they reconstruct, and what the model loses when it reads the reconstruction
//! instead of the activation.
//!
//! Each held-out batch is computed once clean; for each site once with zeros in place of its activations (and once with
//! their mean, where that was measured); and for each coder once with its reconstructions. Replacements touch exactly the
//! rows that training would keep (special tokens, excluded positions and outliers stay as they are), and cross-entropy is
//! averaged over those of them that have a next token in their attention context. Of a coder of one head only that head
//! is replaced. Of a coder that reconstructs several sites all are replaced at once, in rows that all of them keep. Definitions are those of [`crate::evaluation`].

use crate::activation::{ActivationBatch, KeepRule};
use crate::compute::Backend;
use crate::error::Result;
use crate::evaluation::dark_matter::DarkMatterSums;
use crate::evaluation::language_model::{LanguageModelSums, TokenLosses};
use crate::evaluation::reconstruction::ReconstructionSums;
use crate::evaluation::sample::CodeSample;
use crate::evaluation::sparsity::SparsitySums;
use crate::evaluation::{Evaluation, SiteEvaluation};
use crate::hooks::{HookPoint, Site, SiteWidth};
use crate::model::Model;
use crate::pipeline::kept::{Kept, capture, stored};
use crate::pipeline::splice::{self, Compared, SpliceTap};
use crate::sae::codes::Codes;
use crate::tokens::TokenBatch;

pub use crate::pipeline::splice::LOGIT_ROWS;

/// A coder under evaluation: something that reconstructs rows in raw space.
pub trait Reconstruct {
    /// The sites that it reads, side by side.
    fn reads(&self) -> &[SiteWidth];

    /// The sites that it reconstructs, side by side: those that it reads, but for a transcoder.
    fn writes(&self) -> &[SiteWidth];

    /// Latents.
    fn n_latents(&self) -> usize;

    /// `out = decode(encode(rows))`: `rows` `[n, values read]`, `out` `[n, values written]`; and the codes between. Both are
    /// overwritten.
    fn reconstruct(&self, rows: &[f32], out: &mut Vec<f32>, codes: &mut Codes) -> Result<()>;
}

/// How much is measured.
#[derive(Clone, Debug, Default)]
pub struct Depth {
    /// For each coder the mean of its rows over the sample ([`Means`]), if it was measured.
    pub means: Option<Vec<Vec<f64>>>,
    /// Whether codes are kept and errors are analysed.
    pub closely: bool,
}

/// Running sums for one coder.
pub struct CoderSums {
    /// Rows and reconstructions.
    pub reconstruction: ReconstructionSums,
    /// Codes.
    pub sparsity: SparsitySums,
    /// In the host model.
    pub language_model: Option<LanguageModelSums>,
    /// Codes of the first rows, if they are kept.
    pub sample: Option<CodeSample>,
    /// Moments of errors, if they are analysed.
    pub dark_matter: Option<DarkMatterSums>,
    /// The same, of each site where several are reconstructed.
    parts: Vec<(SiteWidth, ReconstructionSums)>,
    mean: Option<Vec<f32>>,
    codes: Codes,
    out: Vec<f32>,
}

/// Values of a row of several sites.
pub fn width(sites: &[SiteWidth]) -> usize {
    sites.iter().map(|(_, width)| width).sum()
}

impl CoderSums {
    fn new(coder: &dyn Reconstruct, mean: Option<&Vec<f64>>, closely: bool) -> Self {
        let width = width(coder.writes());
        let sums = |at: usize, width: usize| match mean {
            Some(mean) => ReconstructionSums::about(mean[at..at + width].to_vec()),
            None => ReconstructionSums::new(width),
        };
        let (mut parts, mut at) = (Vec::new(), 0);
        for &site in coder.writes().iter().filter(|_| coder.writes().len() > 1) {
            parts.push((site, sums(at, site.1)));
            at += site.1;
        }
        Self {
            reconstruction: sums(0, width),
            parts,
            sparsity: SparsitySums::new(coder.n_latents()),
            language_model: None,
            sample: closely.then(CodeSample::default),
            dark_matter: if closely { DarkMatterSums::new(self::width(coder.reads()), width) } else { None },
            mean: mean.map(|mean| mean.iter().map(|&x| x as f32).collect()),
            codes: Codes::default(),
            out: Vec::new(),
        }
    }

    /// Reconstruct the target from the input, of rows whose ids ascend from batch to batch and that are of `prompts`, if that
    /// is known; `self.out` holds the reconstructions.
    fn add(
        &mut self,
        coder: &dyn Reconstruct,
        (input, target): (&[f32], &[f32]),
        ids: &[u64],
        prompts: Option<&[u64]>,
    ) -> Result<()> {
        coder.reconstruct(input, &mut self.out, &mut self.codes)?;
        let rows = target;
        self.reconstruction.add(rows, &self.out);
        let (whole, mut at) = (width(coder.writes()), 0);
        for ((_, width), sums) in &mut self.parts {
            let own = |values: &[f32]| splice::columns_of(values, whole, at..at + *width);
            sums.add(&own(rows), &own(&self.out));
            at += *width;
        }
        self.sparsity.add_read(&self.codes, input, prompts);
        if let Some(sample) = &mut self.sample {
            sample.add(ids, &self.codes);
        }
        if let Some(dark_matter) = &mut self.dark_matter {
            dark_matter.add(input, rows, &self.out);
        }
        Ok(())
    }

    /// The metrics; `None` without rows.
    pub fn evaluation(&self) -> Option<Evaluation> {
        let of_sites: Vec<f64> = self.parts.iter().filter_map(|(_, sums)| Some(sums.finish()?.fvu)).collect();
        Some(Evaluation {
            reconstruction: self.reconstruction.finish()?,
            fvu_of_sites: (!of_sites.is_empty()).then(|| of_sites.iter().sum::<f64>() / of_sites.len() as f64),
            sparsity: self.sparsity.finish()?,
            language_model: self.language_model.as_ref().and_then(LanguageModelSums::finish),
            sites: self
                .parts
                .iter()
                .filter_map(|((point, _), sums)| {
                    let reconstruction = sums.finish()?;
                    Some(SiteEvaluation { site: point.to_string(), reconstruction })
                })
                .collect(),
        })
    }
}

fn new_sums(coders: &[&dyn Reconstruct], depth: &Depth) -> Vec<CoderSums> {
    let mean = |i: usize| depth.means.as_ref().and_then(|means| means.get(i));
    coders.iter().enumerate().map(|(i, coder)| CoderSums::new(*coder, mean(i), depth.closely)).collect()
}

/// Evaluate `coders` on batches of held-out text until `tokens` have been computed.
pub fn evaluate<B: Backend>(
    model: &mut dyn Model<B>,
    coders: &[&dyn Reconstruct],
    keep: &KeepRule,
    tokens: u64,
    depth: &Depth,
    mut next_batch: impl FnMut() -> Result<Option<TokenBatch>>,
) -> Result<Vec<CoderSums>> {
    let mut sums = new_sums(coders, depth);
    for (coder, sums) in coders.iter().zip(&mut sums) {
        let propagate = coder.writes().iter().all(|(point, _)| point.site.edits_propagate());
        sums.language_model = propagate.then(LanguageModelSums::default);
    }
    let mut seen = 0;
    while seen < tokens {
        let Some(batch) = next_batch()? else { break };
        if batch.n_tokens() == 0 {
            continue;
        }
        evaluate_batch(model, coders, keep, (&batch, seen), &mut sums)?;
        seen += batch.n_tokens() as u64;
    }
    Ok(sums)
}

/// Evaluate `coders` on stored rows, at least `rows` of them where there are as many: how well they reconstruct.
pub fn evaluate_rows(
    coders: &[&dyn Reconstruct],
    rows: u64,
    depth: &Depth,
    mut next_batch: impl FnMut() -> Result<Option<ActivationBatch>>,
) -> Result<Vec<CoderSums>> {
    let mut sums = new_sums(coders, depth);
    let mut seen = 0;
    while seen < rows {
        let Some(batch) = next_batch()? else { break };
        let ids: Vec<u64> = (seen..seen + batch.n_rows() as u64).collect();
        for (coder, sums) in coders.iter().zip(&mut sums) {
            if let (Some(input), Some(target)) = (stored(&batch, coder.reads()), stored(&batch, coder.writes())) {
                // rows may have been shuffled since: those of a prompt need not come together
                sums.add(*coder, (&input, &target), &ids, None)?;
            }
        }
        seen += batch.n_rows() as u64;
    }
    Ok(sums)
}

/// The mean row of each coder's target over a sample.
pub struct Means {
    sums: Vec<(u64, Vec<f64>)>,
}

impl Means {
    fn new(coders: &[&dyn Reconstruct]) -> Self {
        Self { sums: coders.iter().map(|coder| (0, vec![0.0; width(coder.writes())])).collect() }
    }

    fn add(&mut self, coder: usize, rows: &[f32]) {
        let (n, sum) = &mut self.sums[coder];
        for row in rows.chunks_exact(sum.len()) {
            *n += 1;
            sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
        }
    }

    fn finish(self) -> Vec<Vec<f64>> {
        let mean = |(n, sum): (u64, Vec<f64>)| sum.into_iter().map(|x| x / n.max(1) as f64).collect();
        self.sums.into_iter().map(mean).collect()
    }

    /// Of the rows that [`evaluate`] will judge.
    pub fn of_text<B: Backend>(
        model: &mut dyn Model<B>,
        coders: &[&dyn Reconstruct],
        keep: &KeepRule,
        tokens: u64,
        mut next_batch: impl FnMut() -> Result<Option<TokenBatch>>,
    ) -> Result<Vec<Vec<f64>>> {
        let (mut means, mut seen) = (Self::new(coders), 0);
        while seen < tokens {
            let Some(batch) = next_batch()? else { break };
            seen += batch.n_tokens() as u64;
            let allowed = keep.by_token(&batch, &mut vec![Default::default(); batch.n_sequences()]);
            let mut tap = SpliceTap::default();
            capture(&mut tap, coders, &allowed);
            model.forward(&batch, &mut tap)?;
            for (i, coder) in coders.iter().enumerate() {
                means.add(i, Kept::of(*coder, keep, &allowed, &tap).target());
            }
        }
        Ok(means.finish())
    }

    /// Of the rows that [`evaluate_rows`] will judge.
    pub fn of_rows(
        coders: &[&dyn Reconstruct],
        rows: u64,
        mut next_batch: impl FnMut() -> Result<Option<ActivationBatch>>,
    ) -> Result<Vec<Vec<f64>>> {
        let (mut means, mut seen) = (Self::new(coders), 0);
        while seen < rows {
            let Some(batch) = next_batch()? else { break };
            seen += batch.n_rows() as u64;
            for (i, coder) in coders.iter().enumerate() {
                if let Some(target) = stored(&batch, coder.writes()) {
                    means.add(i, &target);
                }
            }
        }
        Ok(means.finish())
    }
}

/// What the model says without the sites: once for all coders of them.
struct Ablated {
    /// Rows of the batch that are scored.
    scored: Vec<u32>,
    targets: Vec<u32>,
    /// `[scored, d_model]` the final norm's output.
    clean: Vec<f32>,
    zero: Vec<Compared>,
    mean: Option<Vec<Compared>>,
}

fn evaluate_batch<B: Backend>(
    model: &mut dyn Model<B>,
    coders: &[&dyn Reconstruct],
    keep: &KeepRule,
    (batch, seen): (&TokenBatch, u64),
    sums: &mut [CoderSums],
) -> Result<()> {
    let allowed = keep.by_token(batch, &mut vec![Default::default(); batch.n_sequences()]);
    let mut clean = SpliceTap::default();
    capture(&mut clean, coders, &allowed);
    if sums.iter().any(|s| s.language_model.is_some()) {
        clean.capture(HookPoint::outside(Site::LnFinalOut), model.spec().d_model, &allowed);
    }
    model.forward(batch, &mut clean)?;
    let mut sites: Vec<(Kept, Option<Ablated>)> = Vec::new();
    for (i, coder) in coders.iter().enumerate() {
        let same = |kept: &Kept| kept.reads == coder.reads() && kept.writes == coder.writes();
        let known = sites.iter().position(|(kept, _)| same(kept));
        let known = match known {
            Some(known) => known,
            None => {
                let kept = Kept::of(*coder, keep, &allowed, &clean);
                let ablated = match (&sums[i].language_model, clean.captured.last()) {
                    (Some(_), Some(hidden)) => {
                        let mean = sums[i].mean.as_deref();
                        Some(ablate(model, batch, (&kept, &allowed), &hidden.data, mean)?)
                    }
                    _ => None,
                };
                sites.push((kept, ablated));
                sites.len() - 1
            }
        };
        let (kept, ablated) = &sites[known];
        let ids: Vec<u64> = kept.positions.iter().map(|&row| seen + u64::from(row)).collect();
        let prompts: Vec<u64> = kept.positions.iter().map(|&row| prompt(batch, row)).collect();
        sums[i].add(*coder, (&kept.input, kept.target()), &ids, Some(&prompts))?;
        if let Some(ablated) = ablated {
            splice_in(model, batch, kept, ablated, &mut sums[i])?;
        }
    }
    Ok(())
}

/// The sequence of a row: a number that no other sequence of the stream has.
fn prompt(batch: &TokenBatch, row: u32) -> u64 {
    let sequence = batch.seq_starts.partition_point(|&start| start <= row).saturating_sub(1);
    (u64::from(batch.unit) << 32) | (u64::from(batch.first_seq) + sequence as u64)
}

/// Compute the batch without the sites: zeros in their place, and its mean if that is known.
fn ablate<B: Backend>(
    model: &mut dyn Model<B>,
    batch: &TokenBatch,
    (kept, allowed): (&Kept, &[u32]),
    hidden: &[f32],
    mean: Option<&[f32]>,
) -> Result<Ablated> {
    let width = model.spec().d_model;
    let next_token = splice::targets(batch);
    let at: Vec<usize> = kept.at.iter().copied().filter(|&j| next_token[allowed[j] as usize].is_some()).collect();
    let scored: Vec<u32> = at.iter().map(|&j| allowed[j]).collect();
    let targets: Vec<u32> = scored.iter().filter_map(|&row| next_token[row as usize]).collect();
    let clean: Vec<f32> = at.iter().flat_map(|&j| &hidden[j * width..][..width]).copied().collect();
    let mut with = |values: Vec<f32>| {
        let other = splice::replaced(model, batch, &kept.writes, &kept.positions, &values, &scored)?;
        splice::compare(model, &clean, &other, &targets, width)
    };
    let zero = with(vec![0.0; kept.target().len()])?;
    let mean = mean.map(|mean| with(mean.repeat(kept.positions.len()))).transpose()?;
    Ok(Ablated { scored, targets, clean, zero, mean })
}

/// Compute the batch with the reconstructions in `sums`, and add what the model says.
fn splice_in<B: Backend>(
    model: &mut dyn Model<B>,
    batch: &TokenBatch,
    kept: &Kept,
    ablated: &Ablated,
    sums: &mut CoderSums,
) -> Result<()> {
    let other = splice::replaced(model, batch, &kept.writes, &kept.positions, &sums.out, &ablated.scored)?;
    let width = model.spec().d_model;
    let found = splice::compare(model, &ablated.clean, &other, &ablated.targets, width)?;
    let Some(language_model) = &mut sums.language_model else { return Ok(()) };
    for (j, (spliced, zero)) in found.iter().zip(&ablated.zero).enumerate() {
        language_model.add(&TokenLosses {
            clean: spliced.clean,
            spliced: spliced.other,
            zero_ablated: zero.other,
            mean_ablated: ablated.mean.as_ref().map(|mean| mean[j].other),
            kl: spliced.kl,
            kl_zero_ablated: zero.kl,
        });
    }
    Ok(())
}
