//! Where the assistant's messages stand in a text whose template does not say so.
//!
//! The conversation is rendered once more with each of the assistant's messages replaced by a mark. What stands between
//! the marks is then the template's, and the true text must be the same with a message in the place of each mark: as it
//! is, stripped, or (where a template leaves out what a model thought) only what follows `</think>`. If it is not, the
//! assistant's text cannot be told, and that is an error, never a guess.

use std::ops::Range;

use serde_json::Value;

use crate::error::{Error, Result};

/// Stands for a message. Unicode keeps this code point for internal use, so no text has it.
const MARK: char = '\u{fdd2}';

/// Byte ranges of `text` that the assistant's messages fill. `render` makes a text of messages.
pub(super) fn find(
    text: &str,
    messages: &[Value],
    render: &dyn Fn(&[Value]) -> Result<String>,
) -> Result<Vec<Range<usize>>> {
    let unclear = || Error::data("the chat template does not show where the assistant's messages stand");
    if text.contains(MARK) {
        return Err(unclear());
    }
    let mut marked = messages.to_vec();
    let mut contents = Vec::new();
    for message in marked.iter_mut().filter(|message| message["role"] == "assistant") {
        let content = content_of(&message["content"]).filter(|content| !content.trim().is_empty());
        if let Some(content) = content {
            contents.push(content);
            replace(&mut message["content"], &MARK.to_string());
        }
    }
    let marked = render(&marked)?;
    let pieces: Vec<&str> = marked.split(MARK).collect();
    if pieces.len() != contents.len() + 1 {
        return Err(unclear());
    }
    let mut ranges = Vec::new();
    let mut at = text.strip_prefix(pieces[0]).map(|_| pieces[0].len()).ok_or_else(unclear)?;
    for (i, (content, next)) in contents.iter().zip(&pieces[1..]).enumerate() {
        let is_last = i + 1 == contents.len();
        let follows = |rest: &str| if is_last { rest == *next } else { rest.starts_with(next) };
        let spellings = [
            content.as_str(),
            content.trim(),
            content.trim_start(),
            content.trim_end(),
            content.rsplit("</think>").next().unwrap_or_default().trim_start_matches('\n'),
            content.rsplit("</think>").next().unwrap_or_default().trim(),
        ];
        let fits = |spelling: &&&str| text[at..].strip_prefix(**spelling).is_some_and(follows);
        let spelling = spellings.iter().find(fits).ok_or_else(unclear)?;
        ranges.push(at..at + spelling.len());
        at += spelling.len() + next.len();
    }
    Ok(ranges)
}

/// The text of a content, which is text or a list with one part of text.
fn content_of(content: &Value) -> Option<String> {
    match content {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => match parts.as_slice() {
            [one] => one.get("text")?.as_str().map(str::to_owned),
            _ => None,
        },
        _ => None,
    }
}

fn replace(content: &mut Value, text: &str) {
    match content {
        Value::Array(parts) => parts.iter_mut().for_each(|part| part["text"] = text.into()),
        content => *content = text.into(),
    }
}
