//! A repository's folder in the cache that Python's `huggingface_hub` keeps, so that both share what either downloaded.
//!
//! ```text
//! .locks/models--owner--name/<etag>.lock    held (flock) while a blob is made
//! models--owner--name/
//!   blobs/<etag>                            contents, named by their hash
//!   blobs/<etag>.incomplete                 what is there of one so far
//!   snapshots/<commit>/config.json          links to blobs
//!   refs/main                               the commit that a branch or tag named when it was last asked for
//!   .no_exist/<commit>/tokenizer.json       files that the commit is known not to have
//! ```
//!
//! Every name appears by a rename, so that readers never see a part of a file; a blob appears only when its digest is
//! right. `hf-hub` knows the names of folders; links, locks and refs it makes only within its own client, which is not
//! used (`docs/decisions/007-hub.md`).

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hf_hub::{Cache, Repo, RepoType};

use crate::error::{Error, Result};
use crate::hub::name::is_commit;

/// Time between two tries to take a lock that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// What backup programs look for (bford.info/cachedir).
const CACHE_TAG: &str =
    "Signature: 8a477f597d28d172789f06886806bc55\n# Models from a hub; they can be downloaded again.\n";

/// One repository in the cache.
#[derive(Clone, Debug)]
pub(super) struct RepoCache {
    cache: PathBuf,
    repo: Repo,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, repo: &str) -> Self {
        Self { cache: cache.to_owned(), repo: Repo::new(repo.to_owned(), RepoType::Model) }
    }

    fn folder(&self) -> PathBuf {
        self.cache.join(self.repo.folder_name())
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        Cache::new(self.cache.clone()).repo(self.repo.clone()).pointer_path(commit)
    }

    /// Where the contents with this etag are, or will be.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(etag)
    }

    /// Where the contents with this etag are while they are not complete.
    pub(super) fn partial(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(format!("{etag}.incomplete"))
    }

    fn absent_marker(&self, commit: &str, file: &str) -> PathBuf {
        self.folder().join(".no_exist").join(commit).join(file)
    }

    /// Whether the commit's `file` is here, whole.
    pub(super) fn has(&self, commit: &str, file: &str) -> bool {
        self.snapshot(commit).join(file).is_file()
    }

    /// Whether the commit is known not to have `file`.
    pub(super) fn lacks(&self, commit: &str, file: &str) -> bool {
        self.absent_marker(commit, file).is_file()
    }

    /// The commit that `revision` meant when it was last asked for.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = std::fs::read_to_string(self.folder().join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Remember that `revision` means `commit`.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) || self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        replace(&self.folder().join("refs").join(revision), |path| std::fs::write(path, commit))
    }

    /// Remember that the commit has no `file`. What cannot be written is asked for again another time.
    pub(super) fn set_absent(&self, commit: &str, file: &str) {
        if !self.lacks(commit, file) {
            drop(replace(&self.absent_marker(commit, file), |path| std::fs::write(path, "")));
        }
    }

    /// Make the commit's `file` a link to the blob with this etag.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let up = "../".repeat(file.matches('/').count() + 2);
        let target = format!("{up}blobs/{etag}");
        replace(&self.snapshot(commit).join(file), |path| std::os::unix::fs::symlink(&target, path))
    }

    /// Wait until nobody else makes the blob with this etag. The lock ends with the file that is returned.
    pub(super) async fn lock(&self, etag: &str) -> Result<File> {
        create_folder(&self.folder().join("blobs"))?;
        self.tag()?;
        let path = self.cache.join(".locks").join(self.repo.folder_name()).join(format!("{etag}.lock"));
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        let mut told = false;
        loop {
            let options = File::options().write(true).create(true).truncate(false).open(&path);
            let file = options.map_err(|e| Error::io("open", &path, e))?;
            match file.try_lock() {
                // whoever held it may have removed the file, and a third have made it anew
                Ok(()) if is_at(&file, &path) => return Ok(file),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    if !told {
                        tracing::info!(lock = %path.display(), "another process downloads this file, waiting for it");
                        told = true;
                    }
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => return Ok(file),
                Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path, e)),
            }
        }
    }

    /// Tell backup programs what this folder is, as Python does.
    fn tag(&self) -> Result<()> {
        let path = self.cache.join("CACHEDIR.TAG");
        match path.try_exists() {
            Ok(false) => replace(&path, |path| std::fs::write(path, CACHE_TAG)),
            _ => Ok(()),
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(ours), Ok(there)) => ours.ino() == there.ino() && ours.dev() == there.dev(),
        _ => false,
    }
}

fn create_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| Error::io("create", path, e))
}

/// Put what `make` makes at `path`, over whatever is there, in one step.
fn replace(path: &Path, make: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    let unique = format!(".{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(unique);
    let temporary = path.with_file_name(name);
    let made = make(&temporary).and_then(|()| std::fs::rename(&temporary, path));
    made.map_err(|e| {
        // it may not have been made
        drop(std::fs::remove_file(&temporary));
        Error::io("write", path, e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "2439f60ef33a0d46d85da5001d52aeda5b00ce9f";

    #[test]
    fn links_refs_and_markers_are_where_python_looks() {
        let folder = tempfile::tempdir().unwrap();
        let repo = RepoCache::new(folder.path(), "owner/name");
        let root = folder.path().join("models--owner--name");
        std::fs::create_dir_all(root.join("blobs")).unwrap();
        std::fs::write(repo.blob("abc"), "text").unwrap();
        for file in ["config.json", "q4/m.gguf"] {
            assert!(!repo.has(COMMIT, file));
            repo.link(COMMIT, file, "abc").unwrap();
            repo.link(COMMIT, file, "abc").unwrap();
            assert!(repo.has(COMMIT, file));
        }
        let link = std::fs::read_link(root.join("snapshots").join(COMMIT).join("q4/m.gguf")).unwrap();
        assert_eq!(link.to_str(), Some("../../../blobs/abc"));
        repo.set_commit("refs/pr/1", COMMIT).unwrap();
        assert_eq!(std::fs::read_to_string(root.join("refs/refs/pr/1")).unwrap(), COMMIT);
        assert_eq!(repo.commit_of("refs/pr/1").as_deref(), Some(COMMIT));
        repo.set_absent(COMMIT, "tokenizer.json");
        assert!(repo.lacks(COMMIT, "tokenizer.json") && !repo.lacks(COMMIT, "config.json"));
        std::fs::write(root.join("refs/bad"), "../../x").unwrap();
        assert_eq!(repo.commit_of("bad"), None);
        let left = std::fs::read_dir(root.join("snapshots").join(COMMIT)).unwrap().count();
        assert_eq!(left, 2, "temporary names are gone");
    }

    #[tokio::test]
    async fn a_lock_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let repo = RepoCache::new(folder.path(), "name");
        let held = repo.lock("abc").await.unwrap();
        let second = tokio::time::timeout(3 * LOCK_PAUSE, repo.lock("abc")).await;
        assert!(second.is_err(), "two hold the lock");
        drop(held);
        repo.lock("abc").await.unwrap();
    }
}
