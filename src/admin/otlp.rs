//! Sends traces to a collector: OTLP over HTTP with JSON, as OpenTelemetry's collector, Jaeger, Tempo and others take it.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use url::Url;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::runtime::tls;
use crate::telemetry::traces::{Span, Traces};

/// Spans in a request, at most.
const AT_ONCE: usize = 512;
/// Between two requests, where there is less.
const EVERY: Duration = Duration::from_secs(2);
/// How long a collector may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A collector of traces.
pub struct Otlp {
    endpoint: Url,
    headers: HeaderMap,
    http: reqwest::Client,
}

/// What sends; the last spans are sent by [`Sending::end`].
pub struct Sending {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    traces: Traces,
}

impl Otlp {
    /// The collector at `endpoint`, which takes traces at exactly this URL, shown `headers`.
    ///
    /// # Errors
    /// `Config` for what is no URL or no header.
    pub fn new(endpoint: &str, headers: &[(String, String)]) -> Result<Self> {
        tls::install_provider();
        // not shown: it may hold a password
        let wrong = || "the OTLP endpoint (--otlp-endpoint) is not an http:// or https:// URL".to_owned();
        let endpoint = Url::parse(endpoint).or_kind(ErrorKind::Config, wrong)?;
        if !["http", "https"].contains(&endpoint.scheme()) {
            return Err(Error::config(wrong()));
        }
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let wrong = || format!("`{name}` in OTEL_EXPORTER_OTLP_HEADERS is not a header");
            let name: HeaderName = name.parse().or_kind(ErrorKind::Config, wrong)?;
            let mut value: HeaderValue = value.parse().or_kind(ErrorKind::Config, wrong)?;
            value.set_sensitive(true);
            map.insert(name, value);
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("harvestd/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()
            .or_kind(ErrorKind::Internal, || "cannot make an HTTP client".to_owned())?;
        Ok(Self { endpoint, headers: map, http })
    }

    /// Send what `traces` collects, from now on. Needs a tokio runtime.
    pub fn start(self, traces: Traces) -> Sending {
        let (stop, mut stopped) = oneshot::channel::<()>();
        let source = traces.clone();
        let task = tokio::spawn(async move {
            let (mut failing, mut ends) = (false, false);
            while !ends {
                tokio::select! {
                    () = tokio::time::sleep(EVERY) => {}
                    _ = &mut stopped => ends = true,
                }
                loop {
                    let spans = source.take(AT_ONCE);
                    if spans.is_empty() {
                        break;
                    }
                    let sent = self.send(&spans).await;
                    match &sent {
                        // said once, until it works again: nothing depends on traces
                        Err(error) if !failing => {
                            let spans = spans.len();
                            tracing::warn!(%error, spans, "traces are lost: the collector does not take them");
                        }
                        Ok(()) if failing => tracing::info!("the collector takes traces again"),
                        _ => {}
                    }
                    failing = sent.is_err();
                }
            }
        });
        Sending { stop, task, traces }
    }

    async fn send(&self, spans: &[Span]) -> Result<()> {
        let unanswered =
            || format!("the collector at `{}` does not answer", self.endpoint.host_str().unwrap_or_default());
        let request = self.http.post(self.endpoint.clone()).headers(self.headers.clone());
        let request = request.header(CONTENT_TYPE, "application/json").body(described(spans).to_string());
        let answer = request.send().await.map_err(reqwest::Error::without_url);
        let answer = answer.or_kind(ErrorKind::Unavailable, unanswered)?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(Error::new(ErrorKind::Unavailable, format!("the collector answers {status}"))),
        }
    }
}

impl Sending {
    /// Send what is left, within two seconds, and stop.
    pub async fn end(self) {
        drop(self.stop);
        let abort = self.task.abort_handle();
        if tokio::time::timeout(EVERY, self.task).await.is_err() {
            // what is not taken by then is lost
            abort.abort();
        }
        if self.traces.dropped() > 0 {
            tracing::warn!(spans = self.traces.dropped(), "spans were dropped: the collector was too slow");
        }
    }
}

/// An `ExportTraceServiceRequest` as JSON. (opentelemetry-proto 1.x: ids in hexadecimal, 64-bit integers as text.)
fn described(spans: &[Span]) -> Value {
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let span = |span: &Span| {
        let numbers = span.attributes.iter().map(|(key, n)| json!({"key": key, "value": {"intValue": n.to_string()}}));
        let mut described = json!({
            "traceId": format!("{:032x}", span.trace),
            "spanId": format!("{:016x}", span.id),
            "name": span.name,
            // SPAN_KIND_INTERNAL
            "kind": 1,
            "startTimeUnixNano": span.start.as_nanos().to_string(),
            "endTimeUnixNano": span.end.as_nanos().to_string(),
            "attributes": numbers.chain([text("pipeline", &span.pipeline)]).collect::<Vec<_>>(),
            "status": {},
        });
        if let Some(parent) = span.parent {
            described["parentSpanId"] = format!("{parent:016x}").into();
        }
        described
    };
    json!({"resourceSpans": [{
        "resource": {"attributes": [text("service.name", "harvestd"), text("service.version", env!("CARGO_PKG_VERSION"))]},
        "scopeSpans": [{
            "scope": {"name": "harvestd", "version": env!("CARGO_PKG_VERSION")},
            "spans": spans.iter().map(span).collect::<Vec<_>>(),
        }],
    }]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_the_protocol_says() {
        let traces = Traces::on(|| Duration::new(1_700_000_000, 5), 1.0);
        traces.of_pipeline("a").shard(1, 2, (3, 4), Duration::from_nanos(6));
        let request = described(&traces.take(1));
        let span = &request["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!((span["traceId"].as_str().unwrap().len(), span["spanId"].as_str().unwrap().len()), (32, 16));
        assert_eq!(span["startTimeUnixNano"], "1699999999999999999");
        assert_eq!(span["attributes"][1], json!({"key": "part", "value": {"intValue": "2"}}));
        assert!(span.get("parentSpanId").is_none());
    }

    #[test]
    fn what_is_no_endpoint_is_refused_without_its_secrets() {
        for bad in ["collector:4318", "ftp://x/v1/traces", "not a url", "http://"] {
            assert_eq!(Otlp::new(bad, &[]).err().unwrap().kind(), ErrorKind::Config, "{bad}");
        }
        let error = Otlp::new("ftp://user:secret@host/x?key=secret", &[]).err().unwrap();
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(Otlp::new("http://localhost:4318/v1/traces", &[("x y".into(), "z".into())]).is_err());
        assert!(Otlp::new("http://localhost:4318/v1/traces", &[("authorization".into(), "Basic x".into())]).is_ok());
    }
}
