//! The reader against what was written, in every order, from every position.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::activation::ActivationBatch;
use crate::catalog::Catalog;
use crate::catalog::columns::View;
use crate::corpus::cursor::SourceCursor;
use crate::dataset::config::{CompressionConfig, Layout, StoredDtype};
use crate::dataset::schema::ShardSpec;
use crate::error::ErrorKind;
use crate::runtime::rng::Seed;
use crate::sink::{ParquetSink, SinkOptions};
use crate::store::{Location, objects};
use crate::testing::datasets::{header, small_spec, units};
use crate::tokens::config::TokensConfig;
use crate::tokens::schedule::Schedule;
use crate::units::{ByteSize, Count, Percent};

const LENGTHS: [&[u32]; 5] = [&[17, 9, 30, 12, 0, 28, 40], &[40, 1, 39, 2], &[], &[0, 0, 3], &[60, 60, 1]];
/// Sequences in a batch of the run, and units that it has open.
const SEQUENCES: u32 = 2;
const INTERLEAVE: u32 = 2;
const SEED: Seed = Seed(11);

/// The batches of a run in its order, stored in a dataset called `name`.
async fn store(name: &str, spec: &ShardSpec, lengths: &[&[u32]]) -> (Catalog, Vec<ActivationBatch>) {
    store_changed(name, spec, lengths, |_| ()).await
}

/// As [`store`], with batches that were changed.
async fn store_changed(
    name: &str,
    spec: &ShardSpec,
    lengths: &[&[u32]],
    change: impl Fn(&mut ActivationBatch),
) -> (Catalog, Vec<ActivationBatch>) {
    let units = units(spec, lengths);
    let by_unit: Vec<Vec<ActivationBatch>> = units.iter().map(|unit| unit.batches(&[SEQUENCES as usize])).collect();
    let start = SourceCursor::default();
    let mut schedule = Schedule::new(units.len() as u32, INTERLEAVE, SEED, start).unwrap();
    let mut batches = Vec::new();
    while let Some(turn) = schedule.turn() {
        let mut batch = by_unit[turn.unit as usize][turn.batch_in_unit as usize].clone();
        schedule.advance(batch.ends_unit);
        (batch.index, batch.cursor_after) = (turn.index, schedule.cursor().clone());
        change(&mut batch);
        batches.push(batch);
    }
    let location = Location::open(&format!("memory://replay-{name}")).unwrap();
    let policy = TokensConfig {
        context_length: 64,
        batch_tokens: 64 * SEQUENCES,
        interleave: INTERLEAVE,
        ..TokensConfig::default()
    };
    let mut header = header(spec, units.len() as u32);
    header.tokens = serde_json::json!({"seed": SEED, "policy": policy});
    let catalog = Catalog::create_or_open(location, header).await.unwrap();
    let progress = catalog.progress().await.unwrap();
    let mut sink =
        ParquetSink::with_options(catalog.clone(), spec.clone(), progress, SinkOptions::default()).await.unwrap();
    for batch in &batches {
        sink.write(batch).await.unwrap();
    }
    sink.finish().await.unwrap();
    (catalog, batches)
}

fn spec() -> ShardSpec {
    small_spec(StoredDtype::Float32, Layout::Typed, CompressionConfig::None)
}

fn config() -> ReplayConfig {
    ReplayConfig { batch_rows: 13, shuffle_rows: Count(50), open_shards: 3, ..ReplayConfig::of("memory://x") }
}

fn names(spec: &ShardSpec) -> Vec<String> {
    spec.sites.iter().map(|site| site.point.to_string()).collect()
}

async fn view(catalog: &Catalog) -> View {
    View::of(catalog.clone()).await.unwrap()
}

async fn reader(catalog: &Catalog, names: &[String], config: &ReplayConfig, start: &SourceCursor) -> Reader {
    Reader::new(Source::open(&view(catalog).await, names).await.unwrap(), config, Seed(5), start).unwrap()
}

/// Everything that `reader` gives.
async fn read_all(mut reader: Reader) -> Vec<Arc<ActivationBatch>> {
    let mut batches = Vec::new();
    while let Some(batch) = reader.next().await.unwrap() {
        batches.push(Arc::new(batch));
    }
    batches
}

type Place = (u32, u32, u32, u64);

