//! Corpora as users have them: real files in every format and state of repair, read through the public interface.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use harvestd::accounting::{DropCounts, DropReason};
use harvestd::corpus::config::{CorpusConfig, TextDocument};
use harvestd::corpus::{Content, Corpus, Item};
use harvestd::error::{ErrorKind, Result};
use harvestd::store::Location;
use harvestd::units::{ByteSize, Percent};
use object_store::{ObjectStoreExt, PutPayload};
use proptest::prelude::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/corpus");

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
}

// === configurations ===

fn jsonl(paths: &[&str], unit_bytes: u64) -> CorpusConfig {
    CorpusConfig::Jsonl {
        paths: owned(paths),
        field: None,
        tokens_field: None,
        messages_field: None,
        unit_bytes: ByteSize(unit_bytes),
        holdout: Percent::from_share(0.0),
        follow: Default::default(),
    }
}

fn text(paths: &[&str], document: TextDocument, unit_bytes: u64) -> CorpusConfig {
    let holdout = Percent::from_share(0.0);
    CorpusConfig::Text {
        paths: owned(paths),
        document,
        unit_bytes: ByteSize(unit_bytes),
        holdout,
        follow: Default::default(),
    }
}

fn parquet(path: &str, field: &str, unit_bytes: u64) -> CorpusConfig {
    let tokens = field.starts_with("tokens:");
    let name = field.trim_start_matches("tokens:").to_owned();
    CorpusConfig::Parquet {
        paths: vec![path.to_owned()],
        field: (!tokens).then(|| name.clone()),
        tokens_field: tokens.then_some(name),
        messages_field: None,
        unit_bytes: ByteSize(unit_bytes),
        holdout: Percent::from_share(0.0),
        follow: Default::default(),
    }
}

fn owned(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|p| (*p).to_owned()).collect()
}

// === reading ===

fn open(config: &CorpusConfig) -> Result<Arc<Corpus>> {
    runtime().block_on(Corpus::open(config)).map(Arc::new)
}

/// All documents in the order of units, and what was dropped.
fn read_all(corpus: &Arc<Corpus>) -> Result<(Vec<Content>, DropCounts)> {
    let (mut documents, mut dropped) = (Vec::new(), DropCounts::new());
    for unit in 0..corpus.n_units() {
        for item in corpus.read_unit(unit) {
            match item? {
                Item::Document(document) => documents.push(document.content),
                Item::Dropped(reason, n) => dropped.add(reason, n),
            }
        }
    }
    assert_eq!(corpus.counters().documents(), documents.len() as u64);
    Ok((documents, dropped))
}

fn read(config: &CorpusConfig) -> (Vec<Content>, DropCounts) {
    read_all(&open(config).unwrap()).unwrap()
}

fn texts(documents: &[Content]) -> Vec<&str> {
    let mut texts = Vec::new();
    for content in documents {
        match content {
            Content::Text(text) => texts.push(text.as_str()),
            other => panic!("{other:?} is not text"),
        }
    }
    texts
}

fn counts(of: &[(DropReason, u64)]) -> DropCounts {
    let mut counts = DropCounts::new();
    of.iter().for_each(|&(reason, n)| counts.add(reason, n));
    counts
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// `n` records that do not compress to nothing.
fn records(n: usize) -> String {
    (0..n).map(|i| format!("{{\"text\": \"document {i} {}\"}}\n", i * 7919 % 1013)).collect()
}

fn record_texts(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("document {i} {}", i * 7919 % 1013)).collect()
}

/// A file in a fresh folder, and its path.
fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path.to_str().unwrap().to_owned())
}

/// An object of its own in memory.
fn object(name: &str, bytes: &[u8]) -> String {
    let url = format!("memory://corpus-tests/{name}");
    let place = Location::open(&url).unwrap();
    runtime().block_on(place.store.put(&place.path, PutPayload::from(bytes.to_vec()))).unwrap();
    url
}

