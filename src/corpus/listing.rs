//! From paths and globs to the sorted list of files, and its fingerprint.

use std::collections::HashSet;
use std::time::Duration;

use futures::TryStreamExt;
use globset::{GlobBuilder, GlobMatcher};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::{self, Kind, Location, Stores, redact};

/// Hidden files that a warning names.
const HIDDEN_SHOWN: usize = 5;

/// A file of the corpus, as it was when it was listed.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Where it is.
    pub location: Location,
    /// Bytes.
    pub bytes: u64,
    /// Entity tag for reads "only if unchanged", where the store has a strong one.
    pub(crate) version: Option<String>,
    /// When it was written, after 1970-01-01 UTC.
    pub(crate) modified: Duration,
}

impl SourceFile {
    fn new(location: Location, meta: &ObjectMeta) -> Self {
        // Local tags are made of inode and time, which some network file systems invent anew at each call. A weak tag
        // (W/...) never matches in a conditional read.
        let version = meta.e_tag.clone().filter(|tag| location.local.is_none() && !tag.starts_with("W/"));
        let modified = Duration::from_millis(meta.last_modified.timestamp_millis().try_into().unwrap_or(0));
        Self { location, bytes: meta.size, version, modified }
    }

    /// How the file is compressed, by its name.
    pub fn compression(&self) -> Compression {
        let name = self.location.path.as_ref().to_ascii_lowercase();
        if name.ends_with(".gz") {
            Compression::Gzip
        } else if name.ends_with(".zst") {
            Compression::Zstd
        } else {
            Compression::None
        }
    }
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, with any number of members.
    Gzip,
    /// Zstandard, with any number of frames.
    Zstd,
}

/// All files of `paths` (local paths, URLs, globs), sorted by name, each once.
///
/// Errors: a path that matches nothing, and whatever the store answers.
pub(crate) async fn list(paths: &[String], stores: &Stores) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for path in paths {
        let found = expand(path, stores).await?;
        if found.is_empty() {
            return Err(nothing_matches(path, stores).await);
        }
        files.extend(found);
    }
    Ok(each_once(files))
}

/// As [`list`], of whatever is there: a path may match nothing yet.
pub(crate) async fn list_there(paths: &[String], stores: &Stores) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for path in paths {
        files.extend(expand(path, stores).await?);
    }
    Ok(each_once(files))
}

fn each_once(mut files: Vec<SourceFile>) -> Vec<SourceFile> {
    files.sort_by(|a, b| a.location.shown.cmp(&b.location.shown));
    let mut seen = HashSet::new();
    files.retain(|file| seen.insert(identity(&file.location)));
    files
}

