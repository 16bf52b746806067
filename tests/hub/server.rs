//! A hub and its store, on two ports of this machine: the paths, headers, redirects and errors of the public hub, and
//! failures by script.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, Uri};
use bytes::Bytes;
use ring::digest;
use serde_json::json;

/// The repository that it has.
pub const REPO: &str = "owner/tiny";
/// The commit that `main` means at first.
pub const COMMIT: &str = "2439f60ef33a0d46d85da5001d52aeda5b00ce9f";

/// What the store does with the next request for contents, instead of sending them.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Close the connection after so many bytes.
    BreakAfter(usize),
    /// Send so many bytes and then nothing, for a long time.
    StallAfter(usize),
    /// End the answer, as if it were whole, after so many bytes.
    EndAfter(usize),
    /// This status, with `Retry-After` if there is one.
    Status(u16, Option<u64>),
    /// Other bytes of the same length.
    Garbage,
    /// More bytes than there are.
    Longer,
    /// All of it, whatever range was asked for.
    NoRanges,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub host: &'static str,
    pub method: String,
    pub path: String,
    pub token: Option<String>,
    pub range: Option<String>,
}

#[derive(Clone)]
struct File {
    bytes: Bytes,
    etag: String,
    is_large: bool,
}

#[derive(Default)]
struct Inner {
    /// Revision -> commit.
    refs: BTreeMap<String, String>,
    /// Commit -> path -> file.
    commits: BTreeMap<String, BTreeMap<String, File>>,
    /// Names that the listing gives besides.
    false_names: Vec<String>,
    /// Who may read: everybody, if there is none.
    token: Option<String>,
    is_gated: bool,
    faults: VecDeque<Fault>,
    hub_faults: VecDeque<Fault>,
    /// Where large files are sent to, instead of to the store.
    misdirect: Option<String>,
    seen: Vec<Seen>,
}

/// Two servers that end with this value's runtime.
#[derive(Clone)]
pub struct Hub {
    pub url: String,
    store_url: String,
    inner: Arc<Mutex<Inner>>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl File {
    fn new(bytes: &[u8], is_large: bool) -> Self {
        let etag = if is_large {
            hex(digest::digest(&digest::SHA256, bytes).as_ref())
        } else {
            let text = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
            hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &text).as_ref())
        };
        Self { bytes: Bytes::copy_from_slice(bytes), etag, is_large }
    }
}

impl Hub {
    /// Start with `files` in `main`; names that end in `.safetensors`, `.gguf` or `.bin` are large.
    pub async fn start(files: &[(&str, &[u8])]) -> Self {
        let (hub, store) = (listen().await, listen().await);
        let address = |l: &tokio::net::TcpListener| format!("http://{}", l.local_addr().unwrap());
        let this = Self { url: address(&hub), store_url: address(&store), inner: Arc::default() };
        this.commit("main", COMMIT, files);
        let hub_app = Router::new().fallback(answer_hub).with_state(this.clone());
        let store_app = Router::new().fallback(answer_store).with_state(this.clone());
        tokio::spawn(async move { axum::serve(hub, hub_app).await.unwrap() });
        tokio::spawn(async move { axum::serve(store, store_app).await.unwrap() });
        this
    }

