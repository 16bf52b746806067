//! The hub's HTTP interface: what a revision holds, what a file is, and its bytes.
//!
//! Redirects are followed by hand: the token goes to the hub's own address and to nobody else, and what the hub says of
//! a large file stands on the answer that sends us away. Addresses are not logged, because those of the hub's stores are
//! signed.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use url::Url;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::hub::name::{HubName, is_commit, is_plain_path};
use crate::hub::settings::Settings;
use crate::runtime::tls;

/// Redirects that are followed for one file.
const REDIRECTS_MAX: usize = 8;
/// Largest answer that lists a repository.
const LISTING_BYTES_MAX: usize = 64 << 20;

/// A revision's files.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    /// The commit that the revision means.
    pub(super) commit: String,
    /// Paths of its files.
    pub(super) files: BTreeSet<String>,
}

/// What the hub says of a file before it sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileInfo {
    /// Name of its contents; safe as a file name.
    pub(super) etag: String,
    /// Bytes.
    pub(super) size: u64,
}

/// Talks to one hub about one repository.
pub(super) struct Client<'a> {
    http: reqwest::Client,
    settings: &'a Settings,
    name: &'a HubName,
}

#[derive(Deserialize)]
struct RawListing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl<'a> Client<'a> {
    pub(super) fn new(settings: &'a Settings, name: &'a HubName) -> Result<Self> {
        tls::install_provider();
        let http = reqwest::Client::builder()
            .user_agent(concat!("harvestd/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(settings.timeout)
            .read_timeout(settings.timeout)
            .build()
            .or_kind(ErrorKind::Internal, || "cannot make an HTTP client".to_owned())?;
        Ok(Self { http, settings, name })
    }

    /// The files of the revision.
    pub(super) async fn listing(&self) -> Result<Listing> {
        let url = self.url(&["api", "models"], &["revision", &self.name.revision]);
        let mut answer = self.follow(Method::GET, url, None, true).await?;
        if answer.status() != StatusCode::OK {
            return Err(self.refused(&answer, None).await);
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.broken(e))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > LISTING_BYTES_MAX {
                return Err(Error::data(format!("the list of files of `{}` is unreasonably long", self.name)));
            }
        }
        let raw: RawListing = serde_json::from_slice(&bytes)
            .or_kind(ErrorKind::Data, || format!("`{}` does not answer as a hub does", self.settings.endpoint))?;
        self.checked(raw)
    }

    fn checked(&self, raw: RawListing) -> Result<Listing> {
        let is_wanted = self.name.pinned().is_none_or(|commit| commit == raw.sha);
        if !is_commit(&raw.sha) || !is_wanted {
            let sha = raw.sha.escape_debug();
            return Err(Error::data(format!("the hub says that `{}` is commit `{sha}`, which cannot be", self.name)));
        }
        let files: BTreeSet<String> = raw.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        if let Some(bad) = files.iter().find(|file| !is_plain_path(file)) {
            let bad = bad.escape_debug();
            return Err(Error::data(format!("`{}` lists `{bad}`, which is not a path within it: refused", self.name)));
        }
        Ok(Listing { commit: raw.sha, files })
    }

    /// What the commit's `file` is.
    pub(super) async fn info(&self, commit: &str, file: &str) -> Result<FileInfo> {
        let answer = self.follow(Method::HEAD, self.file_url(commit, file), None, false).await?;
        if !answer.status().is_success() && !answer.status().is_redirection() {
            return Err(self.refused(&answer, Some(file)).await);
        }
        let headers = answer.headers();
        let unclear = |what: &str| Error::data(format!("the hub does not tell the {what} of `{}/{file}`", self.name));
        if text(headers, "x-repo-commit").is_some_and(|there| there != commit) {
            return Err(Error::data(format!("the hub answers with another commit's `{file}` for `{}`", self.name)));
        }
        let own_etag = text(headers, "etag");
        let etag = text(headers, "x-linked-etag").or(own_etag).map(bare).ok_or_else(|| unclear("etag"))?;
        if !is_safe_etag(etag) {
            return Err(unclear("etag"));
        }
        let length = text(headers, "content-length").filter(|_| !answer.status().is_redirection());
        let size = text(headers, "x-linked-size").or(length).and_then(|size| size.parse().ok());
        Ok(FileInfo { etag: etag.to_owned(), size: size.ok_or_else(|| unclear("size"))? })
    }

    /// The commit's `file` from byte `from` on: status 200 (all of it), 206 (the rest) or 416 (there is no such byte).
    pub(super) async fn bytes(&self, commit: &str, file: &str, from: u64) -> Result<Response> {
        let range = (from > 0).then(|| format!("bytes={from}-"));
        let answer = self.follow(Method::GET, self.file_url(commit, file), range.as_deref(), true).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => Ok(answer),
            _ => Err(self.refused(&answer, Some(file)).await),
        }
    }

    /// A transfer that broke: it may work another time.
    pub(super) fn broken(&self, error: reqwest::Error) -> Error {
        // without its address, which may be signed
        Error::with_source(ErrorKind::Unavailable, format!("transfer of `{}` failed", self.name), error.without_url())
    }

