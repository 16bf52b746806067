//! Which rows are kept: decided by tokens before the forward pass, by values after it. Every rejected row is counted.

use std::collections::{BTreeMap, BTreeSet};

use crate::accounting::{DropCounts, DropReason};
use crate::hooks::HookPoint;
use crate::tokens::TokenBatch;
use crate::tokens::config::ExcludeConfig;

/// The rule by which rows are kept: fixed for a run, the same on every worker.
#[derive(Clone, Debug, Default)]
pub struct KeepRule {
    special: BTreeSet<u32>,
    positions: BTreeSet<u32>,
    /// Largest norm a row may have at a site; sites without an entry accept any finite row.
    norm_limits: BTreeMap<HookPoint, f32>,
    /// The sites whose values decide; `None`: all that are captured.
    judged: Option<BTreeSet<HookPoint>>,
}

impl KeepRule {
    /// The rule of `exclude`, given the ids of special tokens. Norm limits come later, once they are measured.
    pub fn new(exclude: &ExcludeConfig, special_ids: &[u32]) -> Self {
        let special = if exclude.special { special_ids.iter().copied().collect() } else { BTreeSet::new() };
        Self { special, positions: exclude.positions.iter().copied().collect(), ..Self::default() }
    }

    /// The same rule with norm limits.
    pub fn with_norm_limits(mut self, limits: Vec<(HookPoint, f32)>) -> Self {
        self.norm_limits = limits.into_iter().collect();
        self
    }

    /// The same rule, by which only the values at these points decide: whatever else is captured has the same rows.
    pub fn judging(mut self, points: impl IntoIterator<Item = HookPoint>) -> Self {
        self.judged = Some(points.into_iter().collect());
        self
    }

    /// The largest norm that a row may have at `point`.
    pub fn norm_limit(&self, point: HookPoint) -> Option<f32> {
        self.norm_limits.get(&point).copied()
    }

    /// The rows of `batch` that its tokens allow, with what was rejected by sequence (added to `dropped`, `[n_sequences]`).
    pub fn by_token(&self, batch: &TokenBatch, dropped: &mut [DropCounts]) -> Vec<u32> {
        assert_eq!(dropped.len(), batch.n_sequences());
        let mut kept = Vec::with_capacity(batch.n_tokens());
        for (sequence, dropped) in dropped.iter_mut().enumerate() {
            for row in batch.sequence_rows(sequence) {
                if self.special.contains(&batch.ids[row]) {
                    dropped.add(DropReason::SpecialToken, 1);
                } else if batch.outside.get(row) == Some(&true) {
                    dropped.add(DropReason::OutsideAssistant, 1);
                } else if self.positions.contains(&batch.positions[row]) {
                    dropped.add(DropReason::ExcludedPosition, 1);
                } else {
                    kept.push(row as u32);
                }
            }
        }
        kept
    }

    /// Why a row with this squared norm (NaN or infinite if any value is) at `point` is rejected, if it is.
    pub fn by_value(&self, point: HookPoint, squared_norm: f64) -> Option<DropReason> {
        if self.judged.as_ref().is_some_and(|judged| !judged.contains(&point)) {
            return None;
        }
        if !squared_norm.is_finite() {
            return Some(DropReason::NonFinite);
        }
        let limit = f64::from(self.norm_limit(point)?);
        (squared_norm > limit * limit).then_some(DropReason::OutlierNorm)
    }
}

/// Whether the norm rule applies to a site or a head of it ([`crate::hooks::Site::has_norm`]). Rows that are not finite are
/// dropped everywhere.
pub fn has_norm_limit(point: HookPoint) -> bool {
    point.site.has_norm()
}

/// Squared Euclidean norm in f64.
pub fn squared_norm(row: &[f32]) -> f64 {
    // eight partial sums: the loop vectorises, and the result does not depend on the machine's vector width
    let mut sums = [0f64; 8];
    let blocks = row.chunks_exact(8);
    let rest = blocks.remainder();
    for block in blocks {
        for (sum, &x) in sums.iter_mut().zip(block) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
}

/// Whether a row has neither NaN nor an infinity.
pub fn is_finite(row: &[f32]) -> bool {
    // no early end: the loop vectorises
    row.iter().fold(true, |all, x| all & x.is_finite())
}

/// The middle value (the lower of two); 0 of none. Reorders `values`.
pub fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let middle = (values.len() - 1) / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::Site;
    use crate::tokens::Segment;

    fn batch() -> TokenBatch {
        TokenBatch {
            ids: vec![0, 5, 6, 1, 0, 7],
            positions: vec![0, 1, 2, 3, 0, 1],
            seq_starts: vec![0, 4, 6],
            segments: vec![Segment { start: 0, len: 4 }, Segment { start: 4, len: 2 }],
            ..TokenBatch::default()
        }
    }

    #[test]
    fn special_tokens_and_positions_are_counted_by_sequence() {
        let exclude = ExcludeConfig { positions: vec![2], ..ExcludeConfig::default() };
        let mut dropped = vec![DropCounts::new(); 2];
        let kept = KeepRule::new(&exclude, &[0, 1]).by_token(&batch(), &mut dropped);
        assert_eq!(kept, [1, 5]);
        assert_eq!(dropped[0].get(DropReason::SpecialToken), 2);
        assert_eq!(dropped[0].get(DropReason::ExcludedPosition), 1);
        assert_eq!(dropped[1].get(DropReason::SpecialToken), 1);
    }

    #[test]
    fn rows_outside_the_assistants_text_are_counted_as_such() {
        let batch = TokenBatch { outside: vec![true, true, false, true, true, false], ..batch() };
        let mut dropped = vec![DropCounts::new(); 2];
        let kept = KeepRule::new(&ExcludeConfig::default(), &[0, 1]).by_token(&batch, &mut dropped);
        assert_eq!(kept, [2, 5]);
        assert_eq!(dropped[0].get(DropReason::OutsideAssistant), 1);
        assert_eq!(dropped[0].get(DropReason::SpecialToken), 2, "a special token is that first");
    }

    #[test]
    fn values_are_judged_by_site() {
        let point = HookPoint::block(0, Site::ResidPost);
        let rule = KeepRule::default().with_norm_limits(vec![(point, 10.0)]);
        assert_eq!(rule.by_value(point, 100.0), None);
        assert_eq!(rule.by_value(point, 100.1), Some(DropReason::OutlierNorm));
        assert_eq!(rule.by_value(HookPoint::block(1, Site::ResidPost), 1e9), None);
        assert_eq!(rule.by_value(point, squared_norm(&[1.0, f32::NAN])), Some(DropReason::NonFinite));
    }

    #[test]
    fn medians_are_the_lower_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.0);
        assert_eq!(median(&mut []), 0.0);
    }
}
