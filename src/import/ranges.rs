//! A file in a store as something to read from at any offset, on a thread that may block.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;

use bytes::{Buf, Bytes};
use object_store::ObjectStoreExt;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::error::{Error, Result};
use crate::store::{self, Location};

/// Bytes that are fetched ahead where reading goes on in order.
const AHEAD: u64 = 4 << 20;
/// Parts that are kept.
const PARTS_KEPT: usize = 4;

/// Reads parts of one object.
#[derive(Debug)]
pub(super) struct RangeReader {
    place: Location,
    bytes: u64,
    io: tokio::runtime::Handle,
    /// Parts that were fetched last, with their offsets: columns are read side by side.
    last: Mutex<VecDeque<(u64, Bytes)>>,
}

impl RangeReader {
    /// The object at `place`, of `bytes`. Must be made within the runtime that fetches.
    pub(super) fn new(place: Location, bytes: u64, io: tokio::runtime::Handle) -> Self {
        Self { place, bytes, io, last: Mutex::default() }
    }

    /// Size of the object.
    pub(super) fn size(&self) -> u64 {
        self.bytes
    }

    /// Exactly `n` bytes from `offset` on. Small parts are fetched with what follows them, and kept.
    pub(super) fn at(&self, offset: u64, n: usize) -> Result<Bytes> {
        let end = offset.checked_add(n as u64).filter(|&end| end <= self.bytes);
        let end = end.ok_or_else(|| Error::data(format!("it ends after {} bytes, in the middle", self.bytes)))?;
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let holds = |(start, held): &&(u64, Bytes)| offset >= *start && end <= start + held.len() as u64;
        if let Some((start, held)) = last.iter().find(holds) {
            let at = (offset - start) as usize;
            return Ok(held.slice(at..at + n));
        }
        let until = end.max((offset + AHEAD).min(self.bytes));
        let read = self.io.block_on(self.place.store.get_range(&self.place.path, offset..until));
        let fetched = read.map_err(|e| store::error("read", &self.place.shown, e))?;
        if (fetched.len() as u64) < end - offset {
            return Err(Error::data("it became shorter while it was read"));
        }
        // what is large is asked for once
        if n as u64 <= AHEAD {
            last.truncate(PARTS_KEPT - 1);
            last.push_front((offset, fetched.clone()));
        }
        Ok(fetched.slice(..n))
    }

    /// As [`RangeReader::at`], up to the end of the object.
    fn some(&self, offset: u64, n: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        self.at(offset, n.min(left)).map_err(io::Error::other)
    }
}

/// For the library that reads Parquet.
#[derive(Clone)]
pub(super) struct Chunks(pub(super) super::Place);

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.0.size()
    }
}

impl ChunkReader for Chunks {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        // page headers are read like this: small, and followed by the page
        self.0.some(start, 64 << 10).map(Buf::reader).map_err(|e| ParquetError::External(Box::new(e)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.0.at(start, length).map_err(|e| ParquetError::External(Box::new(io::Error::other(e))))
    }
}