    /// `endpoint/BEFORE/owner/name/AFTER`, each part escaped whole.
    fn url(&self, before: &[&str], after: &[&str]) -> Url {
        let mut url = self.settings.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(before).extend(self.name.repo.split('/')).extend(after);
        }
        url
    }

    fn file_url(&self, commit: &str, file: &str) -> Url {
        let parts: Vec<&str> = ["resolve", commit].into_iter().chain(file.split('/')).collect();
        self.url(&[], &parts)
    }

    /// Ask, and follow redirects: all of them, or only those that stay with the hub (the answer is then the one that
    /// leads away).
    async fn follow(&self, method: Method, mut url: Url, range: Option<&str>, away: bool) -> Result<Response> {
        for _ in 0..REDIRECTS_MAX {
            let answer = self.ask(method.clone(), url.clone(), range).await?;
            let Some(target) = redirect_target(&url, &answer) else { return Ok(answer) };
            if target.origin() != url.origin() && !away {
                return Ok(answer);
            }
            let is_http = matches!(target.scheme(), "http" | "https");
            if !is_http || (url.scheme() == "https" && target.scheme() == "http") {
                return Err(Error::data(format!("the hub sends `{}` over an unsafe way: refused", self.name)));
            }
            url = target;
        }
        Err(Error::new(ErrorKind::Unavailable, format!("the hub sends `{}` in circles", self.name)))
    }

    async fn ask(&self, method: Method, url: Url, range: Option<&str>) -> Result<Response> {
        let mut headers = HeaderMap::new();
        // lengths and ranges are those of the file, not of a compressed form
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(range) = range {
            let value = HeaderValue::from_str(range).or_kind(ErrorKind::Internal, || "not a range".to_owned())?;
            headers.insert(RANGE, value);
        }
        if let Some(token) = self.settings.token.as_ref().filter(|_| url.origin() == self.settings.endpoint.origin()) {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.reveal()));
            let mut value = value.map_err(|_| Error::config("HF_TOKEN holds characters that no token has"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        self.http.request(method, url).headers(headers).send().await.map_err(|e| self.broken(e))
    }

    /// Why the hub did not give what was asked for. Waits first if it is told to.
    async fn refused(&self, answer: &Response, file: Option<&str>) -> Error {
        let (name, status) = (self.name, answer.status());
        let page = self.url(&[], &[]);
        let what = file.map_or_else(|| format!("`{name}`"), |file| format!("`{file}` of `{name}`"));
        let code = text(answer.headers(), "x-error-code").unwrap_or_default();
        let advice = match &self.settings.token {
            None => "set HF_TOKEN to a token that may read it",
            Some(_) => "the token that is set (HF_TOKEN, or the token file) may not read it",
        };
        match status {
            _ if code == "GatedRepo" => {
                Error::config(format!("{name} is gated: accept its licence at {page}; {advice}"))
            }
            _ if code == "RevisionNotFound" => Error::config(format!("{page} has no revision `{}`", name.revision)),
            StatusCode::UNAUTHORIZED => Error::config(format!("{page} does not exist, or it is private: {advice}")),
            StatusCode::FORBIDDEN => {
                Error::config(format!("{what} is refused: its licence may have to be accepted at {page}; {advice}"))
            }
            StatusCode::NOT_FOUND => Error::config(format!("{what} does not exist ({page})")),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => self.later(answer, &what).await,
            _ if status.is_server_error() => self.later(answer, &what).await,
            _ => Error::data(format!("the hub answers {status} when asked for {what}")),
        }
    }

    /// The error of a hub that is busy, after the wait that it asked for where trying again is worth it.
    async fn later(&self, answer: &Response, what: &str) -> Error {
        let asked = text(answer.headers(), RETRY_AFTER.as_str()).and_then(|seconds| seconds.trim().parse().ok());
        let wait = asked.map(Duration::from_secs).filter(|wait| *wait <= self.settings.retry.budget);
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
        Error::new(ErrorKind::Unavailable, format!("the hub answers {} when asked for {what}", answer.status()))
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn redirect_target(from: &Url, answer: &Response) -> Option<Url> {
    let location = text(answer.headers(), "location").filter(|_| answer.status().is_redirection())?;
    from.join(location).ok()
}

/// An etag without quotes and the mark of a weak one.
fn bare(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

/// It becomes a file's name.
fn is_safe_etag(etag: &str) -> bool {
    let is_safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (1..=128).contains(&etag.len()) && etag.bytes().all(is_safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_become_names_only_if_they_are_harmless() {
        assert_eq!((bare("\"abc\""), bare("W/\"abc\""), bare("abc")), ("abc", "abc", "abc"));
        assert!(is_safe_etag("d41d8cd98f-12"));
        for etag in ["", "..", "../x", "a/b", "a b", &"a".repeat(200)] {
            assert!(!is_safe_etag(etag), "{etag}");
        }
    }
}
