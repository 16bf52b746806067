use super::*;
use proptest::prelude::*;

const BOS: u32 = 1;
const SEPARATOR: u32 = 2;

/// Documents with distinct tokens (from 100 on), each preceded by so many drops.
fn documents() -> impl Strategy<Value = Vec<(u64, Vec<u32>)>> {
    prop::collection::vec((0u64..3, 1usize..40), 0..12).prop_map(|sizes| {
        let mut next = 100;
        let fresh = |(drops, n): (u64, usize)| {
            next += n as u32;
            (drops, (next - n as u32..next).collect())
        };
        sizes.into_iter().map(fresh).collect()
    })
}

fn rules() -> impl Strategy<Value = Rules> {
    let packing = prop_oneof![Just(Packing::Concat), Just(Packing::Pad), Just(Packing::Truncate)];
    (2usize..24, packing, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(context_length, packing, bos, separator, attend_across_documents)| Rules {
            context_length,
            packing,
            bos: bos.then_some(BOS),
            separator: separator.then_some(SEPARATOR),
            marks: false,
            attend_across_documents,
        },
    )
}

fn doc_id(i: usize) -> u64 {
    1000 + i as u64
}

fn pack(rules: Rules, documents: &[(u64, Vec<u32>)]) -> (Vec<Sequence>, DropCounts) {
    let mut packer = Packer::new(rules);
    for (i, (drops, tokens)) in documents.iter().enumerate() {
        packer.drop(DropReason::BrokenJson, *drops);
        packer.push(doc_id(i), tokens);
    }
    let end = packer.finish();
    (std::iter::from_fn(|| packer.pop()).collect(), end)
}

