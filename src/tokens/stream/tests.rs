use std::cell::RefCell;

use super::*;
use crate::corpus::config::CorpusConfig;
use crate::error::ErrorKind;
use crate::tokens::SpecialIds;
use crate::tokens::config::{Packing, PrependBos, Separator};
use crate::tokens::estimate::estimate;
use crate::units::{ByteSize, Percent};

/// A corpus of token lists in several files, with the runtime that reads it.
struct Fixture {
    _folder: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
    corpus: Arc<Corpus>,
}

/// Unit `u` has `sizes[u]` documents; all documents are different.
fn fixture(sizes: &[usize], holdout: f64) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    for (unit, &n) in sizes.iter().enumerate() {
        let line = |i: usize| format!("{{\"ids\": {:?}}}\n", vec![10 + unit as u32 * 1000 + i as u32; 3 + i % 5]);
        let content: String = (0..n).map(line).chain(["broken\n".to_owned()]).collect();
        std::fs::write(
            folder.path().join(format!("{unit:03}.jsonl.zst")),
            zstd::encode_all(content.as_bytes(), 1).unwrap(),
        )
        .unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let config = CorpusConfig::Jsonl {
        paths: vec![format!("{}/*.zst", folder.path().display())],
        field: None,
        tokens_field: Some("ids".to_owned()),
        messages_field: None,
        unit_bytes: ByteSize(1),
        holdout: Percent::from_share(holdout),
        follow: Default::default(),
    };
    let corpus = Arc::new(runtime.block_on(Corpus::open(&config)).unwrap());
    assert_eq!(corpus.n_units() as usize, sizes.len());
    Fixture { _folder: folder, _runtime: runtime, corpus }
}

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::none(SpecialIds { bos: Some(1), eos: Some(2), pad: None }, 1_000_000).unwrap())
}

fn config() -> TokensConfig {
    TokensConfig {
        context_length: 8,
        batch_tokens: 16,
        interleave: 3,
        separator: Separator::Eos,
        prepend_bos: PrependBos::Yes,
        ..TokensConfig::default()
    }
}

fn stream(fixture: &Fixture, start: SourceCursor, lengths: HashMap<u32, u32>) -> TokenStream {
    TokenStream::new(Arc::clone(&fixture.corpus), tokenizer(), &config(), Seed(5), start, lengths).unwrap()
}

fn collect(mut stream: TokenStream, wanted: impl Fn(u64, u32, u32) -> bool) -> Vec<TokenBatch> {
    std::iter::from_fn(|| stream.next(&mut |i, u, b| wanted(i, u, b)).unwrap()).collect()
}

const SIZES: [usize; 7] = [9, 0, 14, 3, 22, 1, 7];

#[test]
fn every_cursor_continues_with_the_very_next_batch() {
    let fixture = fixture(&SIZES, 0.1);
    let all = collect(stream(&fixture, SourceCursor::default(), HashMap::new()), |_, _, _| true);
    assert!(all.len() > 15);
    assert_eq!(all.iter().filter(|b| b.ends_unit).count(), SIZES.len());
    for (i, batch) in all.iter().enumerate() {
        assert_eq!(batch.index, i as u64);
        let rest = collect(stream(&fixture, batch.cursor_after.clone(), HashMap::new()), |_, _, _| true);
        assert_eq!(rest, all[i + 1..]);
    }
}

#[test]
fn every_document_and_every_drop_is_in_the_stream_once() {
    let fixture = fixture(&SIZES, 0.1);
    let all = collect(stream(&fixture, SourceCursor::default(), HashMap::new()), |_, _, _| true);
    let mut dropped = crate::accounting::DropCounts::new();
    for batch in &all {
        batch.dropped.iter().for_each(|d| dropped.merge(d));
        dropped.merge(&batch.dropped_at_end);
    }
    use crate::accounting::DropReason;
    let documents: u64 = all.iter().map(|b| u64::from(b.documents)).sum();
    assert_eq!(documents + dropped.get(DropReason::Holdout), SIZES.iter().sum::<usize>() as u64);
    assert!(dropped.get(DropReason::Holdout) > 0);
    assert_eq!(dropped.get(DropReason::BrokenJson), SIZES.len() as u64);
}

