//! Small objects: read whole, written whole, listed, deleted; staging files of killed processes swept up.

use std::path::Path as FilePath;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::Error::{AlreadyExists, Generic, Precondition};
use object_store::{ObjectMeta, ObjectStoreExt, PutMode, PutOptions};

use crate::error::{Error, Result};
use crate::store::config::ConditionalPut;
use crate::store::{self, Location};

/// What [`create`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object is ours: it was absent, or an earlier try of ours had written it.
    Yes,
    /// Somebody else's object is there, with this content.
    No(Bytes),
}

/// The object's bytes; `None` if there is no such object.
pub async fn read(location: &Location) -> Result<Option<Bytes>> {
    let found = match location.store.get(&location.path).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(store::error("read", &location.shown, error)),
    };
    match found.bytes().await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => Err(store::error("read", &location.shown, error)),
    }
}

/// Write an object that must not exist yet.
///
/// A put whose answer was lost may have succeeded, and a client that tried again then sees its own object: so an object
/// that is there is read back, and counts as ours if its bytes are the same. One that is not there is tried again, even
/// where the store spoke of a conflict: that was with a request still under way.
pub async fn create(location: &Location, bytes: Bytes) -> Result<Created> {
    location.writable()?;
    let must_be_absent = location.backend.conditional_put != ConditionalPut::None;
    if !must_be_absent && let Some(found) = read(location).await? {
        return Ok(if found == bytes { Created::Yes } else { Created::No(found) });
    }
    let mode = if must_be_absent { PutMode::Create } else { PutMode::Overwrite };
    let mut trial = location.backend.retries.begin();
    loop {
        let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
        let error = match location.store.put_opts(&location.path, bytes.clone().into(), options).await {
            Ok(_) => return Ok(Created::Yes),
            Err(error) => error,
        };
        let refused = matches!(error, AlreadyExists { .. } | Precondition { .. });
        if !refused && !store::passes_by_itself(&error) {
            return Err(store::error("write", &location.shown, error));
        }
        match read(location).await {
            Ok(Some(found)) if found == bytes => return Ok(Created::Yes),
            Ok(Some(found)) => return Ok(Created::No(found)),
            Ok(None) => {}
            // what is there is not known: that may be asked again, whatever the write was told
            Err(unread) => return Err(unread.context(format!("see what a write to `{}` left there", location.shown))),
        }
        let error = if refused { Generic { store: "conflict", source: Box::new(error) } } else { error };
        trial.failed(error).await.map_err(|e| store::error("write", &location.shown, e))?;
    }
}

/// Write an object, whether it exists or not; readers see the old one or the new one, never a part.
pub async fn replace(location: &Location, bytes: Bytes) -> Result<()> {
    location.writable()?;
    let put = location.store.put(&location.path, bytes.into()).await;
    put.map(drop).map_err(|e| store::error("write", &location.shown, e))
}

/// All objects below `location`, sorted by name.
pub async fn list(location: &Location) -> Result<Vec<ObjectMeta>> {
    let listed = location.store.list(Some(&location.path)).try_collect::<Vec<_>>().await;
    let mut objects = listed.map_err(|e| store::error("list", &location.shown, e))?;
    objects.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(objects)
}

/// Delete an object; one that is not there is fine.
pub async fn delete(location: &Location) -> Result<()> {
    match location.store.delete(&location.path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(store::error("delete", &location.shown, error)),
    }
}

/// Delete objects, given by their names below `location`, many at a time where the store can; ones that are not there
/// are fine.
pub async fn delete_all(location: &Location, names: Vec<String>) -> Result<()> {
    let paths: Vec<_> = names.iter().map(|name| Ok(location.child(name).path)).collect();
    let mut deleted = location.store.delete_stream(futures::stream::iter(paths).boxed());
    while let Some(result) = deleted.next().await {
        match result {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(store::error("delete objects of", &location.shown, error)),
        }
    }
    Ok(())
}

/// Local stores write beside the object, under `<name>#<number>`, and rename; a killed process leaves such files, which
/// listings hide. Delete those in the folder `location`, or only those last written `before` (since 1970-01-01 UTC), and
/// give their names. What a live process is just writing must not be among them.
pub fn sweep_staging(location: &Location, before: Option<Duration>) -> Result<Vec<String>> {
    let Some(folder) = &location.local else { return Ok(Vec::new()) };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", folder, error)),
    };
    let mut swept = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", folder, e))?;
        let name = entry.file_name();
        let old_enough = || match before {
            None => true,
            Some(before) => written_at(&entry).is_some_and(|at| at < before),
        };
        if is_staging(FilePath::new(&name)) && old_enough() {
            std::fs::remove_file(entry.path()).map_err(|e| Error::io("delete", entry.path(), e))?;
            swept.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(swept)
}

fn written_at(entry: &std::fs::DirEntry) -> Option<Duration> {
    entry.metadata().ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()
}

/// Whether a file's name ends in `#<digits>`.
fn is_staging(name: &FilePath) -> bool {
    let suffix = name.to_str().and_then(|name| name.rsplit_once('#'));
    suffix.is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_first_creates_and_a_repeated_create_is_ours() {
        let place = Location::open("memory://objects").unwrap().child("a.json");
        assert_eq!(read(&place).await.unwrap(), None);
        assert_eq!(create(&place, Bytes::from_static(b"1")).await.unwrap(), Created::Yes);
        assert_eq!(create(&place, Bytes::from_static(b"1")).await.unwrap(), Created::Yes);
        assert_eq!(create(&place, Bytes::from_static(b"2")).await.unwrap(), Created::No(Bytes::from_static(b"1")));
        delete(&place).await.unwrap();
        delete(&place).await.unwrap();
        assert_eq!(read(&place).await.unwrap(), None);
    }

    #[test]
    fn only_staging_files_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.parquet", "a.parquet#1", "b#12", "c#", "d#x1"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let place = Location::open(folder.path().to_str().unwrap()).unwrap();
        assert!(sweep_staging(&place, Some(Duration::from_secs(1))).unwrap().is_empty());
        let mut swept = sweep_staging(&place, None).unwrap();
        swept.sort();
        assert_eq!(swept, ["a.parquet#1", "b#12"]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
        assert!(sweep_staging(&place.child("none"), None).unwrap().is_empty());
    }
}