    pub fn commit(&self, revision: &str, commit: &str, files: &[(&str, &[u8])]) {
        let is_large = |name: &str| [".safetensors", ".gguf", ".bin"].iter().any(|end| name.ends_with(end));
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), File::new(bytes, is_large(name))));
        let mut inner = self.inner.lock().unwrap();
        inner.refs.insert(revision.to_owned(), commit.to_owned());
        inner.commits.insert(commit.to_owned(), files.collect());
    }

    pub fn fail(&self, faults: &[Fault]) {
        self.inner.lock().unwrap().faults.extend(faults.iter().cloned());
    }

    pub fn fail_hub(&self, faults: &[Fault]) {
        self.inner.lock().unwrap().hub_faults.extend(faults.iter().cloned());
    }

    pub fn require(&self, token: &str, is_gated: bool) {
        let mut inner = self.inner.lock().unwrap();
        inner.token = Some(token.to_owned());
        inner.is_gated = is_gated;
    }

    pub fn list_falsely(&self, name: &str) {
        self.inner.lock().unwrap().false_names.push(name.to_owned());
    }

    pub fn misdirect(&self, location: &str) {
        self.inner.lock().unwrap().misdirect = Some(location.to_owned());
    }

    /// Say that `file` has another etag than it has.
    pub fn promise(&self, file: &str, etag: &str) {
        let mut inner = self.inner.lock().unwrap();
        inner.commits.get_mut(COMMIT).unwrap().get_mut(file).unwrap().etag = etag.to_owned();
    }

    pub fn etag(&self, file: &str) -> String {
        self.inner.lock().unwrap().commits[COMMIT][file].etag.clone()
    }

    /// Requests since the last time.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.inner.lock().unwrap().seen)
    }

    /// GET requests that the store has seen since the last time.
    pub fn take_gets(&self) -> Vec<Seen> {
        self.take_seen().into_iter().filter(|s| s.host == "store" && s.method == "GET").collect()
    }

    fn note(&self, host: &'static str, method: &Method, uri: &Uri, headers: &HeaderMap) -> Seen {
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let seen = Seen {
            host,
            method: method.to_string(),
            path: uri.path().to_owned(),
            token: header("authorization"),
            range: header("range"),
        };
        self.inner.lock().unwrap().seen.push(seen.clone());
        seen
    }
}

async fn listen() -> tokio::net::TcpListener {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap()
}

type Answer = Response<Body>;

fn answer(status: u16, headers: &[(&str, String)], body: impl Into<Body>) -> Answer {
    let headers = headers.iter().fold(Response::builder().status(status), |b, (name, value)| b.header(*name, value));
    headers.body(body.into()).unwrap()
}

fn refused(status: u16, code: &str) -> Answer {
    answer(status, &[("x-error-code", code.to_owned())], "")
}

fn failed(fault: &Fault) -> Option<Answer> {
    let Fault::Status(status, wait) = fault else { return None };
    let wait: Vec<_> = wait.iter().map(|seconds| ("retry-after", seconds.to_string())).collect();
    Some(answer(*status, &wait, ""))
}

async fn answer_hub(State(hub): State<Hub>, method: Method, uri: Uri, headers: HeaderMap) -> Answer {
    let seen = hub.note("hub", &method, &uri, &headers);
    let mut inner = hub.inner.lock().unwrap();
    if let Some(answer) = inner.hub_faults.pop_front().as_ref().and_then(failed) {
        return answer;
    }
    match (&inner.token, &seen.token) {
        (Some(wanted), Some(given)) if *given == format!("Bearer {wanted}") => {}
        (None, _) => {}
        (Some(_), Some(_)) => return refused(403, if inner.is_gated { "GatedRepo" } else { "" }),
        (Some(_), None) => return refused(401, if inner.is_gated { "GatedRepo" } else { "RepoNotFound" }),
    }
    let path = seen.path.trim_start_matches('/').replace("%2F", "/");
    if let Some(rest) = path.strip_prefix(&format!("api/models/{REPO}/")) {
        return answer_api(&inner, rest);
    }
    // small files are sent on to another path of the same server
    let (rest, is_cached) = match path.strip_prefix(&format!("api/resolve-cache/models/{REPO}/")) {
        Some(rest) => (rest, true),
        None => match path.strip_prefix(&format!("{REPO}/resolve/")) {
            Some(rest) => (rest, false),
            None => return refused(404, "RepoNotFound"),
        },
    };
    let Some((revision, name)) = rest.split_once('/') else { return refused(404, "EntryNotFound") };
    let commit = inner.refs.get(revision).map_or(revision, String::as_str);
    let Some(files) = inner.commits.get(commit) else { return refused(404, "RevisionNotFound") };
    let Some(file) = files.get(name) else { return refused(404, "EntryNotFound") };
    let commit = commit.to_owned();
    let (etag, quoted) = (file.etag.clone(), format!("\"{}\"", file.etag));
    if file.is_large {
        let target = format!("{}/{commit}/{name}?signature=secret", hub.store_url);
        let headers = [
            ("x-repo-commit", commit),
            ("x-linked-etag", quoted),
            ("x-linked-size", file.bytes.len().to_string()),
            ("etag", "\"another\"".to_owned()),
            ("location", inner.misdirect.clone().unwrap_or(target)),
        ];
        return answer(302, &headers, "Found. Redirecting");
    }
    if !is_cached {
        let target = format!("/api/resolve-cache/models/{REPO}/{commit}/{name}?etag={etag}");
        return answer(307, &[("location", target), ("x-repo-commit", commit)], "Temporary Redirect");
    }
    let headers = [("x-repo-commit", commit), ("etag", quoted), ("content-length", file.bytes.len().to_string())];
    answer(200, &headers, if method == Method::HEAD { Bytes::new() } else { file.bytes.clone() })
}