proptest! {
    #[test]
    fn tokens_appear_once_and_in_order(rules in rules(), documents in documents()) {
        let (sequences, _) = pack(rules, &documents);
        let kept = |tokens: &Vec<u32>| match rules.packing {
            Packing::Truncate => tokens.len().min(rules.context_length - usize::from(rules.bos.is_some())),
            _ => tokens.len(),
        };
        let expected: Vec<(u64, u32)> = documents.iter().enumerate()
            .flat_map(|(i, (_, tokens))| tokens[..kept(tokens)].iter().map(move |&t| (doc_id(i), t)))
            .collect();
        let got: Vec<(u64, u32)> = sequences.iter()
            .flat_map(|s| s.doc_ids.iter().copied().zip(s.ids.iter().copied()))
            .filter(|&(_, t)| t >= 100)
            .collect();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn segments_tile_and_positions_restart(rules in rules(), documents in documents()) {
        for s in pack(rules, &documents).0 {
            prop_assert!(!s.ids.is_empty() && s.ids.len() <= rules.context_length);
            prop_assert_eq!(s.doc_ids.len(), s.ids.len());
            prop_assert!(s.ids.iter().any(|&t| t >= 100), "a sequence has a token of a document");
            let mut at = 0;
            let mut positions = Vec::new();
            for segment in &s.segments {
                prop_assert_eq!(segment.start, at);
                prop_assert!(segment.len > 0);
                at += segment.len;
                positions.extend(0..segment.len);
                let rows = segment.start as usize..at as usize;
                prop_assert!(rules.bos.is_none_or(|bos| s.ids[rows.start] == bos));
                prop_assert_eq!(s.ids[rows.clone()].iter().filter(|&&t| t == BOS).count(), usize::from(rules.bos.is_some()));
                prop_assert!(s.ids[rows.clone()].iter().any(|&t| t >= 100), "no segment without a document's token");
                if !rules.attend_across_documents {
                    prop_assert!(s.doc_ids[rows.clone()].iter().all(|&d| d == s.doc_ids[rows.start]));
                }
            }
            prop_assert_eq!(at as usize, s.ids.len());
            prop_assert_eq!(&s.positions, &positions);
            if rules.attend_across_documents || rules.packing != Packing::Concat {
                prop_assert_eq!(s.segments.len(), 1);
            }
        }
    }

    #[test]
    fn separators_end_documents_and_start_nothing(rules in rules(), documents in documents()) {
        let (sequences, _) = pack(rules, &documents);
        for s in &sequences {
            for (i, _) in s.ids.iter().enumerate().filter(|&(_, &t)| t == SEPARATOR) {
                prop_assert!(i > 0 && s.ids[i - 1] >= 100 && s.doc_ids[i - 1] == s.doc_ids[i]);
            }
            for (i, w) in s.ids.windows(2).enumerate() {
                let two_documents = s.doc_ids[i] != s.doc_ids[i + 1];
                prop_assert!(!two_documents || rules.separator.is_none() || w[0] == SEPARATOR);
            }
        }
    }

    #[test]
    fn concat_leaves_no_room_but_at_the_end(mut rules in rules(), documents in documents()) {
        rules.packing = Packing::Concat;
        let (sequences, _) = pack(rules, &documents);
        let (_, before_last) = sequences.split_last().map_or((None, &[][..]), |(l, b)| (Some(l), b));
        for s in before_last {
            // one place stays free where a new context would hold BOS alone
            let slack = usize::from(rules.bos.is_some() && !rules.attend_across_documents);
            prop_assert!(s.ids.len() + slack >= rules.context_length, "{} of {}", s.ids.len(), rules.context_length);
        }
    }

    #[test]
    fn counts_add_up(rules in rules(), documents in documents()) {
        let (sequences, end) = pack(rules, &documents);
        let mut all = end;
        sequences.iter().for_each(|s| all.merge(&s.dropped));
        prop_assert_eq!(all.get(DropReason::BrokenJson), documents.iter().map(|(d, _)| d).sum::<u64>());
        prop_assert_eq!(sequences.iter().map(|s| s.documents).sum::<u32>() as usize, documents.len());
        let tokens: usize = documents.iter().map(|(_, t)| t.len()).sum();
        let kept = sequences.iter().flat_map(|s| &s.ids).filter(|&&t| t >= 100).count();
        prop_assert_eq!(all.get(DropReason::Truncated) as usize, tokens - kept);
    }

    /// What rides on a sequence depends on nothing after it: a resumed run counts the same.
    #[test]
    fn a_longer_unit_begins_like_a_shorter_one(rules in rules(), documents in documents(), cut in 0usize..12) {
        let (all, _) = pack(rules, &documents);
        let mut packer = Packer::new(rules);
        for (i, (drops, tokens)) in documents.iter().enumerate().take(cut) {
            packer.drop(DropReason::BrokenJson, *drops);
            packer.push(doc_id(i), tokens);
        }
        let complete: Vec<Sequence> = std::iter::from_fn(|| packer.pop()).collect();
        prop_assert_eq!(&all[..complete.len()], &complete[..]);
    }
}

fn rules_of(packing: Packing, attend_across_documents: bool) -> Rules {
    Rules {
        context_length: 6,
        packing,
        bos: Some(BOS),
        separator: Some(SEPARATOR),
        attend_across_documents,
        marks: false,
    }
}

fn ids(rules: Rules, documents: &[&[u32]]) -> Vec<Vec<u32>> {
    let documents: Vec<(u64, Vec<u32>)> = documents.iter().map(|d| (0, d.to_vec())).collect();
    pack(rules, &documents).0.into_iter().map(|s| s.ids).collect()
}

const THREE: [&[u32]; 3] = [&[10, 11], &[20, 21, 22, 23, 24, 25], &[30]];

#[test]
fn concat_restarts_with_each_document() {
    let expected = [vec![1, 10, 11, 2, 1, 20], vec![1, 21, 22, 23, 24, 25], vec![1, 30, 2]];
    assert_eq!(ids(rules_of(Packing::Concat, false), &THREE), expected);
}

#[test]
fn concat_across_documents_has_one_bos_a_sequence() {
    let expected = [vec![1, 10, 11, 2, 20, 21], vec![1, 22, 23, 24, 25, 2], vec![1, 30, 2]];
    assert_eq!(ids(rules_of(Packing::Concat, true), &THREE), expected);
}

#[test]
fn concat_starts_no_context_in_the_last_place() {
    let expected = [vec![1, 10, 11, 12, 2], vec![1, 20, 2]];
    assert_eq!(ids(rules_of(Packing::Concat, false), &[&[10, 11, 12], &[20]]), expected);
}

#[test]
fn pad_and_truncate_keep_documents_apart() {
    let padded = [vec![1, 10, 11, 2], vec![1, 20, 21, 22, 23, 24], vec![1, 25, 2], vec![1, 30, 2]];
    assert_eq!(ids(rules_of(Packing::Pad, false), &THREE), padded);
    let truncated = [vec![1, 10, 11, 2], vec![1, 20, 21, 22, 23, 24], vec![1, 30, 2]];
    assert_eq!(ids(rules_of(Packing::Truncate, true), &THREE), truncated);
}

#[test]
fn drops_ride_on_the_sequence_in_which_they_happen() {
    let mut packer = Packer::new(rules_of(Packing::Pad, false));
    packer.drop(DropReason::BrokenJson, 1);
    packer.push(1, &[10]);
    packer.drop(DropReason::EmptyDocument, 2);
    packer.push(2, &[20]);
    packer.drop(DropReason::Holdout, 3);
    let end = packer.finish();
    let dropped: Vec<Vec<_>> =
        std::iter::from_fn(|| packer.pop()).map(|s| s.dropped.iter().collect()).chain([end.iter().collect()]).collect();
    let expected = [(DropReason::BrokenJson, 1), (DropReason::EmptyDocument, 2), (DropReason::Holdout, 3)];
    assert_eq!(dropped, expected.map(|d| vec![d]));
}

#[test]
fn marks_stay_with_their_tokens() {
    for packing in [Packing::Concat, Packing::Pad, Packing::Truncate] {
        let mut packer = Packer::new(Rules { marks: true, ..rules_of(packing, false) });
        // even tokens lie outside
        let tokens: Vec<u32> = (100..117).collect();
        let outside: Vec<bool> = tokens.iter().map(|t| t % 2 == 0).collect();
        packer.push_marked(1, &tokens, &outside);
        packer.push_marked(2, &tokens[..3], &outside[..3]);
        packer.finish();
        let sequences: Vec<Sequence> = std::iter::from_fn(|| packer.pop()).collect();
        assert!(!sequences.is_empty());
        for sequence in sequences {
            assert_eq!(sequence.outside.len(), sequence.ids.len());
            for (id, outside) in sequence.ids.iter().zip(&sequence.outside) {
                assert_eq!(*outside, *id < 100 || id % 2 == 0, "{packing:?}: {id}");
            }
        }
    }
}
