//! Spans: what each stage did with a batch, and how long shards took to be stored, for whoever collects traces.
//!
//! A trace is a batch's way through a pipeline, or a shard's into its store. Ids are hashes of what a span is of, so stages need
//! to hand nothing on: the first stage's span is the root, and the others name it as their parent. Spans wait in a bounded
//! list until they are sent; when nobody takes them they are dropped and counted. Without a collector nothing is kept.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Spans that wait, at most.
const WAITING_MAX: usize = 8192;
/// Stages that a batch enters a pipeline by.
const HEADS: [&str; 2] = ["tokenize", "replay"];

/// Where spans are put. Clones share it; the default keeps nothing.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Collected>>);

struct Collected {
    /// Time since 1970-01-01 UTC.
    now: fn() -> Duration,
    /// Tells this process from others.
    process: u128,
    /// Share of batches that are traced, out of `u64::MAX`.
    share: u64,
    waiting: Mutex<VecDeque<Span>>,
    dropped: AtomicU64,
}

/// Something that took time.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Of which trace.
    pub trace: u128,
    /// Which of it.
    pub id: u64,
    /// The span that it belongs to.
    pub parent: Option<u64>,
    /// What was done.
    pub name: String,
    /// When it began, since 1970-01-01 UTC.
    pub start: Duration,
    /// When it ended.
    pub end: Duration,
    /// Of which pipeline.
    pub pipeline: Arc<str>,
    /// Numbers that say of what.
    pub attributes: Vec<(&'static str, u64)>,
}

/// The traces of one pipeline.
#[derive(Clone, Debug, Default)]
pub struct PipelineTraces {
    traces: Traces,
    pipeline: Arc<str>,
}

/// The traces of one stage.
#[derive(Clone, Debug, Default)]
pub(super) struct StageTraces {
    of: PipelineTraces,
    stage: Arc<str>,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Traces(on)" } else { "Traces(off)" })
    }
}

impl Traces {
    /// Keep the spans of a share of all batches, and of all shards, at the time that `now` says since 1970-01-01 UTC.
    pub fn on(now: fn() -> Duration, share: f64) -> Self {
        let share = (share.clamp(0.0, 1.0) * u64::MAX as f64) as u64;
        let process = u128::from(std::process::id()) << 64 | now().as_nanos();
        Self(Some(Arc::new(Collected { now, process, share, waiting: Mutex::default(), dropped: AtomicU64::new(0) })))
    }

    /// The spans of a pipeline.
    pub fn of_pipeline(&self, name: &str) -> PipelineTraces {
        PipelineTraces { traces: self.clone(), pipeline: name.into() }
    }

    /// Take spans away, oldest first.
    pub fn take(&self, most: usize) -> Vec<Span> {
        let Some(collected) = &self.0 else { return Vec::new() };
        let mut waiting = collected.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let n = most.min(waiting.len());
        waiting.drain(..n).collect()
    }

    /// Spans that were dropped because nobody took them in time.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |collected| collected.dropped.load(Ordering::Relaxed))
    }
}

impl Collected {
    fn put(&self, span: Span) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING_MAX {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.push_back(span);
    }

    fn trace(&self, pipeline: &str, kind: &str, number: u64) -> u128 {
        // zero is no id
        xxh3_128(format!("{}/{pipeline}/{kind}/{number}", self.process).as_bytes()).max(1)
    }
}

impl PipelineTraces {
    /// The traces of all pipelines.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    pub(super) fn of_stage(&self, stage: &str) -> StageTraces {
        StageTraces { of: self.clone(), stage: stage.into() }
    }

    /// A shard became durable and was committed, after `took`.
    pub fn shard(&self, unit: u32, part: u32, (rows, bytes): (u64, u64), took: Duration) {
        let Some(collected) = &self.traces.0 else { return };
        let end = (collected.now)();
        let trace = collected.trace(&self.pipeline, "shard", u64::from(unit) << 32 | u64::from(part));
        collected.put(Span {
            trace,
            id: (trace as u64).max(1),
            parent: None,
            name: "shard".to_owned(),
            start: end.saturating_sub(took),
            end,
            pipeline: Arc::clone(&self.pipeline),
            attributes: vec![("unit", unit.into()), ("part", part.into()), ("rows", rows), ("bytes", bytes)],
        });
    }
}

