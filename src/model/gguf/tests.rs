//! Fixtures are made by other libraries: `tests/fixtures/gguf/make_fixtures.py`.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::*;
use crate::tokens::special::ModelFiles;
use crate::tokens::{SpecialIds, Tokenizer};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf").join(name)
}

fn open(name: &str) -> Gguf {
    Gguf::read(&DataFile::open(&fixture(name)).unwrap()).unwrap()
}

#[test]
fn every_type_has_the_bits_of_the_gguf_package() {
    let bytes = std::fs::read(fixture("quants.expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let file = DataFile::open(&fixture("quants.gguf")).unwrap();
    let gguf = Gguf::read(&file).unwrap();
    assert_eq!(gguf.infos().len(), 11);
    for info in gguf.infos() {
        let mut stored = vec![0; info.bytes as usize];
        file.read_at(info.offset, &mut stored).unwrap();
        let mut values = vec![0.0; info.shape.iter().product()];
        info.encoding.clone().unwrap().decode(&stored, &mut values);
        let wanted = expected.tensor(&info.name).unwrap();
        assert_eq!(wanted.shape(), info.shape, "{}", info.name);
        let bits = values.iter().flat_map(|value| value.to_le_bytes());
        assert!(bits.eq(wanted.data().iter().copied()), "{}", info.name);
        assert!(values.iter().any(|value| value.abs() > 1e-4), "{}: the fixture has values", info.name);
    }
}

/// The tokenizer of a fixture, and texts with their ids.
fn tokenizer(name: &str) -> (Tokenizer, Vec<(String, Vec<u32>)>) {
    #[derive(serde::Deserialize)]
    struct Case {
        text: String,
        ids: Vec<u32>,
    }
    let json = open(&format!("{name}.gguf")).tokenizer_json().unwrap().to_string();
    let tokenizer =
        Tokenizer::from_json(json.as_bytes(), &ModelFiles::default(), SpecialIds::default(), 1 << 16).unwrap();
    let golden = std::fs::read(fixture(&format!("{name}.golden.json"))).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&golden).unwrap();
    assert!(cases.len() >= 13);
    (tokenizer, cases.into_iter().map(|case| (case.text, case.ids)).collect())
}

#[test]
fn a_sentence_piece_vocabulary_cuts_as_sentence_piece_does() {
    let (tokenizer, cases) = tokenizer("sentencepiece");
    for (text, ids) in cases {
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
    }
    assert_eq!(tokenizer.encode("<s>").unwrap(), [1], "control tokens are found whole");
}

#[test]
fn a_byte_level_vocabulary_cuts_as_the_tokenizers_library_does() {
    let (tokenizer, cases) = tokenizer("bytelevel");
    for (text, ids) in cases {
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
    }
    assert!(tokenizer.is_special(0) && !tokenizer.is_special(2));
}

#[test]
fn what_a_tokenizer_config_would_say() {
    let config = open("bytelevel.gguf").tokenizer_config().unwrap();
    assert_eq!(config["bos_token"], "<s>");
    assert_eq!(config["chat_template"], "{{ messages[0]['content'] }}");
    assert_eq!(config["add_bos_token"], false, "which llama.cpp does where the file does not say");
    assert_eq!(open("sentencepiece.gguf").tokenizer_config().unwrap()["add_bos_token"], true);
}

/// A head of version 3 with pairs and tensors that are written by hand.
struct Head {
    pairs: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn pair(key: &str, code: u32, value: &[u8]) -> Vec<u8> {
    [text(key), code.to_le_bytes().to_vec(), value.to_vec()].concat()
}

fn tensor(name: &str, shape: &[u64], code: u32, offset: u64) -> Vec<u8> {
    let shape_bytes = shape.iter().flat_map(|n| n.to_le_bytes()).collect();
    let n = (shape.len() as u32).to_le_bytes().to_vec();
    [text(name), n, shape_bytes, code.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec()].concat()
}

impl Head {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = [&MAGIC[..], &3u32.to_le_bytes()].concat();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.pairs.len() as u64).to_le_bytes());
        bytes.extend(self.pairs.iter().chain(&self.tensors).flatten());
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 0);
        bytes
    }
}

fn read(bytes: &[u8]) -> Result<Gguf> {
    Gguf::read_from(bytes, bytes.len() as u64)
}

