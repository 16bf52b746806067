//! Many workers on one dataset over a bad network, on one thread and in virtual time: what takes hours takes a second. A
//! seed repeats it: step by step without compaction, in its dice with it.
//!
//! 20 seeds; `HARVESTD_SEEDS=1000` runs more, `HARVESTD_SEED=7` begins at the 7th.

use std::sync::Arc;
use std::time::Duration;

use harvestd::activation::ActivationBatch;
use harvestd::catalog::Catalog;
use harvestd::catalog::compact::{compact, delete_covered_commits};
use harvestd::catalog::gc::{Policy, Reason, collect};
use harvestd::catalog::verify::verify;
use harvestd::dataset::config::{CompressionConfig, KeepConfig, Layout, StoredDtype};
use harvestd::dataset::schema::ShardSpec;
use harvestd::error::{ErrorKind, Result};
use harvestd::sink::{ParquetSink, SinkOptions};
use harvestd::store::Location;
use harvestd::store::upload::UploadOptions;
use harvestd::testing::SyntheticUnit;
use harvestd::testing::datasets::{header, interleaved, small_spec, units};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::sim_store::{SimStore, Weather, World};
use crate::support::reliability::{Difference, Rows, record};

const WORKERS: usize = 8;
/// How long covered commits and garbage stay: longer than anybody takes to read what is listed, or to commit what is
/// uploaded, whatever the clocks say.
const GRACE: Duration = Duration::from_secs(90);
/// How far clocks are from the store's, at most.
const SKEW: Duration = Duration::from_secs(25);
/// Sequence lengths of the units: parts of several sequences, of one, of none.
const LENGTHS: [&[u32]; 5] =
    [&[17, 9, 30, 12, 0, 28, 3, 3, 55, 14], &[40, 1, 39, 2], &[], &[5, 5, 5, 30, 30, 30, 12, 12], &[41, 41, 41]];
const WEATHER: Weather = Weather { lost_requests: 8, lost_answers: 12, slow: 20, stale: 150 };

fn spec() -> ShardSpec {
    small_spec(StoredDtype::Float16, Layout::Typed, CompressionConfig::None)
}

fn place(store: Arc<dyn ObjectStore>) -> Location {
    Location::in_store(store, "acts", "simulation/acts")
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |n| n.parse().unwrap_or_else(|_| panic!("{variable} is not a number")))
}

/// One start of a worker: continue the dataset to its end, as `harvestd run` does. An error ends it, as there.
async fn life(world: &Arc<World>, worker: usize, start: usize, batches: &[ActivationBatch]) -> Result<()> {
    let who = format!("w{worker}x{start}");
    let location = place(Arc::new(SimStore { world: Arc::clone(world), who: who.clone() }));
    let catalog = Catalog::create_or_open(location, header(&spec(), LENGTHS.len() as u32)).await?;
    let progress = catalog.progress().await?;
    // odd workers send shards in parts, even ones at once
    let upload = UploadOptions { part_bytes: if worker % 2 == 1 { 700 } else { 1 << 20 }, parts_in_flight: 2 };
    let options = SinkOptions { attempt: Some(who), upload, ..SinkOptions::default() };
    let mut sink = ParquetSink::with_options(catalog.clone(), spec(), progress, options).await?;
    for batch in batches {
        // now and then it looks what the others have finished
        if world.draw(20) == 0 {
            let mut done: Vec<u32> =
                catalog.progress().await?.iter().filter(|(_, p)| p.done).map(|(&u, _)| u).collect();
            done.sort_unstable();
            for unit in done {
                sink.others_finished(unit).await;
            }
        }
        // some compact what is committed, and tidy up commits that have been covered for a while
        if world.compacts && world.draw(25) == 0 {
            compact(&catalog, 1 + world.draw(4)).await?;
        }
        let clock = skewed(world, worker);
        if world.compacts && world.draw(25) == 0 {
            delete_covered_commits(&catalog, clock.saturating_sub(GRACE)).await?;
        }
        if world.compacts && world.draw(15) == 0 {
            collect_garbage(world, &catalog, clock).await?;
        }
        let pause = if world.compacts { 4000 } else { 30 };
        tokio::time::sleep(Duration::from_millis(world.draw(pause))).await;
        if let Err(error) = sink.write(batch).await {
            sink.abort().await?;
            return Err(error);
        }
    }
    sink.finish().await.map(drop)
}

/// What a worker takes for the time: clocks differ by up to `SKEW` from the store's.
fn skewed(world: &World, worker: usize) -> Duration {
    let ahead = SKEW * worker as u32 * 2 / (WORKERS as u32 - 1);
    (world.now() + ahead).saturating_sub(SKEW)
}

/// As `harvestd gc --apply` does, in the midst of everything.
async fn collect_garbage(world: &World, catalog: &Catalog, clock: Duration) -> Result<()> {
    let policy = Policy { keep: KeepConfig::default(), grace: GRACE, now: clock };
    match collect(catalog, &policy).await {
        Ok(garbage) => {
            world.collected(garbage.objects.iter().filter(|o| o.reason == Reason::Uncommitted).count() as u64);
            Ok(())
        }
        // a stale listing looks like a manifest that was lost: then nothing goes
        Err(error) if error.to_string().contains("nothing is collected") => Ok(()),
        Err(error) => Err(error),
    }
}

