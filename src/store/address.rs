//! What a URL or path names: which store, which place in it, and how it may be shown.

use std::path::{Component, PathBuf};

use base64::Engine;
use object_store::path::Path;
use url::Url;

use crate::error::{Error, ErrorKind, Result, ResultExt};

/// Schemes that there are, for messages.
pub const SCHEMES: &str = "a local path, file://, s3://, gs://, az:// (or abfss://), https:// (read only) or memory://";

/// Which kind of store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The file system.
    Local,
    /// In memory, for as long as the process lives.
    Memory,
    /// Amazon S3 and what is compatible with it.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// A web server: read only.
    Http,
}

/// A URL or path, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Address {
    pub(super) kind: Kind,
    /// What names the store: scheme and bucket, container or host. With secrets, where the URL has some.
    pub(super) root: String,
    /// Bucket, container (with its account, if it is named) or host.
    pub(super) bucket: String,
    pub(super) path: Path,
    /// As it is shown to people: without user names, passwords and queries.
    pub(super) shown: String,
    /// The local file or folder.
    pub(super) local: Option<PathBuf>,
}

impl Address {
    /// Take `text` apart. Relative paths are relative to the working directory.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let Some((scheme, rest)) = text.split_once("://") else { return Self::local(text) };
        match scheme {
            "file" => {
                let url = parse_url(text)?;
                if url.fragment().is_some() || url.query().is_some() {
                    let rule = "must not hold a `#` or `?`: what follows it would be lost";
                    return Err(Error::config(format!(
                        "`{text}` {rule}; write %23 or %3F, or the path without file://"
                    )));
                }
                let path = url.to_file_path();
                let path = path.map_err(|()| Error::config(format!("`{text}` is not a local file URL")))?;
                Self::local(&path.to_string_lossy())
            }
            "memory" => {
                let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
                Ok(Self {
                    kind: Kind::Memory,
                    root: format!("memory://{name}"),
                    bucket: name.to_owned(),
                    path: Path::from(path),
                    shown: text.to_owned(),
                    local: None,
                })
            }
            "s3" | "s3a" => Self::cloud(Kind::S3, text),
            "gs" => Self::cloud(Kind::Gcs, text),
            "az" | "azure" | "adl" | "abfs" | "abfss" => Self::cloud(Kind::Azure, text),
            "http" | "https" => Self::http(text),
            _ => Err(Error::config(format!("`{}`: there is no store for `{scheme}://`; give {SCHEMES}", redact(text)))),
        }
    }

    fn local(text: &str) -> Result<Self> {
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
        Ok(Self {
            kind: Kind::Local,
            root: String::new(),
            bucket: String::new(),
            path,
            shown: text.trim_end_matches('/').to_owned(),
            local: Some(clean),
        })
    }

    fn cloud(kind: Kind, text: &str) -> Result<Self> {
        let url = parse_url(text)?;
        let shown = redact(text);
        let host = url.host_str().unwrap_or_default();
        if host.is_empty() {
            return Err(Error::config(format!("`{shown}` names no bucket")));
        }
        // abfss://container@account.dfs.core.windows.net/path
        let container = Some(url.username()).filter(|name| !name.is_empty() && kind == Kind::Azure);
        let has_secrets = url.password().is_some() || url.query().is_some();
        if url.fragment().is_some() {
            return Err(Error::config(format!("`{shown}` must not hold a `#`: what follows it would be lost")));
        }
        if has_secrets || (container.is_none() && !url.username().is_empty()) {
            return Err(Error::config(format!(
                "`{shown}` must not hold credentials or a query: credentials come from the environment"
            )));
        }
        let bucket = container.map_or_else(|| host.to_owned(), |container| format!("{container}@{host}"));
        Ok(Self {
            kind,
            root: format!("{}://{bucket}", url.scheme()),
            bucket,
            path: url_path(&url, &shown)?,
            shown: text.trim_end_matches('/').to_owned(),
            local: None,
        })
    }

    fn http(text: &str) -> Result<Self> {
        let url = parse_url(text)?;
        let mut root = url.clone();
        root.set_path("");
        root.set_fragment(None);
        let shown = redact(text);
        Ok(Self {
            kind: Kind::Http,
            root: root.to_string(),
            bucket: url.host_str().unwrap_or_default().to_owned(),
            path: url_path(&url, &shown)?,
            shown: shown.trim_end_matches('/').to_owned(),
            local: None,
        })
    }
}

fn url_path(url: &Url, shown: &str) -> Result<Path> {
    Path::from_url_path(url.path()).or_kind(ErrorKind::Config, || format!("`{shown}` cannot be used as an object path"))
}

