//! Compiled kernels on disk: a file for each source, set of options, compiler version and architecture.
//!
//! A file holds the digest of its machine code before the code itself: one that was torn or damaged is compiled anew. Files
//! are written aside and renamed, so that processes may share a folder.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::nvrtc::{self, Nvrtc};
use crate::error::{Error, Result};

/// Bytes of a digest.
const DIGEST: usize = 32;
/// A kernel's file is some kilobytes; more than this is none of ours and is not read.
const LARGEST: u64 = 64 << 20;

/// A folder of compiled kernels.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache in `folder`, which is made when the first kernel is kept.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The machine code of a source: from the folder, or compiled now and kept there.
    ///
    /// # Errors
    /// Those of the compiler. A folder that cannot be written is an error too: it would compile at every start.
    pub fn cubin(&self, nvrtc: &Nvrtc, name: &str, source: &str, architecture: &str) -> Result<Vec<u8>> {
        let path = self.path(nvrtc.version(), name, source, architecture);
        if let Some(cubin) = read(&path) {
            return Ok(cubin);
        }
        let cubin = nvrtc.compile(name, source, architecture)?.cubin;
        self.keep(&path, &cubin)?;
        Ok(cubin)
    }

    /// The file of a kernel.
    fn path(&self, version: (i32, i32), name: &str, source: &str, architecture: &str) -> PathBuf {
        let mut digest = Sha256::new();
        let version = format!("{}.{}", version.0, version.1);
        for part in [source, architecture, &version].into_iter().chain(nvrtc::OPTIONS) {
            // with its length, so that no two lists of parts run together to the same bytes
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let key: String = digest.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(format!("{name}-{architecture}-{key}.cubin"))
    }

    fn keep(&self, path: &Path, cubin: &[u8]) -> Result<()> {
        let mut bytes = Sha256::digest(cubin).to_vec();
        bytes.extend(cubin);
        let aside = path.with_extension(format!("{}.part", std::process::id()));
        std::fs::create_dir_all(&self.folder).map_err(|e| Error::io("make folder", &self.folder, e))?;
        std::fs::write(&aside, bytes).map_err(|e| Error::io("write", &aside, e))?;
        std::fs::rename(&aside, path).map_err(|e| Error::io("rename", &aside, e))
    }
}

/// The code in a file, if it is whole.
fn read(path: &Path) -> Option<Vec<u8>> {
    if std::fs::metadata(path).ok()?.len() > LARGEST {
        return None;
    }
    let mut bytes = std::fs::read(path).ok()?;
    let cubin = bytes.split_off(bytes.len().min(DIGEST));
    (bytes == Sha256::digest(&cubin).as_slice()).then_some(cubin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_and_damage_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path().join("kernels"));
        let path = cache.path((12, 4), "act", "source", "sm_80");
        assert_eq!(read(&path), None);
        cache.keep(&path, b"code").unwrap();
        assert_eq!(read(&path).unwrap(), b"code");
        let bytes = std::fs::read(&path).unwrap();
        for damaged in [&bytes[..bytes.len() - 1], &bytes[..10], &[][..], &[&bytes[..], b"x"].concat()] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(read(&path), None, "{} bytes", damaged.len());
        }
        assert_eq!(std::fs::read_dir(root.path().join("kernels")).unwrap().count(), 1, "nothing is left aside");
    }

    #[test]
    fn every_part_of_the_key_makes_another_file() {
        let cache = Cache::new("/x");
        let paths = [
            cache.path((12, 4), "a", "s", "sm_80"),
            cache.path((12, 4), "a", "t", "sm_80"),
            cache.path((12, 4), "a", "s", "sm_90a"),
            cache.path((13, 0), "a", "s", "sm_80"),
            cache.path((12, 4), "b", "s", "sm_80"),
        ];
        let distinct: std::collections::BTreeSet<_> = paths.iter().collect();
        assert_eq!(distinct.len(), paths.len());
    }
}
