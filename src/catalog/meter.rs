//! How many bytes a dataset has in its store: for limits on them.

use std::collections::HashMap;

use crate::catalog::Catalog;
use crate::dataset::manifest::CoveredTotals;
use crate::dataset::paths;
use crate::error::Result;
use crate::store::objects;

/// Bytes of the shards of a dataset and all its column groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredBytes {
    /// Of live shards.
    pub live: u64,
    /// Of retired shards that are not deleted yet.
    pub retired: u64,
}

impl StoredBytes {
    /// Of both.
    pub fn all(&self) -> u64 {
        self.live.saturating_add(self.retired)
    }
}

/// Measures a dataset, whoever writes to it, again and again.
#[derive(Debug)]
pub struct Meter {
    base: Catalog,
    /// By place, with the manifests that were read.
    groups: HashMap<String, Catalog>,
}

impl Meter {
    /// A meter of the dataset itself, not of one of its column groups.
    pub fn new(base: Catalog) -> Self {
        Self { base, groups: HashMap::new() }
    }

    /// What is committed now, and what of it is retired and not deleted.
    pub async fn measure(&mut self) -> Result<StoredBytes> {
        let mut sum = of_one(&self.base).await?;
        for group in self.base.groups().await? {
            let known = self.groups.entry(group.location().shown.clone()).or_insert(group);
            let of_group = of_one(known).await?;
            sum.live = sum.live.saturating_add(of_group.live);
            sum.retired = sum.retired.saturating_add(of_group.retired);
        }
        Ok(sum)
    }
}

/// Of a dataset or a column group alone.
async fn of_one(catalog: &Catalog) -> Result<StoredBytes> {
    let state = catalog.state().await?;
    let mut sums = state.covered.manifest.totals;
    sums.merge(&CoveredTotals::of(&state.uncovered));
    let mut stored = StoredBytes { live: sums.bytes, retired: 0 };
    if sums.retired_bytes > 0 {
        // only the store knows which of them are deleted
        let listed = objects::list(&catalog.location().child(paths::SHARDS)).await?;
        let name = |object: &object_store::ObjectMeta| Some(object.location.filename()?.to_owned());
        let there: HashMap<String, u64> = listed.iter().filter_map(|o| Some((name(o)?, o.size))).collect();
        for entry in catalog.entries().await?.iter().filter(|entry| entry.retired_at.is_some()) {
            let name = entry.commit.object.rsplit('/').next().unwrap_or_default();
            stored.retired = stored.retired.saturating_add(there.get(name).copied().unwrap_or(0));
        }
    }
    Ok(stored)
}