fn parse_url(text: &str) -> Result<Url> {
    Url::parse(text).or_kind(ErrorKind::Config, || format!("`{}` is not a URL", redact(text)))
}

/// User name and password of a URL as the header that says them, and the URL without them.
pub(super) fn user(url: &str) -> Option<((http::HeaderName, http::HeaderValue), String)> {
    let mut url = Url::parse(url).ok()?;
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let pair = format!("{}:{}", decoded(url.username()), decoded(url.password().unwrap_or_default()));
    let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
    let mut value = http::HeaderValue::from_str(&format!("Basic {encoded}")).ok()?;
    value.set_sensitive(true);
    url.set_username("").and_then(|()| url.set_password(None)).ok()?;
    Some(((http::header::AUTHORIZATION, value), url.to_string()))
}

/// `text` as it may be shown: of every URL in it, user name, password and query are left out. The container in an Azure
/// URL (`abfss://container@account...`) is no user name.
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "\"'`<>".contains(c)).unwrap_or(after.len());
        let (url, next) = after.split_at(end);
        let azure = ["abfs://", "abfss://", "az://", "azure://", "adl://"].iter().any(|s| before.ends_with(s));
        out.push_str(&without_secrets(url, azure));
        rest = next;
    }
    out.push_str(rest);
    out
}

/// A URL after its `://`.
fn without_secrets(url: &str, azure: bool) -> String {
    let (authority, rest) = url.split_at(url.find(['/', '?', '#']).unwrap_or(url.len()));
    let host = match authority.rsplit_once('@') {
        Some((user, _)) if azure && !user.contains(':') => authority,
        Some((_, host)) => host,
        None => authority,
    };
    let path = rest.split_once('?').map_or(rest, |(path, _)| path);
    format!("{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Kind, String, String, String) {
        let address = Address::parse(text).unwrap();
        (address.kind, address.bucket, address.path.to_string(), address.shown)
    }

    #[test]
    fn urls_are_taken_apart() {
        let is = |kind, bucket: &str, path: &str, shown: &str| (kind, bucket.into(), path.into(), shown.into());
        assert_eq!(parsed("s3://b/x/y/"), is(Kind::S3, "b", "x/y", "s3://b/x/y"));
        assert_eq!(parsed("gs://b"), is(Kind::Gcs, "b", "", "gs://b"));
        assert_eq!(parsed("file:///a%23b"), is(Kind::Local, "", "a#b", "/a#b"));
        assert_eq!(parsed("az://c/x"), is(Kind::Azure, "c", "x", "az://c/x"));
        let abfss = "abfss://c@account.dfs.core.windows.net/x";
        assert_eq!(parsed(abfss), is(Kind::Azure, "c@account.dfs.core.windows.net", "x", abfss));
        assert_eq!(
            parsed("https://me:pw@host:8080/a%20b.jsonl?sig=s"),
            is(Kind::Http, "host", "a b.jsonl", "https://host:8080/a%20b.jsonl")
        );
        assert_eq!(Address::parse("https://me:pw@host:8080/a?sig=s").unwrap().root, "https://me:pw@host:8080/?sig=s");
    }

    #[test]
    fn what_is_no_store_is_refused_and_secrets_are_not_repeated() {
        for (text, words) in [
            ("ftp://me:secret@x/y", "there is no store for `ftp://`; give a local path"),
            ("s3://key:secret@bucket/x", "must not hold credentials"),
            ("s3://bucket/x?X-Amz-Signature=secret", "must not hold credentials or a query"),
            ("s3:///x", "names no bucket"),
            ("s3://bucket/a#b", "must not hold a `#`"),
            ("file:///data/acts#1", "must not hold a `#`"),
            ("file:///data/acts?x", "must not hold a `#` or `?`"),
        ] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn who_asks_is_said_in_a_header() {
        let ((_, header), url) = user("https://me:p%40ss@h/?sig=1").unwrap();
        assert_eq!((header.to_str().unwrap(), url.as_str()), ("Basic bWU6cEBzcw==", "https://h/?sig=1"));
        assert!(header.is_sensitive() && user("https://h/?sig=1").is_none());
    }

    #[test]
    fn urls_in_text_lose_their_secrets() {
        for (text, shown) in [
            ("cannot read https://u:p@h/x?sig=1 (404)", "cannot read https://h/x (404)"),
            ("\"https://h/x?sig=1\", then http://h2?a", "\"https://h/x\", then http://h2"),
            ("abfss://c@a.dfs.core.windows.net/x", "abfss://c@a.dfs.core.windows.net/x"),
            ("abfss://c:secret@a.net/x", "abfss://a.net/x"),
            ("no url: a@b?c", "no url: a@b?c"),
        ] {
            assert_eq!(redact(text), shown);
        }
    }
}
