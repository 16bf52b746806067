//! Byte streams and lines: decompression, byte-order marks, line ends, lines that are too long.

use std::io::{BufRead, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::corpus::fetch::{FetchReader, Fetcher, store_failure};
use crate::corpus::listing::{Compression, SourceFile};
use crate::corpus::units::Part;
use crate::error::{Error, Result};

/// Decoded bytes are taken from decoders in pieces of this size.
const BUFFER_BYTES: usize = 1 << 16;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why reading ended early.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The file's content is damaged from here on: counted.
    Damaged,
    /// The bytes cannot be had: an error.
    Failed(Error),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        store_failure(error).map_or(Self::Damaged, Self::Failed)
    }
}

/// The decoded bytes of a file from a given place on, and where its part ends.
pub(crate) struct TextSource {
    bytes: Box<dyn BufRead + Send>,
    /// Position in the decoded file of the next byte.
    offset: u64,
    /// Whether the file's first byte is in this part.
    pub(crate) first_part: bool,
    /// End of this part in the file; `u64::MAX` if it has no later part.
    pub(crate) part_end: u64,
    /// Length of the byte-order mark, until the first line is read: that starts at 0 with or without a mark.
    mark_bytes: u64,
    fetched: Arc<AtomicU64>,
    fetch_bytes: u64,
}

/// A line without its end, or only the news that one was too long.
pub(crate) enum Line<'a> {
    Bytes(&'a [u8]),
    Oversized,
}

impl TextSource {
    /// Start to read a part of a file. Nothing blocks yet.
    pub(crate) fn open(fetcher: &Fetcher, file: &SourceFile, part: &Part) -> Self {
        let (start, end) = match part {
            Part::Bytes(range) => (range.start, range.end),
            Part::Whole | Part::RowGroups(_) => (0, file.bytes),
        };
        // One byte earlier: if that is a line's end, a line starts at `start`.
        let from = start.saturating_sub(1);
        let fetch = fetcher.start(file, from..file.bytes, end);
        Self {
            fetched: fetch.consumed(),
            fetch_bytes: end - from,
            bytes: Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder(fetch, file.compression()))),
            offset: from,
            mark_bytes: 0,
            first_part: start == 0,
            part_end: if end == file.bytes { u64::MAX } else { end },
        }
    }

    /// Share of the part's bytes that were consumed.
    pub(crate) fn progress(&self) -> f64 {
        (self.fetched.load(Ordering::Relaxed) as f64 / self.fetch_bytes.max(1) as f64).min(1.0)
    }

    /// All bytes, without a byte-order mark; `None` if there are more than `limit`.
    pub(crate) fn read_all(&mut self, limit: usize) -> Result<Option<Vec<u8>>, Fault> {
        let mut all = Vec::new();
        (&mut self.bytes).take(limit as u64 + 1).read_to_end(&mut all)?;
        if all.starts_with(BYTE_ORDER_MARK) {
            all.drain(..BYTE_ORDER_MARK.len());
        }
        Ok((all.len() <= limit).then_some(all))
    }

    /// The lines that start in this part and later.
    pub(crate) fn into_lines(self, limit: usize) -> Lines {
        Lines { source: self, limit, line: Vec::new(), at_start: true }
    }

    /// Put the reader at the first line that starts in this part.
    fn seek_first_line(&mut self) -> Result<(), Fault> {
        if !self.first_part {
            self.offset += self.bytes.skip_until(b'\n')? as u64;
            return Ok(());
        }
        let mut head = Vec::new();
        (&mut self.bytes).take(BYTE_ORDER_MARK.len() as u64).read_to_end(&mut head)?;
        if head == BYTE_ORDER_MARK {
            head.clear();
            self.mark_bytes = BYTE_ORDER_MARK.len() as u64;
        }
        let rest = std::mem::replace(&mut self.bytes, Box::new(std::io::empty()));
        self.bytes = Box::new(Cursor::new(head).chain(rest));
        Ok(())
    }
}

fn decoder(fetch: FetchReader, compression: Compression) -> Box<dyn Read + Send> {
    match compression {
        Compression::None => Box::new(fetch),
        Compression::Gzip => {
            Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, fetch)))
        }
        Compression::Zstd => match zstd_decoder(fetch) {
            Ok(decoder) => Box::new(decoder),
            Err(error) => Box::new(Broken(Some(error))),
        },
    }
}

fn zstd_decoder(fetch: FetchReader) -> std::io::Result<zstd::Decoder<'static, BufReader<FetchReader>>> {
    let mut decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(BUFFER_BYTES, fetch))?;
    // Large public dumps are written with --long=31; memory is taken only for frames that ask for it.
    decoder.window_log_max(31)?;
    Ok(decoder)
}

/// A decoder that could not be made: says so when it is read.
struct Broken(Option<std::io::Error>);

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// Lines of a [`TextSource`], one at a time.
pub(crate) struct Lines {
    pub(crate) source: TextSource,
    limit: usize,
    line: Vec<u8>,
    at_start: bool,
}

impl Lines {
    /// The next line and where it starts in the file; `None` at the end of the file. It is the caller who stops at the
    /// end of the part.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Line<'_>)>, Fault> {
        if std::mem::take(&mut self.at_start) {
            self.source.seek_first_line()?;
        }
        let start = self.source.offset;
        self.line.clear();
        let bytes = &mut self.source.bytes;
        // room for the line's end
        let n = bytes.take(self.limit as u64 + 2).read_until(b'\n', &mut self.line)?;
        if n == 0 {
            return Ok(None);
        }
        self.source.offset += n as u64 + std::mem::take(&mut self.source.mark_bytes);
        let ended = self.line.ends_with(b"\n");
        if ended {
            self.line.pop();
            if self.line.ends_with(b"\r") {
                self.line.pop();
            }
        }
        if self.line.len() > self.limit {
            if !ended {
                self.source.offset += self.source.bytes.skip_until(b'\n')? as u64;
            }
            return Ok(Some((start, Line::Oversized)));
        }
        Ok(Some((start, Line::Bytes(&self.line))))
    }
}
