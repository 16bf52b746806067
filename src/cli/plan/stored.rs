//! What a dataset holds already, and what a run would add: to the dataset itself, and to each of its column groups.

use serde::Serialize;

use crate::catalog::Catalog;
use crate::catalog::columns::group_name;
use crate::catalog::meter::Meter;
use crate::config::Sites;
use crate::config::sites::SiteWidth;
use crate::dataset::config::{DatasetConfig, StoredDtype};
use crate::dataset::schema::ShardSpec;
use crate::error::Result;
use crate::hooks::HookPoint;
use crate::model::ModelSource;
use crate::pipeline::columns::Division;
use crate::store::Location;
use crate::store::upload::UploadOptions;

/// Bytes of a row's own columns: document, unit, sequence, position, token.
const ROW_LABEL_BYTES: f64 = 24.0;

/// A dataset that is there.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// The dataset itself, then the column groups that the run would write to.
    pub(super) parts: Vec<StoredPart>,
    /// Its column groups, the others too.
    pub(super) groups: usize,
    /// Bytes of everything in it that counts.
    pub(super) bytes: u64,
}

/// The dataset itself or a column group, there or not.
#[derive(Clone, Debug)]
pub(super) struct StoredPart {
    /// Name of the column group.
    pub(super) column_group: Option<String>,
    pub(super) sites: Vec<SiteWidth>,
    /// Whether it was begun.
    pub(super) exists: bool,
    pub(super) units_done: u64,
    /// Shards that it has, retired ones included.
    pub(super) shards: u64,
    /// Of them, those whose commits are read one by one.
    pub(super) uncovered: u64,
}

/// What a run adds to the dataset itself or to a column group.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PartPlan {
    /// Name of the column group; none: the dataset itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) column_group: Option<String>,
    pub(super) sites: Vec<String>,
    /// Whether it was begun by an earlier run.
    pub(super) exists: bool,
    /// Shards that it has.
    pub(super) stored_shards: u64,
    pub(super) units_done: u64,
    /// Rows, shards and bytes that the run adds.
    pub(super) rows: f64,
    pub(super) shards: f64,
    pub(super) bytes: f64,
    /// Requests that send one shard.
    #[serde(skip)]
    pub(super) uploads: f64,
    /// Commits that a listing must be followed by reading, before the run.
    #[serde(skip)]
    pub(super) uncovered: u64,
}

/// Look at the dataset at `location`; `None` if there is none.
pub(super) async fn look(
    location: &Location,
    config: &DatasetConfig,
    sites: &Sites,
    source: &ModelSource,
    context: usize,
) -> Result<Option<Stored>> {
    if Catalog::read_header(location).await?.is_none() {
        return Ok(None);
    }
    let base = Catalog::open(location.clone()).await?;
    let groups = base.groups().await?;
    let headers: Vec<_> = groups.iter().map(|group| group.header().clone()).collect();
    let division = Division::of(base.header(), &headers, sites, &source.points(context), source.spec().module_paths())?;
    let bytes = Meter::new(base.clone()).measure().await?.all();
    let mut parts = vec![StoredPart::of(Some(&base), None, division.base).await?];
    for sites in division.groups {
        let name = group_name(&ShardSpec::new(config, &sites).site_headers(HookPoint::definition));
        let known = groups.iter().find(|group| group.header().column_group.as_ref() == Some(&name));
        parts.push(StoredPart::of(known, Some(name), sites).await?);
    }
    Ok(Some(Stored { parts, groups: groups.len(), bytes }))
}

impl StoredPart {
    /// One that nobody began.
    pub(super) fn fresh(column_group: Option<String>, sites: Vec<SiteWidth>) -> Self {
        Self { column_group, sites, exists: false, units_done: 0, shards: 0, uncovered: 0 }
    }

    async fn of(catalog: Option<&Catalog>, column_group: Option<String>, sites: Vec<SiteWidth>) -> Result<Self> {
        let fresh = Self::fresh(column_group, sites);
        let Some(catalog) = catalog else { return Ok(fresh) };
        let progress = catalog.progress().await?;
        let shards: u64 = progress.values().map(|unit| u64::from(unit.next_part)).sum();
        Ok(Self {
            exists: true,
            units_done: progress.values().filter(|unit| unit.done).count() as u64,
            shards,
            uncovered: shards.saturating_sub(catalog.covered_parts()),
            ..fresh
        })
    }

    /// Share of the units that are not done.
    pub(super) fn left(&self, units: u32) -> f64 {
        1.0 - (self.units_done as f64 / f64::from(units).max(1.0)).min(1.0)
    }

    /// What is added to it by a run over a corpus of `units` units that keeps `rows` rows in all.
    pub(super) fn plan(&self, config: &DatasetConfig, rows: f64, units: u32) -> PartPlan {
        let part_bytes = UploadOptions::default().part_bytes as f64;
        let left = (f64::from(units).max(1.0) * self.left(units)).round();
        let rows = rows * config.sample.share() * self.left(units);
        let values: usize = self.sites.iter().map(|(_, width)| width).sum();
        let bytes = rows * (values as f64 * value_bytes(config.dtype) + ROW_LABEL_BYTES);
        // shards do not cross units, and a unit without rows has one all the same
        let shards = left * (rows / left.max(1.0) / config.rows_per_shard.0 as f64).ceil().max(1.0);
        let parts = (bytes / shards.max(1.0) / part_bytes).ceil();
        PartPlan {
            column_group: self.column_group.clone(),
            sites: self.sites.iter().map(|(point, _)| point.to_string()).collect(),
            exists: self.exists,
            stored_shards: self.shards,
            units_done: self.units_done,
            rows,
            shards,
            bytes,
            // an upload in parts is begun and completed besides
            uploads: if parts > 1.0 { parts + 2.0 } else { 1.0 },
            uncovered: self.uncovered,
        }
    }
}

/// Bytes of a stored value.
pub(super) fn value_bytes(dtype: StoredDtype) -> f64 {
    match dtype {
        StoredDtype::Float16 | StoredDtype::Bfloat16 => 2.0,
        StoredDtype::Float32 => 4.0,
    }
}
