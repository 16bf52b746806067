//! Who may do what over HTTP, trainers that come and go, and many that ask at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::{Server, TOKEN, exchange, write_long_pipeline};
use crate::support::*;

#[test]
fn changes_need_the_token_and_reading_does_not() {
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus, 100, 20);
    let pipeline = write_long_pipeline(&corpus, &scratch.path().join("out"), "long");
    {
        let mut server = Server::start(scratch.path(), &[&pipeline]);
        server.until_it_works("long");
        let pause = "/v1/pipelines/long/pause";
        for token in [None, Some("wrong"), Some("a-token-for-the-tests-012345678")] {
            let (code, problem) = server.ask("POST", pause, token, None);
            assert_eq!((code, &problem["status"], &problem["title"]), (401, &json!(401), &json!("Unauthorized")));
        }
        assert_eq!(server.pipeline("long")["state"], "running");
        let head = exchange(&server.address, &format!("POST {pause} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        let head = head.to_lowercase();
        assert!(head.contains("www-authenticate: bearer") && head.contains("application/problem+json"), "{head}");
        assert_eq!(server.post("/v1/pipelines/none/pause").0, 404);
        assert_eq!(server.post("/v1/pipelines/%ff/pause").0, 404);
        // what is too much, of the wrong kind, or no JSON, before anything is done
        let trainers = "/v1/pipelines/long/trainers";
        let huge = json!({"name": "x".repeat(70_000)});
        assert_eq!(server.ask("POST", trainers, Some(TOKEN), Some(&huge)).0, 413);
        assert_eq!(server.ask("POST", pause, Some(TOKEN), Some(&json!({}))).0, 413);
        assert_eq!(server.ask("GET", pause, Some(TOKEN), None).0, 405);
        let plain = format!(
            "POST {trainers} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Length: 2\r\n\r\n{{}}"
        );
        assert!(exchange(&server.address, &plain).starts_with("HTTP/1.1 415"));
        let (code, description) = server.ask("GET", "/v1/openapi.json", None, None);
        assert_eq!((code, &description["openapi"]), (200, &json!("3.1.0")));
        assert!(description["paths"]["/v1/pipelines/{name}/pause"]["post"]["responses"]["409"].is_object());
        let (_, metrics) = server.ask("GET", "/metrics", None, None);
        let counted = "harvestd_http_requests_total{route=\"/v1/pipelines/{name}/pause\",code=\"401\"} 4";
        assert!(metrics.as_str().unwrap().lines().any(|l| l == counted), "{counted}");
    }
    let server = Server::start_with(scratch.path(), &[&pipeline], &["--protect-reads"], &[]);
    assert_eq!(server.ask("GET", "/metrics", None, None).0, 401);
    assert_eq!(server.ask("GET", "/v1/pipelines", Some("wrong"), None).0, 401);
    assert_eq!(server.ask("GET", "/metrics", Some(TOKEN), None).0, 200);
    assert_eq!(server.ask("GET", "/livez", None, None).0, 200);
    drop(server);
    // without a token nobody can change anything, wherever the request is from
    let server = Server::start_with(scratch.path(), &[&pipeline], &[], &[("HARVESTD_TOKEN", "")]);
    let (code, problem) = server.ask("POST", "/v1/reload", Some(TOKEN), None);
    assert!(code == 403 && problem["detail"].as_str().unwrap().contains("--token-file"), "{problem}");
}

#[test]
fn trainers_come_and_go_while_the_harvest_goes_on() {
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus, 400, 40);
    let out = scratch.path().join("out");
    let pipeline = write_long_pipeline(&corpus, &out, "long");
    let mut server = Server::start(scratch.path(), &[&pipeline]);
    server.until_it_works("long");
    let trainers = "/v1/pipelines/long/trainers";
    let mut added = json!({
        "name": "two", "input": "blocks.2.hook_mlp_out", "buffer": {"rows": 4096},
        "coder": {"type": "topk", "width": 256, "k": 8}, "optimizer": {"type": "adam", "learning_rate": 1e-3},
        "batch_rows": 1024, "rows": "100M", "checkpoint": {"url": out.join("two").display().to_string()},
    });
    // wrong ones are refused as in a file, and nothing is disturbed
    let wrong = json!({"name": "two", "input": "blocks.2.hook_mlp_out", "coder": {"type": "topk", "width": 4, "k": 8}});
    let (code, problem) = server.ask("POST", trainers, Some(TOKEN), Some(&wrong));
    assert!(code == 422 && problem["detail"].as_str().unwrap().contains("added trainer `two`"), "{code} {problem:#}");
    for (body, expected) in [(json!({"name": "one"}), 409), (json!([1, 2]), 422), (json!({"name": "${HOME}"}), 422)] {
        let (code, problem) = server.ask("POST", trainers, Some(TOKEN), Some(&body));
        assert_eq!(code, expected, "{body} {problem:#}");
    }
    assert_eq!(
        (&server.pipeline("long")["state"], server.pipeline("long")["restarts"].as_u64()),
        (&json!("running"), Some(0))
    );

    assert_eq!(server.ask("POST", trainers, Some(TOKEN), Some(&added)).0, 202);
    let names = |view: &Value| -> Vec<String> {
        let list = view["run"]["trainers"].as_array().cloned().unwrap_or_default();
        list.iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect()
    };
    let works = |server: &Server, wanted: &[&str]| {
        let view = server.pipeline("long");
        assert!(view["state"] != "failed", "{view:#}");
        let all = view["run"]["trainers"].as_array().is_some_and(|all| all.iter().all(|t| t["rows"] != 0));
        view["state"] == "running" && names(&view) == wanted && all
    };
    server.until("both train", |server| works(server, &["one", "two"]));
    assert_eq!(server.post(&format!("{trainers}/one/stop")).0, 202);
    server.until("the added one trains alone", |server| works(server, &["two"]));
    let view = server.pipeline("long");
    assert_eq!((&view["trainers_added"], &view["trainers_stopped"]), (&json!(["two"]), &json!(["one"])));
    added["name"] = json!("one");
    let (code, problem) = server.ask("POST", trainers, Some(TOKEN), Some(&added));
    assert!(code == 409 && problem["detail"].as_str().unwrap().contains("/one/resume"), "{problem:#}");
    assert_eq!(server.post(&format!("{trainers}/three/stop")).0, 404);
    // kept over a restart of the process, and over a reload
    assert!(server.end(libc::SIGTERM).0.success());
    let mut server = Server::start(scratch.path(), &[&pipeline]);
    server.until("still the added one alone", |server| works(server, &["two"]));
    assert_eq!(server.post("/v1/reload").1["unchanged"], json!(["long"]));
    assert_eq!(server.post(&format!("{trainers}/one/resume")).0, 202);
    server.until("both again", |server| works(server, &["one", "two"]));
    assert!(server.end(libc::SIGTERM).0.success());
    assert!(std::fs::read_dir(out.join("two")).unwrap().count() > 0, "its checkpoints are there");
}

