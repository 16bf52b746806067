//! Tokens that `tokenizer_config.json` adds to those of `tokenizer.json`, as `transformers` adds them.
//!
//! `transformers` registers every special token that the configuration names, and every entry of
//! `added_tokens_decoder` that differs from the tokenizer's own (the configuration's flags then count). Text that holds
//! such a token becomes its id; without this it would be cut into pieces.

use std::collections::BTreeMap;

use serde_json::Value;
use tokenizers::AddedToken;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::tokens::special::ModelFiles;

/// Names of special tokens that every tokenizer may have.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Add to `tokenizer` what `files` say; the tokens that were added or changed.
pub(crate) fn apply(tokenizer: &mut tokenizers::Tokenizer, files: &ModelFiles) -> Result<Vec<AddedToken>> {
    let own: Vec<AddedToken> = tokenizer.get_added_tokens_decoder().into_values().collect();
    let named = named_tokens(files);
    let is_named = |content: &str| named.iter().any(|token| token.content == content);
    let mut wanted = declared(files, &own, &is_named)?;
    for token in &named {
        if !own.iter().chain(&wanted).any(|known| known.content == token.content) {
            wanted.push(token.clone());
        }
    }
    for token in &mut wanted {
        token.special |= is_named(&token.content);
    }
    if !wanted.is_empty() {
        let added = tokenizer.add_tokens(wanted.clone());
        added.or_kind(ErrorKind::Data, || "cannot add the tokens of tokenizer_config.json".to_owned())?;
    }
    // text that spells a special token is text, if the configuration says so
    if files.tokenizer.get("split_special_tokens").and_then(Value::as_bool) == Some(true) {
        tokenizer.set_encode_special_tokens(true);
    }
    Ok(wanted)
}

/// Entries of `added_tokens_decoder`, by id, that the tokenizer does not have just so; in folders without it, those of
/// the older `added_tokens.json` that the tokenizer does not have at all.
fn declared(files: &ModelFiles, own: &[AddedToken], is_named: &dyn Fn(&str) -> bool) -> Result<Vec<AddedToken>> {
    let mut by_id = BTreeMap::new();
    if let Some(decoder) = files.tokenizer.get("added_tokens_decoder").and_then(Value::as_object) {
        for (id, token) in decoder {
            let wrong = || Error::data(format!("tokenizer_config.json: `added_tokens_decoder.{id}` is not a token"));
            let token = added_token(token, false).ok_or_else(wrong)?;
            if !own.contains(&token) {
                by_id.insert(id.parse::<u64>().map_err(|_| wrong())?, token);
            }
        }
    } else {
        for (content, id) in &files.added {
            let wrong = || Error::data(format!("added_tokens.json: `{content}` has no token id"));
            let id = id.as_u64().ok_or_else(wrong)?;
            if !own.iter().any(|token| token.content == *content) {
                by_id.insert(id, AddedToken::from(content.clone(), is_named(content)));
            }
        }
    }
    Ok(by_id.into_values().collect())
}

/// A token as the files describe it: its text, or an object. A special token is matched before normalisation, unless it
/// says otherwise.
fn added_token(value: &Value, special: bool) -> Option<AddedToken> {
    if let Some(text) = value.as_str() {
        return Some(AddedToken::from(text.to_owned(), special));
    }
    let flag = |key: &str| value.get(key).and_then(Value::as_bool);
    let special = special || flag("special").unwrap_or(false);
    let mut token = AddedToken::from(value.get("content")?.as_str()?.to_owned(), special);
    token.single_word = flag("single_word").unwrap_or(false);
    token.lstrip = flag("lstrip").unwrap_or(false);
    token.rstrip = flag("rstrip").unwrap_or(false);
    token.normalized = flag("normalized").unwrap_or(token.normalized);
    Some(token)
}

/// The special tokens that the configuration names, each once: the usual ones, those of the model (`image_token`), and
/// lists of others.
fn named_tokens(files: &ModelFiles) -> Vec<AddedToken> {
    let mut found: Vec<AddedToken> = Vec::new();
    let mut add = |value: &Value| {
        if let Some(token) = added_token(value, true)
            && !found.iter().any(|f| f.content == token.content)
        {
            found.push(token);
        }
    };
    for name in NAMED {
        files.token_value(name).into_iter().for_each(&mut add);
    }
    let others = files.tokenizer.iter().filter(|(name, _)| name.ends_with("_token") && !NAMED.contains(&name.as_str()));
    others.filter(|(_, value)| value.is_string()).for_each(|(_, value)| add(value));
    for list in ["extra_special_tokens", "additional_special_tokens"] {
        match files.token_value(list) {
            Some(Value::Array(items)) => items.iter().for_each(&mut add),
            Some(Value::Object(items)) => items.values().for_each(&mut add),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests;