/// What each row is, with a value of it, in the order of the batches.
fn rows<'a>(batches: impl IntoIterator<Item = &'a ActivationBatch>) -> Vec<Place> {
    let of = |batch: &'a ActivationBatch| {
        (0..batch.n_rows()).map(move |i| {
            let site = &batch.sites[0];
            let value =
                site.data[i * site.width..][..site.width].iter().fold(0u64, |h, x| h * 31 + u64::from(x.to_bits()));
            (batch.seq[i], batch.pos[i], batch.token_id[i], value ^ batch.doc_id[i])
        })
    };
    batches.into_iter().flat_map(of).collect()
}

fn deref(batches: &[Arc<ActivationBatch>]) -> impl Iterator<Item = &ActivationBatch> {
    batches.iter().map(AsRef::as_ref)
}

#[tokio::test]
async fn the_stream_is_that_of_the_run() {
    let spec = spec();
    let (catalog, written) = store("stream", &spec, &LENGTHS).await;
    for prefetch in [0, 1 << 20] {
        let config = ReplayConfig { prefetch: ByteSize(prefetch), checksums: true, ..config() };
        let found = read_all(reader(&catalog, &names(&spec), &config, &SourceCursor::default()).await).await;
        assert_eq!(found.len(), written.len());
        let written_batches = written.len() as u64;
        for (found, written) in found.iter().zip(&written) {
            assert_eq!(
                (found.index, found.unit, found.batch_in_unit),
                (written.index, written.unit, written.batch_in_unit)
            );
            assert_eq!((found.first_seq, &found.seq_starts), (written.first_seq, &written.seq_starts));
            assert_eq!((&found.seq, &found.pos, &found.doc_id), (&written.seq, &written.pos, &written.doc_id));
            assert_eq!((&found.token_id, found.ends_unit), (&written.token_id, written.ends_unit));
            for (found, written) in found.sites.iter().zip(&written.sites) {
                assert_eq!((found.point, &found.data), (written.point, &written.data));
            }
            if found.index + 1 < written_batches {
                assert_eq!(found.cursor_after, written.cursor_after);
            }
        }
    }
}

#[tokio::test]
async fn every_position_continues_exactly_in_every_order() {
    let spec = spec();
    let (catalog, written) = store("positions", &spec, &LENGTHS).await;
    let sites = &names(&spec)[..1];
    let all = rows(&written).into_iter().collect::<BTreeSet<_>>();
    for order in [Order::Stream, Order::Shuffled] {
        for holdout in [0.0, 0.3] {
            let config = ReplayConfig { order, epochs: 3, holdout: Percent::from_share(holdout), ..config() };
            let whole = read_all(reader(&catalog, sites, &config, &SourceCursor::default()).await).await;
            let once = whole.len() / 3;
            for epoch in whole.chunks(once) {
                let taken = rows(deref(epoch)).into_iter().collect::<BTreeSet<_>>();
                let counted: u64 = epoch
                    .iter()
                    .map(|b| {
                        b.dropped
                            .iter()
                            .chain([&b.dropped_at_end])
                            .map(|d| d.get(crate::accounting::DropReason::HeldOutRow))
                            .sum::<u64>()
                    })
                    .sum();
                assert_eq!(taken.len() as u64 + counted, all.len() as u64, "each row once an epoch, or counted");
                assert!(taken.is_subset(&all) && (holdout == 0.0) == (taken == all));
            }
            for stop in 0..whole.len() {
                let position = serde_json::to_vec(&whole[stop].cursor_after).unwrap();
                assert!(position.len() < 400);
                let position: SourceCursor = serde_json::from_slice(&position).unwrap();
                let rest = read_all(reader(&catalog, sites, &config, &position).await).await;
                assert_eq!(rest.len(), whole.len() - stop - 1, "{order:?} after {stop}");
                assert!(rows(deref(&rest)) == rows(deref(&whole[stop + 1..])), "{order:?} after {stop}");
                assert!(
                    rest.iter()
                        .zip(&whole[stop + 1..])
                        .all(|(a, b)| a.index == b.index && a.cursor_after == b.cursor_after)
                );
            }
        }
    }
}

#[tokio::test]
async fn shuffled_epochs_differ_and_mix() {
    let spec = spec();
    let (catalog, _) = store("mix", &spec, &LENGTHS).await;
    let config = ReplayConfig { order: Order::Shuffled, epochs: 2, shuffle_rows: Count(200), ..config() };
    let found = read_all(reader(&catalog, &names(&spec), &config, &SourceCursor::default()).await).await;
    let (first, second) = found.split_at(found.len() / 2);
    assert_ne!(rows(deref(first)), rows(deref(second)));
    let documents = first.iter().map(|b| b.doc_id.iter().collect::<BTreeSet<_>>().len()).max().unwrap();
    assert!(documents >= 5, "{documents} documents in a batch of 13");
    let again = read_all(reader(&catalog, &names(&spec), &config, &SourceCursor::default()).await).await;
    assert!(rows(deref(&found)) == rows(deref(&again)));
}

