//! Traces of what a store lost: a manifest or a header that must have been there, seen by what only it named. Without a
//! look at them, the shards that it named would be taken for garbage.

use std::collections::HashSet;

use futures::TryStreamExt;
use object_store::ObjectStore;

use crate::catalog::Catalog;
use crate::catalog::state::State;
use crate::dataset::{paths, segment};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{self, Location, objects};

/// A segment's size, at most; larger ones are no segments.
const SEGMENT_BYTES_MAX: u64 = 256 << 20;

/// Segments with parts that neither the newest manifest nor a commit of `state` names, and how many: a manifest was lost. (A
/// compaction that was killed leaves segments too, of parts whose commits are there.)
pub(super) async fn parts_of_lost_manifests(catalog: &Catalog, state: &State) -> Result<Vec<(String, usize)>> {
    let named: HashSet<&str> = state.covered.manifest.segments.iter().map(|segment| segment.object.as_str()).collect();
    let committed: HashSet<(u32, u32)> = state.uncovered.iter().map(|e| (e.commit.unit, e.commit.part)).collect();
    let is_known = |unit, part| state.covered.covers(unit, part) || committed.contains(&(unit, part));
    let mut found = Vec::new();
    for object in objects::list(&catalog.location().child(paths::MANIFESTS)).await? {
        let name = format!("{}/{}", paths::MANIFESTS, object.location.filename().unwrap_or_default());
        if !name.ends_with(".parquet") || named.contains(name.as_str()) || object.size > SEGMENT_BYTES_MAX {
            continue;
        }
        // gone since it was listed: somebody collected it as garbage
        let Some(bytes) = objects::read(&catalog.location().child(&name)).await? else { continue };
        let decoded = tokio::task::spawn_blocking(move || segment::decode_unlisted_marks(bytes)).await;
        let unknown = match decoded.map_err(|e| Error::internal(format!("decoding `{name}` failed: {e}")))? {
            Ok(marks) => marks.iter().filter(|mark| !is_known(mark.unit, mark.part)).count(),
            // nobody relies on a damaged segment that nothing names
            Err(error) if error.kind() == ErrorKind::Data => 0,
            Err(error) => return Err(error),
        };
        if unknown > 0 {
            found.push((name, unknown));
        }
    }
    Ok(found)
}

/// Folders below `columns/` that hold parts but no header.
pub(super) async fn headerless_groups(catalog: &Catalog) -> Result<Vec<String>> {
    let place = catalog.location().child(paths::COLUMNS);
    let listed = match place.store.list_with_delimiter(Some(&place.path)).await {
        Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
        listed => listed.map_err(|e| store::error("list", &place.shown, e))?,
    };
    let mut found = Vec::new();
    for name in listed.common_prefixes.iter().filter_map(|prefix| prefix.filename()) {
        let folder = paths::column_group(name);
        let group = catalog.location().child(&folder);
        if Catalog::read_header(&group).await?.is_none() && has_parts(&group).await? {
            found.push(folder);
        }
    }
    Ok(found)
}

/// Whether commits or manifests stand below `location`.
pub(super) async fn has_parts(location: &Location) -> Result<bool> {
    for folder in [paths::COMMITS, paths::MANIFESTS] {
        let place = location.child(folder);
        let first = place.store.list(Some(&place.path)).try_next().await;
        if first.map_err(|e| store::error("list", &place.shown, e))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
