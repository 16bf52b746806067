//! One JSON object a line. A line belongs to the part in which it starts.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::accounting::DropReason;
use crate::corpus::chat;
use crate::corpus::document::{Content, Item};
use crate::corpus::lines::{Fault, Line, Lines, TextSource};
use crate::corpus::reader::{Field, FieldKind, SpanReader};
use crate::error::Result;

/// Reader of one file or part.
pub(crate) struct JsonlReader {
    lines: Lines,
    field: Field,
    any_line: bool,
    done: bool,
}

impl JsonlReader {
    pub(crate) fn new(source: TextSource, field: Field, limit: usize) -> Self {
        Self { lines: source.into_lines(limit), field, any_line: false, done: false }
    }
}

impl SpanReader for JsonlReader {
    fn next_item(&mut self) -> Result<Option<Item>> {
        if self.done {
            return Ok(None);
        }
        let part_end = self.lines.source.part_end;
        match self.lines.next() {
            Ok(Some((start, line))) if start < part_end => {
                self.any_line = true;
                Ok(Some(match line {
                    Line::Bytes(bytes) => parse(bytes, &self.field),
                    Line::Oversized => Item::Dropped(DropReason::OversizedDocument, 1),
                }))
            }
            Ok(_) => {
                self.done = true;
                let empty = self.lines.source.first_part && !self.any_line;
                Ok(empty.then_some(Item::Dropped(DropReason::EmptyFile, 1)))
            }
            Err(fault) => {
                self.done = true;
                match fault {
                    Fault::Damaged => Ok(Some(Item::Dropped(DropReason::DamagedFile, 1))),
                    Fault::Failed(error) => Err(error),
                }
            }
        }
    }

    fn progress(&self) -> f64 {
        self.lines.source.progress()
    }
}

/// The document of one line. A blank line counts as an empty document.
fn parse(line: &[u8], field: &Field) -> Item {
    let Ok(text) = std::str::from_utf8(line) else { return Item::Dropped(DropReason::InvalidUtf8, 1) };
    if text.trim_ascii().is_empty() {
        return Item::Dropped(DropReason::EmptyDocument, 1);
    }
    if field.kind == FieldKind::Messages {
        let Ok(mut record) = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text) else {
            return Item::Dropped(DropReason::BrokenJson, 1);
        };
        return chat::conversation(record.remove(&field.name), record.remove("tools"));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let found = (RecordSeed { field }).deserialize(&mut json).and_then(|found| json.end().map(|()| found));
    match found {
        Ok(Found::Content(content)) => Item::from_content(content),
        Ok(Found::Missing) => Item::Dropped(DropReason::MissingField, 1),
        Ok(Found::WrongType) => Item::Dropped(DropReason::WrongType, 1),
        Err(_) => Item::Dropped(DropReason::BrokenJson, 1),
    }
}

/// What a record holds under the configured key. `null` counts as missing; of repeated keys the last one counts.
enum Found {
    Missing,
    WrongType,
    Content(Content),
}

struct RecordSeed<'a> {
    field: &'a Field,
}

