//! Forward passes in which rows of one site are replaced, and what the model loses by it.

use std::ops::Range;

use crate::activation::capture::columns;
use crate::compute::Backend;
use crate::error::Result;
use crate::hooks::{HookPoint, Site, SiteWidth, Taps, Want};
use crate::model::Model;
use crate::tokens::TokenBatch;

/// Rows of logits computed at a time.
pub const LOGIT_ROWS: usize = 128;

/// The final norm's output at `scored` rows when `positions` of the sites hold `values` `[positions, all sites]` instead.
pub(super) fn replaced<B: Backend>(
    model: &mut dyn Model<B>,
    batch: &TokenBatch,
    sites: &[SiteWidth],
    positions: &[u32],
    values: &[f32],
    scored: &[u32],
) -> Result<Vec<f32>> {
    let whole = sites.iter().map(|(_, width)| width).sum();
    let (mut splices, mut at) = (Vec::new(), 0);
    for &site in sites {
        splices.push(Splice { site, positions, values: columns_of(values, whole, at..at + site.1) });
        at += site.1;
    }
    let mut tap = SpliceTap { splices, ..SpliceTap::default() };
    tap.capture(HookPoint::outside(Site::LnFinalOut), model.spec().d_model, scored);
    model.forward(batch, &mut tap)?;
    Ok(std::mem::take(&mut tap.captured[0].data))
}

/// What the model says of each scored row with other values in a site's place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compared {
    /// Cross-entropy of the target, untouched.
    pub(super) clean: f64,
    /// With the other values.
    pub(super) other: f64,
    /// `KL(clean || other)`.
    pub(super) kl: f64,
}

/// Compare each row of the final norm's output `clean` `[n, width]` with that of `other`, a block of logits at a time.
pub(super) fn compare<B: Backend>(
    model: &mut dyn Model<B>,
    clean: &[f32],
    other: &[f32],
    targets: &[u32],
    width: usize,
) -> Result<Vec<Compared>> {
    let (mut p, mut q) = (Vec::new(), Vec::new());
    let mut found = Vec::with_capacity(targets.len());
    for (block, targets) in targets.chunks(LOGIT_ROWS).enumerate() {
        let rows = block * LOGIT_ROWS * width..(block * LOGIT_ROWS + targets.len()) * width;
        model.unembed(&clean[rows.clone()], &mut p)?;
        model.unembed(&other[rows], &mut q)?;
        let v = p.len() / targets.len();
        for (j, &target) in targets.iter().enumerate() {
            let (clean, other) = (log_softmax(&p[j * v..(j + 1) * v]), log_softmax(&q[j * v..(j + 1) * v]));
            found.push(Compared {
                clean: -clean[target as usize],
                other: -other[target as usize],
                kl: clean.iter().zip(&other).map(|(p, q)| p.exp() * (p - q)).sum(),
            });
        }
    }
    Ok(found)
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    let shift = f64::from(max) + sum.ln();
    logits.iter().map(|&x| f64::from(x) - shift).collect()
}

/// `[n_tokens]` the token after each row within its attention context.
pub(super) fn targets(batch: &TokenBatch) -> Vec<Option<u32>> {
    let mut next = vec![None; batch.n_tokens()];
    for segment in &batch.segments {
        let rows = segment.start as usize..(segment.start + segment.len) as usize;
        let following = batch.ids[rows.clone()].iter().skip(1);
        next[rows].iter_mut().zip(following).for_each(|(next, &id)| *next = Some(id));
    }
    next
}

/// Some columns of rows of `width` values.
pub(super) fn columns_of(rows: &[f32], width: usize, columns: Range<usize>) -> Vec<f32> {
    rows.chunks_exact(width).flat_map(|row| &row[columns.clone()]).copied().collect()
}

/// Chosen rows of several sites, side by side, overwrite `out`: `values` are those of each site.
pub(in crate::pipeline) fn side_by_side(
    values: &[&[f32]],
    sites: &[SiteWidth],
    rows: impl IntoIterator<Item = usize>,
    out: &mut Vec<f32>,
) {
    out.clear();
    for row in rows {
        for (values, (_, width)) in values.iter().zip(sites) {
            out.extend_from_slice(&values[row * width..][..*width]);
        }
    }
}

/// Captures rows of some points, and replaces rows of others.
#[derive(Default)]
pub(super) struct SpliceTap<'a> {
    pub(super) captured: Vec<Captured<'a>>,
    splices: Vec<Splice<'a>>,
}

/// Values `[positions.len(), width]` that stand in for those of a site.
struct Splice<'a> {
    site: SiteWidth,
    positions: &'a [u32],
    values: Vec<f32>,
}

/// Rows of a site as the pass had them.
pub(super) struct Captured<'a> {
    site: SiteWidth,
    rows: &'a [u32],
    pub(super) data: Vec<f32>,
}

impl<'a> SpliceTap<'a> {
    /// What was captured of a site.
    pub(super) fn of(&self, site: SiteWidth) -> Option<&[f32]> {
        self.captured.iter().find(|captured| captured.site == site).map(|captured| &captured.data[..])
    }

    /// Capture `rows` of `point`.
    pub(super) fn capture(&mut self, point: HookPoint, width: usize, rows: &'a [u32]) {
        self.captured.push(Captured { site: (point, width), rows, data: vec![0.0; rows.len() * width] });
    }
}

impl<B: Backend> Taps<B> for SpliceTap<'_> {
    fn wants(&self, point: HookPoint) -> Want {
        if self.splices.iter().any(|splice| splice.site.0.whole() == point) {
            Want::Edit
        } else if self.captured.iter().any(|c| c.site.0.whole() == point) {
            Want::Read
        } else {
            Want::Nothing
        }
    }

    fn visit(&mut self, backend: &B, point: HookPoint, value: &mut B::Tensor, _: usize, width: usize) -> Result<()> {
        for Splice { site, positions, values } in self.splices.iter().filter(|s| s.site.0.whole() == point) {
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
