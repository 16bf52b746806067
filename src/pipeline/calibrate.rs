//! The norm limits of a run, measured once on its first batches.
//!
//! The limits must not depend on where a run was interrupted or on who computes what, so they are always measured on the
//! same batches (the first of the stream that hold tokens), and a dataset stores them in its header for everybody.

use crate::activation::keep::{has_norm_limit, median, squared_norm};
use crate::activation::{KeepRule, capture};
use crate::compute::Backend;
use crate::error::Result;
use crate::hooks::{HookPoint, SiteWidth};
use crate::model::Model;
use crate::tokens::TokenBatch;

/// Batches that are measured.
pub const CALIBRATION_BATCHES: usize = 4;

/// For each site, `factor` times the median norm of its rows in the given batches; sites without rows have no limit.
pub fn norm_limits<B: Backend>(
    model: &mut dyn Model<B>,
    sites: &[SiteWidth],
    keep: &KeepRule,
    factor: f64,
    batches: impl IntoIterator<Item = TokenBatch>,
) -> Result<Vec<(HookPoint, f32)>> {
    let sites: Vec<SiteWidth> = sites.iter().copied().filter(|&(point, _)| has_norm_limit(point)).collect();
    let mut norms: Vec<Vec<f64>> = vec![Vec::new(); sites.len()];
    for batch in batches {
        let activations = capture::<B>(batch, &sites, keep, |batch, tap| model.forward(batch, tap))?;
        for (norms, site) in norms.iter_mut().zip(&activations.sites) {
            norms.extend(site.data.chunks_exact(site.width).map(|row| squared_norm(row).sqrt()));
        }
    }
    let limits = sites.into_iter().zip(&mut norms).filter(|(_, norms)| !norms.is_empty());
    Ok(limits.map(|((point, _), norms)| (point, (factor * median(norms)) as f32)).collect())
}
