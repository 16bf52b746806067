//! Column groups: sites that were added to a dataset later, and the view that joins them with it.
//!
//! A group is a dataset of its own below `columns/<name>/`, with the rows of its base: the same units, parts, sequences
//! and drops, so that row `i` of a part is the same token in all of them. Readers open a [`View`]:
//!
//! ```text
//! let view = View::open(location).await?;
//! let site = view.site("blocks.3.hook_mlp_out");          // where it is: ViewSite { site, source }
//! for part in view.parts(&[site.source]).await? {           // live parts that the base and all these sources have
//!     let shard = view.source(site.source).location().child(&part.commit(site.source).object);
//! }
//! ```
//!
//! Source 0 is the dataset itself; it decides which parts there are. Each shard has the id columns as well.

use std::collections::HashMap;
use std::sync::Arc;

use object_store::ObjectStore;
use sha2::{Digest, Sha256};

use crate::accounting::DropCounts;
use crate::catalog::Catalog;
use crate::catalog::compact::{Retire, next_generation};
use crate::catalog::register;
use crate::dataset::commit::{Checksum, Commit, UnitCursor};
use crate::dataset::encoder::hex;
use crate::dataset::header::{DatasetHeader, SiteHeader};
use crate::dataset::paths;
use crate::dataset::segment::Entry;
use crate::dataset::stats::SiteStatistics;
use crate::error::{Error, Result};
use crate::store::{self, Location, objects};

/// A dataset with its column groups, as readers see it.
#[derive(Clone, Debug)]
pub struct View {
    /// The dataset itself first, then its groups by name.
    sources: Vec<Catalog>,
    sites: Vec<ViewSite>,
}

/// A site, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewSite {
    /// Name, definition, width, format.
    pub site: SiteHeader,
    /// Which of [`View::source`] holds it.
    pub source: usize,
}

/// A part, and what to read for it.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewPart {
    /// The work unit.
    pub unit: u32,
    /// Index of the part in its unit.
    pub part: u32,
    /// Rows, the same in every source.
    pub rows: u64,
    /// By source; `None` for sources that were not asked for.
    commits: Vec<Option<Commit>>,
}

impl ViewPart {
    /// What `source` committed for this part: its `object` is relative to the source's location.
    ///
    /// # Panics
    /// If the part was not asked for with this source.
    pub fn commit(&self, source: usize) -> &Commit {
        self.commits[source].as_ref().expect("a part is read from the sources that it was asked for")
    }
}

/// A column group that does not have all parts of its dataset yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Where the group is.
    pub group: String,
    /// Parts that it has.
    pub parts: u64,
    /// Parts of the dataset.
    pub of_parts: u64,
    /// Rows that it has.
    pub rows: u64,
    /// Rows of the dataset.
    pub of_rows: u64,
}

impl Behind {
    fn none(group: &str) -> Self {
        Self { group: group.to_owned(), parts: 0, of_parts: 0, rows: 0, of_rows: 0 }
    }

    fn count(&mut self, rows: u64, has: bool) {
        self.of_parts += 1;
        self.of_rows += rows;
        if has {
            self.parts += 1;
            self.rows += rows;
        }
    }
}

impl std::fmt::Display for Behind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { group, parts, of_parts, rows, of_rows } = self;
        write!(f, "column group `{group}` has {parts} of its dataset's {of_parts} parts ({rows} of {of_rows} rows)")
    }
}

impl View {
    /// Open a dataset and all its column groups.
    pub async fn open(location: Location) -> Result<Self> {
        Self::of(Catalog::open(location).await?).await
    }

    /// A view of an open dataset.
    pub async fn of(base: Catalog) -> Result<Self> {
        let mut sources = vec![base.clone()];
        sources.extend(base.groups().await?);
        let mut sites: Vec<ViewSite> = Vec::new();
        for (source, catalog) in sources.iter().enumerate() {
            for site in &catalog.header().sites {
                // older versions let runs that raced add a site twice: the values are the same
                if sites.iter().all(|known| known.site.name != site.name) {
                    sites.push(ViewSite { site: site.clone(), source });
                }
            }
        }
        Ok(Self { sources, sites })
    }

    /// All sites: the dataset's own in their order, then those of the groups.
    pub fn sites(&self) -> &[ViewSite] {
        &self.sites
    }

