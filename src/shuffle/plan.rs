//! What a shuffle consists of: decided once, by whoever begins it, and read by everybody else.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::accounting::DropCounts;
use crate::catalog::Catalog;
use crate::dataset::header::{DatasetHeader, FORMAT, ShardRule, SiteHeader};
use crate::dataset::places::{RowOrder, Shuffled};
use crate::dataset::schema::{ShardSpec, SiteColumn, value_bytes};
use crate::error::{Error, Result};
use crate::hooks::HookPoint;
use crate::replay::{ShardReader, Source};
use crate::shuffle::{ShuffleOptions, WORKERS_MAX};
use crate::store::Location;
use crate::store::objects::{self, Created};
use crate::store::upload::UploadOptions;

/// Folder, in the destination, of what lives only while a shuffle does.
pub(super) const SCRATCH: &str = "scratch";
/// Bytes of a row besides its values: document, unit, sequence, position, token.
pub(super) const ID_BYTES: usize = 24;
/// Bytes of a row's entry while rows are sorted.
const SORT_BYTES: u64 = 32;
/// Buckets, at most: their number is squared nowhere, but each costs a request a piece.
const BUCKETS_MAX: u64 = 1 << 20;
/// Smallest part of a multipart upload that every store takes.
const PART_BYTES_MIN: u64 = 5 << 20;

/// A shuffle.
pub(super) struct Plan {
    pub(super) reader: ShardReader,
    pub(super) catalog: Catalog,
    pub(super) order: Shuffled,
    pub(super) spec: ShardSpec,
    /// Bytes of a row in a piece.
    pub(super) row_bytes: usize,
    pub(super) upload: UploadOptions,
    /// Documents, tokens and drops of the source.
    pub(super) counts: (u64, u64, DropCounts),
    sites: Arc<[SiteHeader]>,
    slice_rows: u64,
}

/// Row groups of one source shard that are scattered together.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    /// The shard, as the reader counts them.
    pub(super) part: usize,
    pub(super) groups: Range<u64>,
    /// Name of its piece.
    pub(super) name: String,
}

/// What later workers must know, in `scratch/plan.json`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Stored {
    slice_rows: u64,
}

impl Plan {
    /// Begin a shuffle, or join the one that is there.
    pub(super) async fn begin(source: Source, destination: Location, options: ShuffleOptions) -> Result<Self> {
        let sites: Arc<[SiteHeader]> = source.sites().iter().map(|site| site.header.clone()).collect();
        let values: usize = sites.iter().map(|site| site.width * value_bytes(site.dtype)).sum();
        let row_bytes = ID_BYTES + values;
        let per_worker = options.memory / (2 * WORKERS_MAX as u64);
        let found = Catalog::read_header(&destination).await?;
        let buckets = match found.as_ref().and_then(|header| header.order.as_ref()) {
            Some(RowOrder::Shuffled(stored)) => stored.buckets,
            None => {
                let group = source.header().shards.rows_per_group.0;
                buckets(source.rows(), row_bytes as u64 + SORT_BYTES, per_worker, group)?
            }
        };
        let order = Shuffled {
            seed: options.seed,
            source: source.location().shown.clone(),
            snapshot: source.snapshot().to_owned(),
            rows: source.rows(),
            buckets,
        };
        let spec = spec(source.header(), &sites, &order)?;
        let header = DatasetHeader {
            format: FORMAT,
            units: buckets,
            follows: false,
            sites: sites.to_vec(),
            shards: spec.rule(),
            order: Some(RowOrder::Shuffled(order.clone())),
            ..source.header().clone()
        };
        let catalog = Catalog::create_or_open(destination, header).await?;
        let group = source.header().shards.rows_per_group.0.max(1);
        let slice_rows = (per_worker / (row_bytes as u64 + SORT_BYTES)).max(group) / group * group;
        let part_bytes = (per_worker / 8).clamp(PART_BYTES_MIN, 16 << 20) as usize;
        let upload = UploadOptions { part_bytes, parts_in_flight: 2 };
        let counts = source.counts().clone();
        let reader = ShardReader::new(source);
        let mut plan = Self { reader, catalog, order, spec, row_bytes, upload, counts, sites, slice_rows };
        plan.slice_rows = plan.agreed_slice_rows().await?;
        Ok(plan)
    }

