//! Corpora on web servers: parts of files, redirects, credentials that nobody gets to see.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::http::{Request, Server, answer};
use crate::support::{self, BINARY};

const PASSWORD: &str = "pass-word-7f3a";
const SIGNATURE: &str = "signature-91bc";

/// Serves one file: `/parts/` by ranges, `/whole/` only whole, `/moved/` by a redirect to `/parts/`, `/secret/` to whoever
/// has the password and the signature, `/short/` with bodies that break off at first.
fn serve(content: Vec<u8>) -> Server {
    let short = std::sync::atomic::AtomicUsize::new(0);
    Server::start(move |request, out| {
        let path = request.target.split('?').next().unwrap();
        let (folder, name) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
        if !name.ends_with(".jsonl") || name.contains("missing") {
            return send(out, &answer("404 Not Found", "", b""));
        }
        match folder {
            "moved" => send(out, &answer("302 Found", &format!("Location: /parts/{name}\r\n"), b"")),
            "secret" => {
                let user = request.header("authorization") == Some("Basic bWU6cGFzcy13b3JkLTdmM2E=");
                match user && request.target.contains(SIGNATURE) {
                    true => send(out, &part(request, &content, true)),
                    false => send(out, &answer("401 Unauthorized", "", b"who are you?")),
                }
            }
            "short" if request.method == "GET" => {
                let bytes = part(request, &content, true);
                let n = short.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let cut = if n.is_multiple_of(2) { bytes.len() - bytes.len() / 3 } else { bytes.len() };
                send(out, &bytes[..cut]) && cut == bytes.len()
            }
            folder => send(out, &part(request, &content, folder != "whole")),
        }
    })
}

fn send(out: &mut TcpStream, bytes: &[u8]) -> bool {
    out.write_all(bytes).is_ok()
}

fn part(request: &Request, content: &[u8], by_ranges: bool) -> Vec<u8> {
    let range = request.header("range").and_then(|r| r.strip_prefix("bytes=")?.split_once('-')).filter(|_| by_ranges);
    let common = "ETag: \"one\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let mut bytes = match range {
        None => answer("200 OK", common, content),
        Some((from, to)) => {
            let from: usize = from.parse().unwrap();
            let to = to.parse().unwrap_or(content.len() - 1).min(content.len() - 1);
            let headers = format!("{common}Content-Range: bytes {from}-{to}/{}\r\n", content.len());
            answer("206 Partial Content", &headers, &content[from..=to])
        }
    };
    if request.method == "HEAD" {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        bytes.truncate(end);
    }
    bytes
}

fn run(folder: &Path, url: &str, more: &[&str]) -> Output {
    let paths = format!("corpus.paths=[\"{url}\"]");
    Command::new(BINARY)
        .args(["run", "--json", "--set", "trainers=[]", "--set", &paths, "--set"])
        .arg(format!("dataset.url={}", folder.join("web").display()))
        .args(more)
        .arg(folder.join("pipeline.yaml"))
        .output()
        .unwrap()
}

/// A pipeline whose corpus is a local file, the file's content, and the shards that it makes.
fn local() -> (tempfile::TempDir, Vec<u8>, Vec<Vec<u8>>) {
    let folder = tempfile::tempdir().unwrap();
    support::write_corpus(&folder.path().join("corpus"), 8, 8);
    support::write_pipeline(&folder.path().join("corpus"), folder.path());
    let output = Command::new(BINARY)
        .args(["run", "--set", "trainers=[]"])
        .arg(folder.path().join("pipeline.yaml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let content = std::fs::read(folder.path().join("corpus/part-000.jsonl")).unwrap();
    let shards = shards(&folder.path().join("acts"));
    assert!(shards.len() > 1);
    (folder, content, shards)
}

fn shards(dataset: &Path) -> Vec<Vec<u8>> {
    support::files(&dataset.join("shards")).into_values().collect()
}

#[test]
fn files_of_web_servers_are_read_by_parts() {
    let (folder, content, expected) = local();
    let server = serve(content);
    for kind in ["parts", "moved", "short"] {
        let url = format!("http://{}/{kind}/part-000.jsonl", server.address);
        let output = run(folder.path(), &url, &["--store", "retry.first_wait=10ms"]);
        assert!(output.status.success(), "{kind}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(shards(&folder.path().join("web")) == expected, "{kind}: other bytes than from a local file");
        std::fs::remove_dir_all(folder.path().join("web")).unwrap();
    }
}

#[test]
fn what_a_web_server_cannot_do_is_said() {
    let (folder, content, _) = local();
    let server = serve(content);
    for (path, words) in [
        ("whole/a.jsonl", "does not serve parts of files"),
        ("parts/missing.jsonl", "matches no file"),
        ("parts/*.jsonl", "web servers do not list their files"),
        ("secret/a.jsonl", "401"),
    ] {
        let output = run(folder.path(), &format!("http://{}/{path}", server.address), &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{path}: {said}");
        assert!(said.contains(words), "{path}: {said}");
    }
}

#[test]
fn secrets_of_urls_are_nowhere_to_be_seen() {
    let (folder, content, expected) = local();
    let server = serve(content);
    let url = format!("http://me:{PASSWORD}@{}/secret/a.jsonl?sig={SIGNATURE}", server.address);
    let output = run(folder.path(), &url, &["--log-level", "debug"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(shards(&folder.path().join("web")) == expected);
    let mut seen = vec![output.stdout, output.stderr];
    seen.extend(support::files(&folder.path().join("web")).into_values());
    // wrong ones, in every kind of message
    let wrong = url.replace("secret/a.jsonl", "secret/missing.jsonl");
    let refused = url.replace("/secret/", "/secret/*");
    for url in [&wrong, &refused, &url.replace("http://", "ftp://")] {
        for command in ["run", "validate", "plan"] {
            let output = Command::new(BINARY)
                .args([command, "--log-level", "debug", "--set", &format!("corpus.paths=[\"{url}\"]")])
                .arg(folder.path().join("pipeline.yaml"))
                .output()
                .unwrap();
            seen.extend([output.stdout, output.stderr]);
        }
    }
    let bucket = format!("s3://key:{PASSWORD}@bucket/x?sig={SIGNATURE}");
    for command in ["inspect", "verify"] {
        let output = Command::new(BINARY).args([command, bucket.as_str()]).output().unwrap();
        assert_eq!(output.status.code(), Some(78));
        seen.extend([output.stdout, output.stderr]);
    }
    for text in seen {
        let text = String::from_utf8_lossy(&text);
        for secret in [PASSWORD, SIGNATURE] {
            let at = text.find(secret);
            assert!(at.is_none(), "{}", &text[at.unwrap().saturating_sub(300)..at.unwrap() + 20]);
        }
    }
}
