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
        if marker.files.insert(name.clone(), entry).is_some() {
            return Err(Error::internal(format!("a checkpoint has two files `{name}`")));
        }
    }
    crate::testing::failpoint("checkpoint_before_marker");
    let text = serde_json::to_vec_pretty(&marker).expect("maps with string keys serialise");
    if objects::create(&place.child(MARKER), text.into()).await? != Created::Yes {
        return Err(Error::data(format!("another process writes checkpoints to `{}`", location.shown)));
    }
    crate::testing::failpoint("checkpoint_after_marker");
    prune(location, folders, folder, keep).await;
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
