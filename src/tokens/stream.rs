//! The stream of token batches of a whole corpus, and the stream of its held-out documents.

use std::collections::HashMap;
use std::sync::Arc;

use crate::corpus::cursor::SourceCursor;
use crate::corpus::{Corpus, UnitReader};
use crate::error::{Error, Result};
use crate::runtime::rng::Seed;
use crate::tokens::batch::TokenBatch;
use crate::tokens::config::TokensConfig;
use crate::tokens::schedule::{Schedule, Turn};
use crate::tokens::tokenizer::Tokenizer;
use crate::tokens::unit_batcher::{BatchRules, Split, UnitBatcher};

/// Batches in the order of a [`Schedule`], made from units only as far as they are wanted.
///
/// Runs on a plain thread: it blocks while bytes are fetched.
pub struct TokenStream {
    corpus: Arc<Corpus>,
    rules: BatchRules,
    schedule: Schedule,
    /// Interleave and seed.
    order: (u32, Seed),
    /// Number of batches of each unit, where it is known.
    lengths: HashMap<u32, u32>,
    readers: HashMap<u32, UnitBatcher<UnitReader>>,
    /// The unit that will be opened next, already being fetched.
    ahead: Option<UnitReader>,
}

impl TokenStream {
    /// The stream from `start` on. `known_lengths`: unit -> its number of batches, for units that are known from a
    /// former run; their batches can be passed without reading them.
    ///
    /// Errors: a cursor of another corpus; BOS or separator wanted that the model does not name; a corpus of text
    /// without a tokenizer.
    pub fn new(
        corpus: Arc<Corpus>,
        tokenizer: Arc<Tokenizer>,
        config: &TokensConfig,
        seed: Seed,
        start: SourceCursor,
        known_lengths: HashMap<u32, u32>,
    ) -> Result<Self> {
        let rules = rules_for(&corpus, tokenizer, config)?;
        let schedule = Schedule::of(corpus.instalments(), config.interleave, seed, start)?;
        let (order, lengths) = ((config.interleave, seed), known_lengths);
        Ok(Self { corpus, rules, schedule, order, lengths, readers: HashMap::new(), ahead: None })
    }

    /// Go on with `corpus`, which is this stream's with more units. To be called at the end of the stream.
    ///
    /// Errors: a corpus that is another.
    pub fn go_on(&mut self, corpus: Arc<Corpus>) -> Result<()> {
        let (interleave, seed) = self.order;
        self.schedule = Schedule::of(corpus.instalments(), interleave, seed, self.schedule.cursor().clone())?;
        self.corpus = corpus;
        Ok(())
    }

    /// The corpus, as far as it is known.
    pub fn corpus(&self) -> &Arc<Corpus> {
        &self.corpus
    }

