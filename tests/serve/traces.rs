//! Traces, as a collector gets them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::process::{Server, write_long_pipeline};
use crate::support::*;

/// A collector, and the spans that it was sent.
fn collector() -> (http::Server, Arc<Mutex<Vec<Value>>>) {
    let spans = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&spans);
    let server = http::Server::start(move |request, out| {
        assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/v1/traces"));
        assert_eq!(http::header(&request.head, "content-type"), Some("application/json"));
        assert_eq!(http::header(&request.head, "x-team"), Some("a b"));
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let resource = &body["resourceSpans"][0];
        assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "harvestd");
        taken.lock().unwrap().extend(resource["scopeSpans"][0]["spans"].as_array().unwrap().iter().cloned());
        out.write_all(&http::answer("200 OK", "Content-Type: application/json\r\n", b"{}")).is_ok()
    });
    (server, spans)
}

fn text<'a>(span: &'a Value, key: &str) -> &'a str {
    span[key].as_str().unwrap_or_default()
}

#[test]
fn a_collector_gets_each_batch_and_each_shard() {
    let (collector, spans) = collector();
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus, 100, 20);
    let pipeline = write_long_pipeline(&corpus, &scratch.path().join("out"), "traced");
    let endpoint = format!("http://{}", collector.address);
    let variables = [("OTEL_EXPORTER_OTLP_HEADERS", "x-team=a%20b")];
    let mut server = Server::start_with(scratch.path(), &[&pipeline], &["--otlp-endpoint", &endpoint], &variables);
    server.until("a shard was traced", |_| spans.lock().unwrap().iter().any(|span| text(span, "name") == "shard"));
    assert!(server.end(libc::SIGTERM).0.success());

    let spans = spans.lock().unwrap();
    let mut traces = BTreeMap::<&str, Vec<&Value>>::new();
    let mut ids = BTreeSet::new();
    for span in spans.iter() {
        let (trace, id) = (text(span, "traceId"), text(span, "spanId"));
        assert!(trace.len() == 32 && id.len() == 16 && (trace.to_owned() + id).bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(ids.insert((trace, id)), "{span:#}");
        let time = |key: &str| text(span, key).parse::<u128>().unwrap();
        assert!(
            time("startTimeUnixNano") <= time("endTimeUnixNano")
                && time("startTimeUnixNano") > 1_700_000_000 * 1_000_000_000
        );
        let attributes = span["attributes"].as_array().unwrap();
        assert!(attributes.iter().any(|a| a["key"] == "pipeline" && a["value"]["stringValue"] == "traced"));
        traces.entry(trace).or_default().push(span);
    }
    // one batch's way through all stages, below the first
    let whole = traces.values().find(|spans| spans.len() == 4).expect("a batch that everybody got");
    let names: BTreeSet<&str> = whole.iter().map(|span| text(span, "name")).collect();
    assert_eq!(names, BTreeSet::from(["tokenize", "forward", "deliver", "train one"]));
    let root = whole.iter().find(|span| text(span, "name") == "tokenize").unwrap();
    let others = whole.iter().filter(|span| text(span, "name") != "tokenize");
    assert!(
        root.get("parentSpanId").is_none() && others.into_iter().all(|span| span["parentSpanId"] == root["spanId"])
    );
    // what is committed was traced
    let shards = spans.iter().filter(|span| text(span, "name") == "shard").count();
    assert_eq!(shards, std::fs::read_dir(scratch.path().join("out/acts/commits")).unwrap().count());
}

#[test]
fn a_collector_that_is_gone_disturbs_nobody() {
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus, 40, 20);
    let pipeline = write_long_pipeline(&corpus, &scratch.path().join("out"), "traced");
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
    let mut server = Server::start_with(scratch.path(), &[&pipeline], &[], &variables);
    server.until("it is said", |server| server.text().contains("traces are lost"));
    server.until_it_works("traced");
    assert_eq!(server.text().matches("traces are lost").count(), 1);
    assert!(server.end(libc::SIGTERM).0.success());
    let refused = harvestd(&["serve", "nowhere", "--otlp-endpoint", "collector:4318"]);
    assert_eq!(refused.status.code(), Some(78), "{}", String::from_utf8_lossy(&refused.stderr));
}
