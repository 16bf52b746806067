//! Bytes to and from object storage. It knows nothing of what the bytes mean.
//!
//! Every place is a URL or a local path: `data/acts`, `/data/acts`, `file:///data/acts`, `s3://bucket/prefix`,
//! `gs://...`, `az://...`, `https://...` (read only), `memory://name/prefix` (one store a name, for tests). [`Stores`]
//! opens them with their options ([`config`]); credentials come from the providers' usual environment variables and
//! files, never from the pipeline, and nothing that is shown holds any ([`redact`]).
//!
//! ```text
//! Counted (metrics) -> Persistent (tries again, goes on where a body broke) -> object_store's client -> Wire (counts)
//! ```
//!
//! [`objects`] resolves what a lost answer leaves open; [`upload`] sends objects while they are being made; [`probe`]
//! sees whether "write only if absent" holds before anything rests on it; [`orphans`] finds uploads that never ended.

mod address;
mod backend;
pub mod config;
mod counted;
mod dates;
pub mod objects;
pub mod orphans;
mod persistent;
pub mod prices;
pub mod probe;
mod profile;
mod registry;
mod retries;
pub mod upload;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::path::Path;

pub use address::{Kind, SCHEMES, redact};
pub use backend::Backend;
pub use registry::{Stores, is_below};

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::clock::Clock;

/// A place in a store: the store and a path in it.
#[derive(Clone, Debug)]
pub struct Location {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Path of the object or prefix in the store.
    pub path: Path,
    /// As it is shown to people: a local path as written, or the URL without secrets.
    pub shown: String,
    /// The local file or folder behind it, where there is one.
    pub local: Option<PathBuf>,
    /// What is known of the store.
    pub backend: Arc<Backend>,
}

impl Location {
    /// Open a URL or local path that needs no options. Relative paths are relative to the working directory. Nothing is
    /// read or created.
    pub fn open(text: &str) -> Result<Self> {
        Stores::default().open(text)
    }

    /// A place in a store of one's own; `shown` is what messages call it.
    pub fn in_store(store: Arc<dyn ObjectStore>, path: impl Into<Path>, shown: &str) -> Self {
        let (path, shown) = (path.into(), shown.to_owned());
        Self { store, path, shown, local: None, backend: Backend::simple(Kind::Memory) }
    }

    /// The place `name` (which may contain slashes) below this one.
    pub fn child(&self, name: &str) -> Self {
        let path = name.split('/').filter(|s| !s.is_empty()).fold(self.path.clone(), |p, part| p.join(part));
        Self {
            path,
            shown: format!("{}/{name}", self.shown),
            local: self.local.as_ref().map(|l| l.join(name)),
            ..self.clone()
        }
    }

    /// An error if nothing can be written there.
    pub fn writable(&self) -> Result<()> {
        if self.kind() != Kind::Http {
            return Ok(());
        }
        let rule = "is read only: give a local path or an object store (s3://, gs://, az://)";
        Err(Error::config(format!("`{}` {rule}", self.shown)))
    }

    /// What kind of store it is in.
    pub fn kind(&self) -> Kind {
        self.backend.kind
    }

    /// How many seconds the store's clock is ahead of the machine's, once it has answered; `None` for stores that use the
    /// machine's own.
    pub fn skew_seconds(&self) -> Option<f64> {
        self.backend.wire.skew_seconds()
    }

    /// The time since 1970-01-01 UTC by the store's clock, as far as it is known: what `last_modified` is compared with.
    pub fn now(&self, clock: &Clock) -> Duration {
        let seconds = clock.since_epoch().as_secs_f64() + self.skew_seconds().unwrap_or(0.0);
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }
}

/// The kind of a store's error: what a caller can do about it.
pub fn error_kind(error: &object_store::Error) -> ErrorKind {
    use object_store::Error as E;
    match error {
        _ if is_missing_bucket(error) => ErrorKind::Config,
        E::NotFound { .. } => ErrorKind::Data,
        E::InvalidPath { .. } | E::NotSupported { .. } | E::NotImplemented { .. } => ErrorKind::Config,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } | E::UnknownConfigurationKey { .. } => ErrorKind::Config,
        E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } => ErrorKind::Data,
        _ if is_refusal(error) || has_no_credentials(error) => ErrorKind::Config,
        _ if is_no_store(error) => ErrorKind::Data,
        _ => ErrorKind::Unavailable,
    }
}

