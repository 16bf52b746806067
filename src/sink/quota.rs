//! A limit on the bytes of a dataset, whoever writes to it.
//!
//! What counts is what the catalog knows: live shards of the dataset and of all its column groups, and retired ones until
//! they are deleted. It is measured when a run begins, now and then if others may write, and whenever the limit is near;
//! in between, what this run commits is added. Before a run is stopped, retention is applied.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::catalog::Catalog;
use crate::catalog::gc::Keeper;
use crate::catalog::meter::{Meter, StoredBytes};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::clock::Stopwatch;
use crate::units::ByteSize;

/// Least time between two measurements far from the limit.
const EVERY: Duration = Duration::from_secs(1);
/// At most one in so many parts of the time goes into measuring, far from the limit.
const SHARE: u32 = 20;
/// Shards that others may commit at the same time, about: with less room than for these, each commit is preceded by a
/// measurement.
const NEAR_SHARDS: u64 = 8;

/// Bytes that may still be committed. Clones share them.
#[derive(Clone, Debug)]
pub struct Quota(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: u64,
    /// Whether others may write too.
    shared: bool,
    keeper: Option<Arc<Keeper>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    meter: Meter,
    stored: StoredBytes,
    /// What was taken since that was measured.
    taken: u64,
    since: Stopwatch,
    next: Duration,
}

impl Quota {
    /// At most `limit` bytes for the dataset of `base`, which `keeper` may make room in. `shared`: others may write too.
    pub async fn of(base: Catalog, limit: u64, shared: bool, keeper: Option<Arc<Keeper>>) -> Result<Self> {
        let mut state = State {
            meter: Meter::new(base),
            stored: StoredBytes::default(),
            taken: 0,
            since: Stopwatch::start(),
            next: EVERY,
        };
        state.measure().await?;
        Ok(Self(Arc::new(Inner { limit, shared, keeper, state: Mutex::new(state) })))
    }

    /// Take `bytes` for a shard that is about to be committed; an error ([`Full`](ErrorKind::Full)) if there are not as
    /// many. Everything that was taken before must be committed.
    pub async fn take(&self, bytes: u64) -> Result<()> {
        let mut state = self.0.state.lock().await;
        if self.0.shared {
            let near = (self.0.limit / 10).max(bytes.saturating_mul(NEAR_SHARDS));
            if state.since.elapsed() >= state.next || !self.has_room(&state, near) {
                state.measure().await?;
            }
        }
        self.room_for(&mut state, bytes).await?;
        state.taken = state.taken.saturating_add(bytes);
        Ok(())
    }

    /// Whether `bytes` more would fit, as far as is known.
    pub async fn fits(&self, bytes: u64) -> bool {
        self.has_room(&*self.0.state.lock().await, bytes)
    }

    /// See that `bytes` more would fit: measure, and apply retention. An error ([`Full`](ErrorKind::Full)) if they do not.
    /// Everything that was taken must be committed.
    pub async fn make_room(&self, bytes: u64) -> Result<()> {
        self.room_for(&mut *self.0.state.lock().await, bytes).await
    }

    async fn room_for(&self, state: &mut State, bytes: u64) -> Result<()> {
        if self.has_room(state, bytes) {
            return Ok(());
        }
        state.measure().await?;
        if self.has_room(state, bytes) {
            return Ok(());
        }
        if let Some(keeper) = &self.0.keeper {
            keeper.collect().await;
            state.measure().await?;
        }
        if self.has_room(state, bytes) { Ok(()) } else { Err(self.full(state, bytes)) }
    }

    fn has_room(&self, state: &State, bytes: u64) -> bool {
        state.stored.all().saturating_add(state.taken).saturating_add(bytes) <= self.0.limit
    }

    fn full(&self, state: &State, wanted: u64) -> Error {
        let (limit, live) = (ByteSize(self.0.limit), ByteSize(state.stored.live.saturating_add(state.taken)));
        let retired = match state.stored.retired {
            0 => String::new(),
            retired => format!(
                ", and {} are of retired shards that are kept for dataset.keep.grace or until `harvestd gc`",
                ByteSize(retired)
            ),
        };
        Error::new(
            ErrorKind::Full,
            format!(
                "the dataset would grow past limits.store_bytes ({limit}; {live} are committed{retired}, and {} are being \
                 written): raise the limit, or make room with `dataset.keep` or `harvestd gc`, and run it again to continue",
                ByteSize(wanted)
            ),
        )
    }
}

impl State {
    async fn measure(&mut self) -> Result<()> {
        let watch = Stopwatch::start();
        self.stored = self.meter.measure().await?;
        self.taken = 0;
        self.since = Stopwatch::start();
        self.next = EVERY.max(watch.elapsed() * SHARE);
        Ok(())
    }
}
