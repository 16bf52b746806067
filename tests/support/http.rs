//! As much of HTTP as servers of tests need.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// The head as it came, with its empty line.
    pub head: String,
    pub body: Vec<u8>,
}

impl Request {
    /// The next request of a connection; `None` at its end.
    pub fn read(stream: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut head = String::new();
        loop {
            let before = head.len();
            if stream.read_line(&mut head).ok()? == 0 {
                return None;
            }
            if head[before..].trim().is_empty() {
                break;
            }
        }
        let mut words = head.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut request = Self { method, target, head, body: Vec::new() };
        let length = request.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        request.body.resize(length, 0);
        stream.read_exact(&mut request.body).ok()?;
        Some(request)
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// Send it to a server and read its whole answer: head and body.
    pub fn forward(&self, address: &str) -> Option<(String, Vec<u8>)> {
        let mut stream = TcpStream::connect(address).ok()?;
        let head = without(&without(&self.head, "connection"), "expect");
        let head = head.trim_end().to_owned() + "\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(&self.body).ok()?;
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let mut body = Vec::new();
        if self.method != "HEAD" {
            let length = header(&head, "content-length").and_then(|n| n.parse::<u64>().ok());
            match length {
                Some(length) => stream.take(length).read_to_end(&mut body).ok()?,
                None => stream.read_to_end(&mut body).ok()?,
            };
            if length.is_none() {
                head = head.trim_end().to_owned() + &format!("\r\nContent-Length: {}\r\n\r\n", body.len());
            }
        }
        Some((without(&head, "connection"), body))
    }
}

/// The value of a header of a head.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn without(head: &str, name: &str) -> String {
    let keep = |line: &&str| !line.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
    head.split("\r\n").filter(keep).collect::<Vec<_>>().join("\r\n")
}

/// An answer.
pub fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Serves until it is dropped: one thread a connection.
pub struct Server {
    pub address: String,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// `serve` handles a connection's requests; it says by its result whether the connection stays open.
    pub fn start(serve: impl Fn(&Request, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, serve) = (Arc::clone(&stop), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), serve) = (stream, Arc::clone(&serve)) else { continue };
                std::thread::spawn(move || {
                    let mut out = stream.try_clone().unwrap();
                    let mut requests = BufReader::new(stream);
                    while let Some(request) = Request::read(&mut requests) {
                        if !serve(&request, &mut out) {
                            drop(out.shutdown(Shutdown::Both));
                            return;
                        }
                    }
                });
            }
        });
        Self { address, stop }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // wakes the thread that waits for connections
        drop(TcpStream::connect(&self.address));
    }
}
