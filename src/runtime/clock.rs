//! The only place that reads the time.
//!
//! Decisions that depend on time (checkpoint every ten minutes, time stamps in files) ask a [`Clock`], so that tests move
//! it by hand. Measurements that nothing depends on (busy and blocked seconds) use a [`Stopwatch`].
#![allow(clippy::disallowed_methods)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What time it is.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System { started: Instant },
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Source::System { started: Instant::now() })
    }

    /// A clock that stands still until [`Clock::advance`]; clones move together. It starts at the epoch.
    pub fn manual() -> Self {
        Self(Source::Manual(Arc::default()))
    }

    /// Time since this clock was made; never goes back. For intervals.
    pub fn now(&self) -> Duration {
        match &self.0 {
            Source::System { started } => started.elapsed(),
            Source::Manual(nanos) => Duration::from_nanos(nanos.load(Ordering::SeqCst)),
        }
    }

    /// Time since 1970-01-01 UTC. For time stamps.
    pub fn since_epoch(&self) -> Duration {
        match &self.0 {
            Source::System { .. } => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            Source::Manual(_) => self.now(),
        }
    }

    /// The time as `2026-01-31T23:59:59Z`.
    pub fn timestamp(&self) -> String {
        self.timestamp_ago(Duration::ZERO)
    }

    /// What [`Clock::timestamp`] was `ago`.
    pub fn timestamp_ago(&self, ago: Duration) -> String {
        utc_timestamp(self.since_epoch().saturating_sub(ago).as_secs())
    }

    /// Move a manual clock forward; the system's clock moves by itself and ignores this.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(nanos) = &self.0 {
            nanos.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
    }
}

/// RFC 3339 in UTC, by the days-to-civil algorithm of Howard Hinnant.
fn utc_timestamp(secs: u64) -> String {
    let (days, second_of_day) = (secs / 86_400, secs % 86_400);
    let shifted = days + 719_468; // days since 0000-03-01
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Measures how long something took.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(tokio::time::Instant);

impl Stopwatch {
    /// Start now.
    pub fn start() -> Self {
        Self(tokio::time::Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Time since the start or the last lap, and start again.
    pub fn lap(&mut self) -> Duration {
        let now = tokio::time::Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_match_known_dates() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc_timestamp(secs), text);
        }
    }

    #[test]
    fn a_manual_clock_moves_only_by_hand_and_with_its_clones() {
        let clock = Clock::manual();
        let clone = clock.clone();
        clock.advance(Duration::from_secs(90));
        assert_eq!(clone.now(), Duration::from_secs(90));
        assert_eq!(clone.timestamp(), "1970-01-01T00:01:30Z");
    }

    #[test]
    fn laps_add_up_to_the_whole() {
        let whole = Stopwatch::start();
        let mut lap = whole;
        let sum = lap.lap() + lap.lap() + lap.lap();
        assert!(sum <= whole.elapsed());
    }
}