    /// The site of this name; an error ([`Config`](crate::error::ErrorKind::Config)) that names those that there are.
    pub fn site(&self, name: &str) -> Result<&ViewSite> {
        self.sites.iter().find(|known| known.site.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.sites.iter().map(|known| known.site.name.as_str()).collect();
            let shown = &self.sources[0].location().shown;
            Error::config(format!("`{shown}` has no site `{name}`; it has {}", known.join(", ")))
        })
    }

    /// The dataset itself (0) or one of its groups.
    ///
    /// # Panics
    /// If `source` is not that of a site.
    pub fn source(&self, source: usize) -> &Catalog {
        &self.sources[source]
    }

    /// The live parts, by unit and part, that the dataset and each of `sources` have. A group that is still being written
    /// has fewer parts than its dataset.
    pub async fn parts(&self, sources: &[usize]) -> Result<Vec<ViewPart>> {
        Ok(self.joined(sources).await?.0)
    }

    /// As [`View::parts`], and which of `sources` lack parts of the dataset.
    pub async fn joined(&self, sources: &[usize]) -> Result<(Vec<ViewPart>, Vec<Behind>)> {
        let mut of_groups: Vec<(usize, HashMap<(u32, u32), Commit>)> = Vec::new();
        for source in (1..self.sources.len()).filter(|source| sources.contains(source)) {
            let commits = self.sources[source].commits().await?;
            of_groups.push((source, commits.into_iter().map(|c| ((c.unit, c.part), c)).collect()));
        }
        let mut behind: Vec<Behind> =
            of_groups.iter().map(|(source, _)| Behind::none(&self.sources[*source].location().shown)).collect();
        let mut parts = Vec::new();
        for base in self.sources[0].commits().await? {
            let mut commits = vec![None; self.sources.len()];
            let mut everywhere = true;
            for ((source, of_group), behind) in of_groups.iter_mut().zip(&mut behind) {
                let commit = of_group.remove(&(base.unit, base.part));
                behind.count(base.rows, commit.is_some());
                match &commit {
                    Some(commit) => RowsOf::from(&base).check(commit, &behind.group)?,
                    None => everywhere = false,
                }
                commits[*source] = commit;
            }
            let (unit, part, rows) = (base.unit, base.part, base.rows);
            commits[0] = Some(base);
            if everywhere {
                parts.push(ViewPart { unit, part, rows, commits });
            }
        }
        behind.retain(|group| group.parts < group.of_parts);
        Ok((parts, behind))
    }
}

impl Catalog {
    /// All sites, over the dataset and its column groups.
    pub async fn sites(&self) -> Result<Vec<ViewSite>> {
        Ok(View::of(self.clone()).await?.sites)
    }

    /// The column groups, by name.
    pub async fn groups(&self) -> Result<Vec<Self>> {
        let place = self.location().child(paths::COLUMNS);
        let listed = place.store.list_with_delimiter(Some(&place.path)).await;
        let listed = match listed {
            Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
            listed => listed.map_err(|e| store::error("list", &place.shown, e))?,
        };
        let mut names: Vec<String> =
            listed.common_prefixes.iter().filter_map(|prefix| Some(prefix.filename()?.to_owned())).collect();
        names.sort();
        let mut groups = Vec::new();
        for name in names {
            let location = self.location().child(&paths::column_group(&name));
            // a folder without a header is one that nobody finished beginning
            if let Some(header) = Self::read_header(&location).await? {
                check_group(self.header(), &header, &location.shown)?;
                groups.push(Self::of(location, header));
            }
        }
        Ok(groups)
    }

    /// Begin or open the group of `sites`, which are described by `header` as a whole dataset's would be. What is
    /// committed to it is compared with this dataset. A [`Config`](crate::error::ErrorKind::Config) error if another group
    /// has one of the sites, whoever began it first.
    pub async fn group(&self, mut header: DatasetHeader) -> Result<Self> {
        self.header().check_can_grow()?;
        let name = group_name(&header.sites);
        header.column_group = Some(name.clone());
        header.norm_limits = self.header().norm_limits.clone();
        check_group(self.header(), &header, &self.location().shown)?;
        register::enter(self, &name, &header.sites).await?;
        Self::create_or_open(self.location().child(&paths::column_group(&name)), header).await
    }

    /// The group with its base at hand, for writing to it. Parts that the base retired before the group came to them are
    /// retired in the group too: nobody computes them again.
    pub async fn with_base(mut self, base: &Catalog) -> Result<Self> {
        let entries = base.entries().await?;
        let retired: Vec<Entry> =
            entries.iter().filter(|e| e.retired_at.is_some()).map(|e| without_values(e, self.header())).collect();
        let progress = self.progress().await?;
        let is_missing = |e: &Entry| progress.get(&e.commit.unit).is_none_or(|at| e.commit.part >= at.next_part);
        if retired.iter().any(is_missing) {
            next_generation(&self, 0, Some(&Retire::nothing()), &retired).await?;
        }
        self.base = Some(Arc::new(BaseRows::of(base.location().clone(), &entries)));
        Ok(self)
    }
}

