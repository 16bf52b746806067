//! The documents of one unit to token batches.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::accounting::{DropCounts, DropReason};
use crate::corpus::{Content, Document, Item, is_holdout};
use crate::error::{ErrorKind, Result};
use crate::tokens::batch::{Segment, TokenBatch};
use crate::tokens::config::TokensConfig;
use crate::tokens::packer::{Packer, Rules, Sequence};
use crate::tokens::tokenizer::{Encoded, Tokenizer};

/// Which documents are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// All but the held-out ones, which are counted as dropped.
    Train,
    /// The held-out ones only; nothing else is tokenised, and nothing is counted: the train split's account has it all.
    Holdout,
}

/// What all batchers of a stream share.
#[derive(Clone, Debug)]
pub struct BatchRules {
    tokenizer: Arc<Tokenizer>,
    packing: Rules,
    sequences: usize,
    holdout: f64,
}

impl BatchRules {
    /// Rules of `config`; `holdout` is the held-out share of documents.
    ///
    /// Errors: an id that the configuration needs and the model's config does not name.
    pub fn new(config: &TokensConfig, tokenizer: Arc<Tokenizer>, holdout: f64) -> Result<Self> {
        let mut packing = Rules::new(config, tokenizer.bos_for(config)?, tokenizer.separator_for(config)?);
        packing.marks = tokenizer.marks();
        Ok(Self { tokenizer, packing, sequences: config.batch_sequences(), holdout })
    }
}

/// Makes the batches of one unit from its documents, in order. Index and cursor are left for the stream to set.
pub struct UnitBatcher<I> {
    items: I,
    rules: BatchRules,
    split: Split,
    packer: Packer,
    /// Sequences that are not in a batch yet.
    ready: VecDeque<Sequence>,
    /// What was dropped after the last sequence, once the documents have ended.
    end: Option<DropCounts>,
    unit: u32,
    next_batch: u32,
    next_seq: u32,
    finished: bool,
}

impl<I: Iterator<Item = Result<Item>>> UnitBatcher<I> {
    /// Batches of `unit`, whose documents are `items`.
    pub fn new(unit: u32, items: I, rules: BatchRules, split: Split) -> Self {
        let packer = Packer::new(rules.packing);
        let ready = VecDeque::new();
        Self { items, rules, split, packer, ready, end: None, unit, next_batch: 0, next_seq: 0, finished: false }
    }

    /// Index of the batch that comes next.
    pub fn next_index(&self) -> u32 {
        self.next_batch
    }

    /// Pass batches until `batch` is next. The documents before it are read and tokenised, since they decide where it
    /// starts. Stops early if the unit has fewer batches.
    pub fn skip_to(&mut self, batch: u32) -> Result<()> {
        while self.next_batch < batch {
            if self.next_batch()?.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next batch; `None` after the one that ends the unit. A unit without sequences has one empty batch.
    pub fn next_batch(&mut self) -> Result<Option<TokenBatch>> {
        if self.finished {
            return Ok(None);
        }
        // one sequence more than wanted tells that this batch is not the last
        while self.ready.len() <= self.rules.sequences && self.end.is_none() {
            self.take_item()?;
        }
        let n = self.ready.len().min(self.rules.sequences);
        let mut batch = assemble(self.ready.drain(..n));
        batch.unit = self.unit;
        batch.batch_in_unit = self.next_batch;
        batch.first_seq = self.next_seq;
        if self.ready.is_empty()
            && let Some(dropped) = self.end.take()
        {
            batch.ends_unit = true;
            batch.dropped_at_end = dropped;
            self.finished = true;
        }
        self.next_batch += 1;
        self.next_seq += n as u32;
        Ok(Some(batch))
    }

    fn take_item(&mut self) -> Result<()> {
        match self.items.next().transpose()? {
            Some(Item::Document(document)) => self.take_document(document)?,
            Some(Item::Dropped(reason, n)) => self.count(reason, n),
            None => self.end = Some(self.packer.finish()),
        }
        while let Some(sequence) = self.packer.pop() {
            self.ready.push_back(sequence);
        }
        Ok(())
    }

    fn take_document(&mut self, document: Document) -> Result<()> {
        match (self.split, is_holdout(document.id, self.rules.holdout)) {
            (Split::Train, false) | (Split::Holdout, true) => {}
            (Split::Train, true) => {
                self.count(DropReason::Holdout, 1);
                return Ok(());
            }
            (Split::Holdout, false) => return Ok(()),
        }
        let refused = match &document.content {
            Content::Chat(_) => DropReason::MalformedConversation,
            _ => DropReason::Untokenizable,
        };
        let mut encoded = match self.rules.tokenizer.encode_content(document.content) {
            Ok(encoded) => encoded,
            Err(error) if error.kind() == ErrorKind::Data => {
                tracing::debug!(%error, unit = self.unit, doc_id = document.id, "document cannot be tokenised");
                self.count(refused, 1);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if refused == DropReason::MalformedConversation {
            encoded.without_ends(self.rules.packing.bos, self.rules.packing.separator);
        }
        let Encoded { ids: tokens, outside } = encoded;
        if tokens.is_empty() {
            self.count(DropReason::EmptyDocument, 1);
        } else if !self.rules.tokenizer.all_in_vocabulary(&tokens) {
            self.count(DropReason::WrongType, 1);
        } else {
            self.packer.push_marked(document.id, &tokens, &outside);
        }
        Ok(())
    }

    fn count(&mut self, reason: DropReason, n: u64) {
        if self.split == Split::Train {
            self.packer.drop(reason, n);
        }
    }
}

/// Sequences end to end.
fn assemble(sequences: impl Iterator<Item = Sequence>) -> TokenBatch {
    let mut batch = TokenBatch { seq_starts: vec![0], ..TokenBatch::default() };
    for sequence in sequences {
        let row = batch.ids.len() as u32;
        batch.segments.extend(sequence.segments.iter().map(|s| Segment { start: row + s.start, len: s.len }));
        batch.ids.extend(sequence.ids);
        batch.positions.extend(sequence.positions);
        batch.doc_ids.extend(sequence.doc_ids);
        batch.outside.extend(sequence.outside);
        batch.seq_starts.push(batch.ids.len() as u32);
        batch.dropped.push(sequence.dropped);
        batch.documents += sequence.documents;
    }
    batch
}

#[cfg(test)]
mod tests;
