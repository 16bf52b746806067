//! A store at the far end of a bad network, driven by a seed and virtual time.
//!
//! A request travels for a while, may be lost on its way, is carried out at one instant, and its answer may be lost too. It
//! is carried out even when whoever sent it has died meanwhile. Listings may be stale. Everything that happens goes into a
//! history, so that two simulations can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

use crate::races::random;

/// How long a listing may leave out what was written.
const STALE_FOR: Duration = Duration::from_secs(15);

/// How bad the network is: each a share in thousand.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Requests that never arrive.
    pub lost_requests: u64,
    /// Answers that never arrive.
    pub lost_answers: u64,
    /// Requests that take seconds instead of milliseconds.
    pub slow: u64,
    /// Listings that miss what was written last.
    pub stale: u64,
}

/// What the far end has and what happened there.
pub struct World {
    pub inner: Arc<InMemory>,
    /// Whether workers compact what is committed.
    pub compacts: bool,
    weather: Weather,
    state: Mutex<State>,
    began: OnceLock<Instant>,
}

struct State {
    seed: u64,
    history: Xxh3,
    steps: u64,
    /// Last lines of the history, for a seed that fails.
    last: std::collections::VecDeque<String>,
    /// The object of each commit, by the commit's name.
    committed: BTreeMap<String, String>,
    /// Commits that were deleted because a manifest covers them.
    tidied: BTreeSet<String>,
    /// Names by age.
    written: Vec<Path>,
    /// Name -> when it was written.
    times: BTreeMap<Path, Duration>,
    /// Objects without a commit that were collected.
    collected: u64,
}

impl World {
    pub fn new(seed: u64, weather: Weather, compacts: bool) -> Arc<Self> {
        let state = State {
            seed,
            history: Xxh3::new(),
            steps: 0,
            last: Default::default(),
            committed: BTreeMap::new(),
            tidied: BTreeSet::new(),
            written: Vec::new(),
            times: BTreeMap::new(),
            collected: 0,
        };
        Arc::new(Self {
            inner: Arc::new(InMemory::new()),
            compacts,
            weather,
            state: Mutex::new(state),
            began: OnceLock::new(),
        })
    }

    /// Virtual time since the beginning: also the store's clock, which begins in 1970.
    pub fn now(&self) -> Duration {
        self.began.get_or_init(Instant::now).elapsed()
    }

    /// When an object was written, by the store's clock: the real one would make histories differ.
    fn written_at<T: From<std::time::SystemTime>>(&self, path: &Path) -> T {
        (UNIX_EPOCH + self.state.lock().unwrap().times.get(path).copied().unwrap_or_default()).into()
    }

    /// A number below `n`.
    pub fn draw(&self, n: u64) -> u64 {
        random(&mut self.state.lock().unwrap().seed) % n
    }

    fn happens(&self, share: u64) -> bool {
        self.draw(1000) < share
    }

    fn delay(&self) -> Duration {
        let slow = self.happens(self.weather.slow);
        Duration::from_micros(if slow { self.draw(8_000_000) } else { 200 + self.draw(20_000) })
    }

    /// Put down what happened.
    pub fn note(&self, what: String) {
        let mut state = self.state.lock().unwrap();
        state.steps += 1;
        state.history.update(what.as_bytes());
        state.last.push_back(what);
        if state.last.len() > 40 {
            state.last.pop_front();
        }
    }

    /// Steps so far, and a digest of all that happened.
    pub fn history(&self) -> (u64, u64) {
        let state = self.state.lock().unwrap();
        (state.steps, state.history.digest())
    }

    /// What happened last.
    pub fn last(&self) -> String {
        self.state.lock().unwrap().last.iter().cloned().collect::<Vec<_>>().join("\n")
    }