/// A retired part of a dataset as one of the group of `header`, which has no values of it.
fn without_values(entry: &Entry, header: &DatasetHeader) -> Entry {
    let mut entry = entry.clone();
    let commit = &mut entry.commit;
    commit.object = paths::shard(commit.unit, commit.part, None);
    commit.bytes = 0;
    commit.checksum = Checksum::sha256(hex(&Sha256::digest([])));
    commit.sites = header.sites.iter().map(|site| (site.name.clone(), SiteStatistics::default())).collect();
    entry
}

/// The name of the group with these sites: whoever adds the same ones adds to the same group.
pub fn group_name(sites: &[SiteHeader]) -> String {
    let mut names: Vec<&str> = sites.iter().map(|site| site.name.as_str()).collect();
    names.sort_unstable();
    let first: String = names.first().copied().unwrap_or_default().chars().map(plain).collect();
    format!("{first}-{}", &hex(&Sha256::digest(names.join("\n")))[..8])
}

/// Characters that mean the same in every store.
fn plain(c: char) -> char {
    if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '_' }
}

/// A group must be cut from the same rows by the same rule.
fn check_group(base: &DatasetHeader, group: &DatasetHeader, shown: &str) -> Result<()> {
    let as_base = DatasetHeader { sites: base.sites.clone(), column_group: None, ..group.clone() };
    base.compatible(&as_base).map_err(|e| e.context(format!("`{shown}` is not a column group of its dataset")))?;
    if base.norm_limits != group.norm_limits {
        return Err(Error::data(format!("`{shown}` has other norm limits than its dataset")));
    }
    Ok(())
}

/// The rows that the parts of a group must have.
#[derive(Debug)]
pub(super) struct BaseRows {
    location: Location,
    known: HashMap<(u32, u32), RowsOf>,
}

/// Which rows a part has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RowsOf {
    rows: u64,
    sequences: [u32; 2],
    cursor: UnitCursor,
    dropped: DropCounts,
}

impl From<&Commit> for RowsOf {
    fn from(commit: &Commit) -> Self {
        let &Commit { rows, sequences, cursor, .. } = commit;
        Self { rows, sequences, cursor, dropped: commit.dropped.clone() }
    }
}

impl RowsOf {
    /// An error if `commit`, of a group at `shown`, has other rows.
    fn check(&self, commit: &Commit, shown: &str) -> Result<()> {
        if *self == Self::from(commit) {
            return Ok(());
        }
        let differs =
            match (self.rows == commit.rows && self.sequences == commit.sequences, self.cursor == commit.cursor) {
                (false, _) => format!(
                    "{} of sequences {:?}, not {} of {:?}",
                    commit.rows, commit.sequences, self.rows, self.sequences
                ),
                (true, false) => "its cursor is another".to_owned(),
                (true, true) => "what was dropped is not the same".to_owned(),
            };
        Err(Error::data(format!(
            "part {} of unit {} of `{shown}` has other rows than its dataset: {differs}",
            commit.part, commit.unit
        )))
    }
}

impl BaseRows {
    fn of(location: Location, entries: &[Entry]) -> Self {
        let known = entries.iter().map(|e| ((e.commit.unit, e.commit.part), RowsOf::from(&e.commit))).collect();
        Self { location, known }
    }

    /// An error if the dataset has other rows in this part, or does not have it yet.
    pub(super) async fn check(&self, commit: &Commit) -> Result<()> {
        let shown = &self.location.shown;
        if let Some(rows) = self.known.get(&(commit.unit, commit.part)) {
            return rows.check(commit, shown);
        }
        // committed by this run, a moment ago
        let place = self.location.child(&paths::commit(commit.unit, commit.part));
        let missing = || {
            Error::data(format!(
                "part {} of unit {} is not committed in `{shown}`, so a column group cannot have it",
                commit.part, commit.unit
            ))
        };
        let base = match objects::read(&place).await? {
            Some(bytes) => Commit::from_json(&bytes).map_err(|e| e.context(format!("read `{}`", place.shown)))?,
            // another writer's, which a manifest covers since
            None => self.covered(commit.unit, commit.part).await?.ok_or_else(missing)?,
        };
        RowsOf::from(&base).check(commit, shown)
    }

    /// The commit of a part, wherever the dataset has it now.
    async fn covered(&self, unit: u32, part: u32) -> Result<Option<Commit>> {
        let entries = Catalog::open(self.location.clone()).await?.entries().await?;
        Ok(entries.into_iter().map(|entry| entry.commit).find(|commit| (commit.unit, commit.part) == (unit, part)))
    }
}
