//! Any range of a file for a decoder that jumps, from one prefetched stream while its ranges follow each other.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::corpus::fetch::{FetchReader, Fetcher, store_failure};
use crate::corpus::listing::SourceFile;
use crate::error::{Error, Result};

/// A file as Parquet's decoder wants it: any range, though in fact ranges follow each other, so that they come from one
/// prefetched stream.
#[derive(Clone)]
pub(crate) struct RangeSource {
    fetcher: Fetcher,
    file: Arc<SourceFile>,
    stream: Arc<Mutex<Stream>>,
    /// Where the column chunk that is read ends: prefetching stops there.
    expected_end: Arc<AtomicU64>,
}

#[derive(Default)]
struct Stream {
    /// The running prefetch and the position of its next byte.
    open: Option<(FetchReader, u64)>,
    /// Why it failed: decoders keep only an error's text.
    failure: Option<Error>,
}

impl RangeSource {
    pub(crate) fn new(fetcher: Fetcher, file: SourceFile) -> Self {
        let expected_end = Arc::new(AtomicU64::new(file.bytes));
        Self { fetcher, file: Arc::new(file), stream: Arc::default(), expected_end }
    }

    /// Prefetch to here: the end of what is read next.
    pub(crate) fn expect_end(&self, end: u64) {
        self.expected_end.store(end.min(self.file.bytes), Ordering::Relaxed);
    }

    /// The name of the file, for messages.
    pub(crate) fn shown(&self) -> &str {
        &self.file.location.shown
    }

    /// The store's failure behind the decoder's last error, if it was one.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.stream().failure.take()
    }

    fn stream(&self) -> MutexGuard<'_, Stream> {
        // a poisoned lock only means that a reader panicked between reads; the position is still right
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        let mut stream = self.stream();
        let (mut reader, position) = match stream.open.take() {
            Some((reader, position)) if position == at => (reader, position),
            _ => {
                let end = self.expected_end.load(Ordering::Relaxed);
                let likely_end = if end > at { end } else { self.file.bytes };
                (self.fetcher.start(&self.file, at.min(self.file.bytes)..self.file.bytes, likely_end), at)
            }
        };
        match reader.read(buf) {
            Ok(n) => {
                stream.open = Some((reader, position + n as u64));
                Ok(n)
            }
            Err(error) => {
                stream.failure = store_failure(error);
                Err(std::io::Error::other("the store failed"))
            }
        }
    }
}

impl Length for RangeSource {
    fn len(&self) -> u64 {
        self.file.bytes
    }
}

impl ChunkReader for RangeSource {
    type T = RangeRead;

    fn get_read(&self, start: u64) -> Result<RangeRead, ParquetError> {
        Ok(RangeRead { source: self.clone(), at: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let end = start.checked_add(length as u64).filter(|&end| end <= self.file.bytes);
        if end.is_none() {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} are beyond the file's end")));
        }
        let mut bytes = vec![0; length];
        self.get_read(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// Reads from a position on.
pub(crate) struct RangeRead {
    source: RangeSource,
    at: u64,
}

impl Read for RangeRead {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.source.read_at(self.at, buf)?;
        self.at += n as u64;
        Ok(n)
    }
}