#[test]
fn two_hundred_that_ask_at_once_are_answered_and_the_harvest_goes_on() {
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus, 400, 40);
    let pipeline = write_long_pipeline(&corpus, &scratch.path().join("out"), "long");
    let mut server = Server::start(scratch.path(), &[&pipeline]);
    server.until_it_works("long");
    let tokens = |server: &Server| server.pipeline("long")["run"]["tokens"].as_u64().unwrap();
    let pace = |server: &Server, span: Duration| {
        let (before, since) = (tokens(server), Instant::now());
        std::thread::sleep(span);
        (tokens(server) - before) as f64 / since.elapsed().as_secs_f64()
    };
    // a scraper or a person asks every second or so; 200 of them
    let (stop, answers, slowest) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let alone = pace(&server, Duration::from_secs(4));
    let under_load = std::thread::scope(|scope| {
        for i in 0..200 {
            let (server, stop, answers, slowest) = (&server, &stop, &answers, &slowest);
            scope.spawn(move || {
                let path = ["/metrics", "/v1/pipelines", "/readyz", "/v1/status"][i % 4];
                while !stop.load(Ordering::Relaxed) {
                    let since = Instant::now();
                    let (code, body) = server.ask("GET", path, None, None);
                    assert!(code == 200 && !body.is_null(), "{path}: {code} {body}");
                    answers.fetch_add(1, Ordering::Relaxed);
                    slowest.fetch_max(since.elapsed().as_millis() as u64, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1000));
                }
            });
        }
        std::thread::sleep(Duration::from_secs(1));
        let pace = pace(&server, Duration::from_secs(4));
        stop.store(true, Ordering::Relaxed);
        pace
    });
    let (answers, slowest) = (answers.into_inner(), slowest.into_inner());
    eprintln!("{answers} answers, slowest {slowest} ms; {alone:.0} tokens/s alone, {under_load:.0} meanwhile");
    assert!(answers >= 400, "{answers} answers");
    assert!(under_load > 0.0, "the harvest stood still");
    // a crowd that says nothing at all, beyond what is let in: the others are still answered once it leaves
    let silent: Vec<_> = (0..300).map(|_| std::net::TcpStream::connect(&server.address).unwrap()).collect();
    drop(silent);
    assert_eq!(server.ask("GET", "/livez", None, None).0, 200);
    assert_eq!(server.pipeline("long")["restarts"], 0);
    assert!(server.end(libc::SIGTERM).0.success());
}

