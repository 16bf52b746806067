use proptest::prelude::*;

use super::*;
use crate::compute::cpu::Cpu;
use crate::compute::cpu::isa::Isa;
use crate::error::ErrorKind;
use crate::evaluation::reconstruction::ReconstructionSums;
use crate::hooks::{HookPoint, Site};
use crate::runtime::rng::Seed;
use crate::sae::export::ExportMetadata;
use crate::sae::scales::Scales;
use crate::trainer::config::Normalize;
use crate::trainer::infer::tests::has_the_directions_of_what_it_computes;

const WIDTH: usize = 8;

/// A small trainer: 8 -> 64, k 3, batches of 16 out of 64 rows; latents die after 40 rows, so the auxiliary loss works.
fn settings(rows: u64, reuse: u32) -> TrainerSettings {
    let coder = serde_json::json!({"type": "topk", "width": 64, "k": 3, "dead_after_tokens": 40});
    settings_of(coder, rows, reuse)
}

fn settings_of(coder: serde_json::Value, rows: u64, reuse: u32) -> TrainerSettings {
    settings_with(coder, serde_json::json!({"type": "adam", "learning_rate": 0.01, "warmup_steps": 5}), rows, reuse)
}

fn settings_with(coder: serde_json::Value, optimizer: serde_json::Value, rows: u64, reuse: u32) -> TrainerSettings {
    let config = serde_json::json!({
        "name": "small",
        "input": "blocks.1.hook_resid_post",
        "buffer": {"rows": 64, "reuse": reuse},
        "coder": coder,
        "optimizer": optimizer,
        "batch_rows": 16,
        "rows": rows,
        "checkpoint": {"url": "unused"},
    });
    TrainerSettings {
        config: serde_json::from_value(config).unwrap(),
        sites: vec![(HookPoint::block(1, Site::ResidPost), WIDTH)],
        seed: Seed(7),
        stream: serde_json::Value::Null,
    }
}

/// The stream's `batch`-th piece: rows around a common mean, and their documents.
fn piece(batch: u64) -> (Vec<f32>, Vec<u64>, SourceCursor) {
    let n = 5 + (batch * 7 % 30) as usize;
    let mut rng = Seed(batch).stream("rows");
    let rows = (0..n * WIDTH).map(|i| (rng.normal() + (i % WIDTH) as f64 * 0.5) as f32 * 20.0).collect();
    let docs = (0..n as u64).map(|i| batch * 3 + i / 10).collect();
    (rows, docs, SourceCursor { next_batch: batch + 1, ..SourceCursor::default() })
}

fn offer(trainer: &mut Trainer<Cpu>, batches: std::ops::Range<u64>) {
    for batch in batches {
        assert_eq!(trainer.next_batch_index(), batch);
        let (rows, docs, cursor) = piece(batch);
        trainer.offer(&rows, &docs, &cursor).unwrap();
    }
}

fn cpu(threads: usize) -> Arc<Cpu> {
    Arc::new(Cpu::new(threads).unwrap())
}

fn set_k(settings: &mut TrainerSettings, k: u32) {
    match &mut settings.config.coder {
        crate::sae::config::CoderConfig::Topk(coder) => coder.k = k,
        other => panic!("{other:?} has no k"),
    }
}

/// A change of settings.
type Change = fn(&mut TrainerSettings);

const PIECES: u64 = 40;

/// Save after `cut` pieces, restore on other threads, go on to the end.
fn interrupted(reuse: u32, cut: u64) -> Trainer<Cpu> {
    let mut first = Trainer::new(cpu(1), settings(100_000, reuse)).unwrap();
    offer(&mut first, 0..cut);
    let files = first.save().unwrap();
    let mut second = Trainer::restore(cpu(2), settings(100_000, reuse), &files).unwrap();
    assert!(second.save().unwrap() == files, "a restored trainer saves what it was restored from");
    assert_eq!(second.report(), first.report());
    offer(&mut second, cut..PIECES);
    second
}

