//! One file into the cache: asked for, downloaded, checked, and only then given its name.
//!
//! A download that breaks goes on where it stopped, in this process or a later one: what is there is kept under the name of
//! the contents that it belongs to, and the digest of the whole decides. Contents with another digest are thrown away.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::hub::cache::RepoCache;
use crate::hub::client::{Client, FileInfo};
use crate::hub::digest::Promise;
use crate::hub::name::HubName;
use crate::hub::progress::Progress;
use crate::runtime::retry::{RetryPolicy, retry};
use crate::runtime::rng::Seed;
use crate::runtime::shutdown::Shutdown;

/// Bytes after which a try that broke was worth it: the next one has the whole time for trying again.
const WORTH_BYTES: u64 = 64 << 10;
/// Largest file that is not weights; tokenizers of large vocabularies have 40 MB.
pub(super) const SMALL_BYTES_MAX: u64 = 256 << 20;

/// What the transfers of one model share.
pub(super) struct Transfers<'a> {
    pub(super) client: Client<'a>,
    pub(super) cache: RepoCache,
    pub(super) name: &'a HubName,
    pub(super) commit: &'a str,
    pub(super) policy: RetryPolicy,
    pub(super) shutdown: &'a Shutdown,
    pub(super) progress: &'a Progress,
}

/// How a try ended that did not fail.
enum Try {
    Whole,
    /// It broke, but after enough bytes.
    Longer(Error),
}

impl Transfers<'_> {
    /// Bring the commit's `file` (of at most `bytes_max`) into the cache.
    pub(super) async fn bring(&self, file: &str, bytes_max: u64) -> Result<()> {
        if self.cache.has(self.commit, file) {
            return Ok(());
        }
        let info = self.again(async || self.client.info(self.commit, file).await).await?;
        if info.size > bytes_max {
            let (name, size) = (self.name, info.size);
            return Err(Error::data(format!("`{file}` of `{name}` has {size} bytes, more than such a file can have")));
        }
        // held until the link is made
        let _lock = self.cache.lock(&info.etag).await?;
        let blob = self.cache.blob(&info.etag);
        if !blob.metadata().is_ok_and(|there| there.is_file() && there.len() == info.size) {
            self.progress.expect(info.size);
            self.download(file, &info).await?;
        }
        self.cache.link(self.commit, file, &info.etag)
    }

    /// Do it again while it fails for a passing reason.
    async fn again<T>(&self, operation: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        // downloads that failed together should not come back together: a stream of waits for each process
        let mut rng = Seed(u64::from(std::process::id())).stream("hub");
        retry(&self.policy, &mut rng, self.shutdown, |_| (), operation).await
    }

    /// Make the blob.
    async fn download(&self, file: &str, info: &FileInfo) -> Result<()> {
        let (partial, promise) = (self.cache.partial(&info.etag), Promise::of(&info.etag));
        let mut resumed = prepare(&partial, info, promise)?;
        self.progress.keep(resumed);
        loop {
            self.transfer(file, info, &partial).await?;
            let path = partial.clone();
            let found = tokio::task::spawn_blocking(move || promise.digest(&path)).await;
            let found = found.or_kind(ErrorKind::Internal, || "the digest was not computed".to_owned())??;
            match found {
                Some(found) if found != info.etag => {
                    remove(&partial)?;
                    self.progress.lose(info.size);
                    if resumed == 0 {
                        let (name, etag) = (self.name, &info.etag);
                        return Err(Error::data(format!(
                            "`{file}` of `{name}` has digest {found} where the hub says {etag}: it was not kept"
                        )));
                    }
                    tracing::warn!(file, "what an earlier try left is damaged, downloading all of it");
                    resumed = 0;
                }
                _ => break,
            }
        }
        let blob = self.cache.blob(&info.etag);
        let synced = File::open(&partial).and_then(|file| file.sync_all());
        synced.and_then(|()| std::fs::rename(&partial, &blob)).map_err(|e| Error::io("write", &blob, e))
    }

    /// Bring the partial file to its full length.
    async fn transfer(&self, file: &str, info: &FileInfo, partial: &Path) -> Result<()> {
        loop {
            match self.again(async || self.attempt(file, info, partial).await).await? {
                Try::Whole => return Ok(()),
                Try::Longer(error) => {
                    tracing::warn!(%error, file, "the transfer broke, going on where it stopped");
                    tokio::time::sleep(self.policy.first_wait).await;
                }
            }
        }
    }

    /// One request for what is missing.
    async fn attempt(&self, file: &str, info: &FileInfo, partial: &Path) -> Result<Try> {
        let io = |e| Error::io("write", partial, e);
        let mut out = File::options().create(true).append(true).open(partial).map_err(io)?;
        let mut have = out.metadata().map_err(io)?.len();
        if have == info.size {
            return Ok(Try::Whole);
        }
        let mut answer = self.client.bytes(self.commit, file, have).await?;
        let expected = format!("bytes {have}-{}/{}", info.size.saturating_sub(1), info.size);
        let goes_on = answer.status() == StatusCode::PARTIAL_CONTENT
            && answer.headers().get(CONTENT_RANGE).is_some_and(|range| range == expected.as_str());
        if have > 0 && !goes_on {
            out.set_len(0).map_err(io)?;
            self.progress.lose(have);
            have = 0;
            if answer.status() != StatusCode::OK {
                let name = self.name;
                return Err(Error::new(ErrorKind::Unavailable, format!("`{name}` has no such range of `{file}`")));
            }
        }
        let start = have;
        let broken = loop {
            match answer.chunk().await {
                Ok(Some(chunk)) => {
                    have += chunk.len() as u64;
                    if have > info.size {
                        remove(partial)?;
                        let (name, size) = (self.name, info.size);
                        return Err(Error::data(format!(
                            "`{file}` of `{name}` is longer than the {size} bytes it has"
                        )));
                    }
                    out.write_all(&chunk).map_err(io)?;
                    self.progress.receive(chunk.len() as u64);
                }
                Ok(None) if have == info.size => return Ok(Try::Whole),
                Ok(None) => break Error::new(ErrorKind::Unavailable, format!("`{file}` ended after {have} bytes")),
                Err(e) => break self.client.broken(e),
            }
        };
        if have - start >= WORTH_BYTES { Ok(Try::Longer(broken)) } else { Err(broken) }
    }
}

/// What an earlier try left that can be gone on with: its length. The rest is removed.
fn prepare(partial: &Path, info: &FileInfo, promise: Promise) -> Result<u64> {
    let length = match partial.metadata() {
        Ok(there) => there.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(Error::io("read", partial, e)),
    };
    // without a digest nobody would notice that the parts do not fit
    if length > info.size || promise == Promise::Nothing {
        remove(partial)?;
        return Ok(0);
    }
    Ok(length)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}