#[test]
fn all_types_of_metadata_are_read() {
    let list = |code: u32, n: u64, items: &[u8]| [&code.to_le_bytes()[..], &n.to_le_bytes(), items].concat();
    let head = Head {
        pairs: vec![
            pair("u8", 0, &[200]),
            pair("i8", 1, &[200]),
            pair("i16", 3, &(-5i16).to_le_bytes()),
            pair("u64", 10, &u64::MAX.to_le_bytes()),
            pair("i64", 11, &i64::MIN.to_le_bytes()),
            pair("f32", 6, &1e-5f32.to_le_bytes()),
            pair("f64", 12, &0.1f64.to_le_bytes()),
            pair("bool", 7, &[1]),
            pair("text", 8, &text("a\u{e9}")),
            pair("texts", 9, &list(8, 2, &[text("x"), text("")].concat())),
            pair("numbers", 9, &list(4, 2, &[7u32.to_le_bytes(), 7u32.to_le_bytes()].concat())),
            pair("lists", 9, &list(9, 1, &list(0, 1, &[1]))),
        ],
        tensors: vec![],
        data: 0,
    };
    let gguf = read(&head.bytes()).unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.get("u8"), Some(&Value::Integer(200)));
    assert_eq!(metadata.get("i8"), Some(&Value::Integer(-56)));
    assert_eq!(metadata.get("i16"), Some(&Value::Integer(-5)));
    assert_eq!(metadata.get("u64"), Some(&Value::Integer(u64::MAX.into())));
    assert_eq!(metadata.get("i64"), Some(&Value::Integer(i64::MIN.into())));
    assert_eq!(metadata.number("f32").unwrap(), Some(1e-5), "the decimal that was meant");
    assert_eq!(metadata.number("f64").unwrap(), Some(0.1));
    assert_eq!(metadata.flag("bool").unwrap(), Some(true));
    assert_eq!(metadata.text("text").unwrap(), Some("a\u{e9}"));
    assert_eq!(metadata.texts("texts").unwrap().unwrap(), ["x", ""]);
    assert_eq!(metadata.count("numbers").unwrap(), Some(7), "the same number for all layers");
    assert!(matches!(metadata.get("lists"), Some(Value::Lists(lists)) if lists.len() == 1));
    assert!(metadata.count("i8").unwrap_err().to_string().contains("`i8` must be a whole number"));
}

#[test]
fn hostile_heads_are_refused() {
    let one = |tensors: Vec<Vec<u8>>, data| Head { pairs: vec![], tensors, data }.bytes();
    let with = |pair: Vec<u8>| Head { pairs: vec![pair], tensors: vec![], data: 0 }.bytes();
    let nested = |depth: u32| {
        let list = |inner: &[u8]| [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), inner].concat();
        let last = [&0u32.to_le_bytes()[..], &0u64.to_le_bytes()].concat();
        (0..depth).fold(last, |inner, _| list(&inner))
    };
    let huge_list = [&4u32.to_le_bytes()[..], &(1u64 << 62).to_le_bytes()].concat();
    let huge_texts = [&8u32.to_le_bytes()[..], &(1u64 << 61).to_le_bytes()].concat();
    let twice = Head { pairs: vec![pair("k", 7, &[0]), pair("k", 7, &[1])], tensors: vec![], data: 0 }.bytes();
    let mut version = one(vec![], 0);
    version[4] = 1;
    let mut big_endian = one(vec![], 0);
    big_endian[4..8].copy_from_slice(&3u32.to_be_bytes());
    let mut many = one(vec![], 0);
    many[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    for (bytes, word) in [
        (b"GGML".to_vec(), "not a GGUF file"),
        (version, "version 1"),
        (big_endian, "big-endian"),
        (many, "too short for 18446744073709551615 tensors"),
        (with(pair("k", 9, &huge_list)), "too short"),
        (with(pair("k", 9, &huge_texts)), "too short"),
        (with(pair("k", 8, &u64::MAX.to_le_bytes())), "too short"),
        (with(pair("k", 13, &[])), "type 13 is unknown"),
        (with(pair("k", 9, &nested(9))), "nested"),
        (with(pair("general.alignment", 4, &3u32.to_le_bytes())), "alignment of 3"),
        (twice, "twice"),
        (one(vec![tensor("t", &[8], 0, 0)], 31), "ends after the file's end"),
        (one(vec![tensor("t", &[8], 0, u64::MAX - 31)], 64), "after the file's end"),
        (one(vec![tensor("t", &[8], 0, 4)], 64), "not aligned"),
        (one(vec![tensor("t", &[16], 0, 0), tensor("u", &[8], 0, 32)], 96), "lies on another"),
        (one(vec![tensor("t", &[u64::MAX, 3], 0, 0)], 64), "too large"),
        (one(vec![tensor("t", &[1 << 40, 1 << 40], 0, 0)], 64), "too large"),
        (one(vec![tensor("t", &[0, 3], 0, 0)], 64), "empty"),
        (one(vec![tensor("t", &[33], 2, 0)], 64), "whole blocks of Q4_0"),
        (one(vec![tensor("t", &[8], 99, 0)], 64), "type 99"),
        (one(vec![tensor("t", &[1, 1, 1, 1, 1], 0, 0)], 64), "dimensions"),
    ] {
        let error = read(&bytes).expect_err(word).to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
    let good = one(vec![tensor("t", &[8], 0, 0), tensor("u", &[8], 0, 32)], 64);
    assert_eq!(read(&good).unwrap().infos().len(), 2);
    for len in 0..good.len() {
        assert!(read(&good[..len]).is_err(), "cut to {len} bytes");
    }
}
