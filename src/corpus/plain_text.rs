//! Plain text: a document is a file, a line, or a paragraph.
//!
//! A line belongs to the part in which it starts. A paragraph belongs to the part in which the last blank line before it
//! starts (the file's first one: to the first part), which is what a reader of any part can see for itself.

use crate::accounting::DropReason;
use crate::corpus::config::TextDocument;
use crate::corpus::document::Item;
use crate::corpus::lines::{Fault, Line, Lines, TextSource};
use crate::corpus::reader::SpanReader;
use crate::error::Result;

/// Reader of one file or part.
pub(crate) struct PlainTextReader {
    lines: Lines,
    document: TextDocument,
    limit: usize,
    any_line: bool,
    done: bool,
    paragraph: Paragraph,
}

/// State between paragraphs.
struct Paragraph {
    /// Start of the last blank line before here, or of the file: where the next paragraph belongs to.
    anchor: Option<u64>,
    /// The lines so far, joined by `\n`; `None` between paragraphs.
    text: Option<Vec<u8>>,
    oversized: bool,
}

impl PlainTextReader {
    pub(crate) fn new(source: TextSource, document: TextDocument, limit: usize) -> Self {
        let anchor = source.first_part.then_some(0);
        Self {
            lines: source.into_lines(limit),
            document,
            limit,
            any_line: false,
            done: false,
            paragraph: Paragraph { anchor, text: None, oversized: false },
        }
    }

    fn whole_file(&mut self) -> Result<Option<Item>, Fault> {
        self.done = true;
        let limit = self.limit;
        Ok(Some(match self.lines.source.read_all(limit)? {
            Some(bytes) if bytes.is_empty() => Item::Dropped(DropReason::EmptyFile, 1),
            Some(bytes) => Item::from_utf8(bytes),
            None => Item::Dropped(DropReason::OversizedDocument, 1),
        }))
    }

    fn line(&mut self) -> Result<Option<Item>, Fault> {
        let part_end = self.lines.source.part_end;
        match self.lines.next()? {
            Some((start, line)) if start < part_end => {
                self.any_line = true;
                Ok(Some(match line {
                    Line::Bytes(bytes) => Item::from_utf8(bytes.to_vec()),
                    Line::Oversized => Item::Dropped(DropReason::OversizedDocument, 1),
                }))
            }
            _ => Ok(self.end()),
        }
    }

    fn paragraph(&mut self) -> Result<Option<Item>, Fault> {
        let part_end = self.lines.source.part_end;
        let state = &mut self.paragraph;
        while let Some((start, line)) = self.lines.next()? {
            self.any_line = true;
            let blank = matches!(line, Line::Bytes(bytes) if bytes.trim_ascii().is_empty());
            if blank {
                state.anchor = Some(start);
                if let Some(item) = state.take(self.limit) {
                    return Ok(Some(item));
                }
                continue;
            }
            if state.text.is_none() && state.anchor.map_or(start, |anchor| anchor) >= part_end {
                break;
            }
            if state.anchor.is_some() {
                state.append(&line, self.limit);
            }
        }
        Ok(state.take(self.limit).or_else(|| self.end()))
    }

    /// The end of the part: an empty file is said to be one by its first part.
    fn end(&mut self) -> Option<Item> {
        self.done = true;
        (self.lines.source.first_part && !self.any_line).then_some(Item::Dropped(DropReason::EmptyFile, 1))
    }
}

impl Paragraph {
    fn append(&mut self, line: &Line<'_>, limit: usize) {
        let text = self.text.get_or_insert_default();
        match line {
            Line::Bytes(bytes) if text.len() + bytes.len() <= limit && !self.oversized => {
                if !text.is_empty() {
                    text.push(b'\n');
                }
                text.extend_from_slice(bytes);
            }
            _ => {
                self.oversized = true;
                text.clear();
            }
        }
    }

    fn take(&mut self, limit: usize) -> Option<Item> {
        let text = self.text.take()?;
        let oversized = std::mem::take(&mut self.oversized) || text.len() > limit;
        Some(if oversized { Item::Dropped(DropReason::OversizedDocument, 1) } else { Item::from_utf8(text) })
    }
}

impl SpanReader for PlainTextReader {
    fn next_item(&mut self) -> Result<Option<Item>> {
        if self.done {
            return Ok(None);
        }
        let item = match self.document {
            TextDocument::File => self.whole_file(),
            TextDocument::Line => self.line(),
            TextDocument::Paragraph => self.paragraph(),
        };
        item.or_else(|fault| {
            self.done = true;
            match fault {
                Fault::Damaged => Ok(Some(Item::Dropped(DropReason::DamagedFile, 1))),
                Fault::Failed(error) => Err(error),
            }
        })
    }

    fn progress(&self) -> f64 {
        self.lines.source.progress()
    }
}
