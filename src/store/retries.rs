//! When a failed request is tried again, and when a store is given up.
//!
//! The only place that does: the clients of `object_store` are told not to. A request is tried again while its own tries
//! and time last, and while the store as a whole has not been failing for longer than that time; so that a run against a
//! dead store ends after about one budget, however many requests it would still make.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::{Error, Result};

use crate::runtime::clock::{Clock, Stopwatch};
use crate::runtime::retry::RetryPolicy;
use crate::runtime::rng::{Rng, Seed};
use crate::store::config::RetryConfig;
use crate::store::wire::Wire;
use crate::store::{is_missing_bucket, passes_by_itself};

/// How a store's requests are tried again, and how it fares.
#[derive(Debug)]
pub(super) struct Retries {
    policy: RetryPolicy,
    tries: u32,
    /// Since when nothing but failures came, and when the last one did.
    failing: Mutex<Option<(Stopwatch, Stopwatch)>>,
    rng: Mutex<Rng>,
    wire: Arc<Wire>,
}

/// What is said when a store is given up.
#[derive(Debug)]
struct GaveUp {
    tries: u32,
    elapsed: Duration,
    failing: Duration,
    last: Error,
}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gave up after {} tries in {:.1?}", self.tries, self.elapsed)?;
        if self.failing > 2 * self.elapsed {
            write!(f, " (the store has been failing for {:.1?})", self.failing)?;
        }
        Ok(())
    }
}

impl std::error::Error for GaveUp {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.last)
    }
}

impl Retries {
    /// As `config` says.
    pub(super) fn new(config: &RetryConfig, wire: Arc<Wire>) -> Self {
        let policy = RetryPolicy {
            first_wait: config.first_wait.0,
            longest_wait: config.longest_wait.0,
            budget: config.budget.0,
        };
        // no run depends on these: processes that failed together must not come back together
        let seed = Clock::system().since_epoch().as_nanos() as u64 ^ (u64::from(std::process::id()) << 32);
        let rng = Mutex::new(Seed(seed).stream("store retries"));
        Self { policy, tries: config.tries, failing: Mutex::default(), rng, wire }
    }

    /// Nothing is tried again.
    pub(super) fn none() -> Self {
        Self::new(&RetryConfig { tries: 1, ..RetryConfig::default() }, Arc::default())
    }

    /// Make `request` until it succeeds, fails for good, or is given up.
    pub(super) async fn persist<T, F: Future<Output = Result<T>>>(&self, mut request: impl FnMut() -> F) -> Result<T> {
        let mut trial = self.begin();
        loop {
            match request().await {
                Ok(answer) => {
                    self.answered();
                    return Ok(answer);
                }
                Err(error) => trial.failed(error).await?,
            }
        }
    }

    /// A request that is not made yet.
    pub(super) fn begin(&self) -> Trial<'_> {
        Trial { retries: self, since: Stopwatch::start(), tries: 0 }
    }

    /// The store works.
    pub(super) fn answered(&self) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Note a failure; how long there have been only failures.
    fn failing(&self) -> Duration {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Stopwatch::start();
        let quiet = 2 * self.policy.longest_wait + self.policy.budget / 4;
        let since = match *failing {
            Some((since, last)) if last.elapsed() < quiet => since,
            // nobody asked for a while: what was then says nothing of now
            _ => now,
        };
        *failing = Some((since, now));
        since.elapsed()
    }

    fn wait(&self, attempt: u32) -> Duration {
        self.policy.wait(attempt, &mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One request and its tries.
#[derive(Debug)]
pub(super) struct Trial<'a> {
    retries: &'a Retries,
    since: Stopwatch,
    tries: u32,
}

impl Trial<'_> {
    /// After a failure: wait and give `Ok` if the request is to be made again, or the error that ends it.
    pub(super) async fn failed(&mut self, error: Error) -> Result<()> {
        self.tries += 1;
        if is_missing_bucket(&error) {
            // not to be taken for an object that is not there
            return Err(Error::Generic { store: "bucket", source: Box::new(error) });
        }
        if !passes_by_itself(&error) {
            return Err(error);
        }
        let (elapsed, failing) = (self.since.elapsed(), self.retries.failing());
        let wait = self.retries.wait(self.tries);
        if self.tries >= self.retries.tries || elapsed.max(failing) + wait > self.retries.policy.budget {
            if self.retries.tries == 1 {
                return Err(error);
            }
            let gave_up = GaveUp { tries: self.tries, elapsed, failing, last: error };
            return Err(Error::Generic { store: "retries", source: Box::new(gave_up) });
        }
        tracing::info!(error = %crate::store::redact(&error.to_string()), tries = self.tries, ?wait, "trying again");
        self.retries.wire.retried();
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// It got somewhere: what fails from here on is counted anew.
    pub(super) fn progressed(&mut self) {
        self.retries.answered();
        (self.since, self.tries) = (Stopwatch::start(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::HumanDuration;

    fn retries(tries: u32, budget_ms: u64) -> Retries {
        let ms = |n| HumanDuration(Duration::from_millis(n));
        let config = RetryConfig { tries, budget: ms(budget_ms), first_wait: ms(1), longest_wait: ms(8) };
        Retries::new(&config, Arc::default())
    }

    fn down() -> Error {
        Error::Generic { store: "test", source: "503 slow down".into() }
    }

    /// The result of a request that fails `failures` times, and how often it was made.
    async fn ask(retries: &Retries, failures: u32) -> (Result<u32>, u32) {
        let mut made = 0;
        let result = retries
            .persist(|| {
                made += 1;
                let answer = if made > failures { Ok(made) } else { Err(down()) };
                async { answer }
            })
            .await;
        (result, made)
    }

    #[tokio::test(start_paused = true)]
    async fn passing_trouble_is_survived_and_lasting_trouble_reported() {
        let retries = retries(5, 60_000);
        assert_eq!(ask(&retries, 4).await.0.unwrap(), 5);
        let (result, made) = ask(&retries, 99).await;
        let text = crate::store::error("write", "s3://b/x", result.unwrap_err()).to_string();
        assert_eq!(made, 5);
        assert!(text.contains("gave up after 5 tries in") && text.contains("503 slow down"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_not_mend_itself_is_not_tried_again() {
        let retries = retries(5, 60_000);
        let mut made = 0;
        let missing = || {
            made += 1;
            async { Err::<(), _>(Error::NotFound { path: "x".into(), source: "gone".into() }) }
        };
        assert!(retries.persist(missing).await.is_err());
        assert_eq!(made, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_only_fails_is_given_up_as_a_whole() {
        let retries = retries(1000, 500);
        let since = Stopwatch::start();
        let (result, made) = ask(&retries, u32::MAX).await;
        assert!(result.is_err() && made > 3);
        // later requests fail at once (but for what is left of the budget, less than a wait), until there is an answer
        let mut later = 0;
        for _ in 0..20 {
            later += ask(&retries, u32::MAX).await.1;
        }
        assert!(later <= 40, "{later}");
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
        retries.answered();
        assert!(ask(&retries, u32::MAX).await.1 > 3);
    }
}
