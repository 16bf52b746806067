//! Trainers' states in a store: complete or not there, never overwritten in place.
//!
//! ```text
//! <location>/step-000000123-000/<file>           the files of one state
//! <location>/step-000000123-000/checkpoint.json  written last: names, sizes and checksums of all files
//! ```
//!
//! The last number is the attempt: a folder that a killed process left behind is never written to again. A folder without
//! `checkpoint.json` is no checkpoint; one with a damaged file is passed over for the one before it. One writer a location.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::dataset::encoder::hex;
use crate::error::{Error, Result};
use crate::store::Location;
use crate::store::objects::{self, Created};
use crate::store::upload::{Upload, UploadOptions};
use crate::testing::failpoint;

/// The object that makes a checkpoint count.
const MARKER: &str = "checkpoint.json";
/// Version of the marker.
const FORMAT: u32 = 1;

/// A complete checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Steps done when it was written.
    pub step: u64,
    /// Where it is, for people.
    pub folder: String,
    /// Its files.
    pub files: Vec<(String, Bytes)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    format: u32,
    step: u64,
    files: BTreeMap<String, FileEntry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct FileEntry {
    bytes: u64,
    sha256: String,
}

/// A checkpoint's folder, ordered by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Folder {
    step: u64,
    attempt: u32,
}

impl Folder {
    fn name(self) -> String {
        format!("step-{:09}-{:03}", self.step, self.attempt)
    }

    fn parse(name: &str) -> Option<Self> {
        let (step, attempt) = name.strip_prefix("step-")?.split_once('-')?;
        let folder = Self { step: step.parse().ok()?, attempt: attempt.parse().ok()? };
        (folder.name() == name).then_some(folder)
    }
}

/// Write a state and then delete all but the newest `keep` (at least 1). Gives the folder's place, for people.
///
/// File names must be plain (no slash). When this returns, the checkpoint is durable.
pub async fn save(location: &Location, step: u64, files: Vec<(String, Bytes)>, keep: u32) -> Result<String> {
    let folders = folders(location).await?;
    let attempt = folders.iter().filter(|f| f.step == step).map(|f| f.attempt + 1).max().unwrap_or(0);
    let folder = Folder { step, attempt };
    let place = location.child(&folder.name());
    let mut marker = Marker { format: FORMAT, step, files: BTreeMap::new() };
    failpoint("checkpoint_begun");
    for (name, bytes) in files {
        if name.is_empty() || name == MARKER || name.contains(['/', '#']) {
            return Err(Error::internal(format!("`{name}` cannot be the name of a checkpoint's file")));
        }
        let entry = FileEntry { bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(&bytes)) };
        let mut upload = Upload::new(place.child(&name), UploadOptions::default());
        let written = upload.write(bytes).await;
        match written {
            Ok(()) => upload.finish().await?,
            Err(error) => {
                upload.abort().await;
                return Err(error);
            }
        }
        failpoint("checkpoint_file");
        if marker.files.insert(name.clone(), entry).is_some() {
            return Err(Error::internal(format!("a checkpoint has two files `{name}`")));
        }
    }
    failpoint("checkpoint_before_marker");
    let text = serde_json::to_vec_pretty(&marker).expect("maps with string keys serialise");
    if objects::create(&place.child(MARKER), text.into()).await? != Created::Yes {
        return Err(Error::data(format!("another process writes checkpoints to `{}`", location.shown)));
    }
    failpoint("checkpoint_after_marker");
    prune(location, folders, folder, keep).await;
    failpoint("checkpoint_pruned");
    Ok(place.shown)
}

/// The newest complete checkpoint, if there is one.
pub async fn latest(location: &Location) -> Result<Option<Checkpoint>> {
    for folder in folders(location).await?.into_iter().rev() {
        let place = location.child(&folder.name());
        match load(&place, folder).await {
            Ok(Some(checkpoint)) => return Ok(Some(checkpoint)),
            Ok(None) => tracing::info!(folder = %place.shown, "passed over: an incomplete checkpoint"),
            Err(error) if error.kind().retryable() => return Err(error),
            Err(error) => tracing::warn!(folder = %place.shown, %error, "passed over: a damaged checkpoint"),
        }
    }
    Ok(None)
}

/// The checkpoint that a person means by `place`: one checkpoint's own folder, or the newest of a folder of them.
pub async fn at(place: &Location) -> Result<Option<Checkpoint>> {
    match place.path.filename().and_then(Folder::parse) {
        Some(folder) => load(place, folder).await,
        None => latest(place).await,
    }
}

/// The checkpoint in `place`; `None` if it was never completed, an error if it is damaged.
async fn load(place: &Location, folder: Folder) -> Result<Option<Checkpoint>> {
    let Some(text) = objects::read(&place.child(MARKER)).await? else { return Ok(None) };
    let marker: Marker =
        serde_json::from_slice(&text).map_err(|e| Error::data(format!("{MARKER} cannot be read: {e}")))?;
    if marker.format != FORMAT || marker.step != folder.step {
        return Err(Error::data(format!("{MARKER} has format {} and step {}", marker.format, marker.step)));
    }
    let mut files = Vec::with_capacity(marker.files.len());
    for (name, entry) in marker.files {
        let file = place.child(&name);
        let bytes = objects::read(&file).await?;
        let bytes = bytes.ok_or_else(|| Error::data(format!("`{}` is missing", file.shown)))?;
        if (FileEntry { bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(&bytes)) }) != entry {
            return Err(Error::data(format!("`{}` is damaged: its checksum is not the one written", file.shown)));
        }
        files.push((name, bytes));
    }
    Ok(Some(Checkpoint { step: folder.step, folder: place.shown.clone(), files }))
}