    /// The invariants, after every write: a commit appears once and when its object is there; a committed object stays.
    async fn written(&self, path: &Path) {
        let now = self.now();
        {
            let mut state = self.state.lock().unwrap();
            state.written.push(path.clone());
            state.times.insert(path.clone(), now);
        }
        let Some((dataset, name)) = path.as_ref().split_once("/commits/") else { return };
        let bytes = self.inner.get(path).await.unwrap().bytes().await.unwrap();
        let commit: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let object = format!("{dataset}/{}", commit["object"].as_str().unwrap());
        let head = self.inner.head(&Path::from(object.as_str())).await;
        let size = head.unwrap_or_else(|e| panic!("{name} is committed, its object is not there: {e}")).size;
        assert_eq!(size, commit["bytes"].as_u64().unwrap(), "{name} is committed with another size");
        let mut state = self.state.lock().unwrap();
        // a writer that does not know of the manifest may write a covered commit again; it counts for nobody
        if !state.tidied.contains(name) {
            let before = state.committed.insert(name.to_owned(), object);
            assert_eq!(before, None, "{name} was committed twice");
        }
    }

    /// Count `n` more objects without a commit that were collected; gives how many there were.
    pub fn collected(&self, n: u64) -> u64 {
        let mut state = self.state.lock().unwrap();
        state.collected += n;
        state.collected
    }

    /// Nothing live is deleted: no committed object, no header, not the newest manifest nor a segment that it names.
    async fn deleted(&self, path: &Path) {
        let listed: Vec<ObjectMeta> = self.inner.list(None).try_collect().await.unwrap();
        let is_manifest = |p: &Path| p.as_ref().contains("/manifests/") && p.as_ref().ends_with(".json");
        if let Some(newest) = listed.iter().map(|object| &object.location).filter(|p| is_manifest(p)).max() {
            assert_ne!(newest, path, "the newest manifest was deleted");
            let bytes = self.inner.get(newest).await.unwrap().bytes().await.unwrap();
            let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let mut segments = manifest["segments"].as_array().unwrap().iter();
            let named = segments.any(|s| path.as_ref().ends_with(s["object"].as_str().unwrap()));
            assert!(!named, "{path} was deleted and the newest manifest names it");
        }
        assert!(!path.as_ref().ends_with("dataset.json"), "{path} was deleted");
        let mut state = self.state.lock().unwrap();
        if let Some((_, name)) = path.as_ref().split_once("/commits/") {
            state.tidied.insert(name.to_owned());
        }
        let named = state.committed.values().any(|object| object == path.as_ref());
        assert!(!named, "{path} was deleted and is committed");
    }

    /// Objects that a stale listing leaves out: some of the last that were written, not long ago.
    fn unseen(&self) -> BTreeSet<Path> {
        if !self.happens(self.weather.stale) {
            return BTreeSet::new();
        }
        let (n, since) = (self.draw(4) as usize, self.now().saturating_sub(STALE_FOR));
        let state = self.state.lock().unwrap();
        state.written.iter().rev().take(n).filter(|path| state.times[*path] >= since).cloned().collect()
    }
}

fn lost() -> Error {
    Error::Generic { store: "simulation", source: "connection reset by peer".into() }
}

/// One worker's way to the world.
#[derive(Clone)]
pub struct SimStore {
    pub world: Arc<World>,
    /// Who is asking.
    pub who: String,
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulation for {}", self.who)
    }
}

