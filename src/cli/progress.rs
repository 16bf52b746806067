//! Progress bars on a terminal, a line now and then elsewhere. Everything goes to stderr.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::hub::{self, ProgressSnapshot};
use crate::pipeline::status::{RowsFrom, RunState, RunStatus, StatusSnapshot};
use crate::runtime::clock::Stopwatch;
use crate::units::{ByteSize, Count};

/// Time between two redraws on a terminal.
const REDRAW: Duration = Duration::from_millis(120);
/// Time between two lines where there is no terminal.
const LINE: Duration = Duration::from_secs(5);

/// Draws a run's status until it is stopped.
pub(super) struct Progress {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Progress {
    /// Start drawing `status` on `bars`.
    pub(super) fn start(status: Arc<RunStatus>, bars: MultiProgress) -> Self {
        Self::drawn_by(move |stop| {
            if std::io::stderr().is_terminal() {
                draw_bars(&status, &bars, stop);
            } else {
                print_lines(&status, stop);
            }
        })
    }

    /// Start drawing how far the download of a model is.
    pub(super) fn of_download(progress: Arc<hub::Progress>) -> Self {
        Self::drawn_by(move |stop| draw_download(&progress, stop))
    }

    fn drawn_by(draw: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let draw = move || draw(&stopped);
        #[allow(clippy::disallowed_methods, reason = "it draws what others do; nothing waits for it but the end")]
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(draw).ok();
        Self { stop, thread }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // a panic of the drawing thread must not hide the run's result
            drop(thread.join());
        }
    }
}

/// Tokens (of a replay: rows) a second over the last few seconds, so that the figure follows what happens now.
struct Rate {
    watch: Stopwatch,
    samples: std::collections::VecDeque<(Duration, u64)>,
}

impl Rate {
    fn new() -> Self {
        Self { watch: Stopwatch::start(), samples: std::collections::VecDeque::new() }
    }

