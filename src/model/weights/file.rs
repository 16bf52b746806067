//! A file of weights, read by position: nothing is mapped, so a file that is cut or replaced while it is read is an error
//! and not a signal.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Bytes read at once, about: large enough for the disk, small enough for the cache.
const PIECE_BYTES: usize = 2 << 20;

/// An open file of weights.
#[derive(Debug)]
pub struct DataFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl DataFile {
    /// Open `path`.
    pub fn open(path: &Path) -> Result<Self> {
        // a pipe would block where it is opened
        if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(Error::data(format!("`{}` is not a file", path.display())));
        }
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let metadata = file.metadata().map_err(|e| Error::io("open", path, e))?;
        if !metadata.is_file() {
            return Err(Error::data(format!("`{}` is not a file", path.display())));
        }
        Ok(Self { path: path.to_owned(), file, len: metadata.len() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it had no bytes when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes from its start on.
    pub fn reader(&self) -> impl Read + '_ {
        BufReader::with_capacity(1 << 16, FromStart { file: &self.file, at: 0 })
    }

    /// Fill `to` with what lies at `offset`.
    pub fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(to, offset).map_err(|e| Error::io("read", &self.path, e))
    }

    /// Read `units` of `unit_bytes` from `offset` on and show them in pieces: index of the first unit, and the bytes.
    pub fn read_pieces(
        &self,
        mut offset: u64,
        units: usize,
        unit_bytes: usize,
        mut show: impl FnMut(usize, &[u8]),
    ) -> Result<()> {
        let at_once = (PIECE_BYTES / unit_bytes).max(1).min(units.max(1));
        let mut buffer = vec![0; at_once * unit_bytes];
        for first in (0..units).step_by(at_once) {
            let bytes = &mut buffer[..at_once.min(units - first) * unit_bytes];
            self.read_at(offset, bytes)?;
            offset += bytes.len() as u64;
            show(first, bytes);
        }
        Ok(())
    }
}

/// Reads by position, so that readers of one file do not move each other.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(to, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