impl<'de> DeserializeSeed<'de> for RecordSeed<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RecordSeed<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = Found::Missing;
        while let Some(ours) = map.next_key_seed(KeyIs(&self.field.name))? {
            if ours {
                found = map.next_value_seed(ValueSeed { kind: self.field.kind })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Compares a key without keeping it.
struct KeyIs<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for KeyIs<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyIs<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

/// Reads the value of any type; keeps it if it is the type that is wanted.
struct ValueSeed {
    kind: FieldKind,
}

impl<'de> DeserializeSeed<'de> for ValueSeed {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Found, E> {
        Ok(match self.kind {
            FieldKind::Text => Found::Content(Content::Text(text.to_owned())),
            FieldKind::Tokens | FieldKind::Messages => Found::WrongType,
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Found, A::Error> {
        let mut ids = Vec::new();
        let mut all_are_ids = matches!(self.kind, FieldKind::Tokens);
        while let Some(TokenId(id)) = seq.next_element()? {
            match id {
                Some(id) if all_are_ids => ids.push(id),
                _ => all_are_ids = false,
            }
        }
        Ok(if all_are_ids { Found::Content(Content::Tokens(ids)) } else { Found::WrongType })
    }

    fn visit_unit<E: de::Error>(self) -> Result<Found, E> {
        Ok(Found::Missing)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Found, E> {
        Ok(Found::WrongType)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Found, E> {
        Ok(Found::WrongType)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Found, E> {
        Ok(Found::WrongType)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Found, E> {
        Ok(Found::WrongType)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Found::WrongType)
    }
}

/// An element of a list: a token id if it is a whole number that fits.
struct TokenId(Option<u32>);

impl<'de> de::Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TokenIdVisitor).map(Self)
    }
}

struct TokenIdVisitor;

impl<'de> Visitor<'de> for TokenIdVisitor {
    type Value = Option<u32>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_u64<E: de::Error>(self, id: u64) -> Result<Option<u32>, E> {
        Ok(u32::try_from(id).ok())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Option<u32>, E> {
        Ok(None)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Option<u32>, E> {
        Ok(None)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Option<u32>, E> {
        Ok(None)
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Option<u32>, E> {
        Ok(None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Option<u32>, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Option<u32>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<u32>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &str) -> Item {
        parse(line.as_bytes(), &Field { name: "text".into(), kind: FieldKind::Text })
    }

    fn tokens(line: &str) -> Item {
        parse(line.as_bytes(), &Field { name: "ids".into(), kind: FieldKind::Tokens })
    }

    fn dropped(reason: DropReason) -> Item {
        Item::Dropped(reason, 1)
    }

    #[test]
    fn records_become_documents() {
        let abc = Item::from_content(Content::Text("a\"\u{e9}\n".into()));
        assert_eq!(text(r#"{"meta": {"text": [1, {"a": null}]}, "text": "a\"\u00e9\n", "z": 1e999}"#), abc);
        assert_eq!(text(r#" {"text": "no", "text": "a\"\u00e9\n"} "#), abc, "the last of repeated keys counts");
        assert_eq!(tokens(r#"{"ids": [0, 4294967295]}"#), Item::from_content(Content::Tokens(vec![0, u32::MAX])));
    }

    #[test]
    fn every_broken_line_has_its_reason() {
        for line in
            ["{", "nonsense", "[1]", "\"x\"", "3", r#"{"text": "a"} x"#, r#"{"text": "\ud800"}"#, r#"{"a": NaN}"#]
        {
            assert_eq!(text(line), dropped(DropReason::BrokenJson), "{line}");
        }
        for line in ["{}", r#"{"Text": "a"}"#, r#"{"text": null}"#] {
            assert_eq!(text(line), dropped(DropReason::MissingField), "{line}");
        }
        for value in ["1", "-1", "1.5", "true", "[\"a\"]", "[]", "{\"text\": \"a\"}"] {
            assert_eq!(text(&format!("{{\"text\": {value}}}")), dropped(DropReason::WrongType), "{value}");
        }
        for value in [
            "1",
            "\"1 2\"",
            "[1, -2]",
            "[4294967296]",
            "[1.0]",
            "[1, null]",
            "[[1]]",
            "[\"1\"]",
            "{}",
            "[true, {\"a\": 1}]",
        ] {
            assert_eq!(tokens(&format!("{{\"ids\": {value}}}")), dropped(DropReason::WrongType), "{value}");
        }
        for line in ["", "  \t", r#"{"text": ""}"#] {
            assert_eq!(text(line), dropped(DropReason::EmptyDocument), "{line}");
        }
        assert_eq!(tokens(r#"{"ids": []}"#), dropped(DropReason::EmptyDocument));
        assert_eq!(
            parse(b"{\"text\": \"\xff\"}", &Field { name: "text".into(), kind: FieldKind::Text }),
            dropped(DropReason::InvalidUtf8)
        );
    }
}
