//! How fast pipelines were of late: sampled at even times, kept for half an hour, without anybody asking.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::telemetry::metrics::{Metrics, StageSnapshot};

/// Time between two samples.
pub(super) const EVERY: Duration = Duration::from_secs(5);
/// Samples that are kept.
const KEPT: usize = 360;
/// Samples over which loads of stages are taken: a minute.
const WINDOW: usize = 12;
/// A stage that works less than this share of the time is not what the others wait for.
const BUSY_MIN: f64 = 0.5;

/// What was counted at one moment.
struct Sample {
    at: Duration,
    counts: [u64; 3],
    stages: BTreeMap<String, StageSnapshot>,
}

/// The samples of one pipeline.
#[derive(Default)]
pub(super) struct Track {
    /// A minute of whole samples.
    recent: VecDeque<Sample>,
    rates: VecDeque<[f32; 3]>,
}

/// How fast a pipeline was, each value over one interval, the newest last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub(super) struct Rates {
    /// Seconds between two values.
    pub(super) every_seconds: f64,
    /// Tokens a second through the forward pass.
    pub(super) tokens: Vec<f32>,
    /// Rows a second that were kept.
    pub(super) rows: Vec<f32>,
    /// Bytes a second of shards that were committed.
    pub(super) bytes: Vec<f32>,
}

/// What a stage did in the last minute.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub(super) struct StageLoad {
    /// Its name.
    pub(super) stage: String,
    /// Share of the time that it worked.
    pub(super) busy: f64,
    /// Share of the time that it waited for its neighbours.
    pub(super) blocked: f64,
    /// Items that it sent on, a second.
    pub(super) items_per_second: f64,
    /// Bytes that it sent on, a second.
    pub(super) bytes_per_second: f64,
    /// Items that it sent on since the process began.
    pub(super) items: u64,
}

/// The stage that the others wait for.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub(super) struct Bottleneck {
    /// Its name; none if no stage works most of the time.
    pub(super) stage: Option<String>,
    /// The largest share of the time that a stage worked.
    pub(super) busy: f64,
}

impl Track {
    /// Take a sample at `now`.
    pub(super) fn take(&mut self, now: Duration, metrics: &Metrics) {
        let run = &metrics.run;
        let counts = [run.tokens.get(), run.rows.get(), run.shard_bytes.get()];
        let sample = Sample { at: now, counts, stages: metrics.stages() };
        let begins_anew = |last: &Sample| counts.iter().zip(&last.counts).any(|(now, then)| now < then);
        if self.recent.back().is_some_and(begins_anew) {
            // its configuration changed: other numbers
            self.recent.clear();
        }
        if let Some(last) = self.recent.back() {
            let seconds = (now.saturating_sub(last.at)).as_secs_f64().max(1e-3);
            let rate = |i: usize| ((counts[i] - last.counts[i]) as f64 / seconds) as f32;
            if self.rates.len() == KEPT {
                self.rates.pop_front();
            }
            self.rates.push_back([rate(0), rate(1), rate(2)]);
        }
        if self.recent.len() > WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(sample);
    }

    /// What there is of rates.
    pub(super) fn rates(&self) -> Rates {
        let of = |i: usize| self.rates.iter().map(|rates| rates[i]).collect();
        Rates { every_seconds: EVERY.as_secs_f64(), tokens: of(0), rows: of(1), bytes: of(2) }
    }

    /// What stages did in the last minute.
    pub(super) fn loads(&self) -> Vec<StageLoad> {
        let (Some(first), Some(last)) = (self.recent.front(), self.recent.back()) else { return Vec::new() };
        let seconds = last.at.saturating_sub(first.at).as_secs_f64();
        let zero = StageSnapshot::default();
        let load = |(stage, now): (&String, &StageSnapshot)| {
            let then = first.stages.get(stage).unwrap_or(&zero);
            let rate = |now: f64, then: f64| if seconds > 0.0 { (now - then).max(0.0) / seconds } else { 0.0 };
            StageLoad {
                stage: stage.clone(),
                // what took longer than the window counts when it ends
                busy: rate(now.busy_seconds, then.busy_seconds).min(1.0),
                blocked: rate(now.blocked_seconds, then.blocked_seconds).min(1.0),
                items_per_second: rate(now.items_out as f64, then.items_out as f64),
                bytes_per_second: rate(now.bytes as f64, then.bytes as f64),
                items: now.items_out,
            }
        };
        last.stages.iter().map(load).collect()
    }
}

/// The stage that works most, if it works more often than not.
pub(super) fn bottleneck(loads: &[StageLoad]) -> Option<Bottleneck> {
    let most = loads.iter().max_by(|a, b| a.busy.total_cmp(&b.busy))?;
    Some(Bottleneck { stage: (most.busy >= BUSY_MIN).then(|| most.stage.clone()), busy: most.busy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_loads_are_those_of_the_last_minute() {
        let (metrics, mut track) = (Metrics::new("a"), Track::default());
        assert_eq!((track.loads(), bottleneck(&track.loads())), (Vec::new(), None));
        let (forward, deliver) = (metrics.stage("forward"), metrics.stage("deliver"));
        for i in 0..30 {
            track.take(EVERY * i, &metrics);
            metrics.run.tokens.add(500);
            forward.busy.add(EVERY.mul_f64(if i < 10 { 0.1 } else { 0.9 }));
            deliver.busy.add(EVERY.mul_f64(0.2));
            deliver.items_out.add(10);
        }
        let (rates, loads) = (track.rates(), track.loads());
        assert_eq!((rates.tokens.len(), rates.tokens[7], rates.rows[7]), (29, 100.0, 0.0));
        let of = |name: &str| loads.iter().find(|load| load.stage == name).unwrap();
        assert!((of("forward").busy - 0.9).abs() < 1e-6 && (of("deliver").items_per_second - 2.0).abs() < 1e-6);
        assert_eq!(bottleneck(&loads).unwrap().stage.as_deref(), Some("forward"));
        // stages that wait are no bottleneck, and numbers that begin anew are no rates
        let idle = Metrics::new("a");
        (0..20).for_each(|i| track.take(EVERY * (30 + i), &idle));
        assert!(track.rates().tokens.iter().all(|rate| *rate >= 0.0));
        assert_eq!(bottleneck(&track.loads()), None);
        idle.stage("forward").busy.add(EVERY);
        track.take(EVERY * 50, &idle);
        let found = bottleneck(&track.loads()).unwrap();
        assert!(found.stage.is_none() && found.busy < 0.2, "{found:?}");
    }

    #[test]
    fn samples_are_bounded() {
        let (metrics, mut track) = (Metrics::new("a"), Track::default());
        (0..2000).for_each(|i| track.take(EVERY * i, &metrics));
        assert_eq!((track.rates().tokens.len(), track.recent.len()), (KEPT, WINDOW + 1));
    }
}