#[tokio::test]
async fn held_out_rows_are_the_others() {
    let spec = spec();
    let (catalog, written) = store("held-out", &spec, &LENGTHS).await;
    let config = ReplayConfig { holdout: Percent::from_share(0.3), ..config() };
    let train = read_all(reader(&catalog, &names(&spec), &config, &SourceCursor::default()).await).await;
    let source = Source::open(&view(&catalog).await, &names(&spec)).await.unwrap();
    let held = read_all(Reader::held_out(source, &config).unwrap()).await;
    let mut both = rows(deref(&train).chain(deref(&held)));
    let mut all = rows(&written);
    both.sort();
    all.sort();
    assert!(both == all);
    assert!(!rows(deref(&held)).is_empty());
}

#[tokio::test]
async fn rows_that_are_not_finite_are_left_out_and_counted() {
    let spec = spec();
    // at one site or the other
    let is_bad = |batch: &ActivationBatch, i: usize| (batch.seq[i] * 31 + batch.pos[i]) % 7 == 3;
    let (catalog, written) = store_changed("not-finite", &spec, &LENGTHS, |batch| {
        for i in (0..batch.n_rows()).filter(|&i| is_bad(batch, i)).collect::<Vec<_>>() {
            let site = &mut batch.sites[i % 2];
            site.data[(i + 1) * site.width - 1] = if i % 3 == 0 { f32::NAN } else { f32::NEG_INFINITY };
        }
    })
    .await;
    let is_held = |batch: &ActivationBatch, i: usize| crate::corpus::is_holdout(batch.doc_id[i], 0.3);
    let count = |of: &dyn Fn(&ActivationBatch, usize) -> bool| -> u64 {
        written.iter().map(|batch| (0..batch.n_rows()).filter(|&i| of(batch, i)).count() as u64).sum()
    };
    let (bad, held) = (count(&is_bad), count(&|b, i| is_held(b, i) && !is_bad(b, i)));
    let rest = count(&|b, i| !is_held(b, i) && !is_bad(b, i));
    assert!(bad > 10 && held > 10 && rest > 10);
    for order in [Order::Stream, Order::Shuffled] {
        let config = ReplayConfig { order, holdout: Percent::from_share(0.3), ..config() };
        let found = read_all(reader(&catalog, &names(&spec), &config, &SourceCursor::default()).await).await;
        let mut dropped = crate::accounting::DropCounts::new();
        found.iter().for_each(|b| b.dropped.iter().chain([&b.dropped_at_end]).for_each(|d| dropped.merge(d)));
        assert_eq!(dropped.get(crate::accounting::DropReason::NonFinite), bad, "{order:?}");
        assert_eq!(dropped.get(crate::accounting::DropReason::HeldOutRow), held, "{order:?}");
        assert_eq!(rows(deref(&found)).len() as u64, rest, "{order:?}");
        assert!(found.iter().all(|batch| batch.sites.iter().all(|site| site.data.iter().all(|x| x.is_finite()))));
    }
    let source = Source::open(&view(&catalog).await, &names(&spec)).await.unwrap();
    let config = ReplayConfig { holdout: Percent::from_share(0.3), ..config() };
    let evaluated = read_all(Reader::held_out(source.clone(), &config).unwrap()).await;
    assert_eq!(rows(deref(&evaluated)).len() as u64, held);
    // an export has every row
    let all = read_all(Reader::as_stored(source, 100).unwrap()).await;
    assert_eq!(rows(deref(&all)).len() as u64, rest + held + bad);
}

