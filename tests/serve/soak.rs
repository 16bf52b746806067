//! A service that is let run while things go wrong: `HARVESTD_SOAK=5min` (or `2h`) says for how long; without it, not at all.
//!
//! Three pipelines follow one corpus that grows: one stores in S3, one on a disk and has a trainer that fails, one replaces
//! neither and is paused now and then. In cycles the store does not answer, a pipeline's file is edited, one is paused, the
//! process is killed. In the second half nobody is killed, and memory is watched: its slope must be about zero. At the end
//! the rows in S3 are compared with those of an undisturbed run over the same files.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harvestd::store::Stores;
use harvestd::units::HumanDuration;

use crate::process::{Server, write_long_pipeline};
use crate::servers::{self, Server as S3};
use crate::support::proxy::{Fault, Proxy};
use crate::support::reliability::{Difference, Rows};
use crate::support::*;

/// What memory may grow by in the second half, as its slope says: less than what a leak of a kilobyte a batch would be.
const GROWTH_MAX: f64 = (48 << 20) as f64;

/// A door in front of a server: what is behind it does not answer while it is shut.
struct Door {
    address: String,
    shut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Door {
    fn before(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (shut, open) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (seen, kept, upstream) = (Arc::clone(&shut), Arc::clone(&open), upstream.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Ok(to) = TcpStream::connect(&upstream) else { continue };
                if seen.load(Ordering::SeqCst) {
                    continue;
                }
                let mut all: std::sync::MutexGuard<'_, Vec<TcpStream>> = kept.lock().unwrap();
                // those that ended are let go
                all.retain(|stream| stream.peer_addr().is_ok());
                all.extend([stream.try_clone().unwrap(), to.try_clone().unwrap()]);
                for (from, to) in [(stream.try_clone(), to.try_clone()), (to.try_clone(), stream.try_clone())] {
                    std::thread::spawn(move || pass(from.unwrap(), to.unwrap()));
                }
            }
        });
        Self { address, shut, open }
    }

    fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
        for stream in self.open.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    fn open(&self) {
        self.shut.store(false, Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}

struct Soak {
    folder: PathBuf,
    s3: S3,
    door: Door,
    server: Option<Server>,
    paths: Vec<PathBuf>,
    /// Seconds, bytes.
    memory: Vec<(f64, f64)>,
    began: Instant,
    files: usize,
    kills: usize,
}

impl Soak {
    fn new(folder: &Path) -> Option<Self> {
        let s3 = servers::moto()?;
        let door = Door::before(&s3.address);
        write_corpus(&folder.join("prepared"), 100, 2);
        std::fs::create_dir_all(folder.join("corpus")).unwrap();
        let endless = |name: &str, out: &str| {
            let path = write_long_pipeline(&folder.join("corpus"), &folder.join(out), name);
            let text = std::fs::read_to_string(&path).unwrap().replace("holdout: 15%}", "holdout: 15%, follow: 500ms}");
            (path, text)
        };
        let (in_s3, text) = endless("in-s3", "in-s3");
        let local = format!("{}/acts", folder.join("in-s3").display());
        std::fs::write(
            &in_s3,
            text.replace(&local, &format!("{}/acts", s3.url))
                .replace("rows_per_group: 1000", "rows_per_group: 1000, sample: 20%"),
        )
        .unwrap();
        let (edited, text) = endless("edited", "edited");
        let trainers = text.find("  - name: one").unwrap();
        let failing = text[trainers..text.find("evaluate:").unwrap()].replace("name: one", "name: fails");
        let failing = failing.replace("1.0e-3", "1.0e30").replace("/coder\"", "/fails\"");
        std::fs::write(&edited, text.replace("evaluate:", &format!("{failing}evaluate:"))).unwrap();
        let (rests, text) = endless("rests", "rests");
        std::fs::write(&rests, text).unwrap();
        let mut soak = Self {
            folder: folder.to_owned(),
            s3,
            door,
            server: None,
            paths: vec![in_s3, edited, rests],
            memory: Vec::new(),
            began: Instant::now(),
            files: 0,
            kills: 0,
        };
        soak.file_appears();
        soak.start();
        Some(soak)
    }

    /// `--store` options, those of tests that do not wait long.
    fn options(&self, endpoint: &str) -> Vec<String> {
        let own = ["timeout=3s", "retry.first_wait=10ms", "retry.longest_wait=1s", "retry.budget=10s"];
        self.s3.options_through(endpoint).into_iter().chain(own.map(str::to_owned)).collect()
    }

    fn start_at(&self, folder: &Path, paths: &[PathBuf]) -> Server {
        let options = self.options(&format!("http://{}", self.door.address));
        let options: Vec<&str> = options.iter().flat_map(|option| ["--store", option.as_str()]).collect();
        let variables: Vec<(&str, &str)> =
            self.s3.variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        Server::start_with(folder, &paths, &options, &variables)
    }

    fn start(&mut self) {
        self.server = Some(self.start_at(&self.folder, &self.paths));
    }

    fn server(&mut self) -> &mut Server {
        self.server.as_mut().unwrap()
    }

    /// The next of the prepared files, over and over, under names of their own.
    fn file_appears(&mut self) {
        let (from, corpus) =
            (self.folder.join(format!("prepared/part-{:03}.jsonl", self.files % 50)), self.folder.join("corpus"));
        std::fs::copy(from, corpus.join("coming")).unwrap();
        std::fs::rename(corpus.join("coming"), corpus.join(format!("part-{:06}.jsonl", self.files))).unwrap();
        self.files += 1;
    }

    /// Watch for `span`: whatever does not work says why, and memory is noted.
    fn watch(&mut self, span: Duration) {
        let since = Instant::now();
        while since.elapsed() < span {
            std::thread::sleep(Duration::from_millis(500));
            let at = self.began.elapsed().as_secs_f64();
            let (code, overview) = self.server().ask("GET", "/v1/overview", None, None);
            assert_eq!(code, 200, "{overview}");
            self.memory.push((at, overview["process"]["resident_bytes"].as_f64().unwrap()));
            for pipeline in overview["pipelines"].as_array().unwrap() {
                let (state, control) = (pipeline["state"].as_str().unwrap(), &pipeline["control"]);
                let explained = control["reason"].as_str().is_some_and(|reason| !reason.is_empty());
                let by_itself = ["running", "draining"].contains(&state) || control["desired"] != "running";
                assert!(explained || by_itself || state == "pending", "{pipeline:#}");
                assert_ne!(state, "failed", "{pipeline:#}");
                assert_ne!(state, "done", "{pipeline:#}");
            }
        }
    }

    /// One of everything that can happen.
    fn cycle(&mut self, number: usize, span: Duration, with_kills: bool) {
        let part = span / 8;
        self.file_appears();
        self.watch(part);
        self.door.shut();
        self.watch((part * 2).min(Duration::from_secs(60)));
        self.door.open();
        self.file_appears();
        self.watch(part);
        // a change that means another run
        let text = std::fs::read_to_string(&self.paths[1]).unwrap();
        let (from, to) =
            if number.is_multiple_of(2) { ("every: 400ms", "every: 401ms") } else { ("every: 401ms", "every: 400ms") };
        assert!(text.contains(from));
        std::fs::write(&self.paths[1], text.replace(from, to)).unwrap();
        signal(&self.server().child, libc::SIGHUP);
        self.watch(part);
        assert_eq!(self.server().post("/v1/pipelines/rests/pause").0, 202);
        self.watch(part);
        assert_eq!(self.server().post("/v1/pipelines/rests/resume").0, 202);
        self.watch(part);
        if with_kills {
            let status = self.server.take().unwrap().end(libc::SIGKILL).0;
            assert!(!status.success());
            self.kills += 1;
            self.start();
        }
        self.watch(part);
    }

    /// Wait until a pipeline has gone through all files that there are.
    fn until_done(&mut self, name: &str) {
        let name = name.to_owned();
        let mut reached = (0, Instant::now());
        self.server().until(&format!("{name} is through"), |server| {
            let view = server.pipeline(&name);
            let found = (view["run"]["units"].as_u64().unwrap(), view["run"]["units_total"].as_u64().unwrap());
            if found.0 != reached.0 {
                reached = (found.0, Instant::now());
            }
            // nothing new for much longer than it takes to look
            found.0 >= found.1 && found.1 > 0 && reached.1.elapsed() > Duration::from_secs(5)
        });
    }

    /// The rows in S3 below `url`.
    fn rows(&self, url: &str) -> Rows {
        let proxy = Proxy::start(&self.s3.address, Fault::Nothing, 0);
        let options = self.s3.options_through(&proxy.endpoint()).into_iter().chain(["anonymous=true".into()]);
        let location = Stores::new(Vec::new(), &options.collect::<Vec<_>>()).unwrap().open(url).unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(Rows::read(&location))
    }

    /// The rows of a run that nobody disturbs, over the same instalments of files.
    fn undisturbed(&mut self) -> Rows {
        let quiet = self.folder.join("quiet");
        std::fs::create_dir_all(quiet.join("acts")).unwrap();
        let text = std::fs::read_to_string(&self.paths[0]).unwrap();
        let (out, acts) = (self.folder.join("in-s3"), format!("{}/acts", self.s3.url));
        let text = text
            .replace(&acts, &format!("{}/quiet", self.s3.url))
            .replace(&out.display().to_string(), &quiet.display().to_string());
        let path = quiet.join("pipeline.yaml");
        std::fs::write(&path, text.replace("name: in-s3", "name: quiet")).unwrap();
        self.copy_log();
        self.server = Some(self.start_at(&quiet, &[path]));
        self.until_done("quiet");
        assert!(self.server.take().unwrap().end(libc::SIGTERM).0.success());
        self.rows(&format!("{}/quiet", self.s3.url))
    }

    /// Let the quiet dataset have the list of files that the other one wrote.
    fn copy_log(&self) {
        let ask = |method: &str, target: &str, body: Vec<u8>| {
            let head = format!(
                "{method} {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n",
                self.s3.address,
                body.len()
            );
            let request = http::Request { method: method.into(), target: target.into(), head: head + "\r\n", body };
            request.forward(&self.s3.address).unwrap()
        };
        for number in 1.. {
            let name = format!("corpus/{number:010}.json");
            let (head, body) = ask("GET", &format!("/{}/acts/{name}", servers::BUCKET), Vec::new());
            if !head.starts_with("HTTP/1.1 200") {
                assert!(number > 2, "the list of files is missing: {head}");
                return;
            }
            let (head, _) = ask("PUT", &format!("/{}/quiet/{name}", servers::BUCKET), body);
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        }
    }

    /// What memory grew by in the second half, by its slope.
    fn growth(&self, from: f64) -> f64 {
        let last = self.memory.last().unwrap().0;
        // caches and arenas fill at first
        let steady = from + 0.3 * (last - from);
        let points: Vec<(f64, f64)> = self.memory.iter().copied().filter(|(at, _)| *at >= steady).collect();
        let n = points.len() as f64;
        let (x, y) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
        let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>()
            / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>();
        slope * (last - steady)
    }
}

#[test]
fn weeks_pass_without_a_leak_a_lost_row_or_an_unexplained_state() {
    let Ok(span) = std::env::var("HARVESTD_SOAK") else {
        eprintln!("SKIPPED: HARVESTD_SOAK=5min (or 2h) lets a service run for so long while things go wrong");
        return;
    };
    let span = span.parse::<HumanDuration>().unwrap().0;
    let scratch = tempfile::tempdir().unwrap();
    let Some(mut soak) = Soak::new(scratch.path()) else { return };
    let cycles = (span.as_secs() / 300).clamp(4, 24) as usize / 2 * 2;
    let mut half = 0.0;
    for number in 0..cycles {
        if number == cycles / 2 {
            half = soak.began.elapsed().as_secs_f64();
        }
        soak.cycle(number, span / cycles as u32, number < cycles / 2);
    }
    let growth = soak.growth(half);
    for name in ["in-s3", "edited", "rests"] {
        soak.until_done(name);
    }
    let edited = soak.server().pipeline("edited");
    let failed = edited["run"]["trainers"].as_array().unwrap().iter().find(|t| t["name"] == "fails").unwrap().clone();
    assert!(failed["error"].as_str().is_some_and(|error| !error.is_empty()), "a failing trainer says why: {failed:#}");
    let restarts = soak.server().pipeline("in-s3")["restarts"].as_u64().unwrap();
    assert!(soak.server.take().unwrap().end(libc::SIGTERM).0.success());
    for name in ["edited", "rests"] {
        let output = harvestd(&["verify", "--json", soak.folder.join(name).join("acts").to_str().unwrap()]);
        let report = summary(&output);
        assert!(output.status.success() && report["ok"] == true && report["complete"] == true, "{name}: {report:#}");
    }
    let found = soak.rows(&format!("{}/acts", soak.s3.url));
    let difference = found.against(&soak.undisturbed());
    let peak = soak.memory.iter().map(|(_, bytes)| *bytes).fold(0.0, f64::max);
    eprintln!(
        "soak of {span:?}: {} files, {} rows in S3, {} kills, {restarts} restarts of `in-s3` in the second half; memory at most {:.0} MiB, slope of \
         the second half {:+.1} MiB; {difference:?}",
        soak.files,
        found.len(),
        soak.kills,
        peak / f64::from(1 << 20),
        growth / f64::from(1 << 20),
    );
    assert_eq!(difference, Difference::default());
    assert!(found.len() > 100 && growth < GROWTH_MAX, "memory grows by {growth} bytes");
}