// === listing ===

#[test]
fn globs_are_expanded_sorted_and_each_file_is_listed_once() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    for name in ["b.jsonl", "a.jsonl", "deep/er/c.jsonl", "a.txt", "x[1].jsonl", "with space % ü.jsonl"] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, records(1)).unwrap();
    }
    let names = |patterns: &[&str]| {
        let patterns: Vec<String> = patterns.iter().map(|p| format!("{root}/{p}")).collect();
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let corpus = open(&jsonl(&patterns, 1 << 20)).unwrap();
        read_all(&corpus).unwrap();
        let name = |shown: &str| shown.trim_start_matches(root).trim_start_matches('/').to_owned();
        corpus.files().iter().map(|f| name(&f.location.shown)).collect::<Vec<_>>()
    };
    assert_eq!(names(&["*.jsonl"]), ["a.jsonl", "b.jsonl", "with space % ü.jsonl", "x[1].jsonl"]);
    assert_eq!(names(&["b.jsonl", "?.jsonl", "{a,b}.jsonl"]), ["a.jsonl", "b.jsonl"]);
    assert_eq!(names(&["**/*.jsonl"]).len(), 5);
    assert_eq!(names(&["d*p/**/[a-c].jsonl"]), ["deep/er/c.jsonl"]);
    assert_eq!(names(&["x[1].jsonl"]), ["x[1].jsonl"], "a file of that very name comes before the pattern");
    assert_eq!(names(&["./a.jsonl", "deep/../a.jsonl", "a.jsonl"]).len(), 1);
}