/// Coders that select at most as many latents as are few: all their arithmetic has one order.
const ORDERED: [&str; 5] = [
    r#"{"type": "topk", "width": 64, "k": 3, "dead_after_tokens": 40}"#,
    r#"{"type": "topk", "width": 64, "k": 3, "dead_after_tokens": 40, "multi_coefficient": 0.1, "multi_k": 9}"#,
    r#"{"type": "nested_topk", "width": 64, "ks": [2, 5], "dead_after_tokens": 40}"#,
    r#"{"type": "batch_topk", "width": 200, "k": 3, "dead_after_tokens": 40}"#,
    r#"{"type": "matryoshka", "width": 200, "k": 3, "widths": [20, 60], "dead_after_tokens": 40}"#,
];

/// Coders that hold all pre-activations.
const DENSE: [&str; 3] = [
    r#"{"type": "standard", "width": 64, "l1_coefficient": 0.5, "l1_warmup_steps": 20}"#,
    r#"{"type": "gated", "width": 64, "l1_coefficient": 0.3, "decoder": "free"}"#,
    r#"{"type": "group_max", "width": 64, "k": 4, "dead_after_tokens": 40}"#,
];

#[test]
fn a_checkpoint_is_the_same_bytes_by_any_instructions_and_threads() {
    for (at, coder) in ORDERED.into_iter().chain(DENSE).enumerate() {
        let coder: serde_json::Value = serde_json::from_str(coder).unwrap();
        let mut expected = None;
        for isa in Isa::ALL.into_iter().filter(|isa| *isa <= Isa::of_machine()) {
            for threads in [1, 2] {
                let backend = Arc::new(Cpu::with_isa(threads, isa).unwrap());
                let mut trainer = Trainer::new(backend, settings_of(coder.clone(), 100_000, 2)).unwrap();
                offer(&mut trainer, 0..9);
                assert!(trainer.report().step > 5, "{coder}: {:?}", trainer.report());
                assert!(at >= ORDERED.len() || trainer.screening().rows > 0, "{coder}");
                let files = trainer.save().unwrap();
                assert!(files == *expected.get_or_insert(files.clone()), "{coder}, {isa}, {threads} threads");
            }
        }
    }
}

#[test]
fn an_interrupted_run_ends_in_the_same_bytes() {
    for reuse in [1, 3] {
        let mut whole = Trainer::new(cpu(2), settings(100_000, reuse)).unwrap();
        offer(&mut whole, 0..PIECES);
        let expected = whole.save().unwrap();
        let report = whole.report();
        assert!(report.auxiliary_loss > 0.0 && report.dead_fraction > 0.0, "the auxiliary loss must work: {report:?}");
        whole.finish().unwrap();
        let expected_end = whole.save().unwrap();
        // 2: before the buffer is full for the first time
        for cut in [0, 2, 7, 8, 23, PIECES] {
            let mut other = interrupted(reuse, cut);
            assert!(other.save().unwrap() == expected, "reuse {reuse}, cut after {cut}");
            other.finish().unwrap();
            assert!(other.save().unwrap() == expected_end, "reuse {reuse}, cut after {cut}, finished");
            assert_eq!(other.report(), whole.report());
        }
    }
}

#[test]
fn every_optimizer_resumes_to_the_same_bytes_and_exports_what_it_judges() {
    for optimizer in [
        serde_json::json!({"type": "adam", "learning_rate": 0.01, "weight_decay": 0.1, "average": 0.9,
            "decay_shape": "cosine"}),
        serde_json::json!({"type": "signum", "learning_rate": 0.003, "warmup_steps": 5}),
        serde_json::json!({"type": "muon", "learning_rate": 0.01, "warmup_steps": 5}),
        serde_json::json!({"type": "muon", "learning_rate": 0.01, "warmup_steps": 5, "average": 0.9}),
    ] {
        let coder = serde_json::json!({"type": "topk", "width": 64, "k": 3, "dead_after_tokens": 40});
        let settings = || settings_with(coder.clone(), optimizer.clone(), 100_000, 2);
        let mut whole = Trainer::new(cpu(2), settings()).unwrap();
        offer(&mut whole, 0..6);
        let early = whole.report();
        offer(&mut whole, 6..PIECES);
        assert!(whole.report().fvu < 0.8 * early.fvu, "{optimizer}: {} -> {}", early.fvu, whole.report().fvu);
        let mut first = Trainer::new(cpu(1), settings()).unwrap();
        offer(&mut first, 0..17);
        let files = first.save().unwrap();
        let mut second = Trainer::restore(cpu(2), settings(), &files).unwrap();
        assert!(second.save().unwrap() == files, "{optimizer}: a restored trainer saves what it was restored from");
        offer(&mut second, 17..PIECES);
        assert!(second.save().unwrap() == whole.save().unwrap(), "{optimizer}");

        let (rows, _, _) = piece(3);
        let (mut ours, mut theirs, mut l0) = (Vec::new(), Vec::new(), Vec::new());
        whole.reconstruct(&rows, &mut ours, &mut l0, &mut [0; 64]).unwrap();
        let backend = Cpu::new(1).unwrap();
        let exported = ExportedCoder::read(&whole.export(ExportMetadata::default()).unwrap()).unwrap();
        let params = exported.upload(&backend);
        let inference = exported.inference(&backend, &params);
        inference.reconstruct(&backend, &Scales::one(WIDTH, 1.0), &rows, &mut theirs, &mut l0, &mut [0; 64]);
        assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-3 * a.abs().max(1.0)), "{optimizer}");
        let own = &whole.training.as_ref().unwrap().coder.params.w_dec;
        let averages = optimizer["type"] != "muon" || optimizer.get("average").is_some();
        let training = whole.training.as_ref().unwrap();
        training.judged(&backend, |_, params| assert_eq!(params.w_dec != *own, averages, "{optimizer}"));
    }
}

