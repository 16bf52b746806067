//! What goes over the wire: every HTTP request of a store is counted here, as providers bill them, and every answer's
//! `Date` tells how far the machine's clock is from the store's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

use crate::runtime::clock::{Clock, Stopwatch};
use crate::store::dates::http_date;
use crate::telemetry::metrics::{RequestClass, StoreStats};

/// A skew beyond this is worth a warning: S3 refuses signatures at 15 minutes, and ages are compared in minutes.
const LARGE_SKEW_SECONDS: f64 = 60.0;

/// How far a store's clock is ahead of the machine's, as seen in answers.
#[derive(Debug, Default)]
pub(super) struct Wire {
    stats: Option<StoreStats>,
    skew: Mutex<Option<Skew>>,
}

/// One look at a store's clock.
#[derive(Clone, Copy, Debug)]
struct Skew {
    /// Store minus machine.
    seconds: f64,
    /// Half the time in which the store may have looked at its clock.
    uncertainty: f64,
}

impl Wire {
    /// Count in `stats`.
    pub(super) fn new(stats: Option<StoreStats>) -> Self {
        Self { stats, skew: Mutex::default() }
    }

    /// Seconds that the store's clock is ahead, once it has answered.
    pub(super) fn skew_seconds(&self) -> Option<f64> {
        self.skew.lock().unwrap_or_else(PoisonError::into_inner).map(|skew| skew.seconds)
    }

    /// Count something that was tried again.
    pub(super) fn retried(&self) {
        if let Some(stats) = &self.stats {
            stats.retries.inc();
        }
    }

    fn sent(&self, request: &HttpRequest) {
        if let Some(stats) = &self.stats {
            stats.attempt(RequestClass::of(request.method().as_str(), request.uri().query().unwrap_or_default()));
        }
    }

    fn answered(&self, answer: &HttpResponse) {
        let length = answer.headers().get("content-length").and_then(|n| n.to_str().ok()?.parse().ok());
        if let (Some(stats), Some(length)) = (&self.stats, length) {
            stats.remote_bytes.add(length);
        }
    }

    /// `date` stands in an answer that came `took` after the request was sent.
    fn dated(&self, date: &str, took: Duration) {
        let Some(theirs) = http_date(date) else { return };
        let ours = Clock::system().since_epoch().as_secs_f64() - took.as_secs_f64() / 2.0;
        // a `Date` is cut to seconds
        let seen = Skew { seconds: theirs + 0.5 - ours, uncertainty: 0.5 + took.as_secs_f64() / 2.0 };
        let mut skew = self.skew.lock().unwrap_or_else(PoisonError::into_inner);
        if skew.is_none_or(|known| seen.uncertainty < known.uncertainty) {
            if skew.is_none() && seen.seconds.abs() > LARGE_SKEW_SECONDS {
                tracing::warn!(
                    seconds = seen.seconds.round(),
                    "the store's clock is not this machine's (store minus machine): set the machine's clock"
                );
            }
            *skew = Some(seen);
        }
    }
}

/// Makes HTTP clients whose requests are seen by a [`Wire`].
#[derive(Clone, Debug)]
pub(super) struct Connector(pub(super) Arc<Wire>);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Watched { client, wire: Arc::clone(&self.0) }))
    }
}

#[derive(Debug)]
struct Watched {
    client: HttpClient,
    wire: Arc<Wire>,
}

#[async_trait::async_trait]
impl HttpService for Watched {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.wire.sent(&request);
        let since = Stopwatch::start();
        let is_head = request.method().as_str() == "HEAD";
        let answer = self.client.execute(request).await?;
        if !is_head {
            self.wire.answered(&answer);
        }
        if let Some(date) = answer.headers().get("date").and_then(|date| date.to_str().ok()) {
            self.wire.dated(date, since.elapsed());
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_surest_look_at_the_clock_counts() {
        let wire = Wire::default();
        assert_eq!(wire.skew_seconds(), None);
        let now = Clock::system().since_epoch().as_secs_f64();
        wire.dated("Thu, 01 Jan 1970 00:00:00 GMT", Duration::from_secs(4));
        assert!((wire.skew_seconds().unwrap() + now).abs() < 5.0);
        wire.dated("Thu, 01 Jan 1970 01:00:00 GMT", Duration::from_millis(10));
        assert!((wire.skew_seconds().unwrap() + now - 3600.0).abs() < 3.0);
        wire.dated("Thu, 01 Jan 1970 00:00:00 GMT", Duration::from_secs(2));
        assert!((wire.skew_seconds().unwrap() + now - 3600.0).abs() < 3.0);
    }
}