/// Certificates by `cryptography`, a client by Python's `ssl`.
#[test]
fn tls_is_served_and_a_clients_certificate_is_as_good_as_the_token() {
    let Some(python) = python("TLS, beside another implementation of it,") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let corpus = scratch.path().join("corpus");
    write_corpus(&corpus, 100, 20);
    let pipeline = write_long_pipeline(&corpus, &scratch.path().join("out"), "long");
    let folder = scratch.path().display().to_string();
    ask_python(&python, "tls.py", &["make", &folder], &json!({}));
    let file = |name: &str| scratch.path().join(name).display().to_string();
    let options =
        ["--tls-cert", &file("server.pem"), "--tls-key", &file("server.key"), "--tls-client-ca", &file("ca.pem")];
    let mut server = Server::start_with(scratch.path(), &[&pipeline], &options, &[]);
    server.until("it listens", |server| server.text().contains("admin server listens"));
    let ask = |server: &Server, method: &str, path: &str, client: Option<&str>, token: Option<&str>| {
        let input =
            json!({"method": method, "path": path, "address": server.address, "client": client, "token": token});
        ask_python(&python, "tls.py", &["ask", &folder], &input)
    };
    assert_eq!(ask(&server, "GET", "/livez", None, None)["status"], 200);
    assert_eq!(ask(&server, "POST", "/v1/reload", None, None)["status"], 401);
    assert_eq!(ask(&server, "POST", "/v1/reload", None, Some(TOKEN))["status"], 200);
    assert_eq!(ask(&server, "POST", "/v1/reload", Some("client"), None)["status"], 200);
    let stranger = ask(&server, "GET", "/livez", Some("stranger"), None);
    assert!(stranger["status"].is_null(), "a certificate of somebody else's authority is refused: {stranger}");
    // plain HTTP gets no answer, and holds up nobody
    let mut plain = std::net::TcpStream::connect(&server.address).unwrap();
    std::io::Write::write_all(&mut plain, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let serial = ask(&server, "GET", "/livez", None, None)["serial"].clone();
    // a new certificate is served after a reload
    ask_python(&python, "tls.py", &["renew", &folder], &json!({}));
    signal(&server.child, libc::SIGHUP);
    server.until("the new certificate is served", |server| {
        let seen = ask(server, "GET", "/livez", None, None);
        seen["status"] == 200 && seen["serial"] != serial
    });
    assert!(server.end(libc::SIGTERM).0.success());
}
