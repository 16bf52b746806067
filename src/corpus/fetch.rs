//! Bytes of one file through a bounded prefetch: a task asks the store for blocks, a plain thread reads them.
//!
//! Memory held is [`BLOCKS_AHEAD`] blocks in the queue and as many under way. The task ends when the reader is dropped.

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use object_store::{GetOptions, ObjectStore};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::corpus::listing::SourceFile;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::clock::Stopwatch;
use crate::store;

/// What one request asks for: enough that a request's latency costs little.
const BLOCK_BYTES: u64 = 1 << 20;
/// Beyond a part's end only the rest of its last document is wanted, so blocks are smaller there.
const TAIL_BLOCK_BYTES: u64 = 1 << 16;
/// Blocks in the queue, and requests under way: hides a store's latency, bounds memory to about 4 MiB a reader.
const BLOCKS_AHEAD: usize = 2;
/// Tries on top of the store client's own, with pauses of 0.1, 0.2, 0.4 ... seconds.
const TRIES: u32 = 5;

/// What all readers of a corpus did so far; read by whoever reports on them.
#[derive(Debug, Default)]
pub struct ReaderCounters {
    bytes: AtomicU64,
    documents: AtomicU64,
    blocked_ns: AtomicU64,
}

impl ReaderCounters {
    /// Bytes that readers took, as stored (compressed where files are).
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Documents that readers gave out.
    pub fn documents(&self) -> u64 {
        self.documents.load(Ordering::Relaxed)
    }

    /// Seconds that readers waited for bytes.
    pub fn blocked_seconds(&self) -> f64 {
        self.blocked_ns.load(Ordering::Relaxed) as f64 * 1e-9
    }

    pub(crate) fn count_document(&self) {
        self.documents.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where readers fetch from, and where they account for it.
#[derive(Clone, Debug)]
pub(crate) struct Fetcher {
    pub(crate) runtime: Handle,
    pub(crate) counters: Arc<ReaderCounters>,
}

impl Fetcher {
    /// Start to fetch `range` of a file; beyond `likely_end` in small blocks only. Never blocks.
    pub(crate) fn start(&self, file: &SourceFile, range: Range<u64>, likely_end: u64) -> FetchReader {
        let (sender, blocks) = mpsc::channel(BLOCKS_AHEAD);
        let expected = range.end - range.start;
        self.runtime.spawn(fetch_blocks(file.clone(), range, likely_end, sender));
        FetchReader {
            blocks,
            current: Bytes::new(),
            expected,
            consumed: Arc::new(AtomicU64::new(0)),
            counters: Arc::clone(&self.counters),
        }
    }
}

async fn fetch_blocks(file: SourceFile, range: Range<u64>, likely_end: u64, sender: mpsc::Sender<Result<Bytes>>) {
    let file = &file;
    let mut blocks = futures::stream::iter(BlockRanges { next: range.start, end: range.end, likely_end })
        .map(|block| fetch_block(file, block))
        .buffered(BLOCKS_AHEAD);
    loop {
        let block = tokio::select! {
            biased; // a reader that is gone wants nothing more
            () = sender.closed() => return,
            block = blocks.next() => block,
        };
        let Some(block) = block else { return };
        let failed = block.is_err();
        if sender.send(block).await.is_err() || failed {
            return;
        }
    }
}

struct BlockRanges {
    next: u64,
    end: u64,
    likely_end: u64,
}

impl Iterator for BlockRanges {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        if self.next >= self.end {
            return None;
        }
        let start = self.next;
        let stop =
            if start < self.likely_end { (start + BLOCK_BYTES).min(self.likely_end) } else { start + TAIL_BLOCK_BYTES };
        self.next = stop.min(self.end);
        Some(start..self.next)
    }
}

async fn fetch_block(file: &SourceFile, range: Range<u64>) -> Result<Bytes> {
    let mut pause = Duration::from_millis(100);
    let mut tries = 1;
    loop {
        match try_block(file, range.clone()).await {
            Err(error) if error.kind().retryable() && tries < TRIES => {
                tracing::warn!(%error, tries, "read failed, trying again");
                tokio::time::sleep(pause).await;
                pause *= 2;
                tries += 1;
            }
            outcome => return outcome,
        }
    }
}

async fn try_block(file: &SourceFile, range: Range<u64>) -> Result<Bytes> {
    let shown = &file.location.shown;
    let changed = || Error::data(format!("`{shown}` has changed since the corpus was listed: start again"));
    let wanted = range.end - range.start;
    let options = GetOptions { range: Some(range.into()), if_match: file.version.clone(), ..GetOptions::default() };
    let answer = match file.location.store.get_opts(&file.location.path, options).await {
        Err(object_store::Error::Precondition { .. }) => return Err(changed()),
        answer => answer.map_err(|e| store::error("read", shown, e))?,
    };
    if answer.meta.size != file.bytes {
        return Err(changed());
    }
    let bytes = answer.bytes().await.map_err(|e| store::error("read", shown, e))?;
    if bytes.len() as u64 != wanted {
        let got = bytes.len();
        return Err(Error::new(ErrorKind::Unavailable, format!("`{shown}` gave {got} bytes of {wanted}")));
    }
    Ok(bytes)
}

/// The fetched bytes, in order. Blocks the calling thread while none are there, so it must not be read on a runtime's
/// async thread. A store's failure comes as an [`std::io::Error`] that holds an [`Error`]; see [`store_failure`].
pub(crate) struct FetchReader {
    blocks: mpsc::Receiver<Result<Bytes>>,
    current: Bytes,
    /// Bytes that are still to come.
    expected: u64,
    consumed: Arc<AtomicU64>,
    counters: Arc<ReaderCounters>,
}

impl FetchReader {
    /// A view of how many bytes were read from here.
    pub(crate) fn consumed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.consumed)
    }

    /// The next block, waiting for it; empty at the end.
    fn next_block(&mut self) -> Result<Bytes> {
        if self.expected == 0 {
            return Ok(Bytes::new());
        }
        let block = match self.blocks.try_recv() {
            Ok(block) => Some(block),
            Err(_) => {
                let start = Stopwatch::start();
                let block = self.blocks.blocking_recv();
                self.counters.blocked_ns.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
                block
            }
        };
        let block = block.unwrap_or_else(|| Err(Error::closed("the runtime that fetches the corpus")))?;
        self.expected = self.expected.saturating_sub(block.len() as u64);
        self.counters.bytes.fetch_add(block.len() as u64, Ordering::Relaxed);
        Ok(block)
    }
}

impl Read for FetchReader {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.current.is_empty() {
            self.current = self.next_block().map_err(std::io::Error::other)?;
        }
        let n = buf.len().min(self.current.len());
        buf[..n].copy_from_slice(&self.current.split_to(n));
        self.consumed.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Tell a store's failure (an error) from damaged content (`None`, which is counted) in what a decoder on top reports.
pub(crate) fn store_failure(error: std::io::Error) -> Option<Error> {
    error.downcast::<Error>().ok()
}