#[test]
fn wanted_batches_are_the_same_whatever_is_left_out() {
    let fixture = fixture(&SIZES, 0.1);
    let first = stream(&fixture, SourceCursor::default(), HashMap::new());
    let all = collect(first, |_, _, _| true);
    let mut lengths = HashMap::new();
    all.iter().filter(|b| b.ends_unit).for_each(|b| _ = lengths.insert(b.unit, b.batch_in_unit + 1));
    let some = |_, unit: u32, batch: u32| (unit + batch) % 3 == 1;
    let expected: Vec<_> = all.iter().filter(|b| some(b.index, b.unit, b.batch_in_unit)).cloned().collect();
    let mut half_known = lengths.clone();
    half_known.retain(|unit, _| unit % 2 == 0);
    for known in [HashMap::new(), half_known, lengths] {
        let asked = RefCell::new(Vec::new());
        let got = collect(stream(&fixture, SourceCursor::default(), known), |i, u, b| {
            asked.borrow_mut().push((i, u, b));
            some(i, u, b)
        });
        assert_eq!(got, expected);
        let each_once: Vec<_> = all.iter().map(|b| (b.index, b.unit, b.batch_in_unit)).collect();
        assert_eq!(asked.into_inner(), each_once);
    }
}

#[test]
fn units_of_which_nothing_is_wanted_are_not_read() {
    let fixture = fixture(&SIZES, 0.0);
    let mut first = stream(&fixture, SourceCursor::default(), HashMap::new());
    while first.next(&mut |_, _, _| false).unwrap().is_some() {}
    let lengths = first.known_lengths().clone();
    assert_eq!(lengths.len(), SIZES.len());
    let before = fixture.corpus.counters().bytes();
    assert!(before > 0);
    assert!(collect(stream(&fixture, SourceCursor::default(), lengths.clone()), |_, _, _| false).is_empty());
    assert_eq!(fixture.corpus.counters().bytes(), before, "nothing was read");
    let one = collect(stream(&fixture, SourceCursor::default(), lengths), |_, unit, _| unit == 3);
    assert!(!one.is_empty() && one.iter().all(|b| b.unit == 3));
    let unit_bytes = fixture.corpus.units()[3].bytes();
    assert_eq!(fixture.corpus.counters().bytes(), before + unit_bytes, "only that unit was read");
}

#[test]
fn a_unit_that_has_changed_is_an_error() {
    let fixture = fixture(&SIZES, 0.0);
    for (length, what) in [(1, "longer"), (1000, "shorter")] {
        let mut stream = stream(&fixture, SourceCursor::default(), HashMap::from([(4, length)]));
        let mut outcome = stream.next(&mut |_, _, _| true);
        while let Ok(Some(_)) = outcome {
            outcome = stream.next(&mut |_, _, _| true);
        }
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Data, "{what}");
    }
}

#[test]
fn held_out_documents_are_evaluated_and_never_trained_on() {
    let fixture = fixture(&[40, 60, 3], 0.2);
    let train = collect(stream(&fixture, SourceCursor::default(), HashMap::new()), |_, _, _| true);
    let mut holdout = HoldoutStream::new(Arc::clone(&fixture.corpus), tokenizer(), &config()).unwrap();
    let held: Vec<_> = std::iter::from_fn(|| holdout.next_batch().unwrap()).collect();
    let documents = |batches: &[TokenBatch]| {
        batches.iter().flat_map(|b| b.doc_ids.clone()).collect::<std::collections::BTreeSet<u64>>()
    };
    assert!(documents(&train).is_disjoint(&documents(&held)));
    assert_eq!(documents(&train).len() + documents(&held).len(), 103);
    assert!(documents(&held).len() > 8);
    assert!(held.iter().enumerate().all(|(i, b)| b.n_sequences() > 0 && b.index == i as u64));
}

#[test]
fn without_a_holdout_there_is_nothing_to_evaluate_on() {
    let fixture = fixture(&[1], 0.0);
    let error = HoldoutStream::new(Arc::clone(&fixture.corpus), tokenizer(), &config()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[test]
fn a_corpus_is_estimated_from_a_part_of_it() {
    let fixture = fixture(&[100; 20], 0.1);
    let seen = estimate(&fixture.corpus, &tokenizer()).unwrap();
    assert!(seen.documents_sampled < 2000);
    assert_eq!(seen.bytes_per_token, 4.0);
    assert!((4.5..5.5).contains(&seen.tokens_per_document), "{seen:?}");
    assert!((1000.0..3000.0).contains(&seen.documents), "{seen:?}");
    assert!((seen.tokens / seen.documents - seen.tokens_per_document).abs() < 1e-9);
    assert!((0.05..0.2).contains(&seen.holdout_share), "{seen:?}");
}

#[test]
fn packing_is_taken_from_the_configuration() {
    let fixture = fixture(&[5], 0.0);
    let config =
        TokensConfig { packing: Packing::Pad, prepend_bos: PrependBos::No, separator: Separator::None, ..config() };
    let mut stream = TokenStream::new(
        Arc::clone(&fixture.corpus),
        tokenizer(),
        &config,
        Seed(1),
        SourceCursor::default(),
        HashMap::new(),
    )
    .unwrap();
    let batch = stream.next(&mut |_, _, _| true).unwrap().unwrap();
    assert_eq!(batch.seq_starts, [0, 3, 7]);
}
