//! What each token id stands for, as bytes: pieces of byte-level vocabularies are parts of characters as often as words.

use std::collections::HashSet;

use serde_json::Value;

use crate::tokens::Tokenizer;

/// SentencePiece's space.
const SPACE: char = '\u{2581}';

/// The bytes of every id of a vocabulary.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    /// By id; empty where the vocabulary has none.
    bytes: Vec<Box<[u8]>>,
}

/// How a vocabulary writes bytes as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    /// A letter a byte. (GPT-2.)
    ByteLevel,
    /// A mark for spaces, and `<0x0A>` for bytes.
    SentencePiece,
    /// `##` where a word goes on.
    WordPiece,
    /// `</w>` where a word ends.
    WordEnd,
    /// As it is.
    Plain,
}

impl Pieces {
    /// Of a tokenizer; ids have no bytes where there is none of text.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let Some(inner) = tokenizer.inner() else { return Self::default() };
        let parts = [
            serde_json::to_value(inner.get_decoder()).unwrap_or_default(),
            serde_json::to_value(inner.get_pre_tokenizer()).unwrap_or_default(),
        ];
        let writing = parts.iter().map(writing).find(|writing| *writing != Writing::Plain);
        let writing = writing.unwrap_or(Writing::Plain);
        let added = inner.get_added_tokens_decoder();
        let bytes = (0..tokenizer.vocab()).map(|id| match (added.get(&id), inner.id_to_token(id)) {
            (Some(token), _) => token.content.as_bytes().into(),
            (None, Some(text)) => writing.bytes(&text).into(),
            (None, None) => Box::default(),
        });
        Self { bytes: bytes.collect() }
    }

    /// The bytes of an id, if it has any.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.bytes.get(id as usize).map(|bytes| &bytes[..]).filter(|bytes| !bytes.is_empty())
    }

    /// An id as text: bytes that are no characters by themselves as `<0xE2>`, an id without bytes as `<#7>`.
    pub fn shown(&self, id: u32) -> String {
        let Some(bytes) = self.bytes(id) else { return format!("<#{id}>") };
        let mut out = String::new();
        for chunk in bytes.utf8_chunks() {
            out.push_str(chunk.valid());
            chunk.invalid().iter().for_each(|byte| out.push_str(&format!("<0x{byte:02X}>")));
        }
        out
    }

    /// Ids whose text holds `text`, whatever the case.
    pub fn holding(&self, text: &str) -> HashSet<u32> {
        let text = text.to_lowercase();
        (0..self.bytes.len() as u32).filter(|&id| self.shown(id).to_lowercase().contains(&text)).collect()
    }

    /// Ids as one text; bytes that are no characters together either become replacement characters.
    pub fn text(&self, ids: &[u32]) -> String {
        let mut all = Vec::new();
        for &id in ids {
            match self.bytes(id) {
                Some(bytes) => all.extend_from_slice(bytes),
                None => all.extend_from_slice(self.shown(id).as_bytes()),
            }
        }
        String::from_utf8_lossy(&all).into_owned()
    }
}

/// What a decoder (or what cut the text) says of the writing.
fn writing(part: &Value) -> Writing {
    let kinds: Vec<(&str, &Value)> = match part.get("decoders").or_else(|| part.get("pretokenizers")) {
        Some(Value::Array(parts)) => {
            parts.iter().filter_map(|part| Some((part.get("type")?.as_str()?, part))).collect()
        }
        _ => part.get("type").and_then(Value::as_str).map(|kind| (kind, part)).into_iter().collect(),
    };
    let is_space = |part: &Value| part.pointer("/pattern/String").and_then(Value::as_str) == Some("\u{2581}");
    for (kind, part) in kinds {
        match kind {
            "ByteLevel" => return Writing::ByteLevel,
            "ByteFallback" | "Metaspace" => return Writing::SentencePiece,
            "Replace" if is_space(part) => return Writing::SentencePiece,
            "WordPiece" | "BertPreTokenizer" => return Writing::WordPiece,
            "BPEDecoder" => return Writing::WordEnd,
            _ => {}
        }
    }
    Writing::Plain
}

