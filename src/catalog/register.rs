//! Column groups in the order in which they were begun, so that runs which race never give one site to two of them.
//!
//! Before its header is written a group is entered as `columns/<n>.json`, put if absent, where `<n>` follows the last entry:
//! whoever enters one has seen all that were entered before. Groups of older datasets have headers and no entries.

use std::collections::BTreeMap;

use futures::StreamExt;
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};

use crate::catalog::Catalog;
use crate::dataset::header::SiteHeader;
use crate::dataset::paths;
use crate::error::{Error, ErrorKind, Result};
use crate::store::objects::{self, Created};
use crate::store::{self, probe};

/// Entries that others may make before ours.
const TRIES: usize = 100;
/// Entries that are read at a time.
const READS_AT_A_TIME: usize = 32;

/// One group.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    group: String,
    sites: Vec<String>,
}

/// Enter the group `name` with `sites` into the register of the dataset `base`, unless it is there.
///
/// [`Config`](ErrorKind::Config): another group has one of the sites.
pub(super) async fn enter(base: &Catalog, name: &str, sites: &[SiteHeader]) -> Result<()> {
    probe::exclusive_writes(base.location()).await?;
    let sites: Vec<String> = sites.iter().map(|site| site.name.clone()).collect();
    for _ in 0..TRIES {
        let (mut groups, next) = read(base).await?;
        for group in base.groups().await? {
            let header = group.header();
            let sites = header.sites.iter().map(|site| site.name.clone()).collect();
            groups.entry(header.column_group.clone().unwrap_or_default()).or_insert(sites);
        }
        if groups.contains_key(name) {
            return Ok(());
        }
        check_apart(base, &groups, &sites)?;
        let place = base.location().child(&paths::register_entry(next));
        let entry = Entry { group: name.to_owned(), sites: sites.clone() };
        let text = serde_json::to_vec_pretty(&entry).expect("names serialise");
        if objects::create(&place, text.into()).await? == Created::Yes {
            return Ok(());
        }
    }
    let shown = &base.location().shown;
    Err(Error::new(ErrorKind::Unavailable, format!("others begin column groups of `{shown}` all the time: try again")))
}

/// All entries, by group, and the number of the next one.
async fn read(base: &Catalog) -> Result<(BTreeMap<String, Vec<String>>, u64)> {
    let place = base.location().child(paths::COLUMNS);
    let listed = match place.store.list_with_delimiter(Some(&place.path)).await {
        Err(object_store::Error::NotFound { .. }) => return Ok((BTreeMap::new(), 1)),
        listed => listed.map_err(|e| store::error("list", &place.shown, e))?,
    };
    let numbers = listed.objects.iter().filter_map(|object| paths::parse_register_entry(object.location.filename()?));
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    let reads = numbers.iter().map(|number| async move {
        let place = base.location().child(&paths::register_entry(*number));
        let Some(bytes) = objects::read(&place).await? else { return Ok(None) };
        let entry = serde_json::from_slice::<Entry>(&bytes);
        entry.map(Some).map_err(|e| Error::data(format!("`{}` is no entry of a column group: {e}", place.shown)))
    });
    let mut reads = futures::stream::iter(reads.collect::<Vec<_>>()).buffered(READS_AT_A_TIME);
    let mut groups = BTreeMap::new();
    while let Some(entry) = reads.next().await {
        groups.extend(entry?.map(|entry| (entry.group, entry.sites)));
    }
    Ok((groups, numbers.last().map_or(1, |last| last.saturating_add(1))))
}

/// No two groups have the same site.
fn check_apart(base: &Catalog, groups: &BTreeMap<String, Vec<String>>, wanted: &[String]) -> Result<()> {
    for (group, sites) in groups {
        if let Some(site) = wanted.iter().find(|site| sites.contains(site)) {
            return Err(Error::config(format!(
                "`{site}` is of column group `{group}` of `{}`, which another run has begun with other sites: capture all of \
                 {}, or none",
                base.location().shown,
                sites.join(", ")
            )));
        }
    }
    Ok(())
}
