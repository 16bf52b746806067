//! From a token batch to an activation batch: run the model with a tap that copies out the kept rows of every site.
//!
//! A model shows whole points; of a head, the tap copies only its columns.

use std::ops::Range;

use crate::accounting::DropCounts;
use crate::activation::batch::{ActivationBatch, SiteRows};
use crate::activation::keep::{KeepRule, squared_norm};
use crate::compute::Backend;
use crate::error::{Error, Result};
use crate::hooks::{HookPoint, SiteWidth, Taps, Want};
use crate::tokens::TokenBatch;

/// A tap that copies the given rows of the given points and heads to host memory.
pub struct CaptureTap<'a> {
    points: &'a [SiteWidth],
    rows: &'a [u32],
    sites: Vec<Option<SiteRows>>,
}

impl<'a> CaptureTap<'a> {
    /// Capture `rows` of each of `points`.
    pub fn new(points: &'a [SiteWidth], rows: &'a [u32]) -> Self {
        Self { points, rows, sites: points.iter().map(|_| None).collect() }
    }

    /// The captured rows, in the order of `points`. An error if the model never visited one of them.
    pub fn into_sites(self) -> Result<Vec<SiteRows>> {
        self.sites
            .into_iter()
            .zip(self.points)
            .map(|(site, (point, _))| site.ok_or_else(|| Error::internal(format!("the model did not visit `{point}`"))))
            .collect()
    }
}

impl<B: Backend> Taps<B> for CaptureTap<'_> {
    fn wants(&self, point: HookPoint) -> Want {
        let wanted = self.points.iter().any(|(wanted, _)| wanted.whole() == point);
        if wanted { Want::Read } else { Want::Nothing }
    }

    fn visit(
        &mut self,
        backend: &B,
        point: HookPoint,
        value: &mut B::Tensor,
        _n_rows: usize,
        width: usize,
    ) -> Result<()> {
        let wanted = self.points.iter().zip(&mut self.sites);
        for (&(point, n), site) in wanted.filter(|((wanted, _), _)| wanted.whole() == point) {
            let columns = columns((point, n), width)?;
            let mut data = vec![0.0; self.rows.len() * n];
            backend.gather_rows(value, width, columns, self.rows, &mut data);
            *site = Some(SiteRows { point, width: n, data });
        }
        Ok(())
    }
}

/// Where the values of `site` are in a row of `width` values of its whole point.
pub fn columns(site: SiteWidth, width: usize) -> Result<Range<usize>> {
    let (point, n) = site;
    let start = point.head.map_or(0, |head| head as usize * n);
    let fits = if point.head.is_some() { start + n <= width } else { n == width };
    if fits {
        Ok(start..start + n)
    } else {
        Err(Error::internal(format!("the model showed {width} values of `{point}`, which has {n}")))
    }
}

/// Capture `points` of `batch`. `forward` runs the model with the tap it is given.
///
/// Rows rejected by their tokens are never copied; rows rejected by their values at any site are then removed from all.
pub fn capture<B: Backend>(
    batch: TokenBatch,
    points: &[SiteWidth],
    keep: &KeepRule,
    forward: impl FnOnce(&TokenBatch, &mut dyn Taps<B>) -> Result<()>,
) -> Result<ActivationBatch> {
    let mut dropped = batch.dropped.clone();
    dropped.resize(batch.n_sequences(), DropCounts::new());
    let mut rows = keep.by_token(&batch, &mut dropped);
    let mut sites = if batch.n_tokens() == 0 {
        Vec::new()
    } else {
        let mut tap = CaptureTap::new(points, &rows);
        forward(&batch, &mut tap)?;
        tap.into_sites()?
    };
    drop_by_value(&batch, keep, &mut rows, &mut sites, &mut dropped);
    Ok(assemble(batch, rows, sites, dropped))
}

/// Remove the rows whose values are rejected, and count them where they belong.
fn drop_by_value(
    batch: &TokenBatch,
    keep: &KeepRule,
    rows: &mut Vec<u32>,
    sites: &mut [SiteRows],
    dropped: &mut [DropCounts],
) {
    let verdicts: Vec<_> = (0..rows.len())
        .map(|i| {
            sites.iter().find_map(|site| {
                let row = &site.data[i * site.width..][..site.width];
                keep.by_value(site.point, squared_norm(row))
            })
        })
        .collect();
    if verdicts.iter().all(Option::is_none) {
        return;
    }
    let mut sequence = 0;
    let mut n = 0;
    for (i, verdict) in verdicts.iter().enumerate() {
        match verdict {
            Some(reason) => {
                while rows[i] >= batch.seq_starts[sequence + 1] {
                    sequence += 1;
                }
                dropped[sequence].add(*reason, 1);
            }
            None => {
                rows[n] = rows[i];
                for site in sites.iter_mut() {
                    site.data.copy_within(i * site.width..(i + 1) * site.width, n * site.width);
                }
                n += 1;
            }
        }
    }
    rows.truncate(n);
    for site in sites {
        site.data.truncate(n * site.width);
    }
}