    fn update(&mut self, done: u64) -> f64 {
        let now = self.watch.elapsed();
        self.samples.push_back((now, done));
        while self.samples.len() > 2 && now - self.samples[0].0 > Duration::from_secs(10) {
            self.samples.pop_front();
        }
        let (then, before) = self.samples[0];
        (done - before) as f64 / (now - then).as_secs_f64().max(0.05)
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// The bar of a model that comes from a hub; it is there only while bytes come.
struct DownloadBar(Option<ProgressBar>);

impl DownloadBar {
    fn update(&mut self, download: ProgressSnapshot, add: impl FnOnce(ProgressBar) -> ProgressBar) {
        if !download.is_active() {
            self.clear();
            return;
        }
        let bar = self.0.get_or_insert_with(|| {
            let bar = add(ProgressBar::new(1));
            bar.set_style(style("{prefix:18} [{bar:30}] {percent:>3}% {msg}"));
            bar.set_prefix("model");
            bar
        });
        bar.set_length(download.bytes_total);
        bar.set_position(download.bytes);
        bar.set_message(download_line(download));
    }

    fn clear(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

/// A bar on a terminal, a line now and then elsewhere.
#[allow(clippy::print_stderr, reason = "this is the command line's own output")]
fn draw_download(progress: &hub::Progress, stop: &AtomicBool) {
    let (mut bar, mut last_line) = (DownloadBar(None), Stopwatch::start());
    let is_terminal = std::io::stderr().is_terminal();
    while !stop.load(Ordering::Relaxed) {
        let download = progress.snapshot();
        if is_terminal {
            bar.update(download, |bar| bar);
        } else if download.is_active() && last_line.elapsed() >= LINE {
            last_line = Stopwatch::start();
            eprintln!("model: {}", download_line(download));
        }
        std::thread::sleep(REDRAW);
    }
    bar.clear();
}

fn draw_bars(status: &RunStatus, bars: &MultiProgress, stop: &AtomicBool) {
    let corpus = bars.add(ProgressBar::new(0));
    corpus.set_style(style("{prefix:18} [{bar:30}] {percent:>3}% {msg}"));
    corpus.set_prefix("corpus");
    let store = bars.add(ProgressBar::new_spinner());
    store.set_style(style("{prefix:18} {msg}"));
    store.set_prefix("dataset");
    let mut trainers: Vec<ProgressBar> = Vec::new();
    let mut rate = Rate::new();
    let mut download = DownloadBar(None);
    loop {
        let last = stop.load(Ordering::Relaxed);
        let s = status.snapshot();
        download.update(s.download, |bar| bars.insert(0, bar));
        if s.rows_from == RowsFrom::Dataset {
            // how many of its rows trainers will want is not known
            corpus.set_style(style("{prefix:18} {msg}"));
            corpus.set_prefix("dataset");
            store.set_prefix("");
        } else {
            corpus.set_length(s.units_total.max(1));
            corpus.set_position(s.units);
            store.set_message(store_line(&s));
        }
        corpus.set_message(source_line(&s, &mut rate));
        while trainers.len() < s.trainers.len() {
            let bar = bars.add(ProgressBar::new(1));
            bar.set_style(style("{prefix:18} [{bar:30}] {percent:>3}% {msg}"));
            trainers.push(bar);
        }
        for (bar, t) in trainers.iter().zip(&s.trainers) {
            bar.set_prefix(t.name.clone());
            bar.set_length(t.rows_total.max(1));
            bar.set_position(t.rows);
            bar.set_message(trainer_line(t));
        }
        if last {
            break;
        }
        std::thread::sleep(REDRAW);
    }
    download.clear();
    for bar in trainers.iter().chain([&corpus, &store]) {
        bar.abandon();
    }
}

#[allow(clippy::print_stderr, reason = "this is the command line's own output")]
fn print_lines(status: &RunStatus, stop: &AtomicBool) {
    let mut rate = Rate::new();
    let mut last_line = Stopwatch::start();
    let mut first = true;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(REDRAW);
        if first || last_line.elapsed() >= LINE {
            first = false;
            last_line = Stopwatch::start();
            let s = status.snapshot();
            if s.state == RunState::Preparing {
                if s.download.is_active() {
                    eprintln!("model: {}", download_line(s.download));
                }
                continue;
            }
            let trainers: Vec<String> = s.trainers.iter().map(|t| format!("{}: {}", t.name, trainer_line(t))).collect();
            let mut parts = vec![source_line(&s, &mut rate)];
            if s.rows_from == RowsFrom::Corpus {
                parts.push(store_line(&s));
            }
            parts.push(trainers.join(" | "));
            eprintln!("{}", parts.join(" | "));
        }
    }
}

fn source_line(s: &StatusSnapshot, rate: &mut Rate) -> String {
    let state = match s.state {
        RunState::Preparing => "preparing, ",
        RunState::Draining => "draining, ",
        RunState::Evaluating => "evaluating, ",
        RunState::Running | RunState::Done | RunState::StorageFull | RunState::Failed => "",
    };
    match s.rows_from {
        RowsFrom::Corpus => {
            let rate = rate.update(s.tokens);
            format!("{state}{} documents, {} tokens, {rate:.0} tokens/s", s.documents, Count(s.tokens))
        }
        RowsFrom::Dataset => format!("{state}{} rows, {:.0} rows/s", Count(s.rows), rate.update(s.rows)),
    }
}

fn download_line(download: ProgressSnapshot) -> String {
    format!("{} of {} downloaded", ByteSize(download.bytes), ByteSize(download.bytes_total))
}

fn store_line(s: &StatusSnapshot) -> String {
    format!("{} rows, {} shards, {}", Count(s.rows), s.shards, ByteSize(s.bytes))
}

fn trainer_line(t: &crate::pipeline::status::TrainerStatus) -> String {
    match &t.error {
        Some(error) => format!("failed: {error}"),
        None if t.rows == 0 => format!("filling the buffer: {} rows", Count(t.buffered)),
        None => {
            format!("loss {:.2} FVU {:.4} L0 {:.1} dead {:.1}%", t.loss, t.fvu, t.l0, 100.0 * t.dead_fraction)
        }
    }
}
