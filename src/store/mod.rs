//! Bytes to and from object storage. It knows nothing of what the bytes mean.
//!
//! Every place is a URL or a local path: `data/acts`, `/data/acts`, `file:///data/acts`, `s3://bucket/prefix`,
//! `gs://...`, `az://...`, `https://...` (read only), `memory://name/prefix` (one store a name, for tests).
//! Credentials come from the providers' usual environment variables and files, never from the pipeline.
//!
//! Remote stores' clients try failed requests again by themselves (back-off with jitter, up to three minutes). [`objects`]
//! resolves what a lost answer leaves open; [`upload`] sends objects while they are being made.

mod counted;
pub mod objects;
pub mod upload;

use std::collections::BTreeMap;
use std::path::{Component, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use object_store::ObjectStore;
use object_store::path::Path;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::runtime::tls;

/// A place in a store: the store and a path in it.
#[derive(Clone, Debug)]
pub struct Location {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Path of the object or prefix in the store.
    pub path: Path,
    /// As it is shown to people: a local path as written, or the URL.
    pub shown: String,
    /// The local file or folder behind it, where there is one.
    pub local: Option<PathBuf>,
}

impl Location {
    /// Open a URL or local path. Relative paths are relative to the working directory. Nothing is read or created.
    pub fn open(text: &str) -> Result<Self> {
        match text.split_once("://") {
            Some(("file", _)) => {
                let url = parse_url(text)?;
                let path =
                    url.to_file_path().map_err(|()| Error::config(format!("`{text}` is not a local file URL")))?;
                Self::open_local(&path.to_string_lossy())
            }
            Some(("memory", rest)) => {
                let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
                Ok(Self { store: memory_store(name), path: Path::from(path), shown: text.to_owned(), local: None })
            }
            Some(_) => {
                let url = parse_url(text)?;
                tls::install_provider();
                // credentials; a variable that is not UTF-8 is none
                #[allow(clippy::disallowed_methods)]
                let variables = std::env::vars_os().filter_map(|(name, value)| {
                    Some((name.into_string().ok()?.to_ascii_lowercase(), value.into_string().ok()?))
                });
                let (store, path) = object_store::parse_url_opts(&url, variables)
                    .or_kind(ErrorKind::Config, || format!("cannot open the object store of `{text}`"))?;
                Ok(Self { store: Arc::from(store), path, shown: text.trim_end_matches('/').to_owned(), local: None })
            }
            None => Self::open_local(text),
        }
    }

    fn open_local(text: &str) -> Result<Self> {
        let absolute = std::path::absolute(text).or_kind(ErrorKind::Config, || format!("`{text}` is not a path"))?;
        let mut clean = PathBuf::new();
        for part in absolute.components() {
            match part {
                Component::ParentDir => _ = clean.pop(),
                Component::CurDir => {}
                other => clean.push(other),
            }
        }
        let path = Path::from_absolute_path(&clean)
            .or_kind(ErrorKind::Config, || format!("`{text}` cannot be used as an object path"))?;
        // what is committed must survive a power failure, and so must what it names
        let store = Arc::new(object_store::local::LocalFileSystem::new().with_fsync(true));
        Ok(Self { store, path, shown: text.trim_end_matches('/').to_owned(), local: Some(clean) })
    }

    /// The place `name` (which may contain slashes) below this one.
    pub fn child(&self, name: &str) -> Self {
        let path = name.split('/').filter(|s| !s.is_empty()).fold(self.path.clone(), |p, part| p.join(part));
        Self {
            store: Arc::clone(&self.store),
            path,
            shown: format!("{}/{name}", self.shown),
            local: self.local.as_ref().map(|l| l.join(name)),
        }
    }
}

fn parse_url(text: &str) -> Result<url::Url> {
    url::Url::parse(text).or_kind(ErrorKind::Config, || format!("`{text}` is not a URL"))
}

/// The in-memory store called `name`; it lives as long as the process.
fn memory_store(name: &str) -> Arc<dyn ObjectStore> {
    static STORES: OnceLock<Mutex<BTreeMap<String, Arc<object_store::memory::InMemory>>>> = OnceLock::new();
    let stores = STORES.get_or_init(Mutex::default);
    let mut stores = stores.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Arc::clone(stores.entry(name.to_owned()).or_default()) as Arc<dyn ObjectStore>
}

/// The kind of a store's error: what a caller can do about it.
pub fn error_kind(error: &object_store::Error) -> ErrorKind {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => ErrorKind::Data,
        E::InvalidPath { .. } | E::NotSupported { .. } | E::NotImplemented { .. } => ErrorKind::Config,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } | E::UnknownConfigurationKey { .. } => ErrorKind::Config,
        E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => ErrorKind::Data,
        _ => ErrorKind::Unavailable,
    }
}

/// Turn a store's error into ours: `verb` is what was tried ("read", "write", "list"), `what` the place.
pub fn error(verb: &str, what: &str, source: object_store::Error) -> Error {
    Error::with_source(error_kind(&source), format!("cannot {verb} `{what}`"), source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_paths_are_cleaned_and_shown_as_written() {
        let place = Location::open("/tmp/a/../b/./c/").unwrap();
        assert_eq!(place.path.as_ref(), "tmp/b/c");
        assert_eq!(place.shown, "/tmp/a/../b/./c");
        assert_eq!(place.child("commits/x.json").path.as_ref(), "tmp/b/c/commits/x.json");
    }

    #[test]
    fn one_memory_store_a_name() {
        let (a, b) = (Location::open("memory://one/x").unwrap(), Location::open("memory://one/y").unwrap());
        assert!(Arc::ptr_eq(&a.store, &b.store));
        assert_eq!(a.path.as_ref(), "x");
    }

    #[test]
    fn object_store_urls_open_without_touching_the_network() {
        assert_eq!(Location::open("s3://bucket/a/b").unwrap().path.as_ref(), "a/b");
        assert_eq!(Location::open("ftp://x/y").unwrap_err().kind(), ErrorKind::Config);
    }
}