/// A worker: lives until one start of it reaches the end. It dies at random moments, in the middle of whatever it does.
async fn worker(world: Arc<World>, worker: usize, units: Vec<SyntheticUnit>) -> u64 {
    let mut order = units;
    order.rotate_left(worker % LENGTHS.len());
    let batches = interleaved(&order, &[2, 3]);
    let mut starts = 0;
    loop {
        starts += 1;
        assert!(starts < 500, "worker {worker} never reaches the end");
        let until = Duration::from_millis(50 + world.draw(if world.compacts { 150_000 } else { 12_000 }));
        // some starts are left alone, so that there is an end
        let dies = world.draw(4) != 0;
        tokio::select! {
            biased;
            ended = life(&world, worker, starts, &batches) => match ended {
                Ok(()) => return starts as u64,
                Err(error) => {
                    assert!(error.kind().retryable() || is_stale(&error), "worker {worker}: {error}");
                    world.note(format!("w{worker} fails: {error}"));
                }
            },
            () = tokio::time::sleep(until), if dies => world.note(format!("w{worker} dies")),
        }
        tokio::time::sleep(Duration::from_millis(world.draw(500))).await;
    }
}

/// What a listing that is twice stale looks like: a part is missing in between.
fn is_stale(error: &harvestd::error::Error) -> bool {
    error.kind() == ErrorKind::Data && error.to_string().contains("is missing: the next commit is")
}

/// What one simulation came to.
#[derive(Debug, PartialEq)]
struct End {
    steps: u64,
    history: u64,
    starts: u64,
    virtual_seconds: u64,
    /// Objects without a commit that were deleted.
    collected: u64,
}

/// Manifests are encoded and decoded on threads of their own, whose pace nobody repeats: only without compaction does a seed
/// give the same history step by step.
fn simulate(seed: u64, compacts: bool, undisturbed: &Rows, difference: &mut Difference) -> End {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let world = World::new(seed, WEATHER, compacts);
    let (units, shared) = (units(&spec(), &LENGTHS), Arc::clone(&world));
    let end = runtime.block_on(async move {
        let since = tokio::time::Instant::now();
        let workers = (0..WORKERS).map(|w| worker(Arc::clone(&shared), w, units.clone()));
        let starts = futures::future::join_all(workers).await.iter().sum();
        let (steps, history) = shared.history();
        let collected = shared.collected(0);
        End { steps, history, starts, virtual_seconds: since.elapsed().as_secs(), collected }
    });
    // what a reader finds when all is quiet
    let still: Arc<dyn ObjectStore> = Arc::clone(&world.inner) as Arc<dyn ObjectStore>;
    let quiet = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    quiet.block_on(async {
        let catalog = Catalog::open(place(still)).await.unwrap();
        let report = verify(&catalog, |_, _| ()).await.unwrap();
        assert!(report.ok() && report.complete(), "seed {seed}: {report:?}\n{}", world.last());
        difference.add(Rows::read(catalog.location()).await.against(undisturbed));
    });
    end
}

/// The rows of one worker alone on a store without faults.
fn undisturbed() -> Rows {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let location = place(Arc::new(InMemory::new()));
    runtime.block_on(async {
        let batches = interleaved(&units(&spec(), &LENGTHS), &[3]);
        let n = LENGTHS.len() as u32;
        harvestd::testing::datasets::write(&location, &spec(), n, &batches, SinkOptions::default()).await.unwrap();
        Rows::read(&location).await
    })
}

#[test]
fn workers_over_a_bad_network_lose_nothing() {
    let rows = undisturbed();
    let (first, seeds) = (number("HARVESTD_SEED", 1), number("HARVESTD_SEEDS", 20));
    let (mut difference, mut steps, mut starts, mut seconds) = (Difference::default(), 0, 0, 0);
    let mut collected = 0;
    for seed in first..first + seeds {
        let again = format!(
            "seed {seed}: repeat with HARVESTD_SEED={seed} HARVESTD_SEEDS=1 cargo test --release --test reliability workers_over"
        );
        let before = difference;
        let caught =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| simulate(seed, true, &rows, &mut difference)));
        let end = caught.unwrap_or_else(|why| {
            eprintln!("{again}");
            std::panic::resume_unwind(why)
        });
        assert_eq!(difference, before, "{again}");
        steps += end.steps;
        starts += end.starts;
        seconds += end.virtual_seconds;
        collected += end.collected;
        if seed < first + 2 {
            let twice = [0, 1].map(|_| simulate(seed, false, &rows, &mut difference));
            assert_eq!(twice[0], twice[1], "the same seed, another history: {again}");
        }
    }
    eprintln!("{seeds} seeds: {steps} steps, {starts} starts of {WORKERS} workers, {seconds} virtual seconds");
    eprintln!("{collected} shards without a commit were collected");
    assert!(steps > 400 * seeds && collected >= seeds / 4, "too quiet: {steps} steps, {collected} collected");
    record("simulated workers", seeds, difference);
}

/// An object that was there when it was committed, and then is not: `verify` names it, and nothing else.
#[test]
fn verify_finds_what_a_store_lost() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(InMemory::new());
        let location = place(Arc::clone(&store) as Arc<dyn ObjectStore>);
        let batches = interleaved(&units(&spec(), &LENGTHS), &[3]);
        let n = LENGTHS.len() as u32;
        let (catalog, committed) =
            harvestd::testing::datasets::write(&location, &spec(), n, &batches, SinkOptions::default()).await.unwrap();
        for shard in &committed {
            let name = format!("shards/{:06}-{:05}.parquet", shard.unit, shard.part);
            let path = location.child(&name).path;
            let kept = store.get(&path).await.unwrap().bytes().await.unwrap();
            store.delete(&path).await.unwrap();
            let report = verify(&catalog, |_, _| ()).await.unwrap();
            assert_eq!(report.problems.len(), 1, "{report:?}");
            assert_eq!(report.problems[0].object, name);
            assert!(report.problems[0].what.contains("missing"), "{report:?}");
            store.put(&path, kept.into()).await.unwrap();
        }
        assert!(verify(&catalog, |_, _| ()).await.unwrap().ok());
    });
}
