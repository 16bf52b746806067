//! Models from a hub: `hf://owner/name@revision` becomes a folder on this machine.
//!
//! ```text
//! name      hf://owner/name@revision/file.gguf
//! settings  HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE ...
//! client    what a revision holds, what a file is, its bytes       (HTTP)
//! wanted    which of the files make a model
//! transfer  a file: resume, try again, check the digest
//! cache     blobs, snapshots, refs: the folder that Python's huggingface_hub shares
//! ```
//!
//! A commit that is in the cache is used without a question to anybody. A branch or tag is asked for each time, and where
//! nobody answers what it meant last time is used, with a warning. Nothing here knows what the files mean.

mod cache;
mod client;
mod digest;
mod name;
mod progress;
mod settings;
mod transfer;
mod wanted;

use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt};

pub use name::{HubName, SCHEME};
pub use progress::{Progress, ProgressSnapshot};
pub use settings::{Settings, Token};

use crate::error::{Error, Result};
use crate::runtime::retry::{RetryPolicy, retry};
use crate::runtime::rng::Seed;
use crate::runtime::shutdown::Shutdown;
use cache::RepoCache;
use client::{Client, Listing};
use transfer::{SMALL_BYTES_MAX, Transfers};
use wanted::{CONFIG, Found, INDEX, OPTIONAL, WeightFiles, look};

/// Files that are downloaded at a time.
const AT_A_TIME: usize = 4;

/// A model's files on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What was asked for.
    pub name: HubName,
    /// The commit that its revision meant.
    pub commit: String,
    /// The folder of the commit's files.
    pub folder: PathBuf,
    /// The one file that was asked for, if one was.
    pub file: Option<PathBuf>,
}

impl Snapshot {
    fn of(cache: &RepoCache, name: &HubName, commit: &str) -> Self {
        let folder = cache.snapshot(commit);
        let file = name.file.as_ref().map(|file| folder.join(file));
        Self { name: name.clone(), commit: commit.to_owned(), folder, file }
    }

    /// What a model is opened from: the file if one was asked for, else the folder.
    pub fn path(&self) -> &Path {
        self.file.as_deref().unwrap_or(&self.folder)
    }
}

/// The model as the cache has it, if it has all that is needed. Asks nobody; a branch means what it meant last time.
pub fn cached(name: &HubName, settings: &Settings) -> Option<Snapshot> {
    let cache = RepoCache::new(&settings.cache, &name.repo);
    let commit = cache.commit_of(&name.revision)?;
    match look(&cache, name, &commit) {
        Found::All | Found::Enough => Some(Snapshot::of(&cache, name, &commit)),
        Found::Lacks(_) => None,
    }
}

/// Bring the model to this machine, as far as it is not there. Needs a tokio runtime.
///
/// Errors: [`Config`] for what does not exist or may not be read, [`Unavailable`] if the hub did not answer for as long as
/// `settings` says, [`Data`] for files that are not what the hub promised, [`Closed`] if `shutdown` came first; what is
/// there by then is gone on with next time.
///
/// [`Config`]: crate::error::ErrorKind::Config
/// [`Unavailable`]: crate::error::ErrorKind::Unavailable
/// [`Data`]: crate::error::ErrorKind::Data
/// [`Closed`]: crate::error::ErrorKind::Closed
pub async fn fetch(name: &HubName, settings: &Settings, shutdown: &Shutdown, progress: &Progress) -> Result<Snapshot> {
    let cache = RepoCache::new(&settings.cache, &name.repo);
    if let Some(commit) = name.pinned()
        && look(&cache, name, commit) == Found::All
    {
        return Ok(Snapshot::of(&cache, name, commit));
    }
    if settings.offline {
        return cached(name, settings).ok_or_else(|| not_here(name, settings, &cache));
    }
    tokio::select! {
        biased; // a stop that comes with the end of the download wins
        () = shutdown.draining() => Err(Error::closed("the download")
            .context(format!("the download of `{name}` was stopped; the next one goes on from there"))),
        snapshot = download(name, settings, cache, shutdown, progress) => snapshot,
    }
}