impl Writing {
    fn bytes(self, text: &str) -> Vec<u8> {
        match self {
            Self::ByteLevel => {
                let bytes: Option<Vec<u8>> = text.chars().map(byte_of).collect();
                bytes.unwrap_or_else(|| text.as_bytes().to_vec())
            }
            Self::SentencePiece => match text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')) {
                Some(hex) if hex.len() == 2 => {
                    u8::from_str_radix(hex, 16).map_or_else(|_| text.as_bytes().to_vec(), |byte| vec![byte])
                }
                _ => text.replace(SPACE, " ").into_bytes(),
            },
            Self::WordPiece => match text.strip_prefix("##") {
                Some(rest) => rest.as_bytes().to_vec(),
                None => format!(" {text}").into_bytes(),
            },
            Self::WordEnd => text.replace("</w>", " ").into_bytes(),
            Self::Plain => text.as_bytes().to_vec(),
        }
    }
}

/// The byte of a letter in GPT-2's alphabet: printable bytes are themselves, the others follow from U+0100 on.
fn byte_of(letter: char) -> Option<u8> {
    let is_itself = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let code = u32::from(letter);
    match u8::try_from(code) {
        Ok(byte) => is_itself(byte).then_some(byte),
        Err(_) => (0..=255u8).filter(|byte| !is_itself(*byte)).nth(code.checked_sub(256)? as usize),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::tokens::SpecialIds;

    #[test]
    fn every_byte_has_a_letter() {
        let letters = ('!'..='~').chain('\u{a1}'..='\u{ac}').chain('\u{ae}'..='\u{ff}').chain('\u{100}'..='\u{143}');
        let mut bytes: Vec<u8> = letters.map(|letter| byte_of(letter).unwrap()).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(
            (byte_of('Ġ'), byte_of('Ċ'), byte_of('\u{144}'), byte_of(' ')),
            (Some(b' '), Some(b'\n'), None, None)
        );
    }

    #[test]
    fn pieces_of_a_text_are_the_text() {
        let path = Path::new("pipelines/quickstart/model/tokenizer.json");
        let tokenizer = Tokenizer::load(path, SpecialIds::default(), 4096).unwrap();
        let pieces = Pieces::of(&tokenizer);
        let text = "Call me Ishmael.\n\n\tSome\u{a0}years ago—never mind: naïve 🐳!";
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(pieces.text(&ids), text);
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| pieces.bytes(id).unwrap()).copied().collect();
        assert_eq!(bytes, text.as_bytes());
        assert!(ids.iter().any(|&id| pieces.shown(id).starts_with("<0xF0")), "a whale is several tokens");
        assert_eq!((pieces.shown(0), pieces.shown(9999)), ("<|bos|>".to_owned(), "<#9999>".to_owned()));
    }

    #[test]
    fn other_writings_are_read() {
        let kinds = [
            (serde_json::json!({"type": "ByteLevel"}), Writing::ByteLevel),
            (
                serde_json::json!({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u{2581}"}},
                {"type": "ByteFallback"}]}),
                Writing::SentencePiece,
            ),
            (
                serde_json::json!({"type": "Sequence", "pretokenizers": [{"type": "Split"}, {"type": "ByteLevel"}]}),
                Writing::ByteLevel,
            ),
            (serde_json::json!({"type": "WordPiece"}), Writing::WordPiece),
            (Value::Null, Writing::Plain),
        ];
        kinds.iter().for_each(|(part, expected)| assert_eq!(writing(part), *expected, "{part}"));
        assert_eq!(Writing::SentencePiece.bytes("<0x0A>"), b"\n");
        assert_eq!(Writing::SentencePiece.bytes("\u{2581}the"), b" the");
        assert_eq!(Writing::WordPiece.bytes("##ing"), b"ing");
        assert_eq!(Writing::WordPiece.bytes("the"), b" the");
        assert_eq!(Writing::WordEnd.bytes("the</w>"), b"the ");
    }
}
