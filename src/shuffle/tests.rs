//! The shuffle against the naive one: everything in memory, sorted.

use std::collections::BTreeMap;

use crate::catalog::columns::View;
use crate::catalog::verify::verify;
use crate::dataset::config::{CompressionConfig, Layout, StoredDtype};
use crate::dataset::decoder::decode_all;
use crate::dataset::places::RowOrder;
use crate::dataset::schema::ShardSpec;
use crate::error::ErrorKind;
use crate::replay::Source;
use crate::sink::SinkOptions;
use crate::store::Location;
use crate::testing::datasets::{interleaved, small_spec, units, write};

use super::*;

const LENGTHS: [&[u32]; 5] = [&[17, 9, 30, 12, 0, 28, 40], &[40, 1, 39, 2], &[], &[0, 0, 3], &[60, 60, 1]];

/// (hash, unit, seq, pos) and everything else of a row.
type Row = ((u64, u32, u32, u32), u64, u32, Vec<u32>);

async fn source(place: &Location) -> Source {
    let view = View::open(place.clone()).await.unwrap();
    let names: Vec<String> = view.sites().iter().map(|site| site.site.name.clone()).collect();
    Source::open(&view, &names).await.unwrap()
}

async fn store(name: &str, spec: &ShardSpec) -> Location {
    let place = Location::open(&format!("memory://shuffle-{name}/src")).unwrap();
    let batches = interleaved(&units(spec, &LENGTHS), &[2]);
    write(&place, spec, LENGTHS.len() as u32, &batches, SinkOptions::default()).await.unwrap();
    place
}

async fn shuffled(name: &str, from: &Location, options: ShuffleOptions) -> Result<(Location, Totals)> {
    let to = Location::open(&format!("memory://shuffle-{name}/{}", options.workers)).unwrap();
    let totals = shuffle(source(from).await, to.clone(), options, &ShuffleProgress::default()).await?;
    Ok((to, totals))
}

/// All rows in the order of the units, with their keys under the order of `order_of`.
async fn rows(place: &Location, order: &crate::dataset::places::Shuffled) -> Vec<Row> {
    let catalog = Catalog::open(place.clone()).await.unwrap();
    let mut all = Vec::new();
    for commit in catalog.commits().await.unwrap() {
        let bytes = objects::read(&place.child(&commit.object)).await.unwrap().unwrap();
        let (_, rows) = decode_all(&bytes).unwrap();
        for i in 0..rows.seq.len() {
            let (unit, seq, pos) = (rows.unit[i], rows.seq[i], rows.pos[i]);
            let values = rows.sites.iter().flat_map(|site| {
                let width = site.len() / rows.seq.len();
                site[i * width..(i + 1) * width].iter().map(|x| x.to_bits())
            });
            let key = (order.hash(unit, seq, pos), unit, seq, pos);
            all.push((key, rows.doc_id[i], rows.token_id[i], values.collect()));
        }
    }
    all
}

async fn order(place: &Location) -> crate::dataset::places::Shuffled {
    let header = Catalog::read_header(place).await.unwrap().unwrap();
    let Some(RowOrder::Shuffled(order)) = header.order else { panic!("not shuffled") };
    order
}

