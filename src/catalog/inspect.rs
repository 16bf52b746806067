//! What a dataset holds, from its header and commits alone.

use std::collections::BTreeMap;

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
    /// Rows.
    pub rows: u64,
    /// Shards.
    pub shards: u64,
    /// Bytes of the shards.
    pub bytes: u64,
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
    /// Its sites with their statistics over all shards.
    pub sites: Vec<SiteSummary>,
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

/// Sum up a dataset.
pub async fn inspect(catalog: &Catalog) -> Result<DatasetSummary> {
    let header = catalog.header().clone();
    let commits = catalog.commits().await?;
    let mut summary = DatasetSummary {
        url: catalog.location().shown.clone(),
        rows: 0,
        shards: commits.len() as u64,
        bytes: 0,
        documents: 0,
        tokens: 0,
        units: header.units,
        units_done: 0,
        dropped: DropCounts::new(),
        sites: Vec::new(),
        header,
    };
    let mut statistics: BTreeMap<&str, SiteStatistics> = BTreeMap::new();
    for commit in &commits {
        summary.rows += commit.rows;
        summary.bytes += commit.bytes;
        summary.documents += commit.documents;
        summary.tokens += commit.tokens;
        summary.units_done += u32::from(commit.cursor.done);
        summary.dropped.merge(&commit.dropped);
        for (site, of_shard) in &commit.sites {
            statistics.entry(site).or_default().merge(of_shard);
        }
    }
    summary.sites = summary
        .header
        .sites
        .iter()
        .map(|site| {
            let statistics = statistics.remove(site.name.as_str()).unwrap_or_default();
            SiteSummary { site: site.clone(), variance: statistics.variance(), statistics }
        })
        .collect();
    Ok(summary)
}