fn not_here(name: &HubName, settings: &Settings, cache: &RepoCache) -> Error {
    let lacks = match cache.commit_of(&name.revision).map(|commit| look(cache, name, &commit)) {
        Some(Found::Lacks(file)) => format!(" (`{file}` is missing)"),
        _ => String::new(),
    };
    Error::config(format!(
        "`{name}` is not in `{}`{lacks}, and HF_HUB_OFFLINE forbids to ask for it: download it first",
        settings.cache.display()
    ))
}

async fn download(
    name: &HubName,
    settings: &Settings,
    cache: RepoCache,
    shutdown: &Shutdown,
    progress: &Progress,
) -> Result<Snapshot> {
    let client = Client::new(settings, name)?;
    let fallback = cached(name, settings);
    let listing = match (list(&client, settings, shutdown, fallback.is_some()).await, fallback) {
        (Ok(listing), _) => listing,
        (Err(error), Some(snapshot)) if error.kind().retryable() => {
            tracing::warn!(%error, commit = snapshot.commit, "the hub does not answer, using the model in the cache");
            return Ok(snapshot);
        }
        (Err(error), _) => return Err(error),
    };
    let commit = listing.commit.as_str();
    tracing::info!(model = %name, commit, cache = %settings.cache.display(), "bringing a model from the hub");
    let transfers = Transfers { client, cache, name, commit, policy: settings.retry, shutdown, progress };
    bring_model(&transfers, &listing).await?;
    // last, so that a revision never leads to half a model
    transfers.cache.set_commit(&name.revision, commit)?;
    Ok(Snapshot::of(&transfers.cache, name, commit))
}

/// Ask what the revision holds; only once if there is something to use instead.
async fn list(client: &Client<'_>, settings: &Settings, shutdown: &Shutdown, once: bool) -> Result<Listing> {
    let budget = if once { std::time::Duration::ZERO } else { settings.retry.budget };
    let policy = RetryPolicy { budget, ..settings.retry };
    let mut rng = Seed(u64::from(std::process::id())).stream("hub");
    retry(&policy, &mut rng, shutdown, |_| (), async || client.listing().await).await
}

/// Small files first: a model whose weights are whole has everything else.
async fn bring_model(transfers: &Transfers<'_>, listing: &Listing) -> Result<()> {
    let (name, files) = (transfers.name, &listing.files);
    let missing = |file: &str| Error::config(format!("`{name}` has no `{file}`"));
    if let Some(file) = &name.file {
        if !files.contains(file) {
            return Err(missing(file));
        }
        return transfers.bring(file, u64::MAX).await;
    }
    let weights = WeightFiles::among(files.iter().map(String::as_str));
    let weights = weights.ok_or_else(|| wanted::no_weights(name, files))?;
    if !files.contains(CONFIG) {
        return Err(missing(CONFIG));
    }
    for file in OPTIONAL.iter().filter(|file| !files.contains(**file)) {
        transfers.cache.set_absent(&listing.commit, file);
    }
    let small = [CONFIG].into_iter().chain(OPTIONAL).filter(|file| files.contains(*file));
    bring_all(transfers, small.map(str::to_owned), SMALL_BYTES_MAX).await?;
    match weights {
        WeightFiles::Single(file) => transfers.bring(&file, u64::MAX).await,
        WeightFiles::Indexed => {
            transfers.bring(INDEX, SMALL_BYTES_MAX).await?;
            let path = transfers.cache.snapshot(&listing.commit).join(INDEX);
            let index = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
            let shards = wanted::shards(&index).map_err(|e| e.context(format!("read the index of `{name}`")))?;
            if let Some(absent) = shards.iter().find(|shard| !files.contains(*shard)) {
                return Err(Error::data(format!("the index of `{name}` names `{absent}`, which is not there")));
            }
            bring_all(transfers, shards.into_iter(), u64::MAX).await
        }
    }
}

/// Bring `files`, some at a time. The first error ends all; what came by then stays.
async fn bring_all(transfers: &Transfers<'_>, files: impl Iterator<Item = String>, bytes_max: u64) -> Result<()> {
    let brought = files.map(|file| async move { transfers.bring(&file, bytes_max).await });
    futures::stream::iter(brought).buffer_unordered(AT_A_TIME).try_collect::<Vec<()>>().await.map(drop)
}
