//! The tokenizer of a GGUF file as the `tokenizer.json` that its model was published with.
//!
//! Two kinds are read: byte-level BPE (`gpt2`), whose file has merges and names how text is cut, and SentencePiece BPE
//! (`llama`), whose file has scores: of two pieces that could be merged, the better one is. llama.cpp stores no
//! normalisation; it is that of the published models.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result};
use crate::model::gguf::Gguf;
use crate::model::gguf::metadata::{Metadata, Value};
use crate::model::gguf::pre_tokenizer::pre_tokenizer;

/// Tokens of a vocabulary, at most.
const TOKENS_MAX: usize = 1 << 20;
/// Bytes of a token that others are merged into, at most: each of its cuts is looked up. SentencePiece makes none above 64.
const PIECE_BYTES_MAX: usize = 512;
/// SentencePiece's space.
const SPACE: &str = "\u{2581}";

/// What a token is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Control,
    UserDefined,
    /// Unknown, unused, a byte: in the vocabulary and nothing else.
    Other,
}

/// The tokens of a file.
struct Vocabulary<'a> {
    tokens: &'a [String],
    kinds: Vec<Kind>,
}

/// `tokenizer.json`.
pub(super) fn tokenizer(gguf: &Gguf) -> Result<Json> {
    let metadata = &gguf.metadata;
    let model = metadata.text("tokenizer.ggml.model")?;
    let vocabulary = Vocabulary::read(metadata)?;
    match model {
        Some("gpt2") => byte_level(gguf, &vocabulary),
        Some("llama") if gguf.architecture()?.starts_with("gemma") => gemma(metadata, &vocabulary),
        Some("llama") => sentence_piece(metadata, &vocabulary),
        Some(other) => Err(Error::data(format!(
            "the tokenizer's `tokenizer.ggml.model` {other} is not supported: there are gpt2 and llama"
        ))),
        None => Err(Error::data("the file has no tokenizer (`tokenizer.ggml.model`)")),
    }
}

/// `tokenizer_config.json`.
pub(super) fn tokenizer_config(gguf: &Gguf) -> Result<Json> {
    let metadata = &gguf.metadata;
    let tokens = metadata.texts("tokenizer.ggml.tokens")?.unwrap_or(&[]);
    let mut config = Map::new();
    for (key, stored) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        let id = metadata.count(&format!("tokenizer.ggml.{stored}_token_id"))?;
        if let Some(token) = id.and_then(|id| tokens.get(usize::try_from(id).ok()?)) {
            config.insert(format!("{key}_token"), json!(token));
        }
    }
    for key in ["add_bos_token", "add_eos_token"] {
        if let Some(flag) = metadata.flag(&format!("tokenizer.ggml.{key}"))? {
            config.insert(key.to_owned(), json!(flag));
        }
    }
    // where the file does not say, SentencePiece models begin with BOS, and of the others those that llama.cpp knows
    let pre = metadata.text("tokenizer.ggml.pre")?;
    let custom = match metadata.text("tokenizer.ggml.model")? {
        Some("llama") => Some(true),
        Some("gpt2") => Some(pre.is_some_and(|pre| ["llama-bpe", "llama3", "llama-v3", "tekken"].contains(&pre))),
        _ => None,
    };
    if let Some(custom) = custom {
        config.entry("add_bos_token").or_insert(json!(custom));
    }
    if let Some(template) = gguf.chat_template()? {
        config.insert("chat_template".to_owned(), json!(template));
    }
    Ok(Json::Object(config))
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &'a Metadata) -> Result<Self> {
        let missing = || Error::data("the file has no tokenizer (`tokenizer.ggml.tokens`)");
        let tokens = metadata.texts("tokenizer.ggml.tokens")?.ok_or_else(missing)?;
        if tokens.is_empty() || tokens.len() > TOKENS_MAX {
            return Err(Error::data(format!("a vocabulary of {} tokens is not supported", tokens.len())));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = tokens.iter().find(|token| !seen.insert(token.as_str())) {
            return Err(Error::data(format!("token `{twice}` is in `tokenizer.ggml.tokens` twice")));
        }
        let kinds = match metadata.numbers("tokenizer.ggml.token_type")? {
            Some(kinds) => kinds.iter().map(kind).collect(),
            None => vec![Kind::Normal; tokens.len()],
        };
        if kinds.len() != tokens.len() {
            return Err(Error::data(format!("{} token types for {} tokens", kinds.len(), tokens.len())));
        }
        Ok(Self { tokens, kinds })
    }

    /// Control tokens, and tokens that are found in the text as they are.
    fn added(&self) -> Vec<Json> {
        let added = self.tokens.iter().zip(&self.kinds).enumerate();
        let added =
            added.filter(|(_, (token, kind))| [Kind::Control, Kind::UserDefined].contains(kind) && !token.is_empty());
        let entry = |(id, (token, kind)): (usize, (&String, &Kind))| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind == Kind::Control})
        };
        added.map(entry).collect()
    }

    /// Token to id.
    fn ids<'b>(tokens: impl Iterator<Item = &'b str>) -> HashMap<&'b str, usize> {
        tokens.enumerate().map(|(id, token)| (token, id)).collect()
    }
}

fn kind(value: Value) -> Kind {
    match value {
        Value::Integer(1) => Kind::Normal,
        Value::Integer(3) => Kind::Control,
        Value::Integer(4) => Kind::UserDefined,
        _ => Kind::Other,
    }
}

