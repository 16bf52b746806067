//! Who may write a local dataset: one run alone, or any number that all know of each other.
//!
//! The operating system holds the lock for the open file, so it ends with its process, however that ends. Object stores
//! have none; there only commits and the names of objects keep writers apart.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::store::Location;

/// The file that is locked, in the dataset's folder. It stays; nothing is in it.
const LOCK: &str = "writer.lock";

/// The right to write to a dataset, until dropped.
#[derive(Debug)]
pub struct WriterLock {
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    file: File,
    path: PathBuf,
}

impl WriterLock {
    /// Take the lock of the dataset at `location`: alone, or together with others that also take it `shared`. Without
    /// effect on stores that are not a local folder.
    ///
    /// [`Unavailable`](ErrorKind::Unavailable): another process has it.
    pub fn take(location: &Location, shared: bool) -> Result<Self> {
        let Some(folder) = &location.local else { return Ok(Self { held: None }) };
        let path = folder.join(LOCK);
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|e| Error::io("create", &path, e))?;
        let locked = if shared { file.try_lock_shared() } else { file.try_lock() };
        match locked {
            Ok(()) => Ok(Self { held: Some(Held { file, path }) }),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "another run writes to `{}`: wait for its end, or give both runs `dataset.shared: true`",
                    location.shown
                ),
            )),
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                tracing::warn!(dataset = %location.shown, "this file system has no locks: see that only one run writes");
                Ok(Self { held: None })
            }
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path, error)),
        }
    }

    /// Whether the folder is still the one that was locked: a folder that was moved away would be begun anew, without what
    /// is committed.
    ///
    /// [`Unavailable`](ErrorKind::Unavailable): it is not.
    pub fn check(&self) -> Result<()> {
        let Some(Held { file, path }) = &self.held else { return Ok(()) };
        let same = |there: &Metadata, ours: &Metadata| (there.dev(), there.ino()) == (ours.dev(), ours.ino());
        match (std::fs::metadata(path), file.metadata()) {
            (Ok(there), Ok(ours)) if same(&there, &ours) => Ok(()),
            _ => {
                let folder = path.parent().unwrap_or(path).display();
                let what =
                    format!("`{folder}` was moved or deleted while this run wrote to it: put it back and run again");
                Err(Error::new(ErrorKind::Unavailable, what))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_or_many_together() {
        let folder = tempfile::tempdir().unwrap();
        let place = Location::open(folder.path().join("acts").to_str().unwrap()).unwrap();
        let alone = WriterLock::take(&place, false).unwrap();
        for shared in [false, true] {
            let error = WriterLock::take(&place, shared).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.to_string().contains("dataset.shared: true"), "{error}");
        }
        alone.check().unwrap();
        let folder = place.local.clone().unwrap();
        std::fs::rename(&folder, folder.with_extension("away")).unwrap();
        assert!(alone.check().unwrap_err().to_string().contains("put it back"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(LOCK), "").unwrap();
        assert!(alone.check().is_err());
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::rename(folder.with_extension("away"), &folder).unwrap();
        alone.check().unwrap();
        drop(alone);
        let (_one, _two) = (WriterLock::take(&place, true).unwrap(), WriterLock::take(&place, true).unwrap());
        assert!(WriterLock::take(&place, false).is_err());
        // elsewhere there is nothing to hold
        let memory = Location::open("memory://lock/acts").unwrap();
        let (_one, _two) = (WriterLock::take(&memory, false).unwrap(), WriterLock::take(&memory, false).unwrap());
    }
}
