//! Text to token ids, as Hugging Face's `tokenizers` does it, without special tokens of its own.

use std::collections::BTreeSet;
use std::path::Path;

use sha2::{Digest, Sha256};
use tokenizers::ModelWrapper;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tokens::config::{Separator, TokensConfig};

/// Ids that a model's `config.json` names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
}

/// A tokenizer and the ids that matter around it. Encoding is the same on every thread and uses no thread pool.
pub struct Tokenizer {
    /// `None` for corpora that are already token ids.
    inner: Option<tokenizers::Tokenizer>,
    /// Rows of the model's embedding: ids are below.
    vocab: u32,
    ids: SpecialIds,
    special: BTreeSet<u32>,
    fingerprint: String,
}

impl Tokenizer {
    /// Load a `tokenizer.json`. `ids` come from the model's `config.json`, `vocab` is its number of embeddings.
    ///
    /// Truncation, padding and dropout that the file may ask for are switched off: a document's tokens are all its
    /// tokens, every time.
    pub fn load(path: &Path, ids: SpecialIds, vocab: u32) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let shown = path.display();
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .or_kind(ErrorKind::Data, || format!("`{shown}` is not a tokenizer that can be used"))?;
        tokenizers::utils::parallelism::set_parallelism(false);
        inner
            .with_truncation(None)
            .or_kind(ErrorKind::Internal, || format!("cannot switch off the truncation of `{shown}`"))?;
        inner.with_padding(None);
        without_dropout(&mut inner);
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        Self::new(Some(inner), ids, vocab, special, sha256(&bytes))
    }

    /// For corpora that are already token ids.
    pub fn none(ids: SpecialIds, vocab: u32) -> Result<Self> {
        Self::new(None, ids, vocab, BTreeSet::new(), "none".to_owned())
    }

    fn new(
        inner: Option<tokenizers::Tokenizer>,
        ids: SpecialIds,
        vocab: u32,
        mut special: BTreeSet<u32>,
        fingerprint: String,
    ) -> Result<Self> {
        for (name, id) in [("bos", ids.bos), ("eos", ids.eos), ("pad", ids.pad)] {
            let Some(id) = id else { continue };
            if id >= vocab && name != "pad" {
                let problem = format!("the model's {name}_token_id {id} is outside its vocabulary of {vocab} tokens");
                return Err(Error::data(problem));
            }
            special.insert(id);
        }
        Ok(Self { inner, vocab, ids, special, fingerprint })
    }

    /// The token ids of a text. Ids may lie outside the model's vocabulary; see [`Self::all_in_vocabulary`].
    ///
    /// Errors: the tokenizer refuses the text (no unknown token, for example), or there is no tokenizer.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let inner = self.inner.as_ref().ok_or_else(|| {
            Error::config(
                "the corpus is text but the model has no tokenizer.json: add it, or give `corpus.tokens_field`",
            )
        })?;
        // `encode_fast` leaves out offsets, which nobody reads
        let encoding = inner.encode_fast(text, false).or_kind(ErrorKind::Data, || "cannot tokenise".to_owned())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Whether the model has an embedding for each id.
    pub fn all_in_vocabulary(&self, ids: &[u32]) -> bool {
        ids.iter().all(|&id| id < self.vocab)
    }

    /// Whether `id` is BOS, EOS, padding, or one of the tokenizer's added special tokens.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// All special ids, ascending.
    pub fn special_ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.special.iter().copied()
    }

    /// Ids that the model's config names.
    pub fn ids(&self) -> SpecialIds {
        self.ids
    }

    /// Number of embeddings of the model.
    pub fn vocab(&self) -> u32 {
        self.vocab
    }

    /// Whether text can be encoded.
    pub fn reads_text(&self) -> bool {
        self.inner.is_some()
    }

    /// sha256 (hex) of `tokenizer.json`; `none` without one.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What to put at the start of an attention context: BOS, if `prepend_bos`.
    pub fn bos_for(&self, config: &TokensConfig) -> Result<Option<u32>> {
        if !config.prepend_bos {
            return Ok(None);
        }
        let missing = "`tokens.prepend_bos` is true but the model's config.json names no bos_token_id: \
                       set `tokens.prepend_bos: false`, or add bos_token_id to config.json";
        self.ids.bos.map(Some).ok_or_else(|| Error::config(missing))
    }

    /// What to put after a document.
    pub fn separator_for(&self, config: &TokensConfig) -> Result<Option<u32>> {
        let (name, id) = match config.separator {
            Separator::None => return Ok(None),
            Separator::Eos => ("eos", self.ids.eos),
            Separator::Bos => ("bos", self.ids.bos),
        };
        id.map(Some).ok_or_else(|| {
            Error::config(format!(
                "`tokens.separator: {name}` needs an id but the model's config.json names no {name}_token_id: \
                 set `tokens.separator: none`, or add {name}_token_id to config.json"
            ))
        })
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab", &self.vocab)
            .field("ids", &self.ids)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// BPE dropout is for training tokenizers; here it would give other tokens in every run.
fn without_dropout(tokenizer: &mut tokenizers::Tokenizer) {
    if let ModelWrapper::BPE(bpe) = tokenizer.get_model()
        && bpe.dropout.is_some()
    {
        let mut bpe = bpe.clone();
        bpe.dropout = None;
        tokenizer.with_model(bpe);
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