    /// The size of slices that whoever began decided.
    async fn agreed_slice_rows(&self) -> Result<u64> {
        let stored = Stored { slice_rows: self.slice_rows };
        let text = serde_json::to_vec(&stored).map_err(|e| Error::internal(e.to_string()))?;
        let place = self.scratch().child("plan.json");
        match objects::create(&place, text.into()).await? {
            Created::Yes => Ok(self.slice_rows),
            Created::No(found) => {
                let stored: Stored = serde_json::from_slice(&found)
                    .map_err(|e| Error::data(format!("`{}` is not a plan: {e}", place.shown)))?;
                if stored.slice_rows == 0 {
                    return Err(Error::data(format!("`{}` is not a plan: slices of no rows", place.shown)));
                }
                Ok(stored.slice_rows)
            }
        }
    }

    /// Workers that the memory is enough for: each has a row group as it came, decoded, and packed.
    pub(super) fn workers(&self, options: ShuffleOptions) -> usize {
        let group = self.reader.source().header().shards.rows_per_group.0.max(1);
        let row = 2 * self.row_bytes + self.spec.sites.iter().map(|site| 4 * site.width).sum::<usize>();
        let enough = options.memory / group.saturating_mul(row as u64).max(1);
        options.workers.min(usize::try_from(enough).unwrap_or(usize::MAX)).max(1)
    }

    /// All slices, in the order of the source.
    pub(super) fn slices(&self) -> Vec<Slice> {
        let per_slice = (self.slice_rows / self.reader.source().header().shards.rows_per_group.0.max(1)).max(1);
        let mut slices = Vec::new();
        for part in 0..self.reader.shards() {
            let groups = self.reader.groups(part);
            let mut from = 0;
            while from < groups {
                let to = groups.min(from + per_slice);
                slices.push(Slice { part, groups: from..to, name: format!("{part:08}-{from:06}") });
                from = to;
            }
        }
        slices
    }

    /// Buckets that are committed.
    pub(super) async fn committed(&self) -> Result<BTreeSet<u32>> {
        Ok(self.catalog.commits().await?.iter().map(|commit| commit.unit).collect())
    }

    /// Where pieces are.
    pub(super) fn scratch(&self) -> Location {
        self.catalog.location().child(SCRATCH)
    }

    /// The sites, in the order of the columns.
    pub(super) fn sites(&self) -> &Arc<[SiteHeader]> {
        &self.sites
    }
}

/// The number of buckets of about `bytes` each: a power of two. A whole row group of `group` rows is held anyway, so buckets
/// of less than some part of one save nothing, and each costs requests.
fn buckets(rows: u64, row_bytes: u64, bytes: u64, group: u64) -> Result<u32> {
    let bytes = bytes.max((group / 4).saturating_mul(row_bytes));
    let wanted = rows.saturating_mul(row_bytes).div_ceil(bytes.max(1)).max(1);
    let wanted = wanted.checked_next_power_of_two().unwrap_or(u64::MAX);
    if wanted > BUCKETS_MAX {
        return Err(Error::config(format!(
            "{rows} rows of {row_bytes} bytes would need {wanted} buckets: give more memory"
        )));
    }
    Ok(wanted as u32)
}

/// Shards as the source has them, but one a bucket.
fn spec(header: &DatasetHeader, sites: &[SiteHeader], order: &Shuffled) -> Result<ShardSpec> {
    let first = sites.first().ok_or_else(|| Error::data("the source stores no site"))?;
    if let Some(other) = sites.iter().find(|site| (site.dtype, site.layout) != (first.dtype, first.layout)) {
        return Err(Error::config(format!(
            "`{}` and `{}` are stored in different formats; a shuffle writes one format",
            first.name, other.name
        )));
    }
    let column = |site: &SiteHeader| {
        let point = HookPoint::stored(&site.name).map_err(|e| Error::data(e.to_string()))?;
        Ok(SiteColumn { point, width: site.width })
    };
    let ShardRule { rows_per_group, compression, .. } = header.shards;
    Ok(ShardSpec {
        sites: sites.iter().map(column).collect::<Result<_>>()?,
        dtype: first.dtype,
        layout: first.layout,
        compression,
        rows_per_shard: order.rows.max(1),
        rows_per_group: usize::try_from(rows_per_group.0).unwrap_or(usize::MAX).max(1),
        sample: header.sample,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_from_size_and_memory() {
        assert_eq!(buckets(0, 100, 1000, 1).unwrap(), 1);
        assert_eq!(buckets(10, 100, 1000, 1).unwrap(), 1);
        assert_eq!(buckets(11, 100, 1000, 1).unwrap(), 2);
        assert_eq!(buckets(31, 100, 1000, 1).unwrap(), 4);
        assert!(buckets(u64::MAX, 100, 1, 1).is_err());
    }

    #[test]
    fn buckets_are_no_small_parts_of_row_groups() {
        assert_eq!(buckets(52_902, 400, 64, 8192).unwrap(), 32);
        assert_eq!(buckets(52_902, 400, 64, 0).unwrap(), 1 << 19);
    }
}
