use super::*;
use crate::hooks::{HookPoint, Site};
use crate::tokens::Segment;

fn lens(lenses: &Lenses) -> Arc<Lens> {
    lenses.watch();
    lenses.of("topk", 3, &[(HookPoint::block(1, Site::ResidPost), 4)])
}

/// A context of `ids`, on which latent `i` fires at token `i` alone, `i + 1` strong.
fn add(lens: &Lens, ids: [u32; 3], trained: u64) {
    let batch = TokenBatch {
        ids: ids.to_vec(),
        doc_ids: vec![7; 3],
        seq_starts: vec![0, 3],
        segments: vec![Segment { start: 0, len: 3 }],
        ..TokenBatch::default()
    };
    let mut codes = Codes::default();
    for latent in 0..3 {
        codes.push(&[latent], &[latent as f32 + 1.0]);
    }
    lens.add(&batch, &[0, 1, 2], &codes, trained);
}

fn query() -> FeatureQuery {
    FeatureQuery { limit: 10, ..FeatureQuery::default() }
}

#[test]
fn latents_are_listed_by_what_they_did() {
    let lenses = Lenses::default();
    assert_eq!(lenses.list("topk", &query()).err(), Some(FeaturesRefused::NoTrainer));
    let lens = lens(&lenses);
    assert_eq!(lenses.list("topk", &query()).unwrap().silent, 3);
    add(&lens, [10, 11, 12], 100);
    let list = lenses.list("topk", &FeatureQuery { sort: SortBy::Max, ..query() }).unwrap();
    assert_eq!((list.latents, list.rows, list.silent, list.matched, list.trained_rows_to), (3, 3, 0, 3, 100));
    assert_eq!(list.features.iter().map(|line| line.latent).collect::<Vec<_>>(), [2, 1, 0]);
    assert_eq!(list.densities.iter().sum::<u64>(), 3);
    let line = &list.features[0];
    let context = line.context.as_ref().unwrap();
    assert_eq!((line.max, &line.tokens[..], context.peak), (3.0, &["<#12>".to_owned()][..], 2));
    assert_eq!(context.activations, [0.0, 0.0, 3.0]);
    let rising = lenses.list("topk", &FeatureQuery { sort: SortBy::Latent, ascending: true, offset: 1, ..query() });
    assert_eq!(rising.unwrap().features.iter().map(|line| line.latent).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(lenses.feature("topk", 3).err(), Some(FeaturesRefused::NoLatent));
    let feature = lenses.feature("topk", 1).unwrap();
    assert_eq!((feature.fired, feature.max, feature.contexts.len(), feature.promoted.is_some()), (1, 2.0, 1, false));
}

#[test]
fn a_look_begins_anew_when_the_trainer_has_learnt_twice_as_much() {
    let lenses = Lenses::default();
    let lens = lens(&lenses);
    let enough = LOOK_ROWS_MIN / 3 + 1;
    (0..enough).for_each(|i| add(&lens, [i as u32, 1, 2], 1000));
    assert!(lens.lock().shown.is_none());
    add(&lens, [0, 1, 2], 2000);
    // what is shown is the long look, until the new one has as many rows
    add(&lens, [0, 1, 2], 2100);
    let list = lenses.list("topk", &query()).unwrap();
    assert_eq!((list.rows, list.trained_rows_from, list.trained_rows_to), (3 * enough + 3, 1000, 2000));
    // a trainer that went back to its checkpoint is looked at from the start
    add(&lens, [0, 1, 2], 1500);
    let list = lenses.list("topk", &query()).unwrap();
    assert_eq!((list.rows, list.trained_rows_from), (3, 1500));
}

#[test]
fn promoted_tokens_come_when_they_were_asked_for() {
    let lenses = Lenses::default();
    let lens = lens(&lenses);
    add(&lens, [10, 11, 12], 100);
    assert!(lens.take_wanted().is_empty());
    lenses.feature("topk", 2).unwrap();
    assert_eq!(lens.take_wanted(), [2]);
    lens.put_directions(vec![(2, vec![0.0, 3.0, 0.0, -1.0])]);
    // nobody asked the model yet
    lenses.answer(4, |_, _| panic!("not asked"));
    lenses.ask_model();
    lenses.answer(4, |rows, logits| {
        logits.clear();
        logits.extend_from_slice(rows);
        Ok(())
    });
    let feature = lenses.feature("topk", 2).unwrap();
    let (promoted, suppressed) = (feature.promoted.unwrap(), feature.suppressed.unwrap());
    assert_eq!((promoted[0].token.as_str(), promoted[0].logit), ("<#1>", 3.0));
    assert_eq!((suppressed[0].token.as_str(), suppressed[0].logit), ("<#3>", -1.0));
    assert!(lens.take_wanted().is_empty(), "what is known is not computed again");
    // a trainer of another shape is another
    let other = lenses.of("topk", 3, &[(HookPoint::block(1, Site::MlpPost), 4)]);
    assert_eq!(other.lock().look().collector.rows(), 0);
    lenses.feature("topk", 0).unwrap();
    other.put_directions(vec![(0, vec![1.0; 4])]);
    lenses.ask_model();
    lenses.answer(4, |_, _| panic!("has no effect on logits that is known"));
    assert!(lenses.feature("topk", 0).unwrap().without_tokens.is_some());
}