/// All checkpoint folders, oldest first, complete or not.
async fn folders(location: &Location) -> Result<Vec<Folder>> {
    let listed = location.store.list_with_delimiter(Some(&location.path)).await;
    let listed = match listed {
        Ok(listed) => listed,
        Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(crate::store::error("list", &location.shown, error)),
    };
    let names = listed.common_prefixes.iter().filter_map(|prefix| Folder::parse(prefix.filename()?));
    let mut folders: Vec<Folder> = names.collect();
    folders.sort();
    Ok(folders)
}

/// Delete what the newest `keep` checkpoints leave behind, and every incomplete folder (this is the only writer). A failure
/// is logged: the state that was just written is safe, and the next save tries again.
async fn prune(location: &Location, before: Vec<Folder>, written: Folder, keep: u32) {
    let mut complete = vec![written];
    let mut doomed = Vec::new();
    // a trainer that went back to an older state may have left newer folders: what is written last is the newest there is
    for folder in before.into_iter().rev() {
        let marker = objects::read(&location.child(&folder.name()).child(MARKER)).await;
        match marker {
            Ok(Some(_)) if complete.len() < keep.max(1) as usize && folder < written => complete.push(folder),
            Ok(_) => doomed.push(folder),
            Err(error) => tracing::warn!(folder = folder.name(), %error, "cannot look at a checkpoint"),
        }
    }
    for folder in doomed {
        let place = location.child(&folder.name());
        if let Err(error) = remove(&place).await {
            tracing::warn!(folder = %place.shown, %error, "cannot delete an old checkpoint");
        }
    }
}

/// Delete a folder, its marker first: what is half deleted is no checkpoint.
async fn remove(place: &Location) -> Result<()> {
    objects::delete(&place.child(MARKER)).await?;
    for object in objects::list(place).await? {
        objects::delete(&Location { path: object.location, ..place.clone() }).await?;
    }
    match &place.local {
        // folders are real here, and staging files of a killed process are not listed
        Some(folder) => match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("delete", folder, error)),
            _ => Ok(()),
        },
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;
    use crate::error::ErrorKind;
    use crate::testing::{Fails, FaultyStore};

    fn files(step: u64) -> Vec<(String, Bytes)> {
        vec![
            ("cursor.json".into(), format!("{{\"step\": {step}}}").into()),
            ("state.safetensors".into(), vec![step as u8; 100].into()),
        ]
    }

    fn memory(name: &str) -> Location {
        Location::open(&format!("memory://checkpoints-{name}/coder")).unwrap()
    }

    async fn names(location: &Location) -> Vec<String> {
        folders(location).await.unwrap().into_iter().map(Folder::name).collect()
    }

    #[tokio::test]
    async fn the_newest_is_found_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let local = Location::open(folder.path().join("coder").to_str().unwrap()).unwrap();
        for location in [memory("newest"), local] {
            assert_eq!(latest(&location).await.unwrap(), None);
            for step in [5, 10, 200, 3000] {
                let shown = save(&location, step, files(step), 2).await.unwrap();
                assert!(shown.ends_with(&format!("step-{step:09}-000")), "{shown}");
            }
            assert_eq!(names(&location).await, ["step-000000200-000", "step-000003000-000"]);
            let found = latest(&location).await.unwrap().unwrap();
            assert_eq!((found.step, found.files), (3000, files(3000)));
        }
        assert_eq!(std::fs::read_dir(folder.path().join("coder")).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn an_incomplete_checkpoint_is_passed_over_never_written_to_and_cleaned_up() {
        let location = memory("incomplete");
        save(&location, 1, files(1), 3).await.unwrap();
        // killed before the marker: two files are there
        let killed = FaultyStore::wrap(&location, Fails::Before, 2, 1);
        assert_eq!(save(&killed, 2, files(2), 3).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(latest(&location).await.unwrap().unwrap().step, 1);
        assert!(save(&location, 2, files(2), 3).await.unwrap().ends_with("step-000000002-001"));
        assert_eq!(names(&location).await, ["step-000000001-000", "step-000000002-001"]);
        assert_eq!(latest(&location).await.unwrap().unwrap().step, 2);
    }

    #[tokio::test]
    async fn a_damaged_checkpoint_gives_way_to_the_one_before() {
        for damage in 0..3 {
            let location = memory(&format!("damaged-{damage}"));
            for step in [1, 2] {
                save(&location, step, files(step), 3).await.unwrap();
            }
            let newest = location.child("step-000000002-000");
            let (state, marker) = (newest.child("state.safetensors"), newest.child(MARKER));
            match damage {
                0 => drop(state.store.put(&state.path, vec![9u8; 100].into()).await.unwrap()),
                1 => objects::delete(&state).await.unwrap(),
                _ => drop(marker.store.put(&marker.path, "{".into()).await.unwrap()),
            }
            let found = latest(&location).await.unwrap().unwrap();
            assert_eq!((found.step, found.files), (1, files(1)));
        }
    }

    #[tokio::test]
    async fn a_trainer_that_went_back_is_the_newest_again() {
        let location = memory("back");
        for step in [1, 2, 3] {
            save(&location, step, files(step), 3).await.unwrap();
        }
        // it restored step 1, say, and saves step 2 again: what was ahead is of another history
        save(&location, 2, files(7), 3).await.unwrap();
        assert_eq!(names(&location).await, ["step-000000001-000", "step-000000002-000", "step-000000002-001"]);
        assert_eq!(latest(&location).await.unwrap().unwrap().files, files(7));
    }

    #[tokio::test]
    async fn file_names_must_be_plain() {
        for name in ["", "a/b", MARKER] {
            let files = vec![(name.to_owned(), Bytes::new())];
            assert_eq!(save(&memory("names"), 1, files, 1).await.unwrap_err().kind(), ErrorKind::Internal);
        }
    }
}
