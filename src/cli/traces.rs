//! Where traces go, by options or by the variables that OpenTelemetry gives them.

use clap::Args;
use percent_encoding::percent_decode_str;

use crate::admin::Otlp;
use crate::config::env;
use crate::error::{Error, Result};
use crate::runtime::clock::Clock;
use crate::telemetry::traces::Traces;
use crate::units::Percent;

/// Options of traces.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// Send traces to this collector (OTLP over HTTP), such as http://localhost:4318 [default: OTEL_EXPORTER_OTLP_ENDPOINT]
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// Share of the batches that is traced; shards all are
    #[arg(long, default_value = "100%", value_name = "SHARE")]
    otlp_sample: Percent,
}

impl TraceArgs {
    /// The traces, and the collector that they go to, if there is one.
    pub(crate) fn open(&self) -> Result<(Traces, Option<Otlp>)> {
        let of = |variable: &str| env::of_process(variable).filter(|value| !value.is_empty());
        let below = |base: String| format!("{}/v1/traces", base.trim_end_matches('/'));
        let endpoint = match &self.otlp_endpoint {
            Some(given) => Some(below(given.clone())),
            None => of("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| of("OTEL_EXPORTER_OTLP_ENDPOINT").map(below)),
        };
        let Some(endpoint) = endpoint else { return Ok((Traces::default(), None)) };
        let headers = headers(&of("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default())?;
        let otlp = Otlp::new(&endpoint, &headers)?;
        Ok((Traces::on(|| Clock::system().since_epoch(), self.otlp_sample.share()), Some(otlp)))
    }
}

/// `key=value,key=value`, values percent-encoded.
fn headers(text: &str) -> Result<Vec<(String, String)>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let header = |part: &str| {
        let wrong = || Error::config("OTEL_EXPORTER_OTLP_HEADERS is not a list of name=value, separated by commas");
        let (name, value) = part.split_once('=').ok_or_else(wrong)?;
        let value = percent_decode_str(value.trim()).decode_utf8().map_err(|_| wrong())?;
        Ok((name.trim().to_owned(), value.into_owned()))
    };
    parts.map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_opentelemetry_writes_them() {
        let found = headers("authorization=Basic%20abc%3D, x-team = a ").unwrap();
        let expected = [("authorization".to_owned(), "Basic abc=".to_owned()), ("x-team".to_owned(), "a".to_owned())];
        assert_eq!(found, expected);
        assert!(headers("").unwrap().is_empty() && headers("alone").is_err());
    }
}