#[test]
fn rows_that_are_scaled_each_by_itself_come_back_in_their_own_scale() {
    for normalize in [Normalize::RowNorm, Normalize::LayerNorm] {
        let mut settings = settings(100_000, 1);
        settings.config.normalize = normalize;
        let mut trainer = Trainer::new(cpu(1), settings).unwrap();
        offer(&mut trainer, 0..PIECES);
        let (mut rows, _, _) = piece(3);
        rows.iter_mut().for_each(|x| *x = *x * 100.0 + 7.0);
        let (mut ours, mut l0) = (Vec::new(), Vec::new());
        trainer.reconstruct(&rows, &mut ours, &mut l0, &mut [0; 64]).unwrap();
        let mut sums = ReconstructionSums::new(WIDTH);
        sums.add(&rows, &ours);
        assert!(sums.finish().unwrap().fvu < 0.9, "{normalize:?}: {:?}", sums.finish());
        let exported = ExportedCoder::read(&trainer.export(ExportMetadata::default()).unwrap()).unwrap();
        let backend = Cpu::new(1).unwrap();
        let (params, mut theirs) = (exported.upload(&backend), Vec::new());
        exported.inference(&backend, &params).reconstruct(
            &backend,
            &Scales::one(WIDTH, 1.0),
            &rows,
            &mut theirs,
            &mut l0,
            &mut [0; 64],
        );
        assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-4 * a.abs().max(100.0)), "{normalize:?}");
    }
}

