//! Try again what failed for a passing reason: exponential back-off with jitter, under a budget of time.
//!
//! Only errors whose kind says so are tried again. Waiting ends when the run aborts; a draining run goes on trying,
//! because what it still has in flight is what it wants to make durable.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::runtime::clock::Stopwatch;
use crate::runtime::rng::Rng;
use crate::runtime::shutdown::Shutdown;

/// How often and how long to try.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Wait after the first failure; doubles with each one.
    pub first_wait: Duration,
    /// Longest single wait.
    pub longest_wait: Duration,
    /// Time after the first attempt's start at which no new attempt begins.
    pub budget: Duration,
}

impl Default for RetryPolicy {
    /// From 200 ms up to 15 s, for three minutes: a store's rolling restart is survived, an outage is reported.
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(15),
            budget: Duration::from_secs(180),
        }
    }
}

impl RetryPolicy {
    /// Wait before attempt `attempt` (the second is 1): between half and all of the doubled wait, so that many workers
    /// that failed together do not come back together.
    pub fn wait(&self, attempt: u32, rng: &mut Rng) -> Duration {
        let doubled = self.first_wait.saturating_mul(1 << (attempt - 1).min(20));
        doubled.min(self.longest_wait).mul_f64(0.5 + 0.5 * rng.uniform())
    }
}

/// Call `operation` until it succeeds, fails for good, or the budget is spent. `failed` is told each error that will be
/// tried again. Needs a tokio runtime with time.
pub async fn retry<T>(
    policy: &RetryPolicy,
    rng: &mut Rng,
    shutdown: &Shutdown,
    mut failed: impl FnMut(&Error),
    mut operation: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let since = Stopwatch::start();
    let mut attempt = 1;
    loop {
        let error = match operation().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let wait = policy.wait(attempt, rng);
        if !error.kind().retryable() || shutdown.is_aborting() || since.elapsed() + wait > policy.budget {
            return Err(match attempt {
                1 => error,
                n => error.context(format!("gave up after {n} attempts in {:.0?}", since.elapsed())),
            });
        }
        tracing::warn!(%error, attempt, ?wait, "failed, trying again");
        failed(&error);
        tokio::select! {
            biased; // an abort that comes with the end of the wait wins
            () = shutdown.aborting() => return Err(error),
            () = tokio::time::sleep(wait) => {}
        }
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::runtime::rng::Seed;

    /// Runs `answers` through `retry` with a policy of milliseconds; gives the result and how often it was called.
    fn run(answers: Vec<Result<u8>>, policy: RetryPolicy) -> (Result<u8>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (shutdown, mut rng) = (Shutdown::new(Duration::ZERO), Seed(1).stream("retry"));
        let (mut answers, mut calls) = (answers.into_iter(), 0);
        let result = runtime.block_on(retry(
            &policy,
            &mut rng,
            &shutdown,
            |_| (),
            async || {
                calls += 1;
                answers.next().unwrap_or_else(|| Err(Error::new(ErrorKind::Unavailable, "still down")))
            },
        ));
        (result, calls)
    }

    fn quick(budget_ms: u64) -> RetryPolicy {
        RetryPolicy {
            first_wait: Duration::from_millis(1),
            longest_wait: Duration::from_millis(4),
            budget: Duration::from_millis(budget_ms),
        }
    }

    fn down() -> Result<u8> {
        Err(Error::new(ErrorKind::Unavailable, "down"))
    }

    #[test]
    fn passing_trouble_is_survived_and_lasting_trouble_reported() {
        let (result, calls) = run(vec![down(), down(), Ok(7)], quick(10_000));
        assert_eq!((result.unwrap(), calls), (7, 3));
        let (result, calls) = run(vec![], quick(30));
        let error = result.unwrap_err();
        assert!(calls > 2 && error.kind() == ErrorKind::Unavailable);
        assert!(error.to_string().starts_with("gave up after"), "{error}");
    }

    #[test]
    fn what_will_not_mend_itself_is_not_tried_again() {
        let (result, calls) = run(vec![Err(Error::data("broken")), Ok(7)], quick(10_000));
        assert_eq!((result.unwrap_err().kind(), calls), (ErrorKind::Data, 1));
    }

    #[test]
    fn waits_double_with_jitter_up_to_the_longest() {
        let (policy, mut rng) = (RetryPolicy::default(), Seed(3).stream("retry"));
        for attempt in 1..40 {
            let full = (0.2 * 2f64.powi(attempt as i32 - 1)).min(15.0);
            let wait = policy.wait(attempt, &mut rng).as_secs_f64();
            assert!((full * 0.499..=full * 1.001).contains(&wait), "{attempt}: {wait}");
        }
    }

    #[test]
    fn an_abort_ends_the_wait() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (shutdown, mut rng) = (Shutdown::new(Duration::ZERO), Seed(1).stream("retry"));
        let policy = RetryPolicy { first_wait: Duration::from_secs(100), ..RetryPolicy::default() };
        let result = runtime.block_on(retry(&policy, &mut rng, &shutdown, |_| shutdown.abort("test"), async || down()));
        assert!(result.is_err());
    }
}