impl SimStore {
    /// Send a request that is carried out by `act` at the far end, even if nobody waits for the answer any more.
    async fn request<T: Send + 'static>(
        &self,
        what: String,
        act: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (world, who) = (Arc::clone(&self.world), self.who.clone());
        let (there, back) = (world.delay(), world.delay());
        let (request_lost, answer_lost) =
            (world.happens(world.weather.lost_requests), world.happens(world.weather.lost_answers));
        let carried_out = tokio::spawn(async move {
            tokio::time::sleep(there).await;
            if request_lost {
                world.note(format!("{who} {what}: lost on its way"));
                return Err(lost());
            }
            let answer = act.await;
            let outcome = match &answer {
                Ok(_) if answer_lost => "done, answer lost",
                Ok(_) => "done",
                Err(_) => "refused",
            };
            world.note(format!("{who} {what}: {outcome}"));
            if answer_lost { Err(lost()) } else { answer }
        });
        // a bug that the world found ends the simulation
        let answer = carried_out.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        tokio::time::sleep(back).await;
        answer
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (world, location) = (Arc::clone(&self.world), location.clone());
        self.request(format!("put {location}"), async move {
            let done = world.inner.put_opts(&location, payload, opts).await?;
            world.written(&location).await;
            Ok(done)
        })
        .await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let (world, path) = (Arc::clone(&self.world), location.clone());
        let begun = async move { world.inner.put_multipart_opts(&path, opts).await };
        let inner = self.request(format!("begin {location}"), begun).await?;
        Ok(Box::new(SimUpload { store: self.clone(), path: location.clone(), inner: Some(inner), parts: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (world, path) = (Arc::clone(&self.world), location.clone());
        let got = async move {
            let mut got = world.inner.get_opts(&path, options).await?;
            got.meta.last_modified = world.written_at(&path);
            Ok(got)
        };
        self.request(format!("get {location}"), got).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (world, path, ranges) = (Arc::clone(&self.world), location.clone(), ranges.to_vec());
        let got = async move { world.inner.get_ranges(&path, &ranges).await };
        self.request(format!("get ranges of {location}"), got).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    let (world, path) = (Arc::clone(&store.world), location.clone());
                    let act = async move {
                        world.deleted(&path).await;
                        world.inner.delete(&path).await.map(|()| path)
                    };
                    store.request(format!("delete {location}"), act).await
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            let world = Arc::clone(&store.world);
            let shown = format!("list {}", prefix.as_ref().map_or("", |p| p.as_ref()));
            let act = async move {
                let unseen = world.unseen();
                let all: Vec<ObjectMeta> = world.inner.list(prefix.as_ref()).try_collect().await?;
                let seen = all.into_iter().filter(|object| !unseen.contains(&object.location));
                let dated =
                    seen.map(|object| ObjectMeta { last_modified: world.written_at(&object.location), ..object });
                Ok(dated.collect::<Vec<_>>())
            };
            store.request(shown, act).await
        };
        listed
            .map(|listed| match listed {
                Ok(all) => futures::stream::iter(all.into_iter().map(Ok)).boxed(),
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            })
            .flatten_stream()
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (world, prefix) = (Arc::clone(&self.world), prefix.cloned());
        let act = async move { world.inner.list_with_delimiter(prefix.as_ref()).await };
        self.request("list folders".to_owned(), act).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.world.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.world.inner.rename_opts(from, to, options).await
    }
}

/// A multipart upload over the bad network. Parts that are under way when the sender dies arrive or not; nobody completes
/// the upload then, so it does not matter.
#[derive(Debug)]
struct SimUpload {
    store: SimStore,
    path: Path,
    inner: Option<Box<dyn MultipartUpload>>,
    parts: u32,
}

#[async_trait]
impl MultipartUpload for SimUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts += 1;
        let (store, what) = (self.store.clone(), format!("part {} of {}", self.parts, self.path));
        let part = self.inner.as_mut().map(|inner| inner.put_part(data));
        async move {
            let part = part.ok_or_else(lost)?;
            store.request(what, part).await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let mut inner = self.inner.take().ok_or_else(lost)?;
        let (world, path) = (Arc::clone(&self.store.world), self.path.clone());
        let act = async move {
            let done = inner.complete().await?;
            world.written(&path).await;
            Ok(done)
        };
        self.store.request(format!("complete {}", self.path), act).await
    }

    async fn abort(&mut self) -> Result<()> {
        let Some(mut inner) = self.inner.take() else { return Ok(()) };
        self.store.request(format!("abort {}", self.path), async move { inner.abort().await }).await
    }
}