/// Attach to the kept rows what each of them is.
fn assemble(batch: TokenBatch, rows: Vec<u32>, sites: Vec<SiteRows>, dropped: Vec<DropCounts>) -> ActivationBatch {
    let mut seq = Vec::with_capacity(rows.len());
    let mut pos = Vec::with_capacity(rows.len());
    let mut seq_starts = Vec::with_capacity(batch.n_sequences() + 1);
    seq_starts.push(0);
    let mut next = 0;
    for sequence in 0..batch.n_sequences() {
        let (start, end) = (batch.seq_starts[sequence], batch.seq_starts[sequence + 1]);
        while next < rows.len() && rows[next] < end {
            seq.push(batch.first_seq + sequence as u32);
            pos.push(rows[next] - start);
            next += 1;
        }
        seq_starts.push(next as u32);
    }
    ActivationBatch {
        index: batch.index,
        unit: batch.unit,
        batch_in_unit: batch.batch_in_unit,
        first_seq: batch.first_seq,
        doc_id: rows.iter().map(|&r| batch.doc_ids[r as usize]).collect(),
        token_id: rows.iter().map(|&r| batch.ids[r as usize]).collect(),
        sites,
        seq,
        pos,
        seq_starts,
        dropped,
        dropped_at_end: batch.dropped_at_end,
        n_tokens: batch.ids.len() as u32,
        documents: batch.documents,
        ends_unit: batch.ends_unit,
        cursor_after: batch.cursor_after,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::DropReason;
    use crate::compute::reference::Reference;
    use crate::hooks::Site;
    use crate::tokens::config::ExcludeConfig;

    fn sites(points: &[HookPoint]) -> Vec<SiteWidth> {
        points.iter().map(|&point| (point, 2)).collect()
    }

    /// Value of row r, column c: r + c/10; row 3 holds a NaN and row 4 is huge.
    fn visit(tap: &mut dyn Taps<Reference>, points: &[HookPoint]) -> Result<()> {
        for &point in points {
            let mut x: Vec<f64> = (0..12).map(|i| f64::from(i / 2) + f64::from(i % 2) / 10.0).collect();
            x[7] = f64::NAN;
            x[8] = 1e9;
            tap.visit(&Reference, point, &mut x, 6, 2)?;
        }
        Ok(())
    }

    #[test]
    fn rejected_rows_leave_all_sites_and_are_counted_where_they_belong() {
        let points = [HookPoint::block(0, Site::ResidPost), HookPoint::block(1, Site::MlpOut)];
        let batch = TokenBatch {
            unit: 3,
            first_seq: 10,
            ids: vec![0, 11, 12, 13, 14, 15],
            positions: vec![0, 1, 2, 0, 1, 2],
            doc_ids: vec![7; 6],
            seq_starts: vec![0, 3, 6],
            dropped: vec![DropCounts::new(); 2],
            ..TokenBatch::default()
        };
        let keep = KeepRule::new(&ExcludeConfig::default(), &[0]).with_norm_limits(vec![(points[1], 1e3)]);
        let out = capture::<Reference>(batch, &sites(&points), &keep, |_, tap| visit(tap, &points)).unwrap();
        assert_eq!(out.token_id, [11, 12, 15]);
        assert_eq!(out.seq, [10, 10, 11]);
        assert_eq!(out.pos, [1, 2, 2]);
        assert_eq!(out.seq_starts, [0, 2, 3]);
        for site in &out.sites {
            assert_eq!(site.data, [1.0, 1.1, 2.0, 2.1, 5.0, 5.1]);
        }
        assert_eq!(out.dropped[0].get(DropReason::SpecialToken), 1);
        assert_eq!(out.dropped[1].get(DropReason::NonFinite), 1);
        assert_eq!(out.dropped[1].get(DropReason::OutlierNorm), 1);
    }

    #[test]
    fn heads_are_columns_of_the_whole() {
        let z = HookPoint::block(0, Site::Z);
        let wanted = [(z, 6), (z.at_head(0), 2), (z.at_head(2), 2)];
        let mut tap = CaptureTap::new(&wanted, &[0, 2]);
        assert_eq!(Taps::<Reference>::wants(&tap, z), Want::Read);
        assert_eq!(Taps::<Reference>::wants(&tap, HookPoint::block(1, Site::Z)), Want::Nothing);
        let mut value: Vec<f64> = (0..18).map(f64::from).collect();
        tap.visit(&Reference, z, &mut value, 3, 6).unwrap();
        let [whole, first, last] = tap.into_sites().unwrap().try_into().unwrap();
        assert_eq!(whole.data, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0]);
        assert_eq!((first.point, first.width, first.data), (z.at_head(0), 2, vec![0.0, 1.0, 12.0, 13.0]));
        assert_eq!((last.point, last.width, last.data), (z.at_head(2), 2, vec![4.0, 5.0, 16.0, 17.0]));
    }

    #[test]
    fn a_width_that_the_model_did_not_declare_is_a_bug() {
        let z = HookPoint::block(0, Site::Z);
        for wanted in [(z, 5), (z.at_head(3), 2), (z.at_head(0), 7)] {
            let wanted = [wanted];
            let mut tap = CaptureTap::new(&wanted, &[0]);
            let error = tap.visit(&Reference, z, &mut vec![0.0; 6], 1, 6).unwrap_err();
            assert!(error.to_string().contains("showed 6 values"), "{error}");
        }
    }

    #[test]
    fn a_model_that_skips_a_site_is_a_bug_that_is_named() {
        let points = [HookPoint::block(0, Site::ResidPost)];
        let batch = TokenBatch { ids: vec![1], positions: vec![0], seq_starts: vec![0, 1], ..TokenBatch::default() };
        let error = capture::<Reference>(batch, &sites(&points), &KeepRule::default(), |_, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains("blocks.0.hook_resid_post"));
    }
}
