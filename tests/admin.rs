//! The admin server over a real TCP socket, spoken to in plain HTTP/1.1.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use harvestd::admin::{AdminServer, Board, Watched};
use harvestd::error::ErrorKind;
use harvestd::runtime::budget::MemoryBudget;
use harvestd::runtime::clock::Clock;
use harvestd::runtime::readiness::{Latch, Readiness};
use harvestd::runtime::shutdown::Shutdown;
use harvestd::runtime::supervisor::{OnFault, Supervisor};
use harvestd::telemetry::metrics::Metrics;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// A server in front of one pipeline called `tiny`.
struct Rig {
    runtime: Runtime,
    server: AdminServer,
    readiness: Readiness,
    shutdown: Shutdown,
    metrics: Arc<Metrics>,
}

fn rig() -> Rig {
    let runtime = Runtime::new().unwrap();
    let (readiness, shutdown) = (Readiness::new(), Shutdown::new(Duration::from_secs(1)));
    let metrics = Arc::new(Metrics::new("tiny"));
    let mut stages = Supervisor::new(shutdown.clone());
    stages.spawn("read", OnFault::StopRun, |_| Ok(())).unwrap();
    let board = Arc::new(Board::new(Clock::system()));
    let watched = Watched {
        metrics: Arc::clone(&metrics),
        health: stages.health(),
        readiness: readiness.clone(),
        shutdown: shutdown.clone(),
        memory: Some(MemoryBudget::new(1 << 30)),
        status: Arc::new(|| json!({"documents": 42})),
    };
    stages.join();
    board.put("tiny", watched);
    let server = runtime.block_on(AdminServer::start("127.0.0.1:0", board)).unwrap();
    Rig { runtime, server, readiness, shutdown, metrics }
}

/// Send `request` as it stands and read until the server closes; gives the status code, the head and the body.
fn exchange(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    tcp.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
}

#[test]
fn metrics_are_served_with_their_content_type() {
    let rig = rig();
    rig.metrics.run.tokens.add(1234);
    let (code, head, body) = get(rig.server.address(), "/metrics");
    assert_eq!(code, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    for line in [
        "harvestd_forward_tokens_total{pipeline=\"tiny\"} 1234",
        "harvestd_memory_budget_bytes{pipeline=\"tiny\"} 1073741824",
        "harvestd_run_ready{pipeline=\"tiny\"} 0",
    ] {
        assert!(body.lines().any(|l| l == line), "{line} not in\n{body}");
    }
    let resident = body.lines().find_map(|l| l.strip_prefix("harvestd_process_resident_bytes ")).unwrap();
    assert!(resident.parse::<f64>().unwrap() > 1e6);
}

#[test]
fn readiness_explains_what_is_waited_for_and_ends_with_draining() {
    let rig = rig();
    let ready = || {
        let (code, _, body) = get(rig.server.address(), "/readyz");
        (code, serde_json::from_str::<Value>(&body).unwrap())
    };
    rig.readiness.release(Latch::ModelLoaded);
    let (code, body) = ready();
    assert_eq!((code, &body["ok"]), (503, &json!(false)));
    let held: Vec<_> = body["pipelines"]["tiny"].as_array().unwrap().iter().filter(|c| c["ok"] == false).collect();
    assert_eq!(
        held.iter().map(|c| c["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["store_reachable", "dataset_open"]
    );
    rig.readiness.release(Latch::StoreReachable);
    rig.readiness.release(Latch::DatasetOpen);
    assert_eq!(ready().0, 200);
    rig.shutdown.drain("SIGTERM");
    let (code, body) = ready();
    assert_eq!(code, 503);
    assert!(body.to_string().contains("ends because of SIGTERM"), "{body}");
}

#[test]
fn liveness_and_status_tell_of_every_pipeline() {
    let rig = rig();
    let (code, _, body) = get(rig.server.address(), "/livez");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &body["pipelines"]["tiny"][0]["name"]), (200, &json!("read")));
    let (code, _, body) = get(rig.server.address(), "/v1/status");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &body["pipelines"]["tiny"]["status"]["documents"]), (200, &json!(42)));
    assert_eq!(body["pipelines"]["tiny"]["phase"], "running");
    assert!(body["uptime_seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_is_not_offered_is_a_problem_document() {
    let rig = rig();
    let address = rig.server.address();
    let (code, head, body) = get(address, "/secrets");
    assert_eq!(code, 404);
    assert!(head.contains("content-type: application/problem+json") && body.contains("/readyz"), "{head}\n{body}");
    let (code, _, body) = exchange(address, "DELETE /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(code == 405 && body.contains("\"status\":405"), "{code} {body}");
    let upload = "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n";
    assert_eq!(exchange(address, upload).0, 413);
}

#[test]
fn a_taken_port_is_unavailable_and_a_wrong_address_a_mistake() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let runtime = Runtime::new().unwrap();
    let start = |listen: String| {
        let board = Arc::new(Board::new(Clock::system()));
        runtime.block_on(AdminServer::start(&listen, board)).err().unwrap()
    };
    let error = start(taken.local_addr().unwrap().to_string());
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("is another harvestd running?"), "{error}");
    assert_eq!(start("9464".to_owned()).kind(), ErrorKind::Config);
}

#[test]
fn stopping_frees_the_port_even_with_an_idle_connection() {
    let rig = rig();
    let address = rig.server.address();
    let idle = TcpStream::connect(address).unwrap();
    assert_eq!(get(address, "/livez").0, 200);
    rig.runtime.block_on(rig.server.stop());
    drop(idle);
    assert!(TcpStream::connect(address).is_err());
}
