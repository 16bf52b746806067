//! What others make of it: schemathesis of the routes, Prometheus of the metrics.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{PATIENCE, Server, TOKEN, write_long_pipeline};
use crate::support::*;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Whether a program is there; CI must have it.
fn there(program: &str, what: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{program} is not installed: in CI {what} must be tested");
        eprintln!("SKIPPED: {program} is not installed; {what} was not tested");
    }
    found
}

#[test]
fn schemathesis_finds_no_answer_that_is_not_described() {
    let Some(python) = python("the description of the routes") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus, 100, 20);
    let pipeline = write_long_pipeline(&corpus, &scratch.path().join("out"), "long");
    let mut server = Server::start(scratch.path(), &[&pipeline]);
    server.until_it_works("long");
    let url = format!("http://{}/v1/openapi.json", server.address);
    let hooks = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/schemathesis.toml");
    let output = Command::new(&python)
        .args(["-m", "schemathesis.cli", "--config-file", hooks.to_str().unwrap(), "run", &url, "--no-color"])
        .args(["-H", &format!("Authorization: Bearer {TOKEN}")])
        .current_dir(scratch.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", server.text());
    assert!(said.contains("generated") && !said.contains("Tested: 0"), "{said}");
    // after all that was thrown at it, it works
    server.until("the pipeline can be resumed", |server| {
        let (code, view) = server.post("/v1/pipelines/long/resume");
        assert!(code == 202, "{view:#}");
        server.pipeline("long")["state"] == "running"
    });
    assert!(server.end(libc::SIGTERM).0.success());
}

#[test]
fn prometheus_scrapes_and_its_queries_find_the_pipeline() {
    if !there("prometheus", "what a real Prometheus makes of /metrics") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus, 400, 40);
    let pipeline = write_long_pipeline(&corpus, &scratch.path().join("out"), "long");
    let mut server = Server::start_with(scratch.path(), &[&pipeline], &["--protect-reads"], &[]);
    server.until("it works", |server| {
        server.ask("GET", "/v1/pipelines/long", Some(TOKEN), None).1["run"]["tokens"].as_u64().unwrap_or(0) > 0
    });
    let address = format!("127.0.0.1:{}", free_port());
    let config = scratch.path().join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 500ms}}\nscrape_configs:\n  - job_name: harvestd\n    authorization: {{credentials: {TOKEN}}}\n    \
         static_configs: [{{targets: [\"{}\"]}}]\n",
        server.address
    );
    std::fs::write(&config, text).unwrap();
    let log = std::fs::File::create(scratch.path().join("prometheus.log")).unwrap();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", scratch.path().join("tsdb").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let _prometheus = Killed(child);
    let query = |expression: &str| -> Vec<Value> {
        let path =
            format!("/api/v1/query?query={}", expression.replace('"', "%22").replace('{', "%7B").replace('}', "%7D"));
        let Ok((200, body)) = get(&address, &path) else { return Vec::new() };
        let body = body[body.find('{').unwrap_or(0)..].to_owned();
        let found: Value = serde_json::from_str(&body).unwrap_or_default();
        found["data"]["result"].as_array().cloned().unwrap_or_default()
    };
    let since = Instant::now();
    let wait_for = |expression: &str| {
        loop {
            let found = query(expression);
            if let Some(value) = found.first() {
                return value["value"][1].as_str().unwrap().parse::<f64>().unwrap();
            }
            let log = std::fs::read_to_string(scratch.path().join("prometheus.log")).unwrap();
            assert!(since.elapsed() < PATIENCE, "{expression}: no answer: {log}");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    assert_eq!(wait_for("up{job=\"harvestd\"}==1"), 1.0);
    assert_eq!(wait_for("harvestd_run_state{state=\"running\",pipeline=\"long\"}==1"), 1.0);
    assert!(wait_for("rate(harvestd_forward_tokens_total{pipeline=\"long\"}[30s])>0") > 0.0);
    assert!(wait_for("rate(harvestd_process_cpu_seconds_total[30s])>0") > 0.0);
    assert!(wait_for("harvestd_trainer_wanted_rows{trainer=\"one\"}") == 1e8);
    // one pipeline is a bounded number of series
    let series = wait_for("scrape_samples_scraped{job=\"harvestd\"}");
    assert!(series < 1000.0, "{series} series of one pipeline");
    assert!(server.end(libc::SIGTERM).0.success());
}
