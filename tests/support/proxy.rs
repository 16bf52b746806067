//! A proxy in front of an S3 server that lets things go wrong: seeded, one kind at a time.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::http::{Request, Server, answer};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Nothing,
    /// Answers of 500 and 503, several in a row.
    Bursts,
    /// 503 to everything in the first second, and slow answers in the next one.
    SlowStart,
    /// No answer, for longer than a client waits; what was asked is done in half of the cases.
    Timeouts,
    /// A body that ends early: the connection closes in its midst.
    Truncated,
    /// The connection is closed before the request is done.
    ResetBefore,
    /// The connection is closed after the request was done: its answer is lost.
    ResetAfter,
    /// A conditional write is done, and answered by 412.
    Refused,
    /// A conditional write is done, and answered by 409; or not done, and answered so.
    Conflict,
    /// 403 RequestTimeTooSkewed.
    Skewed,
    /// Any of those that pass by themselves.
    Anything,
}

const ANY: [Fault; 7] = [
    Fault::Bursts,
    Fault::Timeouts,
    Fault::Truncated,
    Fault::ResetBefore,
    Fault::ResetAfter,
    Fault::Refused,
    Fault::Conflict,
];

/// The proxy.
pub struct Proxy {
    server: Server,
    state: Arc<State>,
}

struct State {
    upstream: String,
    fault: Fault,
    calm: AtomicBool,
    injected: AtomicU64,
    requests: AtomicU64,
    random: Mutex<u64>,
    /// Failures that are still to come in a burst, by request.
    burst: Mutex<HashMap<String, u32>>,
    began: Instant,
}

impl Proxy {
    /// In front of `upstream`.
    pub fn start(upstream: &str, fault: Fault, seed: u64) -> Self {
        let state = Arc::new(State {
            upstream: upstream.to_owned(),
            fault,
            calm: AtomicBool::new(false),
            injected: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            random: Mutex::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            burst: Mutex::default(),
            began: Instant::now(),
        });
        let shared = Arc::clone(&state);
        Self { server: Server::start(move |request, out| shared.serve(request, out)), state }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// From now on nothing goes wrong.
    pub fn calm(&self) {
        self.state.calm.store(true, Ordering::SeqCst);
    }

    /// Faults so far.
    pub fn injected(&self) -> u64 {
        self.state.injected.load(Ordering::SeqCst)
    }
}

impl State {
    /// Uniform in `0..n` (xorshift).
    fn below(&self, n: u64) -> u64 {
        let mut x = self.random.lock().unwrap();
        *x ^= *x << 13;
        *x ^= *x >> 7;
        *x ^= *x << 17;
        (*x >> 16) % n
    }

    fn serve(&self, request: &Request, out: &mut TcpStream) -> bool {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let fault = if self.calm.load(Ordering::SeqCst) { Fault::Nothing } else { self.fault };
        let fault = if fault == Fault::Anything { ANY[self.below(ANY.len() as u64) as usize] } else { fault };
        match self.inject(fault, request, out) {
            Some(stays_open) => {
                self.injected.fetch_add(1, Ordering::SeqCst);
                stays_open
            }
            None => self.pass(request, out),
        }
    }

    fn pass(&self, request: &Request, out: &mut TcpStream) -> bool {
        let mut request = request.clone();
        if request.header("authorization").is_none() {
            // servers of tests let in whoever says a name
            let name =
                "Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, Signature=0";
            request.head = request.head.replacen("\r\n", &format!("\r\n{name}\r\n"), 1);
        }
        let Some((head, body)) = request.forward(&self.upstream) else { return false };
        out.write_all(head.as_bytes()).and_then(|()| out.write_all(&body)).is_ok()
    }

    fn refuse(&self, out: &mut TcpStream, status: &str, code: &str) -> Option<bool> {
        let body = format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>");
        Some(out.write_all(&answer(status, "", body.as_bytes())).is_ok())
    }

    /// Whether the connection stays open, if this request was hit.
    fn inject(&self, fault: Fault, request: &Request, out: &mut TcpStream) -> Option<bool> {
        let is_create = request.header("if-none-match").is_some();
        match fault {
            Fault::Nothing | Fault::Anything => None,
            Fault::Bursts => self.burst(request, out),
            Fault::SlowStart => match self.began.elapsed() {
                age if age < Duration::from_secs(1) => self.refuse(out, "503 Service Unavailable", "SlowDown"),
                age if age < Duration::from_secs(2) => {
                    std::thread::sleep(Duration::from_millis(150));
                    None
                }
                _ => None,
            },
            Fault::Timeouts => {
                (self.below(16) == 0).then_some(())?;
                if self.below(2) == 0 {
                    request.forward(&self.upstream);
                }
                std::thread::sleep(Duration::from_millis(3500));
                Some(false)
            }
            Fault::Truncated => {
                (request.method == "GET" && self.below(3) == 0).then_some(())?;
                let (head, body) = request.forward(&self.upstream)?;
                (body.len() > 1).then_some(())?;
                let part = &body[..1 + self.below(body.len() as u64 - 1) as usize];
                drop(out.write_all(head.as_bytes()).and_then(|()| out.write_all(part)));
                Some(false)
            }
            Fault::ResetBefore => (self.below(5) == 0).then_some(false),
            Fault::ResetAfter => {
                (self.below(5) == 0).then_some(())?;
                request.forward(&self.upstream);
                Some(false)
            }
            Fault::Refused => {
                (is_create && self.below(2) == 0).then_some(())?;
                request.forward(&self.upstream);
                self.refuse(out, "412 Precondition Failed", "PreconditionFailed")
            }
            Fault::Conflict => {
                (is_create && self.below(2) == 0).then_some(())?;
                if self.below(2) == 0 {
                    request.forward(&self.upstream);
                }
                self.refuse(out, "409 Conflict", "ConditionalRequestConflict")
            }
            Fault::Skewed => {
                (self.below(20) == 0).then_some(())?;
                self.refuse(out, "403 Forbidden", "RequestTimeTooSkewed")
            }
        }
    }

    fn burst(&self, request: &Request, out: &mut TcpStream) -> Option<bool> {
        let key = format!("{} {}", request.method, request.target);
        let mut burst = self.burst.lock().unwrap();
        let left = match burst.remove(&key) {
            Some(left) => left,
            None if self.below(4) == 0 => 1 + self.below(4) as u32,
            None => return None,
        };
        if left > 0 {
            burst.insert(key, left - 1);
        } else {
            return None;
        }
        drop(burst);
        match self.below(2) {
            0 => self.refuse(out, "500 Internal Server Error", "InternalError"),
            _ => self.refuse(out, "503 Service Unavailable", "SlowDown"),
        }
    }
}
