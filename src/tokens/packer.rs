//! Documents to sequences: pure.
//!
//! A packer works on one unit and restarts with the next, so a unit's sequences do not depend on who computes them.
//! Sequences are never padded; each holds at most `context_length` tokens and at least one token of a document.
//! A sequence that has room for no more is given out at once; what is dropped afterwards rides on the next one.

use std::collections::VecDeque;

use crate::accounting::{DropCounts, DropReason};
use crate::tokens::batch::Segment;
use crate::tokens::config::{Packing, TokensConfig};

/// A packed sequence. `n` is its number of tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequence {
    /// `[n]` token ids.
    pub ids: Vec<u32>,
    /// `[n]` position ids, restarting with each segment.
    pub positions: Vec<u32>,
    /// `[n]` document of each token.
    pub doc_ids: Vec<u64>,
    /// `[n]` whether each token lies outside what is kept of its conversation; empty where [`Rules::marks`] is off.
    pub outside: Vec<bool>,
    /// Attention contexts, which tile the sequence; starts count from its first token.
    pub segments: Vec<Segment>,
    /// What was dropped since the previous sequence, up to this one's last token.
    pub dropped: DropCounts,
    /// Documents that end here.
    pub documents: u32,
}

/// Packs the documents of one unit.
#[derive(Debug)]
pub struct Packer {
    rules: Rules,
    open: Sequence,
    /// Whether the next token starts a new attention context.
    at_break: bool,
    finished: VecDeque<Sequence>,
}

/// What of the configuration matters here, with ids instead of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Tokens in a sequence, at most; at least 2.
    pub context_length: usize,
    /// How documents fill sequences.
    pub packing: Packing,
    /// Goes to the start of each attention context.
    pub bos: Option<u32>,
    /// Goes after each document.
    pub separator: Option<u32>,
    /// Whether a whole sequence is one attention context.
    pub attend_across_documents: bool,
    /// Whether documents come with marks of what is kept of them.
    pub marks: bool,
}

impl Rules {
    /// The rules of `config`, with the ids that it needs.
    pub fn new(config: &TokensConfig, bos: Option<u32>, separator: Option<u32>) -> Self {
        Self {
            context_length: config.context_length as usize,
            packing: config.packing,
            bos,
            separator,
            attend_across_documents: config.attend_across_documents,
            marks: false,
        }
    }
}

impl Packer {
    /// A packer at the start of a unit.
    pub fn new(rules: Rules) -> Self {
        assert!(rules.context_length >= 2, "a sequence holds BOS and a token at least");
        Self { rules, open: Sequence::default(), at_break: true, finished: VecDeque::new() }
    }

    /// Count something that was dropped here.
    pub fn drop(&mut self, reason: DropReason, n: u64) {
        self.open.dropped.add(reason, n);
    }

    /// Pack a document of at least one token. Sequences that are full become available from [`Packer::pop`].
    pub fn push(&mut self, doc_id: u64, tokens: &[u32]) {
        self.push_marked(doc_id, tokens, &[]);
    }

    /// The same, with a mark for each token that lies outside what is kept of the document. BOS and separators lie outside.
    pub fn push_marked(&mut self, doc_id: u64, mut tokens: &[u32], outside: &[bool]) {
        debug_assert!(outside.is_empty() || outside.len() == tokens.len());
        let mut outside = outside.iter().copied();
        assert!(!tokens.is_empty(), "documents without tokens are dropped before packing");
        if self.rules.packing == Packing::Truncate {
            let room = self.rules.context_length - usize::from(self.rules.bos.is_some());
            let kept = tokens.len().min(room);
            self.drop(DropReason::Truncated, (tokens.len() - kept) as u64);
            tokens = &tokens[..kept];
        }
        if !self.rules.attend_across_documents {
            self.at_break = true;
        }
        while !tokens.is_empty() {
            self.make_room();
            if self.at_break {
                self.start_segment(doc_id);
            }
            let n = tokens.len().min(self.room());
            self.append(&tokens[..n], doc_id);
            self.mark(outside.by_ref().take(n), false);
            tokens = &tokens[n..];
        }
        self.end_document(doc_id);
    }

    /// The next sequence that is complete.
    pub fn pop(&mut self) -> Option<Sequence> {
        self.finished.pop_front()
    }

    /// The unit's end: complete the last sequence, and give what was dropped after it.
    pub fn finish(&mut self) -> DropCounts {
        if !self.open.ids.is_empty() {
            self.close();
        }
        std::mem::take(&mut self.open.dropped)
    }

    fn room(&self) -> usize {
        self.rules.context_length - self.open.ids.len()
    }

    /// Close the open sequence if not one more token of a document fits.
    fn make_room(&mut self) {
        let needed = 1 + usize::from(self.at_break && self.rules.bos.is_some());
        if self.room() < needed {
            self.close();
        }
    }

    fn start_segment(&mut self, doc_id: u64) {
        self.open.segments.push(Segment { start: self.open.ids.len() as u32, len: 0 });
        self.at_break = false;
        if let Some(bos) = self.rules.bos {
            self.append(&[bos], doc_id);
            self.mark(std::iter::empty(), true);
        }
    }

    fn append(&mut self, tokens: &[u32], doc_id: u64) {
        let segment = self.open.segments.last_mut().expect("a segment is started before tokens are appended");
        self.open.positions.extend(segment.len..segment.len + tokens.len() as u32);
        segment.len += tokens.len() as u32;
        self.open.ids.extend_from_slice(tokens);
        self.open.doc_ids.resize(self.open.ids.len(), doc_id);
    }

    /// Mark the tokens that were just appended; those that `marks` does not reach are as `rest`.
    fn mark(&mut self, marks: impl Iterator<Item = bool>, rest: bool) {
        if self.rules.marks {
            self.open.outside.extend(marks);
            self.open.outside.resize(self.open.ids.len(), rest);
        }
    }

    /// The separator stands only where the sequence goes on after the document's last token: it never starts one.
    fn end_document(&mut self, doc_id: u64) {
        self.open.documents += 1;
        if let Some(separator) = self.rules.separator
            && self.room() > 0
        {
            self.append(&[separator], doc_id);
            self.mark(std::iter::empty(), true);
        }
        let alone = self.rules.packing != Packing::Concat;
        let next_needs = 1 + usize::from(self.rules.bos.is_some() && !self.rules.attend_across_documents);
        if alone || self.room() < next_needs {
            self.close();
        }
    }

    fn close(&mut self) {
        self.finished.push_back(std::mem::take(&mut self.open));
        self.at_break = true;
    }
}

#[cfg(test)]
mod tests;