#[test]
fn a_path_that_matches_nothing_is_named() {
    let (folder, path) = file("a.jsonl", b"");
    let root = folder.path().to_str().unwrap();
    let missing = format!("{root}/no-*.jsonl");
    for wrong in [&missing, &format!("{root}/nothing"), "memory://corpus-tests/none/x.jsonl"] {
        let error = open(&jsonl(&[&path, wrong], 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(wrong), "{error}");
    }
    let error = open(&jsonl(&[root], 1)).unwrap_err();
    assert!(error.to_string().contains("is a folder") && error.to_string().contains("/*"), "{error}");
}

#[test]
fn object_stores_are_listed_and_read_like_folders() {
    let urls: Vec<String> =
        (0..3).map(|i| object(&format!("pile/{i}/part.jsonl"), records(i + 1).as_bytes())).collect();
    object("pile/readme.md", b"no");
    let corpus = open(&jsonl(&["memory://corpus-tests/pile/*/part.jsonl"], 1 << 20)).unwrap();
    assert_eq!(corpus.files().iter().map(|f| f.location.shown.clone()).collect::<Vec<_>>(), urls);
    assert_eq!(read_all(&corpus).unwrap().0.len(), 6);
    assert_eq!(read(&jsonl(&[&urls[2]], 10)).0.len(), 3);
    assert_eq!(corpus.counters().bytes(), corpus.bytes());
}

#[test]
fn the_fingerprint_follows_names_and_sizes() {
    let (_a, path) = file("a.jsonl", b"1\n");
    let before = open(&jsonl(&[&path], 1)).unwrap().fingerprint().to_owned();
    assert_eq!(open(&jsonl(&[&path], 99)).unwrap().fingerprint(), before);
    std::fs::write(&path, b"12\n").unwrap();
    assert_ne!(open(&jsonl(&[&path], 1)).unwrap().fingerprint(), before);
}

// === jsonl ===

const BROKEN: &[u8] = b"\xef\xbb\xbf{\"text\": \"first\"}\r\n\
    {\"text\": \"second \xc3\xa9\", \"n\": [1, {\"text\": 2}]}\n\
    {\"text\": \"cut\n\
    [1]\n\
    {\"texts\": \"x\"}\n\
    {\"text\": 5}\r\n\
    {\"text\": \"\"}\n\
    \n\
    {\"text\": \"\xff\"}\n\
    {\"text\": \"last\"}";

#[test]
fn broken_lines_are_counted_and_skipped() {
    let (_folder, path) = file("a.jsonl", BROKEN);
    let expected = counts(&[
        (DropReason::BrokenJson, 2),
        (DropReason::MissingField, 1),
        (DropReason::WrongType, 1),
        (DropReason::EmptyDocument, 2),
        (DropReason::InvalidUtf8, 1),
    ]);
    for unit_bytes in (1..40).chain([100, 1000, u64::MAX]) {
        let (documents, dropped) = read(&jsonl(&[&path], unit_bytes));
        assert_eq!(texts(&documents), ["first", "second é", "last"], "unit_bytes {unit_bytes}");
        assert_eq!(dropped, expected, "unit_bytes {unit_bytes}");
    }
}

#[test]
fn token_lists_are_read_from_json() {
    let (_folder, path) = file("a.jsonl", b"{\"ids\": [3, 1]}\n{\"ids\": [-1]}\n{\"ids\": []}\n{\"text\": \"x\"}\n");
    let config = CorpusConfig::Jsonl {
        paths: vec![path],
        field: None,
        tokens_field: Some("ids".to_owned()),
        messages_field: None,
        unit_bytes: ByteSize(1),
        holdout: Percent::from_share(0.0),
        follow: Default::default(),
    };
    let (documents, dropped) = read(&config);
    assert_eq!(documents, [Content::Tokens(vec![3, 1])]);
    let reasons = [DropReason::WrongType, DropReason::EmptyDocument, DropReason::MissingField];
    assert_eq!(dropped, counts(&reasons.map(|r| (r, 1))));
}

#[test]
fn empty_files_are_counted_once_whatever_they_look_like() {
    for (name, bytes) in [
        ("a.jsonl", vec![]),
        ("b.jsonl", b"\xef\xbb\xbf".to_vec()),
        ("c.jsonl.gz", vec![]),
        ("d.jsonl.gz", gzip(b"")),
        ("e.jsonl.zst", zst(b"")),
    ] {
        let (_folder, path) = file(name, &bytes);
        for unit_bytes in [1, 2, u64::MAX] {
            let (documents, dropped) = read(&jsonl(&[&path], unit_bytes));
            assert_eq!((documents.len(), dropped), (0, counts(&[(DropReason::EmptyFile, 1)])), "{name}");
        }
    }
}

// === compression ===

#[test]
fn compressed_files_are_read_as_they_are() {
    let expected = record_texts(2000);
    let plain = records(2000);
    let (head, tail) = plain.as_bytes().split_at(plain.len() / 3);
    for (name, bytes) in [
        ("a.jsonl.gz", gzip(plain.as_bytes())),
        ("two-members.jsonl.gz", [gzip(head), gzip(tail)].concat()),
        ("A.JSONL.GZ", gzip(plain.as_bytes())),
        ("a.jsonl.zst", zst(plain.as_bytes())),
        ("two-frames.jsonl.zst", [zst(head), zst(tail)].concat()),
    ] {
        let (_folder, path) = file(name, &bytes);
        let (documents, dropped) = read(&jsonl(&[&path], 100));
        assert_eq!(texts(&documents), expected, "{name}");
        assert!(dropped.is_empty(), "{name}: {dropped:?}");
    }
}

#[test]
fn what_was_read_before_the_damage_is_kept() {
    let expected = record_texts(20_000);
    let plain = records(20_000);
    for (name, whole) in [("a.jsonl.gz", gzip(plain.as_bytes())), ("a.jsonl.zst", zst(plain.as_bytes()))] {
        let middle = whole.len() / 2;
        let cut = whole[..middle].to_vec();
        let mut damaged = whole.clone();
        damaged[middle..middle + 64].iter_mut().for_each(|b| *b ^= 0x5a);
        for (what, bytes, at_least) in [("cut", cut, 1000), ("damaged", damaged, 0)] {
            let (_folder, path) = file(name, &bytes);
            let (documents, dropped) = read(&jsonl(&[&path], u64::MAX));
            assert!(documents.len() >= at_least && documents.len() < 20_000, "{name} {what}: {}", documents.len());
            assert_eq!(dropped.get(DropReason::DamagedFile), 1, "{name} {what}");
            // a damaged stream may decode to nonsense before that is noticed; a cut one may not
            if what == "cut" {
                assert_eq!(texts(&documents), expected[..documents.len()], "{name}");
                assert_eq!(dropped, counts(&[(DropReason::DamagedFile, 1)]), "{name}");
            }
        }
    }
    for name in ["plain.jsonl.gz", "plain.jsonl.zst"] {
        let (_folder, path) = file(name, plain.as_bytes());
        let (documents, dropped) = read(&jsonl(&[&path], u64::MAX));
        assert_eq!((documents.len(), dropped), (0, counts(&[(DropReason::DamagedFile, 1)])), "{name}");
    }
}

#[test]
fn a_damaged_file_does_not_hide_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let whole = gzip(records(3000).as_bytes());
    std::fs::write(folder.path().join("a.jsonl.gz"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(folder.path().join("b.jsonl"), records(5)).unwrap();
    let (documents, dropped) = read(&jsonl(&[&format!("{}/*", folder.path().display())], u64::MAX));
    assert_eq!(dropped, counts(&[(DropReason::DamagedFile, 1)]));
    assert_eq!(texts(&documents[documents.len() - 5..]), record_texts(5));
}

// === plain text ===

#[test]
fn a_file_is_a_document_as_it_is() {
    let (_folder, path) = file("a.txt", b"\xef\xbb\xbfone\r\n\r\ntwo\n");
    assert_eq!(texts(&read(&text(&[&path], TextDocument::File, 1)).0), ["one\r\n\r\ntwo\n"]);
    let (_folder, path) = file("utf16.txt", b"\xff\xfeo\0n\0e\0");
    assert_eq!(read(&text(&[&path], TextDocument::File, 1)).1, counts(&[(DropReason::InvalidUtf8, 1)]));
    let (_folder, path) = file("a.txt.gz", &gzip(b"one")[..12]);
    assert_eq!(read(&text(&[&path], TextDocument::File, 1)).1, counts(&[(DropReason::DamagedFile, 1)]));
}

#[test]
fn lines_and_paragraphs() {
    let (_folder, path) = file("a.txt", b"one\r\ntwo\n\n \t\nthree\r\n\r\nfour \xff\n\n\nfive");
    let (documents, dropped) = read(&text(&[&path], TextDocument::Line, u64::MAX));
    assert_eq!(texts(&documents), ["one", "two", " \t", "three", "five"]);
    assert_eq!(dropped, counts(&[(DropReason::EmptyDocument, 4), (DropReason::InvalidUtf8, 1)]));
    let (documents, dropped) = read(&text(&[&path], TextDocument::Paragraph, u64::MAX));
    assert_eq!(texts(&documents), ["one\ntwo", "three", "five"]);
    assert_eq!(dropped, counts(&[(DropReason::InvalidUtf8, 1)]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn documents_do_not_depend_on_the_size_of_units(
        pieces in prop::collection::vec(prop_oneof![
            3 => "[a-z]{1,8}", 2 => Just("\n".to_owned()), 1 => Just("\r\n".to_owned()),
            1 => Just("\n\n".to_owned()), 1 => Just(" ".to_owned()), 1 => Just("\u{feff}".to_owned()),
        ], 1..40),
        unit_bytes in 1u64..60,
    ) {
        let content = pieces.concat();
        let url = object("sizes.txt", content.as_bytes());
        for document in [TextDocument::Line, TextDocument::Paragraph] {
            let whole = read(&text(&[&url], document, u64::MAX));
            let parts = read(&text(&[&url], document, unit_bytes));
            prop_assert_eq!(&whole, &parts);
        }
        // and the whole is what plain string functions say
        let plain = content.strip_prefix('\u{feff}').unwrap_or(&content);
        let (lines, _) = read(&text(&[&url], TextDocument::Line, unit_bytes));
        prop_assert_eq!(texts(&lines), plain.lines().filter(|l| !l.is_empty()).collect::<Vec<_>>());
        let (paragraphs, _) = read(&text(&[&url], TextDocument::Paragraph, unit_bytes));
        let is_blank = |l: &&str| l.trim_ascii().is_empty();
        let all_lines: Vec<&str> = plain.lines().collect();
        let expected: Vec<String> = all_lines.split(is_blank).filter(|p| !p.is_empty()).map(|p| p.join("\n")).collect();
        prop_assert_eq!(texts(&paragraphs), expected);
    }
}

#[test]
fn long_files_are_cut_where_blocks_and_units_meet() {
    let plain = records(60_000);
    let (_folder, path) = file("a.jsonl", plain.as_bytes());
    let expected = record_texts(60_000);
    for unit_bytes in [100_001, 1 << 20, (1 << 20) + 1, 1 << 30] {
        let corpus = open(&jsonl(&[&path], unit_bytes)).unwrap();
        assert_eq!(corpus.n_units() as u64, (plain.len() as u64).div_ceil(unit_bytes));
        assert_eq!(texts(&read_all(&corpus).unwrap().0), expected);
    }
}

// === parquet ===

fn fixture(name: &str) -> String {
    format!("{FIXTURES}/{name}.parquet")
}

#[test]
fn text_columns_of_every_type() {
    let gamma = "gamma ".repeat(3);
    let expected = counts(&[(DropReason::MissingField, 1), (DropReason::EmptyDocument, 1)]);
    for name in ["utf8", "large_utf8", "utf8_view", "dictionary", "v2_pages"] {
        for unit_bytes in [1, 100, u64::MAX] {
            let (documents, dropped) = read(&parquet(&fixture(&format!("text_{name}")), "doc", unit_bytes));
            assert_eq!(texts(&documents), ["alpha", "βeta", &gamma, "delta"], "{name}");
            assert_eq!(dropped, expected, "{name}");
        }
    }
    for name in ["text_binary", "text_invalid_utf8"] {
        let (documents, dropped) = read(&parquet(&fixture(name), "doc", 1));
        assert_eq!(texts(&documents), ["alpha", "βeta", "delta"], "{name}");
        assert_eq!(dropped.get(DropReason::InvalidUtf8), 1, "one bad string costs one document");
    }
}

#[test]
fn token_columns_of_every_type() {
    let ids = |lists: &[&[u32]]| lists.iter().map(|l| Content::Tokens(l.to_vec())).collect::<Vec<_>>();
    let expected = counts(&[(DropReason::MissingField, 1), (DropReason::EmptyDocument, 1)]);
    for name in ["list_int32", "list_uint32", "list_int64", "list_uint16", "large_list_int64"] {
        for unit_bytes in [1, u64::MAX] {
            let (documents, dropped) = read(&parquet(&fixture(&format!("tokens_{name}")), "tokens:doc", unit_bytes));
            assert_eq!(documents, ids(&[&[1, 2, 3], &[4], &[5, 6], &[7, 8, 9]]), "{name}");
            assert_eq!(dropped, expected, "{name}");
        }
    }
    let (documents, dropped) = read(&parquet(&fixture("tokens_fixed_size_list_int32"), "tokens:doc", 1));
    assert_eq!(documents, ids(&[&[1, 2, 3], &[4, 5, 6], &[7, 8, 9]]));
    assert_eq!(dropped, counts(&[(DropReason::MissingField, 1)]));
    let (documents, dropped) = read(&parquet(&fixture("tokens_required_elements"), "tokens:doc", 1));
    assert_eq!((documents, dropped), (ids(&[&[1, 2, 3], &[4]]), counts(&[(DropReason::EmptyDocument, 1)])));
    let (documents, dropped) = read(&parquet(&fixture("tokens_bad"), "tokens:doc", 1));
    assert_eq!((documents, dropped), (ids(&[&[u32::MAX], &[0]]), counts(&[(DropReason::WrongType, 4)])));
    let (documents, dropped) = read(&parquet(&fixture("tokens_uint64"), "tokens:doc", 1));
    assert_eq!((documents, dropped), (ids(&[&[u32::MAX]]), counts(&[(DropReason::WrongType, 1)])));
}

#[test]
fn missing_and_unfit_columns_cost_their_rows() {
    let read = |name, field| read(&parquet(&fixture(name), field, 1)).1;
    assert_eq!(read("text_utf8", "nowhere"), counts(&[(DropReason::MissingField, 6)]));
    assert_eq!(read("text_utf8", "before"), counts(&[(DropReason::WrongType, 6)]));
    assert_eq!(read("text_utf8", "tokens:doc"), counts(&[(DropReason::WrongType, 6)]));
    assert_eq!(read("tokens_list_int32", "doc"), counts(&[(DropReason::WrongType, 6)]));
    assert_eq!(read("tokens_float", "tokens:doc"), counts(&[(DropReason::WrongType, 2)]));
    assert_eq!(read("text_utf8", "tokens:before"), counts(&[(DropReason::WrongType, 6)]));
}

#[test]
fn row_groups_are_units() {
    let corpus = open(&parquet(&fixture("text_utf8"), "doc", 1)).unwrap();
    assert_eq!(corpus.n_units(), 3);
    assert_eq!(open(&parquet(&fixture("text_utf8"), "doc", u64::MAX)).unwrap().n_units(), 1);
}

/// Any byte may be wrong: some documents are lost, nothing panics, and the file is said to be damaged when it is seen.
#[test]
fn damaged_parquet_never_stops_a_run() {
    for (name, field) in [("text_utf8", "doc"), ("text_v2_pages", "doc"), ("tokens_list_int64", "tokens:doc")] {
        let whole = std::fs::read(fixture(name)).unwrap();
        for at in (0..whole.len()).step_by(3) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            let url = object("damaged.parquet", &bytes);
            for unit_bytes in [1, u64::MAX] {
                let (documents, dropped) = read(&parquet(&url, field, unit_bytes));
                let accounted = documents.len() + dropped.iter().map(|(_, n)| n as usize).sum::<usize>();
                let damaged = dropped.get(DropReason::DamagedFile) > 0;
                assert!(damaged || accounted == 6, "{name}: byte {at}: {accounted} of 6 rows, {dropped:?}");
            }
        }
        let url = object("cut.parquet", &whole[..whole.len() - 20]);
        assert_eq!(read(&parquet(&url, field, u64::MAX)), (vec![], counts(&[(DropReason::DamagedFile, 1)])));
    }
}

#[test]
fn damage_in_one_row_group_leaves_the_others() {
    let mut bytes = std::fs::read(fixture("text_utf8_view")).unwrap();
    // the second row group's text, stored plainly: destroy what stands before it
    let text = "\u{5}\0\0\0βeta".as_bytes();
    let at = bytes.windows(text.len()).position(|w| w == text).unwrap();
    bytes[at - 24..at].fill(0xff);
    let url = object("one-group.parquet", &bytes);
    let mut seen = Vec::new();
    for unit_bytes in [1, u64::MAX] {
        let (documents, dropped) = read(&parquet(&url, "doc", unit_bytes));
        assert_eq!(dropped.get(DropReason::DamagedFile), 1);
        seen.push(documents);
    }
    assert_eq!(seen[0], seen[1], "the same documents whatever the units");
    assert!(texts(&seen[0]).contains(&"delta") && !texts(&seen[0]).contains(&"βeta"), "{:?}", seen[0]);
}

// === errors ===

#[test]
fn a_file_that_is_gone_or_has_changed_is_an_error() {
    for (name, config) in
        [("a.jsonl", jsonl as fn(&[&str], u64) -> CorpusConfig), ("a.txt", |p, n| text(p, TextDocument::File, n))]
    {
        let (_folder, path) = file(name, records(10).as_bytes());
        let corpus = open(&config(&[&path], 50)).unwrap();
        std::fs::write(&path, records(11)).unwrap();
        let error = read_all(&corpus).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert!(error.to_string().contains(name) && error.to_string().contains("changed"), "{error}");
        std::fs::remove_file(&path).unwrap();
        let error = read_all(&corpus).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_parquet_file_that_is_gone_is_an_error_too() {
    let bytes = std::fs::read(fixture("text_utf8")).unwrap();
    let (_folder, path) = file("a.parquet", &bytes);
    let corpus = open(&parquet(&path, "doc", u64::MAX)).unwrap();
    std::fs::remove_file(Path::new(&path)).unwrap();
    assert_eq!(read_all(&corpus).unwrap_err().kind(), ErrorKind::Data);
}

#[test]
fn both_fields_are_refused() {
    let (_folder, path) = file("a.jsonl", b"");
    let config = CorpusConfig::Jsonl {
        paths: vec![path],
        field: Some("a".to_owned()),
        tokens_field: Some("b".to_owned()),
        messages_field: None,
        unit_bytes: ByteSize(1),
        holdout: Percent::from_share(0.0),
        follow: Default::default(),
    };
    assert_eq!(open(&config).unwrap_err().kind(), ErrorKind::Config);
}

/// pyarrow's list of structs, and the same as JSON in text: the conversations of a jsonl file.
#[test]
fn conversations_are_the_same_in_every_format() {
    let rows = [
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\u03b2"}]}"#,
        r#"{"messages": null}"#,
        r#"{"messages": []}"#,
        r#"{"messages": [{"role": "user", "content": "c"}], "tools": [{"name": "f"}]}"#,
        r#"{"messages": [{"role": "user"}]}"#,
        r#"{"messages": [{"role": "user", "content": "d"}, {"role": "assistant", "content": "e"}]}"#,
    ];
    let (_folder, path) = file("chats.jsonl", rows.join("\n").as_bytes());
    let holdout = Percent::from_share(0.0);
    let messages_field = Some("messages".to_owned());
    let (field, tokens_field) = (None, None);
    let jsonl = CorpusConfig::Jsonl {
        paths: vec![path],
        field,
        tokens_field,
        messages_field: messages_field.clone(),
        unit_bytes: ByteSize(u64::MAX),
        holdout,
        follow: Default::default(),
    };
    let expected = read(&jsonl);
    assert_eq!(expected.0.len(), 3);
    let reasons = [DropReason::MissingField, DropReason::EmptyDocument, DropReason::MalformedConversation];
    assert_eq!(expected.1, counts(&reasons.map(|reason| (reason, 1))));
    for name in ["messages_structs", "messages_json"] {
        for unit_bytes in [1, u64::MAX] {
            let config = CorpusConfig::Parquet {
                paths: vec![fixture(name)],
                field: None,
                tokens_field: None,
                messages_field: messages_field.clone(),
                unit_bytes: ByteSize(unit_bytes),
                holdout,
                follow: Default::default(),
            };
            assert_eq!(read(&config), expected, "{name}");
        }
    }
    let (nothing, dropped) = read(&CorpusConfig::Parquet {
        paths: vec![fixture("text_utf8")],
        field: None,
        tokens_field: None,
        messages_field: Some("before".to_owned()),
        unit_bytes: ByteSize(u64::MAX),
        holdout,
        follow: Default::default(),
    });
    assert!(nothing.is_empty() && dropped.get(DropReason::WrongType) == 6, "{dropped:?}");
}