#[test]
fn every_coder_resumes_to_the_same_bytes() {
    for coder in [
        serde_json::json!({"type": "topk", "width": 64, "k": 3, "dead_after_tokens": 40, "decoder": "ranked"}),
        serde_json::json!({"type": "batch_topk", "width": 64, "k": 3, "dead_after_tokens": 40,
            "aux": {"form": "bussmann", "relu": false}}),
        serde_json::json!({"type": "matryoshka", "width": 64, "k": 3, "widths": [8, 24], "dead_after_tokens": 40}),
        serde_json::json!({"type": "standard", "width": 64, "l1_coefficient": 0.5, "l1_warmup_steps": 20}),
        serde_json::json!({"type": "jumprelu", "width": 64, "l0_coefficient": 0.1, "pre_act_coefficient": 0.1,
            "dead_after_tokens": 40, "l0_warmup_steps": 20}),
        serde_json::json!({"type": "standard", "width": 64, "l1_coefficient": 3, "form": "bricken",
            "l1_warmup_steps": 2, "dead_after_tokens": 40, "resample_every_steps": 5}),
        serde_json::json!({"type": "batch_topk", "width": 64, "k": 3, "k_start": 20, "k_anneal_steps": 30}),
        serde_json::json!({"type": "gated", "width": 64, "l1_coefficient": 0.3, "decoder": "free"}),
        serde_json::json!({"type": "p_anneal", "width": 64, "base": "gated", "sparsity_coefficient": 0.5,
            "sparsity_warmup_steps": 5, "anneal_start_step": 8, "anneal_end_step": 40}),
        serde_json::json!({"type": "jumprelu", "width": 64, "l0_coefficient": 0.1, "encoder_gradient": true}),
        serde_json::json!({"type": "feature_choice", "width": 64, "k": 8, "budget": "zipf", "rank_every_steps": 5,
            "threshold_rate": 0.2, "aux_zipf": 0.5, "dead_after_tokens": 40}),
        serde_json::json!({"type": "top_afa", "width": 64, "afa_coefficient": 0.1, "dead_after_tokens": 40}),
        serde_json::json!({"type": "group_max", "width": 64, "k": 4, "dead_after_tokens": 40}),
        serde_json::json!({"type": "nested_topk", "width": 64, "ks": [2, 5], "dead_after_tokens": 40}),
        serde_json::json!({"type": "topk", "width": 64, "k": 3, "dead_after_tokens": 40, "decoder": "normalized"}),
        serde_json::json!({"type": "k_sparse", "width": 64, "k": 3, "k_start": 20, "k_anneal_steps": 30}),
        serde_json::json!({"type": "standard", "width": 64, "l1_coefficient": 5, "dead_after_tokens": 40,
            "ghost_gradients": true}),
        serde_json::json!({"type": "gba", "width": 64, "groups": 4, "adapt_every": 7, "dead_after_tokens": 40}),
        serde_json::json!({"type": "bilinear", "width": 64}),
        serde_json::json!({"type": "matching_pursuit", "width": 64, "k": 3}),
        serde_json::json!({"type": "kron", "width": 64, "k": 3, "dead_after_tokens": 40}),
        serde_json::json!({"type": "switch", "width": 64, "experts": 4, "k": 3}),
        serde_json::json!({"type": "archetypal", "width": 64, "k": 3, "points": 20, "dead_after_tokens": 40}),
        serde_json::json!({"type": "p_anneal", "width": 64, "sparsity_coefficient": 0.5, "sparsity_warmup_steps": 5,
            "anneal_start_step": 8, "anneal_end_step": 40}),
    ] {
        let settings = || settings_of(coder.clone(), 100_000, 2);
        let mut whole = Trainer::new(cpu(2), settings()).unwrap();
        offer(&mut whole, 0..PIECES);
        let mut first = Trainer::new(cpu(1), settings()).unwrap();
        offer(&mut first, 0..17);
        assert!(first.report().step > 10 && first.report().l0 > 0.0, "{coder}: {:?}", first.report());
        let files = first.save().unwrap();
        let mut second = Trainer::restore(cpu(2), settings(), &files).unwrap();
        assert!(second.save().unwrap() == files, "{coder}: a restored trainer saves what it was restored from");
        offer(&mut second, 17..PIECES);
        assert!(second.save().unwrap() == whole.save().unwrap(), "{coder}");
        assert_eq!(second.report(), whole.report());
        if coder["type"] == "bilinear" {
            assert!(whole.dictionary().is_none());
            continue;
        }
        let linear = ["topk", "k_sparse", "batch_topk"].iter().any(|kind| coder["type"] == *kind);
        has_the_directions_of_what_it_computes(&whole, &piece(500).0, linear, &coder.to_string());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn the_sizes_of_offers_do_not_matter(sizes in prop::collection::vec(1usize..90, 40)) {
        let (mut rows, mut docs) = (Vec::new(), Vec::new());
        for batch in 0..20 {
            let (r, d, _) = piece(batch);
            rows.extend(r);
            docs.extend(d);
        }
        let cursor = SourceCursor::default();
        let mut whole = Trainer::new(cpu(1), settings(100_000, 2)).unwrap();
        whole.offer(&rows, &docs, &cursor).unwrap();
        let mut parts = Trainer::new(cpu(1), settings(100_000, 2)).unwrap();
        let mut at = 0;
        for size in sizes.into_iter().chain([docs.len()]) {
            let end = docs.len().min(at + size);
            parts.offer(&rows[at * WIDTH..end * WIDTH], &docs[at..end], &cursor).unwrap();
            at = end;
        }
        prop_assert!(whole.save().unwrap() == parts.save().unwrap());
    }
}

#[test]
fn every_row_is_trained_on_or_counted() {
    for reuse in [1u64, 3] {
        let mut trainer = Trainer::new(cpu(1), settings(100_000, reuse as u32)).unwrap();
        offer(&mut trainer, 0..PIECES);
        let offered: u64 = (0..PIECES).map(|batch| piece(batch).1.len() as u64).sum();
        trainer.finish().unwrap();
        let tail = trainer.dropped().get(DropReason::BufferTail);
        let trained = trainer.report().rows;
        assert!(tail < 16, "{tail} rows left");
        assert!(trained <= offered * reuse && trained + tail * reuse >= offered * reuse, "{trained} of {offered}");
        assert_eq!(trained % 16, 0);
        assert_eq!(trainer.report().rows_buffered, 0);
        trainer.finish().unwrap();
        assert_eq!(trainer.dropped().get(DropReason::BufferTail), tail, "counted once");
    }
}

#[test]
fn a_trainer_stops_at_its_number_of_rows() {
    let mut trainer = Trainer::new(cpu(1), settings(100, 1)).unwrap();
    offer(&mut trainer, 0..PIECES);
    assert!(trainer.done());
    let report = trainer.report();
    assert_eq!((report.rows, report.step), (112, 7), "the first whole batch at or after 100 rows");
    assert_eq!(trainer.next_batch_index(), PIECES);
    // more rows may be asked for later
    let files = trainer.save().unwrap();
    let more = Trainer::restore(cpu(1), settings(200, 1), &files).unwrap();
    assert!(!more.done());
}

#[test]
fn a_short_corpus_trains_at_the_end() {
    let mut trainer = Trainer::new(cpu(1), settings(1000, 1)).unwrap();
    let (rows, docs, cursor) = piece(4);
    assert_eq!(docs.len(), 33);
    trainer.offer(&rows, &docs, &cursor).unwrap();
    let error = trainer.export(ExportMetadata::default()).unwrap_err();
    assert!(error.kind() == ErrorKind::Data && error.to_string().contains("33 rows"), "{error}");
    trainer.finish().unwrap();
    assert_eq!(trainer.report().rows, 32);
    assert_eq!(trainer.dropped().get(DropReason::BufferTail), 1);
    trainer.export(ExportMetadata::default()).unwrap();
}

#[test]
fn training_explains_more_and_exports_reconstruct_the_same() {
    let mut trainer = Trainer::new(cpu(1), settings(100_000, 1)).unwrap();
    // rows on a few directions, far from the origin
    let mut rng = Seed(1).stream("directions");
    let directions: Vec<f32> = (0..6 * WIDTH).map(|_| rng.normal() as f32).collect();
    let rows: Vec<f32> = (0..6000)
        .flat_map(|i| {
            let (a, b) = (i % 6, (i * 7 + 2) % 6);
            let (x, y) = (rng.uniform() as f32, rng.uniform() as f32);
            (0..WIDTH).map(|p| 5.0 + x * directions[a * WIDTH + p] + y * directions[b * WIDTH + p]).collect::<Vec<_>>()
        })
        .collect();
    let docs = vec![0; 6000];
    trainer.offer(&rows[..80 * WIDTH], &docs[..80], &SourceCursor::default()).unwrap();
    let early = trainer.report();
    trainer.offer(&rows[80 * WIDTH..], &docs[80..], &SourceCursor::default()).unwrap();
    let late = trainer.report();
    assert!(late.fvu < 0.3 * early.fvu && late.fvu < 0.1, "FVU {} -> {}", early.fvu, late.fvu);

    let rows = &rows[..100 * WIDTH];
    let (mut out, mut l0, mut fired) = (Vec::new(), Vec::new(), vec![0; trainer.n_latents()]);
    trainer.reconstruct(rows, &mut out, &mut l0, &mut fired).unwrap();
    let mut sums = ReconstructionSums::new(WIDTH);
    sums.add(rows, &out);
    let found = sums.finish().unwrap();
    assert!(found.fvu < 0.15, "raw FVU {}", found.fvu);
    assert_eq!(fired.iter().sum::<u64>(), l0.iter().map(|&n| u64::from(n)).sum::<u64>());

    let files = trainer.export(ExportMetadata::default()).unwrap();
    let backend = Cpu::new(1).unwrap();
    let exported = ExportedCoder::read(&files).unwrap();
    assert_eq!(exported.metadata["hook_name"], "blocks.1.hook_resid_post");
    assert!(exported.metadata["hook_head_index"].is_null());
    let (mut folded, mut folded_l0, mut folded_fired) = (Vec::new(), Vec::new(), vec![0; fired.len()]);
    let params = exported.upload(&backend);
    exported.inference(&backend, &params).reconstruct(
        &backend,
        &Scales::one(WIDTH, 1.0),
        rows,
        &mut folded,
        &mut folded_l0,
        &mut folded_fired,
    );
    assert!(
        out.iter().zip(&folded).all(|(a, b)| (a - b).abs() < 1e-4 * a.abs().max(1.0)),
        "folding changed the output"
    );
}

#[test]
fn another_configuration_is_refused_by_name() {
    let trainer = Trainer::new(cpu(1), settings(100, 1)).unwrap();
    let files = trainer.save().unwrap();
    let restore = |change: Change| {
        let mut settings = settings(100, 1);
        change(&mut settings);
        Trainer::restore(cpu(1), settings, &files).map(|_| ())
    };
    restore(|s| s.config.rows.0 = 777).unwrap();
    restore(|s| s.config.checkpoint.url = "elsewhere".into()).unwrap();
    for (key, change) in [
        ("trainer.normalize", (|s| s.config.normalize = Normalize::None) as Change),
        ("trainer.buffer.reuse", |s| s.config.buffer.reuse = 2),
        ("trainer.batch_rows", |s| s.config.batch_rows = 8),
        ("seed", |s| s.seed = Seed(8)),
        ("sites", |s| s.sites[0].0 = HookPoint::block(2, Site::ResidPost)),
        ("trainer.coder.k", |s| {
            set_k(s, 4);
        }),
    ] {
        let error = restore(change).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(&format!("`{key}` = ")), "{key}: {error}");
    }
}