/// sha256 over names and sizes: two runs with the same fingerprint read the same listing.
pub(crate) fn fingerprint(files: &[SourceFile]) -> String {
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.location.shown.as_bytes());
        hash.update([0]);
        hash.update(file.bytes.to_le_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What two spellings of one place have in common.
fn identity(location: &Location) -> String {
    match &location.local {
        Some(local) => local.to_string_lossy().into_owned(),
        None => location.shown.clone(),
    }
}

async fn expand(path: &str, stores: &Stores) -> Result<Vec<SourceFile>> {
    if is_web(path) {
        return web_file(path, stores).await;
    }
    let local = !path.contains("://");
    let pattern_start = first_glob_segment(path);
    // a local file may have brackets in its name; in a URL they would have to be escaped
    if (local || pattern_start.is_none())
        && let Some(file) = exact(path, stores).await?
    {
        return Ok(vec![file]);
    }
    match pattern_start {
        Some(at) => matching(path, at, stores).await,
        None => Ok(Vec::new()),
    }
}

/// Whether it is on a web server, which can neither list its files nor be asked for a pattern.
fn is_web(path: &str) -> bool {
    path.starts_with("https://") || path.starts_with("http://")
}

/// The file of an `https://` URL, whose `?` begins a query. A part of it is read at once, so that a server that only gives
/// whole files is found out before anything is computed.
async fn web_file(path: &str, stores: &Stores) -> Result<Vec<SourceFile>> {
    let name = path.split('?').next().unwrap_or(path);
    if name.contains(['*', '[', '{']) {
        return Err(Error::config(format!(
            "corpus path `{}`: web servers do not list their files, so patterns cannot be used there: name each file",
            redact(path)
        )));
    }
    let Some(file) = exact(path, stores).await? else { return Ok(Vec::new()) };
    if file.bytes > 0 {
        let first = file.location.store.get_range(&file.location.path, 0..1).await;
        first.map_err(|e| store::error("read a part of", path, e))?;
    }
    Ok(vec![file])
}

async fn exact(path: &str, stores: &Stores) -> Result<Option<SourceFile>> {
    let location = stores.open(path)?;
    // object stores have no folders, but the local store would report one's size
    if location.local.as_ref().is_some_and(|local| local.is_dir()) {
        return Ok(None);
    }
    match location.store.head(&location.path).await {
        Ok(meta) => Ok(Some(SourceFile::new(location, &meta))),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(store::error("read", path, error)),
    }
}

/// Byte at which the first path segment with a glob character starts.
fn first_glob_segment(path: &str) -> Option<usize> {
    let at = path.find(['*', '?', '[', '{'])?;
    Some(path[..at].rfind('/').map_or(0, |slash| slash + 1))
}

/// Everything below the part of `path` before byte `at` that matches the rest.
async fn matching(path: &str, at: usize, stores: &Stores) -> Result<Vec<SourceFile>> {
    let (base, pattern) = path.split_at(at);
    let matcher = glob(path, pattern)?;
    let location = stores.open(if base.is_empty() { "." } else { base })?;
    let objects: Vec<ObjectMeta> = location
        .store
        .list(Some(&location.path))
        .try_collect()
        .await
        .map_err(|e| store::error("list", &location.shown, e))?;
    warn_of_hidden(path, &location, &matcher).await?;
    let mut files = Vec::new();
    for meta in objects {
        let Some(parts) = meta.location.prefix_match(&location.path) else { continue };
        let name = parts.map(|p| p.as_ref().to_owned()).collect::<Vec<_>>().join("/");
        if matcher.is_match(&name) {
            let found = Location {
                path: meta.location.clone(),
                shown: format!("{base}{name}"),
                local: location.local.as_ref().map(|l| l.join(&name)),
                ..location.clone()
            };
            files.push(SourceFile::new(found, &meta));
        }
    }
    Ok(files)
}

/// The local store takes files whose names end in `#<digits>` for its own staging files and does not list them: those that
/// a pattern would match are named, for they are not read.
async fn warn_of_hidden(path: &str, location: &Location, matcher: &GlobMatcher) -> Result<()> {
    let Some(folder) = location.local.clone() else { return Ok(()) };
    let matcher = matcher.clone();
    let found = tokio::task::spawn_blocking(move || hidden(&folder, &matcher)).await;
    let found = found.map_err(|e| Error::internal(format!("listing `{path}` failed: {e}")))?;
    if !found.is_empty() {
        let (n, first) = (found.len(), &found[..found.len().min(HIDDEN_SHOWN)]);
        tracing::warn!(
            path,
            files = n,
            first = first.join(", "),
            "left out: files whose names end in # and digits are taken for half-written ones; rename them"
        );
    }
    Ok(())
}

/// Files below `folder` that match and whose names end in `#<digits>`, sorted. Folders that cannot be read are passed over:
/// the listing itself says so.
fn hidden(folder: &std::path::Path, matcher: &GlobMatcher) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else { continue };
        for entry in entries.flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let path = entry.path();
            let Some(name) = path.strip_prefix(folder).ok().and_then(|name| name.to_str()) else { continue };
            let digits = name.rsplit_once('#').map(|(_, digits)| digits);
            if is_folder {
                folders.push(path);
            } else if digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
                && matcher.is_match(name)
            {
                found.push(name.to_owned());
            }
        }
    }
    found.sort();
    found
}

/// `*` and `?` stay within a segment, `**` crosses them.
fn glob(path: &str, pattern: &str) -> Result<GlobMatcher> {
    let glob = GlobBuilder::new(pattern).literal_separator(true).build();
    Ok(glob.or_kind(ErrorKind::Config, || format!("`{path}` is not a glob"))?.compile_matcher())
}

async fn nothing_matches(path: &str, stores: &Stores) -> Error {
    let folder = match stores.open(path) {
        Ok(location) if location.kind() != Kind::Http && first_glob_segment(path).is_none() => {
            let listed = location.store.list_with_delimiter(Some(&location.path)).await;
            listed.is_ok_and(|l| !l.objects.is_empty() || !l.common_prefixes.is_empty())
        }
        _ => false,
    };
    let path = redact(path);
    let trimmed = path.trim_end_matches('/');
    Error::config(match folder {
        true => format!("corpus path `{path}` is a folder: name its files, such as `{trimmed}/*` or `{trimmed}/**`"),
        false => format!("corpus path `{path}` matches no file"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names_that_match_are_found() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("b")).unwrap();
        for name in ["a.jsonl", "a.jsonl#1", "part#07", "b/part#12", "b/part#x", "b/part#"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let found = |pattern: &str| hidden(folder.path(), &glob(pattern, pattern).unwrap());
        assert_eq!(found("*"), ["a.jsonl#1", "part#07"]);
        assert_eq!(found("**/part*"), ["b/part#12", "part#07"]);
        assert!(found("*.jsonl").is_empty());
    }
}