    /// The next batch that is wanted, in stream order, with index and cursor set; `None` at the stream's end.
    ///
    /// `wanted(index, unit, batch_in_unit)` is asked once a batch. Unwanted batches are passed: without reading where
    /// the unit's length is known, else by reading the unit.
    pub fn next(&mut self, wanted: &mut dyn FnMut(u64, u32, u32) -> bool) -> Result<Option<TokenBatch>> {
        while let Some(turn) = self.schedule.turn() {
            let is_wanted = wanted(turn.index, turn.unit, turn.batch_in_unit);
            match self.lengths.get(&turn.unit) {
                Some(&length) if !is_wanted && turn.batch_in_unit < length => {
                    self.advance(turn, turn.batch_in_unit + 1 == length);
                }
                _ => {
                    let mut batch = self.read(turn)?;
                    self.advance(turn, batch.ends_unit);
                    if is_wanted {
                        batch.index = turn.index;
                        batch.cursor_after = self.schedule.cursor().clone();
                        return Ok(Some(batch));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Numbers of batches of units that somebody else counted: these can be passed without reading them.
    pub fn learn(&mut self, lengths: impl IntoIterator<Item = (u32, u32)>) {
        for (unit, length) in lengths {
            self.lengths.entry(unit).or_insert(length);
        }
    }

    /// The state before the next batch.
    pub fn cursor(&self) -> &SourceCursor {
        self.schedule.cursor()
    }

    /// The numbers of batches that are known so far.
    pub fn known_lengths(&self) -> &HashMap<u32, u32> {
        &self.lengths
    }

    /// The batch of `turn`, from a reader that is opened, or moved forward, as needed.
    fn read(&mut self, turn: Turn) -> Result<TokenBatch> {
        if !self.readers.contains_key(&turn.unit) {
            let reader = self.open(turn.unit);
            self.readers.insert(turn.unit, reader);
            self.open_ahead();
        }
        let reader = self.readers.get_mut(&turn.unit).expect("inserted above if it was missing");
        reader.skip_to(turn.batch_in_unit)?;
        let batch = reader.next_batch()?.filter(|batch| batch.batch_in_unit == turn.batch_in_unit);
        let changed = || {
            let unit = turn.unit;
            Error::data(format!(
                "unit {unit} of the corpus has fewer batches than it had before: its files have changed"
            ))
        };
        let batch = batch.ok_or_else(changed)?;
        match self.lengths.get(&turn.unit) {
            Some(&length) if batch.ends_unit != (turn.batch_in_unit + 1 == length) => Err(changed()),
            _ => Ok(batch),
        }
    }

    fn open(&mut self, unit: u32) -> UnitBatcher<UnitReader> {
        let reader = match self.ahead.take_if(|reader| reader.unit() == unit) {
            Some(reader) => reader,
            None => self.corpus.read_unit(unit),
        };
        UnitBatcher::new(unit, reader, self.rules.clone(), Split::Train)
    }

    /// Let the unit that comes next be fetched, if it must be read in any case.
    fn open_ahead(&mut self) {
        if self.ahead.is_none()
            && let Some(&unit) = self.schedule.upcoming().first()
            && !self.lengths.contains_key(&unit)
        {
            self.ahead = Some(self.corpus.read_unit(unit));
        }
    }

    fn advance(&mut self, turn: Turn, ends_unit: bool) {
        if ends_unit {
            self.lengths.insert(turn.unit, turn.batch_in_unit + 1);
            self.readers.remove(&turn.unit);
        }
        self.schedule.advance(ends_unit);
    }
}

/// Batches of held-out documents only, unit after unit, for evaluation. Reads as far as it is asked; of other documents
/// it computes nothing but the hash.
pub struct HoldoutStream {
    corpus: Arc<Corpus>,
    rules: BatchRules,
    next_unit: u32,
    reader: Option<UnitBatcher<UnitReader>>,
    next_index: u64,
}

impl HoldoutStream {
    /// The stream from the corpus's start.
    ///
    /// Errors: as [`TokenStream::new`]; a corpus with `holdout: 0%`.
    pub fn new(corpus: Arc<Corpus>, tokenizer: Arc<Tokenizer>, config: &TokensConfig) -> Result<Self> {
        if corpus.config().holdout().share() == 0.0 {
            return Err(Error::config("`corpus.holdout` is 0%: there are no held-out documents to evaluate on"));
        }
        let rules = rules_for(&corpus, tokenizer, config)?;
        Ok(Self { corpus, rules, next_unit: 0, reader: None, next_index: 0 })
    }

    /// The next batch, never empty; `None` at the corpus's end. Index counts the batches given; the cursor is unset.
    pub fn next_batch(&mut self) -> Result<Option<TokenBatch>> {
        loop {
            let Some(reader) = &mut self.reader else {
                if self.next_unit == self.corpus.n_units() {
                    return Ok(None);
                }
                let (unit, rules) = (self.next_unit, self.rules.clone());
                self.reader = Some(UnitBatcher::new(unit, self.corpus.read_unit(unit), rules, Split::Holdout));
                self.next_unit += 1;
                continue;
            };
            match reader.next_batch()? {
                Some(batch) if batch.n_sequences() == 0 => {}
                Some(mut batch) => {
                    batch.index = self.next_index;
                    self.next_index += 1;
                    return Ok(Some(batch));
                }
                None => self.reader = None,
            }
        }
    }
}

fn rules_for(corpus: &Corpus, tokenizer: Arc<Tokenizer>, config: &TokensConfig) -> Result<BatchRules> {
    if !corpus.config().pre_tokenised() && !tokenizer.reads_text() {
        let problem = "the corpus is text but the model has no tokenizer.json: add one, or read token ids with `corpus.tokens_field`";
        return Err(Error::config(problem));
    }
    BatchRules::new(config, tokenizer, corpus.config().holdout().share())
}

#[cfg(test)]
mod tests;
