use super::*;
use crate::error::Error;
use crate::tokens::SpecialIds;
use crate::tokens::config::{Packing, PrependBos, Separator};

const VOCABULARY: u32 = 1000;

fn rules(context_length: u32, batch_tokens: u32, packing: Packing, holdout: f64) -> BatchRules {
    let ids = SpecialIds { bos: Some(1), eos: Some(2), pad: None };
    let config = TokensConfig {
        context_length,
        batch_tokens,
        packing,
        separator: Separator::None,
        prepend_bos: PrependBos::Yes,
        ..TokensConfig::default()
    };
    BatchRules::new(&config, Arc::new(Tokenizer::none(ids, VOCABULARY).unwrap()), holdout).unwrap()
}

/// Documents of these lengths, all of tokens from 10 on.
fn documents(lengths: &[usize]) -> Vec<Item> {
    let document = |(i, &n): (usize, &usize)| Item::from_content(Content::Tokens(vec![10 + i as u32; n]));
    lengths.iter().enumerate().map(document).collect()
}

fn batcher(items: Vec<Item>, rules: BatchRules, split: Split) -> UnitBatcher<impl Iterator<Item = Result<Item>>> {
    UnitBatcher::new(7, items.into_iter().map(Ok), rules, split)
}

fn all_batches(items: Vec<Item>, rules: BatchRules, split: Split) -> Vec<TokenBatch> {
    let mut batcher = batcher(items, rules, split);
    std::iter::from_fn(|| batcher.next_batch().unwrap()).collect()
}

#[test]
fn batches_hold_so_many_sequences_and_the_last_says_so() {
    for n in 1..12 {
        let batches = all_batches(documents(&vec![3; n]), rules(8, 24, Packing::Pad, 0.0), Split::Train);
        assert_eq!(batches.len(), n.div_ceil(3));
        let mut seq = 0;
        for (i, batch) in batches.iter().enumerate() {
            assert_eq!((batch.unit, batch.batch_in_unit, batch.first_seq), (7, i as u32, seq));
            assert_eq!(batch.ends_unit, i + 1 == batches.len());
            assert_eq!(batch.dropped.len(), batch.n_sequences());
            assert!(i + 1 == batches.len() || batch.n_sequences() == 3);
            seq += batch.n_sequences() as u32;
        }
        assert_eq!(seq as usize, n);
    }
}

#[test]
fn rows_of_sequences_lie_end_to_end() {
    let batch = &all_batches(documents(&[3, 5]), rules(8, 16, Packing::Pad, 0.0), Split::Train)[0];
    assert_eq!(batch.ids, [1, 10, 10, 10, 1, 11, 11, 11, 11, 11]);
    assert_eq!(batch.positions, [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]);
    assert_eq!(batch.seq_starts, [0, 4, 10]);
    assert_eq!(batch.segments, [Segment { start: 0, len: 4 }, Segment { start: 4, len: 6 }]);
    assert_eq!(batch.documents, 2);
}

#[test]
fn a_unit_without_sequences_has_one_empty_batch() {
    let items = vec![Item::Dropped(DropReason::BrokenJson, 2), Item::Dropped(DropReason::EmptyFile, 1)];
    let batches = all_batches(items, rules(8, 8, Packing::Concat, 0.0), Split::Train);
    assert_eq!(batches.len(), 1);
    assert!(batches[0].ends_unit && batches[0].n_sequences() == 0 && batches[0].n_tokens() == 0);
    assert_eq!(batches[0].dropped_at_end.get(DropReason::BrokenJson), 2);
    assert_eq!(batches[0].dropped_at_end.get(DropReason::EmptyFile), 1);
}

#[test]
fn skipping_ends_up_at_the_same_batches() {
    let items = documents(&[3, 9, 1, 17, 4, 4, 8, 2, 30]);
    let all = all_batches(items.clone(), rules(8, 16, Packing::Concat, 0.0), Split::Train);
    for n in 0..all.len() as u32 {
        let mut skipped = batcher(items.clone(), rules(8, 16, Packing::Concat, 0.0), Split::Train);
        skipped.skip_to(n).unwrap();
        assert_eq!(skipped.next_index(), n);
        assert_eq!(skipped.next_batch().unwrap().as_ref(), all.get(n as usize));
    }
}

#[test]
fn token_ids_outside_the_vocabulary_cost_the_document() {
    let mut items = documents(&[2]);
    items.push(Item::from_content(Content::Tokens(vec![5, VOCABULARY])));
    let batches = all_batches(items, rules(8, 8, Packing::Pad, 0.0), Split::Train);
    assert_eq!(batches[0].ids, [1, 10, 10]);
    assert_eq!(batches[0].dropped_at_end.get(DropReason::WrongType), 1);
}

#[test]
fn the_two_splits_share_the_documents_between_them() {
    let items = documents(&[2; 400]);
    let rows = |split| {
        let batches = all_batches(items.clone(), rules(8, 64, Packing::Pad, 0.25), split);
        let mut dropped = DropCounts::new();
        batches.iter().for_each(|b| {
            b.dropped.iter().for_each(|d| dropped.merge(d));
            dropped.merge(&b.dropped_at_end);
        });
        let ids: Vec<u64> = batches.iter().flat_map(|b| b.doc_ids.chunks(3).map(|row| row[0])).collect();
        (ids, dropped)
    };
    let ((train, dropped), (held, nothing)) = (rows(Split::Train), rows(Split::Holdout));
    assert_eq!(train.len() + held.len(), 400);
    assert!((60..140).contains(&held.len()), "{}", held.len());
    assert!(held.iter().all(|&id| is_holdout(id, 0.25)) && !train.iter().any(|&id| is_holdout(id, 0.25)));
    assert_eq!(dropped.get(DropReason::Holdout) as usize, held.len());
    assert!(nothing.is_empty());
}

#[test]
fn a_readers_error_ends_it() {
    let items = vec![Err(Error::data("the file is gone"))];
    let mut batcher = UnitBatcher::new(0, items.into_iter(), rules(8, 8, Packing::Pad, 0.0), Split::Train);
    assert!(batcher.next_batch().unwrap_err().to_string().contains("gone"));
}
