//! A `harvestd serve` of a test, and how it is spoken to.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::*;

/// The token of all tests.
pub const TOKEN: &str = "a-token-for-the-tests-0123456789";
/// Nothing here takes longer, even unoptimised and beside other work.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// A process, killed when it is dropped.
pub struct Server {
    pub child: Child,
    pub address: String,
    pub log: PathBuf,
}

impl Server {
    /// Serve `paths`, keeping state in `folder`.
    pub fn start(folder: &Path, paths: &[&Path]) -> Self {
        Self::start_with(folder, paths, &[], &[])
    }

    /// The same with more options, and variables of the environment.
    pub fn start_with(folder: &Path, paths: &[&Path], options: &[&str], variables: &[(&str, &str)]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let (mut command, log) = command(folder, paths, &address);
        let child = command.args(options).env("HARVESTD_TOKEN", TOKEN).envs(variables.iter().copied()).spawn();
        let mut server = Self { child: child.unwrap(), address, log };
        if !options.contains(&"--tls-cert") {
            server.until("it answers", |server| get(&server.address, "/livez").is_ok());
        }
        server
    }

    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Wait until `reached` of the running server.
    pub fn until(&mut self, what: &str, mut reached: impl FnMut(&Self) -> bool) {
        let since = Instant::now();
        while !reached(self) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{what}: the process ended with {status}: {}", self.text());
            }
            assert!(since.elapsed() < PATIENCE, "{what}: not reached: {}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Status and body of a request; the body is JSON or, failing that, text.
    pub fn ask(&self, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> (u16, Value) {
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let body = body.map(Value::to_string);
        let head = body.as_ref().map(|b| format!("Content-Type: application/json\r\nContent-Length: {}\r\n", b.len()));
        let head = head.unwrap_or_default();
        let body = body.unwrap_or_default();
        let text = exchange(
            &self.address,
            &format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}{head}\r\n{body}"),
        );
        let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, serde_json::from_str(body).unwrap_or_else(|_| Value::from(body)))
    }

    /// A change, by somebody who may.
    pub fn post(&self, path: &str) -> (u16, Value) {
        self.ask("POST", path, Some(TOKEN), None)
    }

    /// The pipeline `name` as it is shown.
    pub fn pipeline(&self, name: &str) -> Value {
        let (status, view) = self.ask("GET", &format!("/v1/pipelines/{name}"), None, None);
        assert_eq!(status, 200, "{view}");
        view
    }

    /// Wait until the pipeline `name` is in `state`.
    pub fn until_state(&mut self, name: &str, state: &str) -> Value {
        let mut view = Value::Null;
        self.until(&format!("{name} is {state}"), |server| {
            view = server.pipeline(name);
            assert!(view["state"] != "failed" || state == "failed", "{view:#}");
            view["state"] == state
        });
        view
    }

    /// Wait until the pipeline `name` has computed something in its present run.
    pub fn until_it_works(&mut self, name: &str) {
        self.until(&format!("{name} works"), |server| {
            let view = server.pipeline(name);
            view["state"] == "running" && view["run"]["trainers"][0]["rows"].as_u64().unwrap_or(0) > 0
        });
    }

    /// Send a signal and wait for the end.
    pub fn end(mut self, with: i32) -> (std::process::ExitStatus, Duration) {
        let since = Instant::now();
        signal(&self.child, with);
        let status = self.child.wait().unwrap();
        (status, since.elapsed())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `harvestd serve` with what every test has, and its log.
pub fn command(folder: &Path, paths: &[&Path], address: &str) -> (Command, PathBuf) {
    std::fs::create_dir_all(folder).unwrap();
    let log = folder.join("serve.log");
    let stderr = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
    let mut command = Command::new(BINARY);
    command.arg("serve").args(paths).arg("--state-dir").arg(folder.join("state")).args(["--listen", address]);
    command.args(["--restart-wait", "100ms", "--restart-wait-max", "400ms"]);
    command.stdout(Stdio::null()).stderr(stderr);
    (command, log)
}

/// Send `request` as it stands and read until the server closes.
pub fn exchange(address: &str, request: &str) -> String {
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    tcp.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    answer
}

/// A pipeline called `name` below `out` that does not end by itself for minutes.
pub fn write_long_pipeline(corpus: &Path, out: &Path, name: &str) -> PathBuf {
    let path = write_pipeline(corpus, out);
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("name: small", &format!("name: {name}")).replace("rows: 60k", "rows: 100M");
    // beside other tests, which have work to do
    let text = text.replace("quickstart/model}", "quickstart/model, threads: 1}");
    std::fs::write(&path, text).unwrap();
    path
}
