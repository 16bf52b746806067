//! What an etag promises of a file's contents.
//!
//! A hub names large files by their SHA-256 and small ones as git does: the SHA-1 of `blob LENGTH\0` and the contents.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use crate::error::{Error, Result};
use crate::hub::name::is_lower_hex;

/// The hash that an etag is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    Sha256,
    GitBlob,
    /// Another server's etag: only the size can be checked.
    Nothing,
}

impl Promise {
    /// What `etag` promises.
    pub(super) fn of(etag: &str) -> Self {
        match etag.len() {
            64 if is_lower_hex(etag) => Self::Sha256,
            40 if is_lower_hex(etag) => Self::GitBlob,
            _ => Self::Nothing,
        }
    }

    /// The etag that the file at `path` should have; `None` if nothing was promised. Reads all of it.
    pub(super) fn digest(self, path: &Path) -> Result<Option<String>> {
        let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let mut context = match self {
            Self::Sha256 => Context::new(&SHA256),
            Self::GitBlob => {
                let length = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {length}\0").as_bytes());
                context
            }
            Self::Nothing => return Ok(None),
        };
        let mut block = vec![0; 1 << 20];
        loop {
            match file.read(&mut block).map_err(|e| Error::io("read", path, e))? {
                0 => break,
                n => context.update(&block[..n]),
            }
        }
        Ok(Some(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `sha256sum` and `git hash-object` print of `hello\n`.
    #[test]
    fn digests_are_those_of_sha256sum_and_git() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hello\n").unwrap();
        for etag in [
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
            "ce013625030ba8dba906f756967f9e9ca394464a",
        ] {
            assert_eq!(Promise::of(etag).digest(file.path()).unwrap().as_deref(), Some(etag));
        }
        assert_eq!(Promise::of("abc-1"), Promise::Nothing);
        assert_eq!(Promise::Nothing.digest(file.path()).unwrap(), None);
    }
}
