//! From paths and globs to the sorted list of files, and its fingerprint.

use std::collections::HashSet;

use futures::TryStreamExt;
use globset::{GlobBuilder, GlobMatcher};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::store::{self, Kind, Location, Stores, redact};

/// A file of the corpus, as it was when it was listed.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Where it is.
    pub location: Location,
    /// Bytes.
    pub bytes: u64,
    /// Entity tag for reads "only if unchanged", where the store has a strong one.
    pub(crate) version: Option<String>,
}

impl SourceFile {
    fn new(location: Location, meta: &ObjectMeta) -> Self {
        // Local tags are made of inode and time, which some network file systems invent anew at each call. A weak tag
        // (W/...) never matches in a conditional read.
        let version = meta.e_tag.clone().filter(|tag| location.local.is_none() && !tag.starts_with("W/"));
        Self { location, bytes: meta.size, version }
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
    files.sort_by(|a, b| a.location.shown.cmp(&b.location.shown));
    let mut seen = HashSet::new();
    files.retain(|file| seen.insert(identity(&file.location)));
    Ok(files)
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
