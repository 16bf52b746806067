//! What a dataset holds, from its header, newest manifest and commits alone.

use serde::Serialize;

use crate::accounting::DropCounts;
use crate::catalog::Catalog;
use crate::dataset::header::{DatasetHeader, SiteHeader};
use crate::dataset::stats::SiteStatistics;
use crate::error::Result;

/// What a dataset holds.
#[derive(Clone, Debug, Serialize)]
pub struct DatasetSummary {
    /// Where it is.
    pub url: String,
    /// Rows, without those that retention took away.
    pub rows: u64,
    /// Shards, without retired ones.
    pub shards: u64,
    /// Bytes of the shards.
    pub bytes: u64,
    /// Shards that retention took away.
    pub retired_shards: u64,
    /// The rows that they had.
    pub retired_rows: u64,
    /// The newest manifest; 0 if there is none.
    pub generation: u64,
    /// Shards that it covers: their commits need not be read.
    pub covered: u64,
    /// Documents.
    pub documents: u64,
    /// Tokens computed for it.
    pub tokens: u64,
    /// Units of the corpus.
    pub units: u32,
    /// Units that are committed to their end.
    pub units_done: u32,
    /// What was read but not kept.
    pub dropped: DropCounts,
    /// Its sites with their statistics over all shards, retired ones included.
    pub sites: Vec<SiteSummary>,
    /// Its column groups.
    pub columns: Vec<DatasetSummary>,
    /// Provenance: the header as stored.
    pub header: DatasetHeader,
}

/// A site of a dataset.
#[derive(Clone, Debug, Serialize)]
pub struct SiteSummary {
    /// Name, definition, width, format.
    #[serde(flatten)]
    pub site: SiteHeader,
    /// Over all shards.
    pub statistics: SiteStatistics,
    /// Mean squared distance of a row to the mean row.
    pub variance: f64,
}

/// Sum up a dataset and its column groups.
pub async fn inspect(catalog: &Catalog) -> Result<DatasetSummary> {
    let mut summary = inspect_one(catalog).await?;
    for group in catalog.groups().await? {
        summary.columns.push(inspect_one(&group).await?);
    }
    Ok(summary)
}

async fn inspect_one(catalog: &Catalog) -> Result<DatasetSummary> {
    let header = catalog.header().clone();
    let state = catalog.state().await?;
    let covered = state.covered.manifest.parts();
    let mut all = state.covered.manifest.clone();
    state.uncovered.iter().for_each(|entry| all.cover(&entry.commit));
    let totals = all.totals;
    let mut sites = Vec::new();
    for site in &header.sites {
        let statistics = all.sites.remove(&site.name).unwrap_or_default();
        sites.push(SiteSummary { site: site.clone(), variance: statistics.variance(), statistics });
    }
    Ok(DatasetSummary {
        url: catalog.location().shown.clone(),
        rows: totals.rows,
        shards: totals.shards,
        bytes: totals.bytes,
        retired_shards: totals.retired_shards,
        retired_rows: totals.retired_rows,
        generation: all.generation,
        covered,
        documents: totals.documents,
        tokens: totals.tokens,
        // of a corpus that grows, as many as are done are known
        units: if header.follows { u32::try_from(totals.units_done).unwrap_or(u32::MAX) } else { header.units },
        units_done: u32::try_from(totals.units_done).unwrap_or(u32::MAX),
        dropped: all.dropped,
        sites,
        columns: Vec::new(),
        header,
    })
}