/// Whether the store understood the request and will not do it: an HTTP status of 4xx that is not about time or load. (The
/// type that holds the status is private to `object_store`.)
fn is_refusal(error: &object_store::Error) -> bool {
    let text = chain(error);
    let status = text.split("non-2xx status code: ").nth(1).and_then(|rest| rest.get(..3));
    status.is_some_and(|status| status.starts_with('4') && !["408", "409", "425", "429"].contains(&status))
}

/// Whether there is no such bucket or container: stores answer 404 to that, as to an object that is not there, and only the
/// body tells.
pub(crate) fn is_missing_bucket(error: &object_store::Error) -> bool {
    let text = chain(error);
    text.contains("404") && ["NoSuchBucket", "ContainerNotFound"].iter().any(|code| text.contains(code))
}

/// Whether credentials were looked for in the last place, a metadata service, and nothing is there: not a cloud's machine.
fn has_no_credentials(error: &object_store::Error) -> bool {
    let text = chain(error);
    let asked =
        ["/latest/api/token", "metadata.google.internal", "/metadata/identity/"].iter().any(|t| text.contains(t));
    asked && !text.contains("status code: 5")
}

/// Whether the answer was not one of a store: a server that says no sizes, or does not serve parts of files.
fn is_no_store(error: &object_store::Error) -> bool {
    let text = chain(error);
    ["Header missing", "header not present", "non-partial response"].iter().any(|words| text.contains(words))
}

/// Whether the same request may succeed when it is made again.
pub(crate) fn passes_by_itself(error: &object_store::Error) -> bool {
    error_kind(error).retryable()
}

/// `a: b: c`: an error and its causes, each once.
fn chain(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

/// Turn a store's error into ours: `verb` is what was tried ("read", "write", "list"), `what` the place. Secrets in URLs
/// are left out.
pub fn error(verb: &str, what: &str, source: object_store::Error) -> Error {
    let kind = error_kind(&source);
    let text = chain(&source);
    let hint = if is_missing_bucket(&source) {
        "there is no such bucket or container: create it, or correct the URL (and the endpoint): "
    } else if text.contains("RequestTimeTooSkewed") {
        "the store refuses this machine's clock: set it (NTP), then run again: "
    } else if has_no_credentials(&source) {
        "no credentials were found (docs/stores.md says where they are looked for; anonymous: true needs none): "
    } else if text.contains("ServerSideEncryption") || text.contains("AccessDenied") {
        "the credentials do not allow it (docs/stores.md lists the permissions): "
    } else if text.contains("Range request not supported") || text.contains("non-partial response") {
        "the server does not serve parts of files (HTTP ranges): copy the file to a disk or bucket: "
    } else {
        ""
    };
    let (message, text) = (format!("cannot {verb} `{}`", redact(what)), format!("{hint}{}", redact(&text)));
    match io_kind(&source) {
        // what the operating system said decides what is advised
        Some(io) => Error::with_source(kind, message, std::io::Error::new(io, text)),
        None => Error::with_source(kind, message, text),
    }
}

/// The operating system's answer, if one is at the bottom of this.
fn io_kind(error: &object_store::Error) -> Option<std::io::ErrorKind> {
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.find_map(|cause| cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind))
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

    #[test]
    fn errors_name_no_secrets() {
        let source = object_store::Error::Generic {
            store: "HTTP",
            source:
                "Error performing GET https://me:pw@h/x?sig=secret in 1s - Server returned non-2xx status code: 503"
                    .into(),
        };
        let found = error("read", "https://me:pw@h/x?sig=secret", source);
        assert_eq!(found.kind(), ErrorKind::Unavailable);
        assert!(found.to_string().starts_with("cannot read `https://h/x`: "), "{found}");
        assert!(!found.to_string().contains("secret") && !found.to_string().contains("pw"), "{found}");
    }

    #[test]
    fn refusals_are_not_tried_again() {
        for (status, kind) in
            [("400 Bad Request", ErrorKind::Config), ("429", ErrorKind::Unavailable), ("500", ErrorKind::Unavailable)]
        {
            let source = format!("Server returned non-2xx status code: {status}: x").into();
            assert_eq!(error_kind(&object_store::Error::Generic { store: "S3", source }), kind, "{status}");
        }
    }
}
