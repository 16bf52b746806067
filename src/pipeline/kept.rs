//! The rows that coders are judged on: of a forward pass, or of a stored batch.

use std::borrow::Cow;

use crate::activation::keep::squared_norm;
use crate::activation::{ActivationBatch, KeepRule};
use crate::hooks::SiteWidth;
use crate::pipeline::evaluate::Reconstruct;
use crate::pipeline::splice::{self, SpliceTap};

/// Have the sites of all coders captured, each once.
pub(super) fn capture<'a>(tap: &mut SpliceTap<'a>, coders: &[&dyn Reconstruct], allowed: &'a [u32]) {
    for &site in coders.iter().flat_map(|coder| coder.reads().iter().chain(coder.writes())) {
        if tap.of(site).is_none() {
            tap.capture(site.0, site.1, allowed);
        }
    }
}

/// The rows of a batch that a coder is judged on: those that all its sites keep.
pub(super) struct Kept {
    pub(super) reads: Vec<SiteWidth>,
    pub(super) writes: Vec<SiteWidth>,
    /// Which of the captured rows they are.
    pub(super) at: Vec<usize>,
    /// Which rows of the batch they are.
    pub(super) positions: Vec<u32>,
    /// Their values at the sites that are read, side by side.
    pub(super) input: Vec<f32>,
    /// And at those that are reconstructed, where they are others.
    other: Option<Vec<f32>>,
}

impl Kept {
    /// Of what was captured at the rows `allowed` of a batch.
    pub(super) fn of(coder: &dyn Reconstruct, keep: &KeepRule, allowed: &[u32], captured: &SpliceTap<'_>) -> Self {
        let (reads, writes) = (coder.reads().to_vec(), coder.writes().to_vec());
        let kept = |&(point, width): &SiteWidth, j: usize| {
            let values = captured.of((point, width)).unwrap_or_default();
            keep.by_value(point, squared_norm(&values[j * width..][..width])).is_none()
        };
        let sites = || reads.iter().chain(&writes);
        let at: Vec<usize> = (0..allowed.len()).filter(|&j| sites().all(|site| kept(site, j))).collect();
        let rows = |sites: &[SiteWidth]| {
            let values: Vec<&[f32]> = sites.iter().map(|site| captured.of(*site).unwrap_or_default()).collect();
            let mut out = Vec::new();
            splice::side_by_side(&values, sites, at.iter().copied(), &mut out);
            out
        };
        let (input, other) = (rows(&reads), (reads != writes).then(|| rows(&writes)));
        let positions = at.iter().map(|&j| allowed[j]).collect();
        Self { reads, writes, at, positions, input, other }
    }

    /// What is read, and, where it is another, what is reconstructed.
    pub(super) fn into_rows(self) -> (Vec<f32>, Option<Vec<f32>>) {
        (self.input, self.other)
    }

    /// Their values at the sites that are reconstructed, side by side.
    pub(super) fn target(&self) -> &[f32] {
        self.other.as_deref().unwrap_or(&self.input)
    }
}

/// Rows of several sites of a stored batch, side by side.
pub(super) fn stored<'a>(batch: &'a ActivationBatch, sites: &[SiteWidth]) -> Option<Cow<'a, [f32]>> {
    if let [(point, _)] = sites {
        return batch.site(*point).map(|site| Cow::Borrowed(&site.data[..]));
    }
    let values: Option<Vec<&[f32]>> =
        sites.iter().map(|(point, _)| batch.site(*point).map(|site| &site.data[..])).collect();
    let mut out = Vec::new();
    splice::side_by_side(&values?, sites, 0..batch.n_rows(), &mut out);
    Some(Cow::Owned(out))
}
