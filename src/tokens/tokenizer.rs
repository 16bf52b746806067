//! Text to token ids, as Hugging Face's `tokenizers` does it, without special tokens of its own.

use std::collections::BTreeSet;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokenizers::ModelWrapper;

use crate::corpus::{Chat, Content};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tokens::added;
use crate::tokens::chat::{ChatRules, Rendered};
use crate::tokens::config::{PrependBos, Separator, TokensConfig};
use crate::tokens::special::{self, Around, BosCustom, ModelFiles, SpecialIds};

/// Bytes of a `tokenizer.json`, at most: a vocabulary of 262 000 tokens has 33 MB.
const JSON_BYTES_MAX: u64 = 256 << 20;

/// A tokenizer and the ids that matter around it. Encoding is the same on every thread and uses no thread pool.
pub struct Tokenizer {
    /// `None` for corpora that are already token ids.
    inner: Option<tokenizers::Tokenizer>,
    /// Rows of the model's embedding: ids are below.
    vocab: u32,
    ids: SpecialIds,
    bos_custom: BosCustom,
    special: BTreeSet<u32>,
    fingerprint: String,
    warnings: Vec<String>,
    /// For corpora of conversations.
    chat: Option<ChatRules>,
}

/// A document's tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// `[n]` ids.
    pub ids: Vec<u32>,
    /// `[n]` whether a token lies outside what is kept; empty if all are kept.
    pub outside: Vec<bool>,
}

impl Encoded {
    /// Leave out a BOS that is the first token and a separator that is the last one: the packer adds its own.
    pub(crate) fn without_ends(&mut self, bos: Option<u32>, separator: Option<u32>) {
        if separator.is_some() && self.ids.last() == separator.as_ref() {
            self.ids.pop();
            self.outside.truncate(self.ids.len());
        }
        if bos.is_some() && self.ids.first() == bos.as_ref() {
            self.ids.remove(0);
            if !self.outside.is_empty() {
                self.outside.remove(0);
            }
        }
    }
}

impl Tokenizer {
    /// Load a `tokenizer.json`, with what the files beside it add. `ids` come from the model's configuration and count
    /// before those of other files; `vocab` is its number of embeddings.
    ///
    /// Truncation, padding and dropout that the file may ask for are switched off: a document's tokens are all its
    /// tokens, every time.
    pub fn load(path: &Path, ids: SpecialIds, vocab: u32) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
        let mut bytes = Vec::new();
        file.take(JSON_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
        let files = ModelFiles::read(path.parent().unwrap_or(Path::new(".")))?;
        Self::from_json(&bytes, &files, ids, vocab)
            .map_err(|e| e.context(format!("load the tokenizer `{}`", path.display())))
    }

    /// As [`Tokenizer::load`], from what a `tokenizer.json` holds. It is not trusted: what makes the library panic is an
    /// error.
    pub fn from_json(bytes: &[u8], files: &ModelFiles, ids: SpecialIds, vocab: u32) -> Result<Self> {
        if bytes.len() as u64 > JSON_BYTES_MAX {
            return Err(Error::data(format!("a tokenizer of more than {JSON_BYTES_MAX} bytes is not supported")));
        }
        check_normalizer(bytes)?;
        let inner = catch(|| tokenizers::Tokenizer::from_bytes(bytes))?.or_kind(ErrorKind::Data, unusable)?;
        catch(|| Self::with_files(inner, files, ids, vocab, sha256(bytes)))?
    }

    /// A tokenizer that was built, with what `files` say of its tokens. `fingerprint` tells it from others.
    pub fn with_files(
        mut inner: tokenizers::Tokenizer,
        files: &ModelFiles,
        ids: SpecialIds,
        vocab: u32,
        mut fingerprint: String,
    ) -> Result<Self> {
        tokenizers::utils::parallelism::set_parallelism(false);
        inner
            .with_truncation(None)
            .or_kind(ErrorKind::Internal, || "cannot switch off the tokenizer's truncation".to_owned())?;
        inner.with_padding(None);
        without_dropout(&mut inner);
        let around = Around::of(&inner);
        let changed = added::apply(&mut inner, files)?;
        if !changed.is_empty() || inner.get_encode_special_tokens() {
            let split = inner.get_encode_special_tokens();
            fingerprint = sha256(format!("{fingerprint} {split} {changed:?}").as_bytes());
        }
        let (ids, mut warnings) = special::ids(files, ids, &around, &|token| inner.token_to_id(token));
        let (bos_custom, disagreement) = special::bos_custom(files, &around);
        warnings.extend(disagreement);
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        Self { inner: Some(inner), vocab, ids, bos_custom, special, fingerprint, warnings, chat: None }.checked()
    }

