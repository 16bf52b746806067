use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::compute::cpu::Cpu;
use crate::hooks::{HookPoint, Site};
use crate::runtime::rng::Seed;

const WIDTH: usize = 12;
const PIECES: u64 = 30;

fn settings(name: &str, coder: Value, more: Value) -> TrainerSettings {
    let mut config = json!({
        "name": name, "input": "blocks.1.hook_resid_post", "buffer": {"rows": 96, "reuse": 2}, "coder": coder,
        "optimizer": {"type": "adam", "learning_rate": 0.01, "warmup_steps": 3, "average": 0.9},
        "batch_rows": 16, "rows": 100_000, "checkpoint": {"url": "unused"},
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    TrainerSettings {
        config: serde_json::from_value(config).unwrap(),
        sites: vec![(HookPoint::block(1, Site::ResidPost), WIDTH)],
        seed: Seed(7),
        stream: Value::Null,
    }
}

/// Coders of many kinds, scalings, seeds and numbers of rows: `short` ends in the middle of a piece, `odd` after it.
fn several() -> Vec<TrainerSettings> {
    let topk = || json!({"type": "topk", "width": 40, "k": 3, "dead_after_tokens": 40});
    vec![
        settings("a", topk(), json!({})),
        settings("short", json!({"type": "batch_topk", "width": 64, "k": 5}), json!({"rows": 160})),
        settings(
            "rows",
            json!({"type": "standard", "width": 30, "l1_coefficient": 0.1}),
            json!({"normalize": "layer_norm"}),
        ),
        settings("seed", topk(), json!({"seed": 99})),
        settings(
            "odd",
            topk(),
            json!({"rows": 333, "normalize": "none", "optimizer": {"type": "signum", "learning_rate": 0.003}}),
        ),
        settings("l0", json!({"type": "jumprelu", "width": 64, "l0_coefficient": 0.1}), json!({})),
    ]
}

fn cpu(threads: usize) -> Arc<Cpu> {
    Arc::new(Cpu::new(threads).unwrap())
}

fn piece(i: u64) -> (Vec<f32>, Vec<u64>, SourceCursor) {
    let mut rng = Seed(2).stream(&format!("piece/{i}"));
    let n = 20 + (i % 7) as usize;
    let rows = (0..n * WIDTH).map(|_| rng.normal() as f32 * 3.0 + 1.0).collect();
    (rows, vec![i; n], SourceCursor { next_batch: i + 1, ..SourceCursor::default() })
}

/// What each trainer's checkpoint is when it has its rows, or the stream has ended.
type Finals = BTreeMap<usize, Files>;

/// Put trainers together as a run does: into the first group that takes them.
fn together(trainers: Vec<(usize, Trainer<Cpu>)>) -> Vec<Group<Cpu>> {
    let mut groups = Vec::<Group<Cpu>>::new();
    for (number, trainer) in trainers {
        let back = groups.iter_mut().try_fold(trainer, |trainer, group| group.join(number, trainer));
        groups.extend(back.map(|trainer| Group::of(number, trainer).unwrap()));
    }
    groups
}

fn settle(left: Vec<Left<Cpu>>, finals: &mut Finals) {
    for (number, trainer) in left {
        assert!(finals.insert(number, trainer.unwrap().save().unwrap()).is_none());
    }
}

fn offer(groups: &mut [Group<Cpu>], pieces: std::ops::Range<u64>, finals: &mut Finals) {
    for i in pieces {
        let (rows, docs, cursor) = piece(i);
        for group in groups.iter_mut().filter(|group| group.cursor().next_batch == i) {
            settle(group.offer(&rows, &docs, &cursor).unwrap(), finals);
        }
    }
}

fn checkpoints(groups: &[Group<Cpu>]) -> Finals {
    let of = |group: &Group<Cpu>| -> Vec<(usize, Files)> {
        let files = |(number, _): &(usize, _)| {
            let own = group.save(*number).unwrap().unwrap();
            (*number, own.into_iter().chain([group.save_buffer().unwrap()]).collect())
        };
        group.members().iter().map(files).collect()
    };
    groups.iter().flat_map(of).collect()
}

/// Every trainer by itself, with the buffer to itself.
fn alone() -> Finals {
    let train = |(number, settings)| {
        let mut trainer = Trainer::new(cpu(1), settings).unwrap();
        for i in 0..PIECES {
            if !trainer.done() {
                let (rows, docs, cursor) = piece(i);
                trainer.offer(&rows, &docs, &cursor).unwrap();
            }
        }
        if !trainer.done() {
            trainer.finish().unwrap();
        }
        (number, trainer.save().unwrap())
    };
    several().into_iter().enumerate().map(train).collect()
}

fn fresh() -> Vec<(usize, Trainer<Cpu>)> {
    several().into_iter().enumerate().map(|(i, s)| (i, Trainer::new(cpu(2), s).unwrap())).collect()
}

#[test]
fn each_trains_to_the_same_bytes_as_alone() {
    let mut groups = together(fresh());
    assert_eq!((groups.len(), groups[0].members().len()), (1, 6));
    let mut finals = Finals::new();
    offer(&mut groups, 0..PIECES, &mut finals);
    assert_eq!(finals.keys().copied().collect::<Vec<_>>(), [1, 4], "those with few rows are done, the others go on");
    settle(groups[0].finish(), &mut finals);
    assert!(groups[0].is_empty());
    for (number, files) in alone() {
        assert!(finals[&number] == files, "trainer {number}");
    }
    let weights = |number: usize| &finals[&number].iter().find(|(name, _)| name == "tensors.safetensors").unwrap().1;
    assert!(weights(0) != weights(3), "seeds differ");
}

#[test]
fn interrupted_groups_end_in_the_same_bytes() {
    let expected = alone();
    for cut in [0, 2, 9, 17] {
        let (mut groups, mut finals) = (together(fresh()), Finals::new());
        offer(&mut groups, 0..cut, &mut finals);
        let saved = checkpoints(&groups);
        let restored = several().into_iter().enumerate().filter(|(number, _)| saved.contains_key(number));
        let restored = restored.map(|(i, s)| (i, Trainer::restore(cpu(1), s, &saved[&i]).unwrap())).collect();
        let mut groups = together(restored);
        assert_eq!(groups.len(), 1, "cut after {cut}");
        assert!(checkpoints(&groups) == saved, "cut after {cut}: what was restored is saved again");
        offer(&mut groups, cut..PIECES, &mut finals);
        settle(groups[0].finish(), &mut finals);
        assert!(finals == expected, "cut after {cut}");
    }
}

#[test]
fn a_trainer_that_was_saved_earlier_or_never_catches_up_beside_the_others() {
    let mut groups = together(fresh());
    offer(&mut groups, 0..4, &mut Finals::new());
    let early = checkpoints(&groups);
    offer(&mut groups, 4..6, &mut Finals::new());
    let late = checkpoints(&groups);
    // 2 was killed before its newer checkpoint was whole, 3 has none
    let restored = several().into_iter().enumerate().map(|(i, s)| match i {
        3 => (i, Trainer::new(cpu(1), s).unwrap()),
        2 => (i, Trainer::restore(cpu(1), s, &early[&2]).unwrap()),
        _ => (i, Trainer::restore(cpu(1), s, &late[&i]).unwrap()),
    });
    let (mut groups, mut finals) = (together(restored.collect()), Finals::new());
    assert_eq!(groups.iter().map(|group| group.members().len()).collect::<Vec<_>>(), [4, 1, 1]);
    offer(&mut groups, 0..PIECES, &mut finals);
    groups.iter_mut().for_each(|group| settle(group.finish(), &mut finals));
    assert!(finals == alone());
}

#[test]
fn what_draws_otherwise_stays_apart() {
    let topk = || json!({"type": "topk", "width": 40, "k": 3});
    for more in [
        json!({"batch_rows": 8}),
        json!({"buffer": {"rows": 97, "reuse": 2}}),
        json!({"buffer": {"rows": 96, "reuse": 1}}),
        json!({"when_slow": "drop"}),
    ] {
        let (a, b) = (settings("a", topk(), json!({})), settings("b", topk(), more.clone()));
        let trainers = [a, b].map(|s| Trainer::new(cpu(1), s).unwrap());
        assert_eq!(together(trainers.into_iter().enumerate().collect()).len(), 2, "{more}");
    }
    let mut other = settings("b", topk(), json!({}));
    other.sites[0].0 = HookPoint::block(2, Site::ResidPost);
    let trainers = [settings("a", topk(), json!({})), other].map(|s| Trainer::new(cpu(1), s).unwrap());
    assert_eq!(together(trainers.into_iter().enumerate().collect()).len(), 2);
}

#[test]
fn one_that_fails_leaves_and_the_others_go_on() {
    let topk = |k: u32| json!({"type": "topk", "width": 40, "k": k});
    let wild = json!({"normalize": "none", "optimizer": {"type": "adam", "learning_rate": 1e38, "clip_norm": 0.0}});
    let trainers = [settings("wild", topk(3), wild), settings("calm", topk(4), json!({}))];
    let trainers = trainers.into_iter().map(|s| Trainer::new(cpu(1), s).unwrap()).enumerate().collect();
    let mut groups = together(trainers);
    let (mut failed, mut done) = (Vec::new(), Finals::new());
    for i in 0..PIECES {
        let (rows, docs, cursor) = piece(i);
        for (number, result) in groups[0].offer(&rows, &docs, &cursor).unwrap() {
            failed.push((number, result.map(|_| ()).unwrap_err().to_string()));
        }
    }
    assert!(failed.len() == 1 && failed[0].0 == 0 && failed[0].1.contains("train `wild`"), "{failed:?}");
    settle(groups[0].finish(), &mut done);
    let mut calm = Trainer::new(cpu(1), settings("calm", topk(4), json!({}))).unwrap();
    for i in 0..PIECES {
        let (rows, docs, cursor) = piece(i);
        calm.offer(&rows, &docs, &cursor).unwrap();
    }
    calm.finish().unwrap();
    assert!(done[&1] == calm.save().unwrap());
}