fn answer_api(inner: &Inner, rest: &str) -> Answer {
    let (kind, revision) = rest.split_once('/').unwrap_or((rest, "main"));
    let commit = inner.refs.get(revision).map_or(revision, String::as_str);
    let Some(files) = inner.commits.get(commit) else { return refused(404, "RevisionNotFound") };
    let body = match kind {
        "revision" => {
            let names = files.keys().chain(&inner.false_names);
            let siblings: Vec<_> = names.map(|name| json!({"rfilename": name})).collect();
            json!({"id": REPO, "modelId": REPO, "sha": commit, "siblings": siblings})
        }
        _ => files
            .iter()
            .map(|(name, file)| {
                let (size, oid) = (file.bytes.len(), &file.etag[..40]);
                let lfs = json!({"oid": file.etag, "size": size, "pointerSize": 130});
                let mut entry = json!({"type": "file", "path": name, "size": size, "oid": oid});
                if file.is_large {
                    entry["lfs"] = lfs;
                }
                entry
            })
            .collect(),
    };
    answer(200, &[("content-type", "application/json".to_owned())], body.to_string())
}

async fn answer_store(State(hub): State<Hub>, method: Method, uri: Uri, headers: HeaderMap) -> Answer {
    let seen = hub.note("store", &method, &uri, &headers);
    let mut inner = hub.inner.lock().unwrap();
    if uri.query() != Some("signature=secret") {
        return refused(403, "");
    }
    let (commit, name) = seen.path.trim_start_matches('/').split_once('/').unwrap();
    let whole = inner.commits[commit][name].bytes.clone();
    let fault = inner.faults.pop_front();
    if let Some(answer) = fault.as_ref().and_then(failed) {
        return answer;
    }
    let start = seen.range.as_ref().filter(|_| !matches!(fault, Some(Fault::NoRanges)));
    let start = start.map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().unwrap());
    if start.is_some_and(|start| start >= whole.len()) {
        return answer(416, &[], "");
    }
    let rest = whole.slice(start.unwrap_or(0)..);
    let mut headers = vec![("content-length", rest.len().to_string()), ("etag", "\"multipart-3\"".to_owned())];
    if let Some(start) = start {
        headers.push(("content-range", format!("bytes {start}-{}/{}", whole.len() - 1, whole.len())));
    }
    let status = if start.is_some() { 206 } else { 200 };
    match fault {
        Some(Fault::BreakAfter(n)) => answer(status, &headers, broken(rest.slice(..n), Some(Duration::ZERO))),
        Some(Fault::StallAfter(n)) => answer(status, &headers, broken(rest.slice(..n), None)),
        Some(Fault::EndAfter(n)) => answer(status, &headers[1..], rest.slice(..n)),
        Some(Fault::Garbage) => answer(status, &headers, vec![7; rest.len()]),
        Some(Fault::Longer) => answer(status, &headers[1..], [&rest[..], b"more"].concat()),
        _ => answer(status, &headers, rest),
    }
}

/// `bytes`, and after `wait` (or never) an error that closes the connection.
fn broken(bytes: Bytes, wait: Option<Duration>) -> Body {
    let end = async move {
        match wait {
            // what was sent before should arrive
            Some(wait) => tokio::time::sleep(wait + Duration::from_millis(100)).await,
            None => std::future::pending().await,
        }
        Err(std::io::Error::other("broken on purpose"))
    };
    let first = futures::stream::iter([Ok(bytes)]);
    Body::from_stream(futures::StreamExt::chain(first, futures::stream::once(end)))
}