    /// For corpora that are already token ids.
    pub fn none(ids: SpecialIds, vocab: u32) -> Result<Self> {
        let (bos_custom, fingerprint) = (BosCustom::default(), "none".to_owned());
        Self {
            inner: None,
            vocab,
            ids,
            bos_custom,
            special: BTreeSet::new(),
            fingerprint,
            warnings: Vec::new(),
            chat: None,
        }
        .checked()
    }

    fn checked(mut self) -> Result<Self> {
        for (name, id) in [("bos", self.ids.bos), ("eos", self.ids.eos), ("pad", self.ids.pad)] {
            let Some(id) = id else { continue };
            if id >= self.vocab && name != "pad" {
                let vocab = self.vocab;
                let problem = format!("the model's {name}_token_id {id} is outside its vocabulary of {vocab} tokens");
                return Err(Error::data(problem));
            }
            self.special.insert(id);
        }
        Ok(self)
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
        let encoding = catch(|| inner.encode_fast(text, false))?;
        let encoding = encoding.or_kind(ErrorKind::Data, || "cannot tokenise".to_owned())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokenizer for a corpus of conversations, rendered by `rules`.
    ///
    /// Errors: there is no tokenizer of text.
    pub fn with_chat(mut self, rules: ChatRules) -> Result<Self> {
        if self.inner.is_none() {
            return Err(Error::config("the corpus is conversations but the model has no tokenizer.json: add it"));
        }
        self.fingerprint = sha256(format!("{} {}", self.fingerprint, rules.fingerprint()).as_bytes());
        let begins = rules.sample().and_then(|text| self.encode(&text).ok()).and_then(|ids| ids.first().copied());
        let prepends = self.ids.bos.is_some() && begins == self.ids.bos;
        let does = if prepends { "begins" } else { "does not begin" };
        self.bos_custom = BosCustom { prepends, because: format!("the chat template {does} with BOS") };
        self.chat = Some(rules);
        Ok(self)
    }

    /// The tokens of a document, with marks of what is kept of it.
    ///
    /// Errors: as [`Self::encode`]; the chat template refuses the conversation.
    pub fn encode_content(&self, content: Content) -> Result<Encoded> {
        match (content, &self.chat) {
            (Content::Tokens(ids), _) => Ok(Encoded { ids, outside: Vec::new() }),
            (Content::Text(text), _) => Ok(Encoded { ids: self.encode(&text)?, outside: Vec::new() }),
            (Content::Chat(chat), Some(rules)) => self.encode_chat(&chat, rules),
            (Content::Chat(_), None) => Err(Error::internal("conversations, but no chat template was loaded")),
        }
    }

    fn encode_chat(&self, chat: &Chat, rules: &ChatRules) -> Result<Encoded> {
        let rendered = rules.render(chat)?;
        if !rules.keeps_assistant_only() {
            return Ok(Encoded { ids: self.encode(&rendered.text)?, outside: Vec::new() });
        }
        let inner = self.inner.as_ref().ok_or_else(|| Error::internal("conversations without a tokenizer"))?;
        let encoding = catch(|| inner.encode_char_offsets(rendered.text.as_str(), false))?;
        let encoding = encoding.or_kind(ErrorKind::Data, || "cannot tokenise".to_owned())?;
        let outside = outside(&rendered, &encoding);
        Ok(Encoded { ids: encoding.get_ids().to_vec(), outside })
    }

    /// Whether its documents come with marks of what is kept of them.
    pub fn marks(&self) -> bool {
        self.chat.as_ref().is_some_and(ChatRules::keeps_assistant_only)
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

    /// Ids that the model's files name.
    pub fn ids(&self) -> SpecialIds {
        self.ids
    }

    /// Number of embeddings of the model.
    pub fn vocab(&self) -> u32 {
        self.vocab
    }

    /// What encodes text, if there is such a thing.
    pub(super) fn inner(&self) -> Option<&tokenizers::Tokenizer> {
        self.inner.as_ref()
    }

    /// Whether text can be encoded.
    pub fn reads_text(&self) -> bool {
        self.inner.is_some()
    }

    /// sha256 (hex) of `tokenizer.json`; `none` without one.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Where the model's files disagree, for people.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// `config` with `prepend_bos: auto` decided, and who decided it. Rows that are token ids already (`pre_tokenised`)
    /// are taken as they are.
    pub fn decided(&self, config: &TokensConfig, pre_tokenised: bool) -> (TokensConfig, String) {
        let (prepends, because) = match config.prepend_bos {
            PrependBos::Yes => (true, "the pipeline says so".to_owned()),
            PrependBos::No => (false, "the pipeline says so".to_owned()),
            PrependBos::Auto if pre_tokenised => (false, "the corpus is token ids".to_owned()),
            PrependBos::Auto if self.bos_custom.prepends && self.ids.bos.is_none() => {
                (false, "no file of the model names a BOS token".to_owned())
            }
            PrependBos::Auto => (self.bos_custom.prepends, self.bos_custom.because.clone()),
        };
        (TokensConfig { prepend_bos: prepends.into(), ..config.clone() }, because)
    }

    /// What to put at the start of an attention context: BOS, if `prepend_bos` says so. Asked of a configuration that is
    /// [decided](Self::decided); `auto` is decided as for text.
    pub fn bos_for(&self, config: &TokensConfig) -> Result<Option<u32>> {
        if self.decided(config, !self.reads_text()).0.prepend_bos != PrependBos::Yes {
            return Ok(None);
        }
        let missing = "`tokens.prepend_bos` is true but no file of the model names a BOS token: \
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
                "`tokens.separator: {name}` needs an id but the files of the model name no {name}_token_id: \
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

/// What is looked at before the library builds anything: it believes lengths in tables of replacements, and allocates by
/// them. Replacements make a text longer, and each those of the one before it: unbounded, a small file fills the memory.
fn check_normalizer(bytes: &[u8]) -> Result<()> {
    /// Bytes for one byte. Published tokenizers write three for a space.
    const GROWTH_MAX: f64 = 64.0;
    /// Bytes before a text.
    const PREFIX_MAX: usize = 256;
    #[derive(Deserialize)]
    struct Looked {
        #[serde(default)]
        normalizer: Value,
    }
    fn growth(normalizer: &Value) -> f64 {
        let text = |key: &str| normalizer.get(key).and_then(Value::as_str);
        if text("prepend").is_some_and(|prefix| prefix.len() > PREFIX_MAX) {
            return f64::INFINITY;
        }
        // a pattern may match between two letters
        let between = normalizer.pointer("/pattern/Regex").map_or(0.0, |_| 1.0);
        let own = text("content").map_or(1.0, |content| between + content.len().max(1) as f64);
        let inner: f64 = match normalizer {
            Value::Array(items) => items.iter().map(growth).product(),
            Value::Object(map) => map.values().map(growth).product(),
            _ => 1.0,
        };
        own * inner
    }
    fn has_table(normalizer: &Value) -> bool {
        match normalizer {
            Value::Array(items) => items.iter().any(has_table),
            Value::Object(map) => map.contains_key("precompiled_charsmap") || map.values().any(has_table),
            _ => false,
        }
    }
    let looked: Looked = serde_json::from_slice(bytes).or_kind(ErrorKind::Data, unusable)?;
    if has_table(&looked.normalizer) {
        return Err(Error::data("a tokenizer whose normalizer is a precompiled table is not supported"));
    }
    if growth(&looked.normalizer) > GROWTH_MAX {
        return Err(Error::data("the tokenizer's normalizer may make texts much longer: not supported"));
    }
    Ok(())
}

fn unusable() -> String {
    "this is not a tokenizer that can be used".to_owned()
}

/// What `call` returns. Files that the library did not foresee make it panic; here they are errors like others.
fn catch<T>(call: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Error::data(format!("the tokenizer's file is not one that can be used: {message}"))
    })
}

/// Marks of the tokens outside the assistant's text. A range reaches from the token that holds its first character to the
/// one that holds its last, as in `transformers`.
fn outside(rendered: &Rendered, encoding: &tokenizers::Encoding) -> Vec<bool> {
    let mut outside = vec![true; encoding.get_ids().len()];
    let (mut bytes, mut chars) = (0, 0);
    let mut char_at = |byte: usize| {
        chars += rendered.text[bytes..byte].chars().count();
        bytes = byte;
        chars
    };
    for range in &rendered.assistant {
        let (start, end) = (char_at(range.start), char_at(range.end));
        let Some(first) = encoding.char_to_token(start, 0) else { break };
        if start == end {
            continue;
        }
        let last = encoding.char_to_token(end - 1, 0).map_or(outside.len(), |last| last + 1);
        outside[first..last.max(first)].fill(false);
    }
    outside
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