impl StageTraces {
    /// The stage worked on the batch of this index in the stream, for `took` until now.
    pub(super) fn batch(&self, index: u64, unit: u32, took: Duration) {
        let Some(collected) = &self.of.traces.0 else { return };
        let trace = collected.trace(&self.of.pipeline, "batch", index);
        if trace as u64 > collected.share {
            return;
        }
        let end = (collected.now)();
        let root = ((trace >> 64) as u64).max(1);
        let is_head = HEADS.contains(&&*self.stage);
        collected.put(Span {
            trace,
            id: if is_head { root } else { xxh3_64(format!("{trace}/{}", self.stage).as_bytes()).max(1) },
            parent: (!is_head).then_some(root),
            name: self.stage.to_string(),
            start: end.saturating_sub(took),
            end,
            pipeline: Arc::clone(&self.of.pipeline),
            attributes: vec![("batch", index), ("unit", unit.into())],
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Duration {
        Duration::from_secs(1000)
    }

    #[test]
    fn a_batch_is_one_trace_and_its_first_stage_the_root() {
        let traces = Traces::on(now, 1.0);
        let of = traces.of_pipeline("a");
        for stage in ["tokenize", "forward", "train one"] {
            of.of_stage(stage).batch(7, 2, Duration::from_secs(3));
        }
        of.of_stage("tokenize").batch(8, 2, Duration::ZERO);
        traces.of_pipeline("b").of_stage("tokenize").batch(7, 0, Duration::ZERO);
        of.shard(3, 1, (100, 5000), Duration::from_secs(2));
        let spans = traces.take(100);
        assert_eq!(
            spans.iter().map(|s| s.name.as_str()).collect::<Vec<_>>()[..3],
            ["tokenize", "forward", "train one"]
        );
        assert!(spans[..3].iter().all(|s| s.trace == spans[0].trace) && spans[0].parent.is_none());
        assert!(spans[1..3].iter().all(|s| s.parent == Some(spans[0].id) && s.id != spans[0].id));
        assert_eq!((spans[1].start, spans[1].end), (Duration::from_secs(997), now()));
        let traces_of: std::collections::BTreeSet<u128> = spans.iter().map(|s| s.trace).collect();
        assert_eq!((traces_of.len(), spans[5].attributes[2]), (4, ("rows", 100)));
    }

    #[test]
    fn what_nobody_takes_is_bounded_and_a_share_is_a_share() {
        let traces = Traces::on(now, 1.0);
        let stage = traces.of_pipeline("a").of_stage("forward");
        (0..10_000).for_each(|i| stage.batch(i, 0, Duration::ZERO));
        assert_eq!((traces.take(20_000).len(), traces.dropped()), (WAITING_MAX, 10_000 - WAITING_MAX as u64));
        let few = Traces::on(now, 0.1);
        let (forward, train) = (few.of_pipeline("a").of_stage("forward"), few.of_pipeline("a").of_stage("train"));
        (0..2000).for_each(|i| {
            forward.batch(i, 0, Duration::ZERO);
            train.batch(i, 0, Duration::ZERO);
        });
        let spans = few.take(10_000);
        assert!(
            (200..600).contains(&spans.len()) && spans.len().is_multiple_of(2),
            "{} of 4000, whole traces",
            spans.len()
        );
        let off = Traces::default();
        off.of_pipeline("a").of_stage("forward").batch(0, 0, Duration::ZERO);
        assert!(off.take(10).is_empty());
    }
}