/// Every object below `place`.
async fn bytes_of(place: &Location) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for object in objects::list(place).await.unwrap() {
        let name = object.location.to_string();
        let name = name.strip_prefix(&format!("{}/", place.path)).unwrap().to_owned();
        found.insert(name.clone(), objects::read(&place.child(&name)).await.unwrap().unwrap().to_vec());
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_the_permutation_that_sorting_in_memory_gives() {
    for (dtype, layout, compression) in [
        (StoredDtype::Float16, Layout::Typed, CompressionConfig::None),
        (StoredDtype::Float32, Layout::Typed, CompressionConfig::Zstd),
        (StoredDtype::Bfloat16, Layout::Raw, CompressionConfig::None),
    ] {
        let spec = small_spec(dtype, layout, compression);
        let name = format!("{dtype:?}");
        let from = store(&name, &spec).await;
        let mut reference = None;
        for workers in [1, 2, 4] {
            // memory for a few buckets of some rows
            let options = ShuffleOptions { seed: 9, memory: 60_000, workers, alone: false };
            let (to, totals) = shuffled(&name, &from, options).await.unwrap();
            let order = order(&to).await;
            assert!(order.buckets >= 4, "{}", order.buckets);
            let mut naive = rows(&from, &order).await;
            assert_eq!(totals.rows, naive.len() as u64);
            let in_order_of_source = naive.clone();
            naive.sort();
            let found = rows(&to, &order).await;
            assert!(found == naive, "{dtype:?} with {workers} workers");
            assert!(found != in_order_of_source);
            let catalog = Catalog::open(to.clone()).await.unwrap();
            let report = verify(&catalog, |_, _| ()).await.unwrap();
            assert!(report.ok() && report.complete() && report.unreferenced.is_empty(), "{report:?}");
            let bytes = bytes_of(&to).await;
            assert!(bytes.keys().all(|name| !name.starts_with("scratch")), "{:?}", bytes.keys());
            assert!(reference.get_or_insert_with(|| bytes.clone()) == &bytes, "{workers} workers write other bytes");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_seed_is_another_order_and_no_continuation() {
    let spec = small_spec(StoredDtype::Float16, Layout::Typed, CompressionConfig::None);
    let from = store("seeds", &spec).await;
    let options = ShuffleOptions { seed: 1, memory: 60_000, workers: 1, alone: false };
    let (to, _) = shuffled("seeds", &from, options).await.unwrap();
    let first = rows(&to, &order(&to).await).await;
    let error = shuffled("seeds", &from, ShuffleOptions { seed: 2, ..options }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("order.shuffled.seed was 1, now 2"), "{error}");
    let (other, _) = shuffled("seeds", &from, ShuffleOptions { seed: 2, workers: 2, ..options }).await.unwrap();
    let second = rows(&other, &order(&other).await).await;
    let ids = |rows: &[Row]| rows.iter().map(|((_, u, s, p), ..)| (*u, *s, *p)).collect::<Vec<_>>();
    assert!(ids(&first) != ids(&second));
    // again with other memory: the buckets are those of the beginning
    let again = ShuffleOptions { memory: 1 << 30, ..options };
    let (_, totals) = shuffled("seeds", &from, again).await.unwrap();
    assert_eq!(totals.rows, first.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_from_any_objects_that_a_killed_one_left() {
    let spec = small_spec(StoredDtype::Float16, Layout::Typed, CompressionConfig::None);
    let from = store("left", &spec).await;
    let options = ShuffleOptions { seed: 3, memory: 60_000, workers: 2, alone: false };
    let (to, _) = shuffled("left", &from, options).await.unwrap();
    let whole = bytes_of(&to).await;
    let source = source(&from).await;
    for round in 0..6u32 {
        // the state after the first pass and some buckets
        let to = Location::open(&format!("memory://shuffle-left/killed-{round}")).unwrap();
        let plan = Plan::begin(source.clone(), to.clone(), options).await.unwrap();
        let slices = plan.slices();
        for (i, slice) in slices.iter().enumerate() {
            if i as u32 % 6 >= round {
                scatter::scatter(&plan, slice).await.unwrap();
            }
        }
        if round == 0 {
            let some = vec![0, 2];
            gather::gather(&plan, &slices, some, &ShuffleProgress::default()).await.unwrap();
        }
        // a piece without its index is none
        let torn = plan.scratch().child(&format!("{}.rows", slices[0].name));
        if round == 1 {
            objects::replace(&torn, bytes::Bytes::from_static(b"torn")).await.unwrap();
        }
        shuffle(source.clone(), to.clone(), options, &ShuffleProgress::default()).await.unwrap();
        assert!(bytes_of(&to).await == whole, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found() {
    let spec = small_spec(StoredDtype::Float16, Layout::Typed, CompressionConfig::None);
    let from = store("damage", &spec).await;
    let options = ShuffleOptions { seed: 3, memory: 60_000, workers: 1, alone: false };
    let to = Location::open("memory://shuffle-damage/dst").unwrap();
    let plan = Plan::begin(source(&from).await, to.clone(), options).await.unwrap();
    let slices = plan.slices();
    for slice in &slices {
        scatter::scatter(&plan, slice).await.unwrap();
    }
    let piece = plan.scratch().child(&format!("{}.rows", slices[0].name));
    let mut bytes = objects::read(&piece).await.unwrap().unwrap().to_vec();
    bytes[40] ^= 1;
    objects::replace(&piece, bytes.into()).await.unwrap();
    let error = shuffle(source(&from).await, to, options, &ShuffleProgress::default()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Data && error.to_string().contains(&slices[0].name), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_of_the_source_is_not_written_with_a_new_checksum() {
    let spec = small_spec(StoredDtype::Float16, Layout::Typed, CompressionConfig::None);
    let from = store("laundered", &spec).await;
    let commit = Catalog::open(from.clone()).await.unwrap().commits().await.unwrap().remove(0);
    let shard = from.child(&commit.object);
    let whole = objects::read(&shard).await.unwrap().unwrap();
    let (_, before) = decode_all(&whole).unwrap();
    // a value that reads as another number: nothing but the checksum tells
    let other = (0..whole.len()).find_map(|at| {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1;
        let (_, rows) = decode_all(&bytes.clone().into()).ok()?;
        let same_ids = (&rows.unit, &rows.seq, &rows.pos) == (&before.unit, &before.seq, &before.pos);
        (same_ids && rows.sites != before.sites).then_some(bytes)
    });
    objects::replace(&shard, other.unwrap().into()).await.unwrap();
    let options = ShuffleOptions { seed: 3, memory: 60_000, workers: 2, alone: false };
    let error = shuffled("laundered", &from, options).await.unwrap_err();
    let text = error.to_string();
    assert!(error.kind() == ErrorKind::Data && text.contains("checksum") && text.contains(&commit.object), "{text}");
    // and an export reads through the same door
    let site = spec.sites[0].point.to_string();
    let source = Source::open(&View::open(from).await.unwrap(), &[site]).await.unwrap();
    let to = Location::open("memory://shuffle-laundered/cache").unwrap();
    let options = crate::export::CacheOptions { context_length: 4 };
    let error = crate::export::write(source, &to, options).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Data && error.to_string().contains("checksum"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_group_that_is_behind_is_refused_and_named() {
    let spec = small_spec(StoredDtype::Float16, Layout::Typed, CompressionConfig::None);
    let of_site = |i: usize| ShardSpec { sites: vec![spec.sites[i]], ..spec.clone() };
    let batches = interleaved(&units(&spec, &LENGTHS), &[2]);
    let n = LENGTHS.len() as u32;
    let from = Location::open("memory://shuffle-behind/src").unwrap();
    let (base, _) = write(&from, &of_site(0), n, &batches, SinkOptions::default()).await.unwrap();
    let header = crate::testing::datasets::header(&of_site(1), n);
    let group = base.group(header).await.unwrap().with_base(&base).await.unwrap();
    let mut sink = crate::sink::ParquetSink::new(group.clone(), of_site(1), Default::default()).await.unwrap();
    for batch in &batches {
        sink.write(batch).await.unwrap();
    }
    sink.finish().await.unwrap();
    let all = source(&from).await;
    assert!(all.behind().is_empty());
    all.check_whole().unwrap();
    let last = group.commits().await.unwrap().pop().unwrap();
    objects::delete(&group.location().child(&paths::commit(last.unit, last.part))).await.unwrap();

    let behind = source(&from).await.behind().to_vec();
    let parts = base.commits().await.unwrap().len() as u64;
    let rows = base.totals().await.unwrap().rows;
    assert!(last.rows > 0 && behind.len() == 1, "{behind:?}");
    assert_eq!((behind[0].parts, behind[0].of_parts), (parts - 1, parts));
    assert_eq!((behind[0].rows, behind[0].of_rows), (rows - last.rows, rows));
    let options = ShuffleOptions { seed: 3, memory: 60_000, workers: 1, alone: false };
    let error = shuffled("behind", &from, options).await.unwrap_err();
    let says = format!("{}` has {} of its dataset's {parts} parts", group.location().shown, parts - 1);
    assert!(error.kind() == ErrorKind::Data && error.to_string().contains(&says), "{error}");
    let to = Location::open("memory://shuffle-behind/cache").unwrap();
    let view = View::open(from.clone()).await.unwrap();
    let sites: Vec<String> = spec.sites.iter().map(|site| site.point.to_string()).collect();
    let lagging = Source::open(&view, &sites[1..]).await.unwrap();
    let cache = crate::export::CacheOptions { context_length: 4 };
    let error = crate::export::write(lagging, &to, cache).await.unwrap_err();
    assert!(error.to_string().contains(&says), "{error}");
    // the dataset's own site is whole
    let own = Source::open(&view, &sites[..1]).await.unwrap();
    let exported = crate::export::write(own.clone(), &to, cache).await.unwrap();
    assert_eq!(exported.rows + exported.rows_left_over, rows);
    let to = Location::open("memory://shuffle-behind/own").unwrap();
    let totals = shuffle(own, to, options, &ShuffleProgress::default()).await.unwrap();
    assert_eq!(totals.rows, rows);
}

#[tokio::test]
async fn processes_share_only_stores_with_exclusive_writes() {
    let spec = small_spec(StoredDtype::Float16, Layout::Typed, CompressionConfig::None);
    let from = store("exclusive", &spec).await;
    // nothing listens there: it is refused before anything is asked
    let options = ["conditional_put=none", "endpoint=http://127.0.0.1:9", "allow_http=true", "anonymous=true"];
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    let to = crate::store::Stores::new(Vec::new(), &options).unwrap().open("s3://nowhere/dst").unwrap();
    let options = ShuffleOptions { seed: 1, memory: 60_000, workers: 1, alone: false };
    let error = shuffle(source(&from).await, to, options, &ShuffleProgress::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("conditional_put: none") && error.to_string().contains("--alone"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_land_anywhere() {
    let spec =
        ShardSpec { rows_per_shard: 4000, ..small_spec(StoredDtype::Float16, Layout::Typed, CompressionConfig::None) };
    let place = Location::open("memory://shuffle-uniform/src").unwrap();
    let lengths = vec![500u32; 40];
    let batches = interleaved(&units(&spec, &[&lengths]), &[2]);
    write(&place, &spec, 1, &batches, SinkOptions::default()).await.unwrap();
    let options = ShuffleOptions { seed: 77, memory: 4_000_000, workers: 2, alone: false };
    let (to, totals) = shuffled("uniform", &place, options).await.unwrap();
    let order = order(&to).await;
    let found = rows(&to, &order).await;
    let n = found.len();
    assert_eq!((totals.rows as usize, n), (20_000, 20_000));
    // where the i-th row of the source went
    let mut by_place: Vec<((u32, u32, u32), usize)> =
        found.iter().enumerate().map(|(at, ((_, u, s, p), ..))| ((*u, *s, *p), at)).collect();
    by_place.sort();
    let went: Vec<f64> = by_place.iter().map(|(_, at)| *at as f64).collect();
    let mean = (n as f64 - 1.0) / 2.0;
    let variance = (n as f64 * n as f64 - 1.0) / 12.0;
    let correlation = |lag: usize| {
        went.windows(lag + 1).map(|w| (w[0] - mean) * (w[lag] - mean)).sum::<f64>() / (n - lag) as f64 / variance
    };
    // of independent places: standard deviation 1 / sqrt(n) = 0.007
    for lag in [1, 2, 16, 500] {
        assert!(correlation(lag).abs() < 0.03, "lag {lag}: {}", correlation(lag));
    }
    let with_source: f64 =
        went.iter().enumerate().map(|(i, at)| (i as f64 - mean) * (at - mean)).sum::<f64>() / n as f64 / variance;
    assert!(with_source.abs() < 0.03, "rank correlation with the source {with_source}");
    // 20 x 20 cells of (place before, place after): chi-square with 361 degrees of freedom, 5 sigma is 496
    let mut cells = [[0f64; 20]; 20];
    went.iter().enumerate().for_each(|(i, &at)| cells[i * 20 / n][at as usize * 20 / n] += 1.0);
    let expected = n as f64 / 400.0;
    let chi: f64 = cells.iter().flatten().map(|c| (c - expected).powi(2) / expected).sum();
    assert!((230.0..496.0).contains(&chi), "chi-square {chi}");
}
