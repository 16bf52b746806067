//! What is read: the commits of a dataset at one moment, and the columns that are wanted of them.

use sha2::{Digest, Sha256};

use std::collections::HashMap;

use crate::accounting::DropCounts;
use crate::catalog::columns::{Behind, View, ViewPart, ViewSite};
use crate::dataset::commit::Checksum;
use crate::dataset::commit::UnitProgress;
use crate::dataset::encoder::hex;
use crate::dataset::header::{DatasetHeader, SiteHeader};
use crate::error::{Error, Result};
use crate::hooks::HookPoint;
use crate::store::Location;

/// A dataset as it was when it was opened.
#[derive(Clone, Debug)]
pub struct Source {
    /// The dataset itself and its column groups.
    pub(super) locations: Vec<Location>,
    pub(super) header: DatasetHeader,
    /// What is committed, by unit.
    pub(super) progress: HashMap<u32, UnitProgress>,
    /// By unit and part.
    pub(super) parts: Vec<Part>,
    /// What is read of each row, in the order asked for.
    pub(super) sites: Vec<StoredSite>,
    snapshot: String,
    counts: (u64, u64, DropCounts),
    behind: Vec<Behind>,
}

/// A column that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSite {
    /// The site.
    pub point: HookPoint,
    /// Values a row.
    pub width: usize,
    /// Name and number format.
    pub header: SiteHeader,
    /// Which of the dataset (0) and its column groups stores it.
    pub(super) group: usize,
}

/// One committed part.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) unit: u32,
    pub(super) rows: u64,
    /// Sequences of the unit: from, to.
    pub(super) sequences: [u32; 2],
    /// One for each of the dataset and the column groups that is read.
    pub(super) objects: Vec<Object>,
}

/// One shard of a part.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// Where its columns are: the dataset (0) or one of its groups.
    pub(super) group: usize,
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) checksum: Checksum,
}

impl Source {
    /// Open what is committed now, to read the sites called `names` (exactly as they are stored).
    ///
    /// # Errors
    /// `Config` for a site that the dataset does not have; `Data` if its commits do not fit together.
    pub async fn open(view: &View, names: &[String]) -> Result<Self> {
        let base = view.source(0);
        let sites = names.iter().map(|name| stored_site(view.site(name)?)).collect::<Result<Vec<_>>>()?;
        let mut groups: Vec<usize> = sites.iter().map(|site| site.group).collect();
        groups.sort_unstable();
        groups.dedup();
        if groups.is_empty() {
            groups.push(0);
        }
        // parts first: a unit's progress then covers all of them
        let (parts, behind) = view.joined(&groups).await?;
        let progress = base.progress().await?;
        let mut header = base.header().clone();
        if header.follows {
            // as many units as there are now
            header.units = parts.iter().map(|part| part.unit + 1).max().unwrap_or(0);
        }
        let snapshot = snapshot(&parts, &groups);
        let mut counts = (0, 0, DropCounts::new());
        for commit in parts.iter().map(|part| part.commit(0)) {
            counts.0 += commit.documents;
            counts.1 += commit.tokens;
            counts.2.merge(&commit.dropped);
        }
        let parts = parts.iter().map(|p| part(p, &groups, &header)).collect::<Result<Vec<_>>>();
        let parts = parts.map_err(|e| e.context(format!("read `{}`", base.location().shown)))?;
        let last = groups.last().copied().unwrap_or(0);
        let locations = (0..=last).map(|group| view.source(group).location().clone()).collect();
        Ok(Self { locations, header, progress, parts, sites, snapshot, counts, behind })
    }

    /// The dataset's header.
    pub fn header(&self) -> &DatasetHeader {
        &self.header
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.locations[0]
    }

    /// Column groups that are read and lack parts of the dataset: those rows are not read.
    pub fn behind(&self) -> &[Behind] {
        &self.behind
    }

    /// That every row of the dataset is read.
    ///
    /// # Errors
    /// `Data` if a column group that is read is behind its dataset, naming it.
    pub fn check_whole(&self) -> Result<()> {
        match self.behind.first() {
            None => Ok(()),
            Some(behind) => Err(Error::data(format!("{behind}: finish adding its sites first, or leave them out"))),
        }
    }

    /// The columns that are read.
    pub fn sites(&self) -> &[StoredSite] {
        &self.sites
    }

    /// Rows in all.
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// Shards.
    pub fn shards(&self) -> usize {
        self.parts.len()
    }

    /// Bytes of the chosen columns as stored, about (without compression).
    pub fn column_bytes(&self) -> u64 {
        use crate::dataset::schema::value_bytes;
        let row: usize = self.sites.iter().map(|site| site.width * value_bytes(site.header.dtype)).sum();
        self.rows() * (row as u64 + 8)
    }

    /// A hash of all that is committed: the same for the same rows, another once the dataset has grown.
    pub fn snapshot(&self) -> &str {
        &self.snapshot
    }

    /// Documents, tokens and drops that all parts count.
    pub fn counts(&self) -> &(u64, u64, DropCounts) {
        &self.counts
    }

    /// Memory of a decoded row.
    pub(super) fn row_bytes(&self) -> u64 {
        self.sites.iter().map(|site| 4 * site.width as u64).sum::<u64>() + 24
    }

    /// Rows in a row group but for a shard's last, as the header says.
    pub(super) fn rows_per_group(&self) -> u64 {
        self.header.shards.rows_per_group.0.max(1)
    }
}

impl Part {
    /// Row groups.
    pub(super) fn groups(&self, rows_per_group: u64) -> u64 {
        self.rows.div_ceil(rows_per_group)
    }

    /// Rows of row group `group`.
    pub(super) fn group_rows(&self, group: u64, rows_per_group: u64) -> u64 {
        self.rows.saturating_sub(group * rows_per_group).min(rows_per_group)
    }
}

fn stored_site(found: &ViewSite) -> Result<StoredSite> {
    let ViewSite { site, source } = found;
    let point = HookPoint::stored(&site.name).map_err(|e| Error::data(e.to_string()))?;
    Ok(StoredSite { point, width: site.width, header: site.clone(), group: *source })
}

fn part(part: &ViewPart, groups: &[usize], header: &DatasetHeader) -> Result<Part> {
    let rule = |what: String| Error::data(format!("unit {} part {}: {what}", part.unit, part.part));
    if part.unit >= header.units {
        return Err(rule(format!("the dataset has {} units", header.units)));
    }
    let mut objects = Vec::with_capacity(groups.len());
    for &group in groups {
        let commit = part.commit(group);
        if commit.rows > commit.bytes.saturating_mul(1 << 16) {
            return Err(rule(format!("{} rows cannot be in {} bytes", commit.rows, commit.bytes)));
        }
        if !commit.checksum.is_known() {
            return Err(rule(format!("has a checksum of unknown algorithm `{}`", commit.checksum.algorithm)));
        }
        let (name, checksum) = (commit.object.clone(), commit.checksum.clone());
        objects.push(Object { group, name, bytes: commit.bytes, checksum });
    }
    Ok(Part { unit: part.unit, rows: part.rows, sequences: part.commit(0).sequences, objects })
}

/// A hash of all parts' rows.
fn snapshot(parts: &[ViewPart], groups: &[usize]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(format!("{} {} {} {:?}", part.unit, part.part, part.rows, part.commit(0).sequences));
        for &group in groups {
            digest.update(format!(" {}", part.commit(group).checksum.value));
        }
        digest.update("\n");
    }
    hex(&digest.finalize())
}
