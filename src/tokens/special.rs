//! What a model's files say of special tokens: their ids, and whether BOS stands before a text.
//!
//! An id comes from the first of `config.json`, `generation_config.json`, `tokenizer_config.json` (which names the
//! token) and `tokenizer.json` (whose post-processor adds it) that has it. Files that disagree are a warning that names
//! both; of several EOS ids the first one counts, and one in common is agreement.
//!
//! Whether BOS stands before a text is said by `add_bos_token` of `tokenizer_config.json`; else by what the
//! post-processor of `tokenizer.json` adds; else, where neither speaks, by the custom of the model's family.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result, ResultExt};

/// Ids of special tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SpecialIds {
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
}

/// What `tokens.prepend_bos: auto` means for a model, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BosCustom {
    /// Whether BOS stands before a text.
    pub prepends: bool,
    /// Who says so, for people.
    pub because: String,
}

impl Default for BosCustom {
    fn default() -> Self {
        Self { prepends: false, because: "no file of the model says that it does".to_owned() }
    }
}

/// The JSON files of a model's folder that speak of tokens; empty where a file is missing.
#[derive(Clone, Debug, Default)]
pub struct ModelFiles {
    /// `config.json`
    pub config: Map<String, Value>,
    /// `generation_config.json`
    pub generation: Map<String, Value>,
    /// `tokenizer_config.json`
    pub tokenizer: Map<String, Value>,
    /// `special_tokens_map.json`
    pub special_map: Map<String, Value>,
    /// `added_tokens.json`
    pub added: Map<String, Value>,
}

impl ModelFiles {
    /// Read the files of a folder.
    pub fn read(folder: &Path) -> Result<Self> {
        Ok(Self {
            config: object(&folder.join("config.json"))?,
            generation: object(&folder.join("generation_config.json"))?,
            tokenizer: object(&folder.join("tokenizer_config.json"))?,
            special_map: object(&folder.join("special_tokens_map.json"))?,
            added: object(&folder.join("added_tokens.json"))?,
        })
    }

    /// What `key` (`bos_token`, `extra_special_tokens`) is in `tokenizer_config.json`. Older folders, which do not list
    /// their added tokens there, have `special_tokens_map.json` besides, and it comes first in them.
    pub(crate) fn token_value(&self, key: &str) -> Option<&Value> {
        let of = |object: &'_ Map<String, Value>| object.get(key).filter(|v| !v.is_null()).is_some();
        let older = !self.tokenizer.contains_key("added_tokens_decoder") && of(&self.special_map);
        let source = if older { &self.special_map } else { &self.tokenizer };
        source.get(key).filter(|value| !value.is_null())
    }

    /// The text of the token that is called `key` (`bos_token`).
    pub fn token(&self, key: &str) -> Option<&str> {
        let value = self.token_value(key)?;
        value.as_str().or_else(|| value.get("content")?.as_str())
    }

    /// Whether any file but `config.json` names the token `key` (`bos`, `eos`, `pad`).
    pub fn names(&self, key: &str) -> bool {
        self.token(&format!("{key}_token")).is_some() || !ids_in(&self.generation, key).is_empty()
    }
}

/// A JSON file that holds an object; empty if there is no such file.
fn object(path: &Path) -> Result<Map<String, Value>> {
    /// Beyond it nothing is a settings file.
    const BYTES_MAX: u64 = 64 << 20;
    if std::fs::metadata(path).is_ok_and(|m| m.len() > BYTES_MAX) {
        return Err(Error::data(format!("`{}` is larger than 64 MiB: it cannot be what it is named", path.display())));
    }
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    match serde_json::from_slice(&bytes).or_kind(ErrorKind::Data, || format!("cannot parse `{}`", path.display()))? {
        Value::Object(object) => Ok(object),
        _ => Err(Error::data(format!("`{}` must hold an object", path.display()))),
    }
}

/// What a tokenizer puts around a text by itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Around {
    /// Whether it has a post-processor at all: without one, it says nothing.
    pub(crate) known: bool,
    pub(crate) before: Vec<u32>,
    pub(crate) after: Vec<u32>,
}

