//! What operators asked for, kept over restarts: one file, replaced as a whole.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::admin::Desired;
use crate::config::edits::Edits;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// The file, in the state folder.
const FILE: &str = "state.json";
/// Is locked while a process uses the folder.
const LOCK: &str = "lock";
/// A file beyond this was not written here.
const BYTES_MAX: u64 = 16 << 20;
const VERSION: u32 = 1;

/// What is asked of one pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// Whether it is to work.
    #[serde(default)]
    pub desired: Desired,
    /// Trainers that are not as in its file.
    #[serde(default)]
    pub trainers: Edits,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    pipelines: BTreeMap<String, Intent>,
}

/// The intents of all pipelines, and the folder where they are kept.
#[derive(Debug)]
pub struct Memory {
    folder: PathBuf,
    intents: BTreeMap<String, Intent>,
    /// Held as long as this lives.
    _lock: File,
}

impl Memory {
    /// Open the folder, which is made if it is not there, and read what was kept.
    ///
    /// # Errors
    /// `Unavailable`: another process uses the folder, or it cannot be written. `Data`: the file is damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        let path = folder.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|e| Error::io("create", &path, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let what = format!("another harvestd uses `{}`: give each its own --state-dir", folder.display());
                return Err(Error::new(ErrorKind::Unavailable, what));
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path, error)),
        }
        let intents = read(&folder.join(FILE))?;
        Ok(Self { folder: folder.to_owned(), intents, _lock: lock })
    }

    /// What is asked of the pipeline `name`.
    pub fn intent(&self, name: &str) -> Intent {
        self.intents.get(name).cloned().unwrap_or_default()
    }

    /// Keep `intent` for the pipeline `name`. After an error the old one holds.
    ///
    /// # Errors
    /// `Unavailable`: the folder cannot be written.
    pub fn keep(&mut self, name: &str, intent: Intent) -> Result<()> {
        let mut intents = self.intents.clone();
        match intent == Intent::default() {
            true => drop(intents.remove(name)),
            false => drop(intents.insert(name.to_owned(), intent)),
        }
        self.replace(intents)
    }

    /// Forget pipelines that are not `wanted`.
    ///
    /// # Errors
    /// As [`Memory::keep`].
    pub fn forget_others(&mut self, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let mut intents = self.intents.clone();
        intents.retain(|name, _| wanted(name));
        self.replace(intents)
    }

    fn replace(&mut self, intents: BTreeMap<String, Intent>) -> Result<()> {
        if intents == self.intents {
            return Ok(());
        }
        let stored = Stored { version: VERSION, pipelines: intents };
        let text = serde_json::to_vec_pretty(&stored).or_kind(ErrorKind::Internal, || "write the state".to_owned())?;
        let (path, new) = (self.folder.join(FILE), self.folder.join("state.json.new"));
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(&self.folder)?.sync_all()
        });
        written.or_kind(ErrorKind::Unavailable, || format!("cannot write `{}`", path.display()))?;
        self.intents = stored.pipelines;
        Ok(())
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, Intent>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(Error::io("open", path, error)),
    };
    let mut text = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut text).map_err(|e| Error::io("read", path, e))?;
    let damaged = |why: String| {
        let path = path.display();
        Error::data(format!(
            "`{path}` is damaged ({why}): mend it, or delete it to forget pauses, stops and added trainers"
        ))
    };
    if text.len() as u64 > BYTES_MAX {
        return Err(damaged("larger than 16 MiB".to_owned()));
    }
    let stored: Stored = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    match stored.version {
        VERSION => Ok(stored.pipelines),
        other => Err(damaged(format!("version {other}; this program knows {VERSION}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_kept_is_found_again_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("deep/state");
        let intent = Intent {
            desired: Desired::Paused,
            trainers: Edits { added: vec![json!({"name": "t", "rows": "1M"})], stopped: vec!["one".to_owned()] },
        };
        {
            let mut memory = Memory::open(&place).unwrap();
            memory.keep("a", intent.clone()).unwrap();
            memory.keep("b", Intent { desired: Desired::Stopped, ..Intent::default() }).unwrap();
            let error = Memory::open(&place).unwrap_err();
            assert!(error.to_string().contains("another harvestd"), "{error}");
        }
        let mut memory = Memory::open(&place).unwrap();
        assert_eq!((memory.intent("a"), memory.intent("c")), (intent, Intent::default()));
        memory.keep("a", Intent::default()).unwrap();
        memory.forget_others(|name| name != "b").unwrap();
        drop(memory);
        let text = std::fs::read_to_string(place.join(FILE)).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), json!({"version": 1, "pipelines": {}}));
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        for (text, why) in [
            ("{\"version\": 1, \"pipel", "EOF"),
            ("{\"version\": 7, \"pipelines\": {}}", "version 7"),
            ("{\"version\": 1, \"pipelines\": {\"a\": {\"desired\": \"asleep\"}}}", "asleep"),
            ("[]", "invalid"),
        ] {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            let error = Memory::open(folder.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data);
            assert!(error.to_string().contains("state.json") && error.to_string().contains(why), "{error}");
        }
        let huge = File::create(folder.path().join(FILE)).unwrap();
        huge.set_len(1 << 40).unwrap();
        assert!(Memory::open(folder.path()).unwrap_err().to_string().contains("16 MiB"));
    }
}
