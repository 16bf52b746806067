//! How many tokens a corpus has, about: from a few documents spread over it.

use std::sync::Arc;

use crate::corpus::{Corpus, Item, is_holdout};
use crate::error::{ErrorKind, Result};
use crate::tokens::tokenizer::Tokenizer;

/// Units that are looked into, evenly spaced.
const UNITS_SAMPLED: u32 = 8;
/// Documents read from each.
const DOCUMENTS_A_UNIT: u64 = 64;
/// Text tokenised from each: a few books would otherwise take seconds.
const BYTES_A_UNIT: u64 = 1 << 20;

/// What was seen, and what it says about the whole corpus. Separators and BOS are not counted.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// Documents that were read.
    pub documents_sampled: u64,
    /// Bytes of text (or 4 bytes a token id) for each token.
    pub bytes_per_token: f64,
    /// Tokens in a document, on average.
    pub tokens_per_document: f64,
    /// Documents in the corpus, held-out ones included.
    pub documents: f64,
    /// Tokens in the corpus, held-out documents included.
    pub tokens: f64,
    /// Share of the sampled documents that is held out.
    pub holdout_share: f64,
    /// Share of the records that could not be read as documents.
    pub dropped_share: f64,
    /// Share of the tokens that lies outside what is kept of conversations.
    pub outside_share: f64,
}

#[derive(Default)]
struct Seen {
    documents: u64,
    held_out: u64,
    dropped: u64,
    outside: u64,
    tokens: u64,
    bytes: u64,
    /// Bytes of input, as stored, that held them.
    input_bytes: f64,
}

/// Look into the corpus. Blocks; not for async threads.
pub fn estimate(corpus: &Arc<Corpus>, tokenizer: &Tokenizer) -> Result<Estimate> {
    let n_units = corpus.n_units();
    let sampled = n_units.min(UNITS_SAMPLED);
    let mut seen = Seen::default();
    for i in 0..sampled {
        let unit = u64::from(i) * u64::from(n_units) / u64::from(sampled.max(1));
        look_into(corpus, tokenizer, unit as u32, &mut seen)?;
    }
    let per = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    let scale = if seen.input_bytes > 0.0 { corpus.bytes() as f64 / seen.input_bytes } else { 0.0 };
    Ok(Estimate {
        documents_sampled: seen.documents,
        bytes_per_token: per(seen.bytes, seen.tokens),
        tokens_per_document: per(seen.tokens, seen.documents),
        documents: seen.documents as f64 * scale,
        tokens: seen.tokens as f64 * scale,
        holdout_share: per(seen.held_out, seen.documents),
        dropped_share: per(seen.dropped, seen.documents + seen.dropped),
        outside_share: per(seen.outside, seen.tokens),
    })
}

fn look_into(corpus: &Arc<Corpus>, tokenizer: &Tokenizer, unit: u32, seen: &mut Seen) -> Result<()> {
    let mut reader = corpus.read_unit(unit);
    let (mut documents, mut bytes) = (0, 0);
    while documents < DOCUMENTS_A_UNIT && bytes < BYTES_A_UNIT {
        match reader.next().transpose()? {
            None => break,
            Some(Item::Dropped(_, n)) => seen.dropped += n,
            Some(Item::Document(document)) => {
                documents += 1;
                bytes += document.content.bytes() as u64;
                seen.held_out += u64::from(is_holdout(document.id, corpus.config().holdout().share()));
                match tokenizer.encode_content(document.content) {
                    Ok(encoded) => {
                        seen.tokens += encoded.ids.len() as u64;
                        seen.outside += encoded.outside.iter().filter(|&&outside| outside).count() as u64;
                    }
                    Err(error) if error.kind() == ErrorKind::Data => seen.dropped += 1,
                    Err(error) => return Err(error),
                }
            }
        }
    }
    seen.documents += documents;
    seen.bytes += bytes;
    seen.input_bytes += corpus.units()[unit as usize].bytes() as f64 * reader.progress();
    Ok(())
}
