//! Reading one unit: its spans one after the other, the next one already being fetched.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::accounting::DropReason;
use crate::corpus::Corpus;
use crate::corpus::config::CorpusConfig;
use crate::corpus::document::Item;
use crate::corpus::jsonl::JsonlReader;
use crate::corpus::lines::TextSource;
use crate::corpus::parquet::ParquetReader;
use crate::corpus::plain_text::PlainTextReader;
use crate::corpus::units::Span;
use crate::error::Result;

/// The span that is read and the one after it: with many small files the next one's latency is hidden.
const SPANS_OPEN: usize = 2;

/// Which field of a record is the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) kind: FieldKind,
}

/// What the field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldKind {
    Text,
    Tokens,
    Messages,
}

/// Reads one file or part of one.
pub(crate) trait SpanReader: Send {
    /// The next document or drop; `None` at the end.
    fn next_item(&mut self) -> Result<Option<Item>>;

    /// Share of the span that was read, in `[0, 1]`.
    fn progress(&self) -> f64;
}

/// The documents of one unit, in order. Runs on a plain thread: it blocks while bytes are fetched.
///
/// An error ends it.
pub struct UnitReader {
    corpus: Arc<Corpus>,
    unit: u32,
    /// Index of the next span to open.
    next_span: usize,
    open: VecDeque<(u64, Box<dyn SpanReader>)>,
    bytes_done: u64,
    failed: bool,
}

impl UnitReader {
    /// Starts to fetch the unit's first bytes; does not block.
    pub(crate) fn new(corpus: Arc<Corpus>, unit: u32) -> Self {
        let mut reader = Self { corpus, unit, next_span: 0, open: VecDeque::new(), bytes_done: 0, failed: false };
        reader.open_spans();
        reader
    }

    /// The unit.
    pub fn unit(&self) -> u32 {
        self.unit
    }

    /// Share of the unit that was read, in `[0, 1]`, by bytes.
    pub fn progress(&self) -> f64 {
        let Some((bytes, reader)) = self.open.front() else { return 1.0 };
        let done = self.bytes_done as f64 + *bytes as f64 * reader.progress();
        let all = self.corpus.units()[self.unit as usize].bytes();
        (done / all.max(1) as f64).min(1.0)
    }

    fn open_spans(&mut self) {
        let spans = &self.corpus.units()[self.unit as usize].spans;
        while self.open.len() < SPANS_OPEN && self.next_span < spans.len() {
            let span = &spans[self.next_span];
            self.open.push_back((span.bytes, open_span(&self.corpus, span)));
            self.next_span += 1;
        }
    }

    fn next_item(&mut self) -> Result<Option<Item>> {
        loop {
            let Some((bytes, reader)) = self.open.front_mut() else { return Ok(None) };
            if let Some(item) = reader.next_item()? {
                return Ok(Some(item));
            }
            self.bytes_done += *bytes;
            self.open.pop_front();
            self.open_spans();
        }
    }
}

impl Iterator for UnitReader {
    type Item = Result<Item>;

    fn next(&mut self) -> Option<Result<Item>> {
        if self.failed {
            return None;
        }
        let item = self.next_item();
        match &item {
            Ok(Some(Item::Document(_))) => self.corpus.counters().count_document(),
            Err(_) => self.failed = true,
            _ => {}
        }
        item.transpose()
    }
}

fn open_span(corpus: &Corpus, span: &Span) -> Box<dyn SpanReader> {
    let file = &corpus.files()[span.file as usize];
    if file.bytes == 0 {
        return Box::new(EmptyFile { counted: false });
    }
    let limit = corpus.document_bytes_max();
    let source = || TextSource::open(corpus.fetcher(), file, &span.part);
    match (corpus.config(), corpus.field()) {
        (CorpusConfig::Text { document, .. }, _) => Box::new(PlainTextReader::new(source(), *document, limit)),
        (CorpusConfig::Jsonl { .. }, field) => Box::new(JsonlReader::new(source(), field.clone(), limit)),
        (CorpusConfig::Parquet { .. }, field) => {
            Box::new(ParquetReader::new(corpus.fetcher(), file, &span.part, field.clone(), limit))
        }
    }
}

/// A file of no bytes.
struct EmptyFile {
    counted: bool,
}

impl SpanReader for EmptyFile {
    fn next_item(&mut self) -> Result<Option<Item>> {
        let first = !std::mem::replace(&mut self.counted, true);
        Ok(first.then_some(Item::Dropped(DropReason::EmptyFile, 1)))
    }

    fn progress(&self) -> f64 {
        1.0
    }
}