#[tokio::test]
async fn a_dataset_that_grows_is_read_as_far_as_it_is_committed() {
    let spec = spec();
    let (catalog, written) = store("grows", &spec, &LENGTHS).await;
    let commits = catalog.commits().await.unwrap();
    let last_of_0 = commits.iter().rfind(|c| c.unit == 0).unwrap();
    let first_of_4 = commits.iter().find(|c| c.unit == 4).unwrap();
    for commit in [last_of_0, first_of_4] {
        let name = crate::dataset::paths::commit(commit.unit, commit.part);
        objects::delete(&catalog.location().child(&name)).await.unwrap();
    }
    // what is left of unit 4 begins in its middle: that is damage, not growth
    let error = Source::open(&view(&catalog).await, &names(&spec)).await.unwrap_err();
    assert!(error.to_string().contains("unit 4"), "{error}");
    for commit in commits.iter().filter(|c| c.unit == 4) {
        let name = crate::dataset::paths::commit(commit.unit, commit.part);
        objects::delete(&catalog.location().child(&name)).await.unwrap();
    }
    let found = read_all(reader(&catalog, &names(&spec), &config(), &SourceCursor::default()).await).await;
    let gone = |batch: &ActivationBatch, i: usize| {
        batch.unit == 4 || (batch.unit == 0 && batch.seq[i] >= last_of_0.sequences[0])
    };
    let expected: usize = written.iter().map(|b| (0..b.n_rows()).filter(|&i| !gone(b, i)).count()).sum();
    assert_eq!(rows(deref(&found)).len(), expected);
    assert!(expected > 50 && rows(deref(&found)).into_iter().all(|row| rows(&written).contains(&row)));
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let spec = spec();
    let (catalog, _) = store("wrong", &spec, &LENGTHS).await;
    let error = Source::open(&view(&catalog).await, &["blocks.9.hook_mlp_out".to_owned()]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("it has blocks.1.hook_resid_post, blocks.0.hook_mlp_out"), "{error}");

    let commit = catalog.commits().await.unwrap().remove(0);
    let shard = catalog.location().child(&commit.object);
    let whole = objects::read(&shard).await.unwrap().unwrap();
    let complaint = |bytes: Option<Vec<u8>>, checksums: bool| {
        let (catalog, shard, spec) = (catalog.clone(), shard.clone(), spec.clone());
        async move {
            match bytes {
                Some(bytes) => objects::replace(&shard, bytes.into()).await.unwrap(),
                None => objects::delete(&shard).await.unwrap(),
            }
            let config = ReplayConfig { checksums, ..config() };
            let mut reader = reader(&catalog, &names(&spec), &config, &SourceCursor::default()).await;
            loop {
                match reader.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return "nothing".to_owned(),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
                        return error.to_string();
                    }
                }
            }
        }
    };
    let mut flipped = whole.to_vec();
    flipped[whole.len() / 2] ^= 1;
    assert!(complaint(Some(flipped), true).await.contains("checksum"));
    assert!(complaint(Some(whole[..whole.len() - 9].to_vec()), false).await.contains("bytes, and its commit says"));
    let text = complaint(None, false).await;
    assert!(text.contains("is missing") && text.contains(&commit.object), "{text}");
    assert_eq!(complaint(Some(whole.to_vec()), true).await, "nothing");
    let fewer = crate::dataset::commit::Commit { rows: commit.rows - 1, ..commit.clone() };
    let name = crate::dataset::paths::commit(commit.unit, commit.part);
    objects::replace(&catalog.location().child(&name), fewer.to_json().into()).await.unwrap();
    assert!(complaint(Some(whole.to_vec()), false).await.contains("rows, and its commit says"));
}

#[tokio::test]
async fn positions_of_other_orders_are_refused() {
    let spec = spec();
    let (catalog, written) = store("other", &spec, &LENGTHS).await;
    let source = || async { Source::open(&view(&catalog).await, &names(&spec)).await.unwrap() };
    let shuffled = ReplayConfig { order: Order::Shuffled, ..config() };
    let refused =
        |source, config: &ReplayConfig, start: &SourceCursor| Reader::new(source, config, Seed(5), start).is_err();
    assert!(refused(source().await, &shuffled, &written[1].cursor_after));
    let mut beyond = written[1].cursor_after.clone();
    beyond.open[0].next_batch = 99;
    assert!(refused(source().await, &config(), &beyond));
    beyond.open[0].unit = 99;
    assert!(refused(source().await, &config(), &beyond));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_units_come_back_in_the_order_of_the_run(
        lengths in prop::collection::vec(prop::collection::vec(0u32..50, 0..8), 1..7), prefetch in 0u64..4000, id: u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let spec = spec();
            let lengths: Vec<&[u32]> = lengths.iter().map(Vec::as_slice).collect();
            let (catalog, written) = store(&format!("any-{id}"), &spec, &lengths).await;
            let config = ReplayConfig { prefetch: ByteSize(prefetch), ..config() };
            let found = read_all(reader(&catalog, &names(&spec), &config, &SourceCursor::default()).await).await;
            assert_eq!(rows(deref(&found)), rows(written.iter().filter(|b| !b.sites.is_empty())));
        });
    }
}