impl Around {
    /// See what `tokenizer` does to a text.
    pub(crate) fn of(tokenizer: &tokenizers::Tokenizer) -> Self {
        let Some(_) = tokenizer.get_post_processor() else { return Self::default() };
        let encode = |special| tokenizer.encode_fast("a", special).map(|e| e.get_ids().to_vec()).unwrap_or_default();
        let (bare, whole) = (encode(false), encode(true));
        let at = whole.windows(bare.len().max(1)).position(|window| window == bare).unwrap_or(0);
        let after = whole.get(at + bare.len()..).unwrap_or_default().to_vec();
        Self { known: true, before: whole[..at].to_vec(), after }
    }
}

/// A file and the ids that it gives for a token.
struct Says {
    file: &'static str,
    ids: Vec<u32>,
}

/// The ids of special tokens, and a warning for each disagreement. `spec`: as the model's configuration was understood;
/// `id_of`: the vocabulary.
pub(crate) fn ids(
    files: &ModelFiles,
    spec: SpecialIds,
    around: &Around,
    id_of: &dyn Fn(&str) -> Option<u32>,
) -> (SpecialIds, Vec<String>) {
    let mut warnings = Vec::new();
    let mut one = |key: &str, spec: Option<u32>, added: &[u32]| {
        let mut config: Vec<u32> = spec.into_iter().collect();
        config.extend(ids_in(&files.config, key));
        let named = files.token(&format!("{key}_token")).and_then(id_of);
        let says = [
            Says { file: "config.json", ids: config },
            Says { file: "generation_config.json", ids: ids_in(&files.generation, key) },
            Says { file: "tokenizer_config.json", ids: named.into_iter().collect() },
            Says { file: "tokenizer.json", ids: if added.len() == 1 { added.to_vec() } else { Vec::new() } },
        ];
        let mut says = says.iter().filter(|says| !says.ids.is_empty());
        let first = says.next()?;
        let taken = first.ids[0];
        for other in says.filter(|other| !other.ids.iter().any(|id| first.ids.contains(id))) {
            let (file, says, by) = (first.file, other.ids[0], other.file);
            warnings.push(format!("{key}: {file} says token {taken}, {by} says {says}; {taken} is taken"));
        }
        Some(taken)
    };
    let ids = SpecialIds {
        bos: one("bos", spec.bos, &around.before),
        eos: one("eos", spec.eos, &around.after),
        pad: one("pad", spec.pad, &[]),
    };
    (ids, warnings)
}

/// Whether BOS stands before a text, and a warning if two files disagree on it.
pub(crate) fn bos_custom(files: &ModelFiles, around: &Around) -> (BosCustom, Option<String>) {
    let processor = around.known.then(|| BosCustom {
        prepends: !around.before.is_empty(),
        because: match around.before.as_slice() {
            [] => "tokenizer.json adds nothing before a text".to_owned(),
            [id] => format!("tokenizer.json adds token {id} before a text"),
            several => format!("tokenizer.json adds tokens {several:?} before a text"),
        },
    });
    if let Some(prepends) = files.tokenizer.get("add_bos_token").and_then(Value::as_bool) {
        let because = format!("add_bos_token is {prepends} in tokenizer_config.json");
        let other = processor.filter(|p| p.prepends != prepends);
        let warning = other.map(|p| format!("{because}, but {}: the former is followed", p.because));
        return (BosCustom { prepends, because }, warning);
    }
    if let Some(processor) = processor {
        return (processor, None);
    }
    let family = files.config.get("model_type").and_then(Value::as_str).unwrap_or("unknown");
    let prepends = family_prepends_bos(family);
    let does = if prepends { "begin texts with BOS" } else { "do not begin texts with BOS" };
    (BosCustom { prepends, because: format!("{family} models {does}") }, None)
}

/// What models of a family do where their files do not say: those whose tokenizers come from SentencePiece, and Llama 3,
/// were trained with BOS before every text; GPT-2, GPT-NeoX, Qwen, OLMo and Phi were not.
pub(crate) fn family_prepends_bos(model_type: &str) -> bool {
    let families = ["llama", "gemma", "mistral", "mixtral", "ministral"];
    families.iter().any(|family| model_type.starts_with(family))
}

/// Token ids under `{key}_token_id`: one, a list, or none. Negative numbers mean none.
fn ids_in(object: &Map<String, Value>, key: &str) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match object.get(&format!("{key}_token_id")) {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(one) => id(one).into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