fn byte_level(gguf: &Gguf, vocabulary: &Vocabulary<'_>) -> Result<Json> {
    let metadata = &gguf.metadata;
    let pre = match metadata.text("tokenizer.ggml.pre")? {
        Some(pre) => pre,
        // before the key was, only these were byte-level as GPT-2 is
        None if ["gpt2", "phi2"].contains(&gguf.architecture()?) => "gpt-2",
        None => {
            return Err(Error::data(
                "`tokenizer.ggml.pre` is missing: the file does not say how its tokenizer cuts text",
            ));
        }
    };
    let pre = pre_tokenizer(pre)?;
    let merges = metadata.texts("tokenizer.ggml.merges")?.unwrap_or(&[]);
    let pair = |merge: &String| {
        let pair = merge.split_once(' ').map(|(left, right)| json!([left, right]));
        pair.ok_or_else(|| Error::data(format!("`{merge}` in `tokenizer.ggml.merges` is not a pair")))
    };
    let merges = merges.iter().map(pair).collect::<Result<Vec<_>>>()?;
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added(),
        "normalizer": pre.normalizer,
        "pre_tokenizer": pre.pre_tokenizer,
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": pre.ignore_merges,
            "vocab": vocab(vocabulary.tokens.iter().map(String::as_str)),
            "merges": merges,
        },
    }))
}

/// Llama, Mistral: a space before the text (unless the file says no), then every space is a letter of its own.
fn sentence_piece(metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Json> {
    let scores = metadata.numbers("tokenizer.ggml.scores")?;
    let scores = scores.ok_or_else(|| Error::data("`tokenizer.ggml.scores` is missing"))?;
    let scores: Vec<f64> =
        scores.iter().filter_map(|score| if let Value::Float(x) = score { Some(x) } else { None }).collect();
    if scores.len() != vocabulary.tokens.len() || scores.iter().any(|score| score.is_nan()) {
        return Err(Error::data("`tokenizer.ggml.scores` is not a number for each token"));
    }
    let tokens: Vec<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
    let merges = merges(&tokens, &vocabulary.kinds, |id| scores[id])?;
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let normalizer = if metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) {
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, spaces]})
    } else {
        spaces
    };
    let prefix = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    sentence_piece_json(metadata, vocabulary, &tokens, merges, normalizer, Json::Null, Some(prefix))
}

/// Gemma: no space before the text; runs of spaces are tokens whose name in the file is the text itself; and merges have the
/// order of the tokens, not that of their scores.
fn gemma(metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Json> {
    let respelled: Vec<String> = vocabulary.tokens.iter().map(|token| spaces_as_pieces(token)).collect();
    let tokens: Vec<&str> = respelled.iter().map(String::as_str).collect();
    let kinds = vocabulary.kinds.iter().zip(vocabulary.tokens).zip(&tokens).map(|((&kind, stored), token)| {
        // a run of spaces is reached by merges
        if kind == Kind::UserDefined && stored != token { Kind::Normal } else { kind }
    });
    let vocabulary = Vocabulary { tokens: &respelled, kinds: kinds.collect() };
    let merges = merges(&tokens, &vocabulary.kinds, |id| -(id as f64))?;
    let normalizer = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let split = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
    sentence_piece_json(metadata, &vocabulary, &tokens, merges, normalizer, split, None)
}

fn spaces_as_pieces(token: &str) -> String {
    let is_run = !token.is_empty() && token.bytes().all(|b| b == b' ');
    if is_run { SPACE.repeat(token.len()) } else { token.to_owned() }
}

fn sentence_piece_json(
    metadata: &Metadata,
    vocabulary: &Vocabulary<'_>,
    tokens: &[&str],
    merges: Vec<Json>,
    normalizer: Json,
    pre_tokenizer: Json,
    decode_last: Option<Json>,
) -> Result<Json> {
    let unknown = metadata.count("tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
    let unknown = usize::try_from(unknown).ok().and_then(|id| tokens.get(id));
    let unknown = unknown.ok_or_else(|| Error::data("`tokenizer.ggml.unknown_token_id` is outside the vocabulary"))?;
    let decoders = [
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let decoders: Vec<Json> = decoders.into_iter().chain(decode_last).collect();
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added(),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": vocab(tokens.iter().copied()),
            "merges": merges,
        },
    }))
}

fn vocab<'a>(tokens: impl Iterator<Item = &'a str>) -> Json {
    Json::Object(tokens.enumerate().map(|(id, token)| (token.to_owned(), json!(id))).collect())
}

/// The merges that lead to each token: all cuts of it into two tokens, the best tokens first; between cuts of equal
/// standing, as Hugging Face orders them when it converts such a vocabulary.
fn merges(tokens: &[&str], kinds: &[Kind], score: impl Fn(usize) -> f64) -> Result<Vec<Json>> {
    let ids = Vocabulary::ids(tokens.iter().copied());
    let mut found = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|(id, _)| kinds[*id] == Kind::Normal) {
        if token.len() > PIECE_BYTES_MAX {
            return Err(Error::data(format!("token {id} has {} bytes: not supported", token.len())));
        }
        let first = found.len();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                found.push((score(id), left, right, l, r));
            }
        }
        found[first..].sort_by_key(|&(_, _, _, l, r)| (l, r));
    }
    let chars = |text: &str| text.chars().count();
    found.sort_by(|a, b| {
        let by_score = b.0.total_cmp(&a.0);
        by_score.then_with(|| chars(b.1).cmp(&chars(a.1))).then_with(|| chars(b.2).cmp(&chars(a.2)))
    });
    Ok(found.into_iter().map(|(_, left, right, ..)| json!([left, right])).collect())
}