#[test]
fn damaged_checkpoints_are_data_errors() {
    let mut trainer = Trainer::new(cpu(1), settings(100_000, 2)).unwrap();
    offer(&mut trainer, 0..10);
    let files = trainer.save().unwrap();
    for missing in 0..files.len() {
        let mut files = files.clone();
        let (name, _) = files.remove(missing);
        let error = Trainer::restore(cpu(1), settings(100_000, 2), &files).map(|_| ()).unwrap_err();
        assert!(error.kind() == ErrorKind::Data && error.to_string().contains(&name), "{error}");
    }
    for cut in 0..files.len() {
        let mut files = files.clone();
        let half = files[cut].1.len() / 2;
        files[cut].1.truncate(half);
        assert!(Trainer::restore(cpu(1), settings(100_000, 2), &files).is_err());
    }
}

#[test]
fn steps_that_are_not_finite_are_skipped_and_end_the_trainer_when_they_persist() {
    let mut settings = settings(100_000, 1);
    settings.config.normalize = Normalize::None;
    let mut trainer = Trainer::new(cpu(1), settings).unwrap();
    offer(&mut trainer, 0..10);
    let before = trainer.report();
    let poisoned = |rows: usize| (vec![f32::NAN; rows * WIDTH], vec![0; rows]);
    let (rows, docs) = poisoned(1);
    let cursor = trainer.cursor().clone();
    trainer.offer(&rows, &docs, &cursor).unwrap();
    offer(&mut trainer, 10..40);
    let after = trainer.report();
    assert_eq!(after.skipped_steps, 1, "one poisoned row is in one batch");
    assert!(after.step > before.step && after.loss.is_finite());
    let files = trainer.save().unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&files[1].1).unwrap();
    let bytes = tensors.tensor("w_enc").unwrap().data().to_vec();
    assert!(bytes.chunks(4).all(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite()));

    let (rows, docs) = poisoned(1000);
    let error = trainer.offer(&rows, &docs, &cursor).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("train `small` on blocks.1.hook_resid_post"), "{error}");
}

#[test]
fn impossible_settings_are_named() {
    for (key, change) in [
        ("`buffer.rows` is 10", (|s| s.config.buffer.rows.0 = 10) as Change),
        ("`buffer.reuse` is 0", |s| s.config.buffer.reuse = 0),
        ("`batch_rows` is 0", |s| s.config.batch_rows = 0),
        ("`coder.k` is 65", |s| {
            set_k(s, 65);
        }),
    ] {
        let mut settings = settings(100, 1);
        change(&mut settings);
        let error = Trainer::new(cpu(1), settings).map(|_| ()).unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains(key), "{key}: {error}");
    }
}
