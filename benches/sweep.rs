//! What each coder of a sweep costs beside its own step: time and memory of 1, 2, 4 and 8 coders on one stream of rows, which
//! share a buffer or have one each.
//!
//! `cargo bench --bench sweep`; the CPU and its load belong to the figures. Every row of the table is a process of its own. A
//! coder's own step is a step of one coder less what it takes to fill the buffer and to draw from it.

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use harvestd::compute::cpu::Cpu;
use harvestd::corpus::cursor::SourceCursor;
use harvestd::hooks::{HookPoint, Site};
use harvestd::runtime::rng::Seed;
use harvestd::trainer::group::Group;
use harvestd::trainer::mixing_buffer::MixingBuffer;
use harvestd::trainer::{Trainer, TrainerSettings};

const WIDTH: usize = 512;
const LATENTS: usize = 2048;
const BATCH: usize = 2048;
const BUFFER: usize = 65_536;
const STEPS: usize = 24;

/// Processor seconds and peak memory in MiB of this process so far.
fn used() -> (f64, f64) {
    // SAFETY: an all-zero rusage is valid, and the pointer lives through the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    (seconds(usage.ru_utime) + seconds(usage.ru_stime), usage.ru_maxrss as f64 / 1024.0)
}

fn settings(i: usize) -> TrainerSettings {
    let config = serde_json::json!({
        "name": format!("t{i}"), "input": "x", "buffer": {"rows": BUFFER}, "seed": i,
        "coder": {"type": "topk", "width": LATENTS, "k": 32}, "optimizer": {"type": "adam", "learning_rate": 1e-4},
        "batch_rows": BATCH, "rows": 1u64 << 40, "checkpoint": {"url": "unused"},
    });
    TrainerSettings {
        config: serde_json::from_value(config).expect("a trainer's section"),
        sites: vec![(HookPoint::block(0, Site::ResidPost), WIDTH)],
        seed: Seed(1),
        stream: serde_json::Value::Null,
    }
}

/// Who is given the rows.
enum Takers {
    Nobody(Box<MixingBuffer>, Vec<f32>),
    Together(Box<Group<Cpu>>),
    Apart(Vec<Trainer<Cpu>>),
}

impl Takers {
    fn new(kind: &str, n: usize) -> Self {
        let cpu = Arc::new(Cpu::new(0).expect("a thread pool"));
        let mut trainers =
            (0..n).map(|i| Trainer::new(Arc::clone(&cpu), settings(i)).expect("settings that fit")).collect::<Vec<_>>();
        match kind {
            "nobody" => {
                let buffer = MixingBuffer::new(WIDTH, BUFFER, 1, Seed(1).stream("buffer"));
                Self::Nobody(Box::new(buffer), Vec::new())
            }
            "apart" => Self::Apart(trainers),
            _ => {
                let mut group = Group::of(0, trainers.remove(0)).expect("it is in no group");
                for (i, trainer) in trainers.into_iter().enumerate() {
                    assert!(group.join(i + 1, trainer).is_none(), "they draw the same batches");
                }
                Self::Together(Box::new(group))
            }
        }
    }

    fn offer(&mut self, rows: &[f32], docs: &[u64]) {
        let cursor = SourceCursor::default();
        match self {
            Self::Nobody(buffer, batch) => {
                buffer.fill(rows, docs);
                if buffer.is_full() {
                    buffer.draw(BATCH, batch);
                }
            }
            Self::Together(group) => {
                assert!(group.offer(rows, docs, &cursor).expect("rows of this width").is_empty());
            }
            Self::Apart(all) => {
                all.iter_mut().for_each(|t| t.offer(rows, docs, &cursor).expect("rows that can be trained on"));
            }
        }
    }
}

/// Print seconds, processor seconds of a step, and peak MiB.
fn measure(kind: &str, n: usize) {
    let mut takers = Takers::new(kind, n);
    let mut rng = Seed(1).stream("rows");
    let rows: Vec<f32> = (0..BATCH * WIDTH).map(|_| rng.normal() as f32).collect();
    let docs: Vec<u64> = (0..BATCH as u64).collect();
    // the first step measures scales and medians
    for _ in 0..BUFFER / BATCH + 2 {
        takers.offer(&rows, &docs);
    }
    let (watch, (before, _)) = (Instant::now(), used());
    for _ in 0..STEPS {
        takers.offer(&rows, &docs);
    }
    let (wall, (after, peak)) = (watch.elapsed().as_secs_f64(), used());
    println!("{} {} {peak}", wall / STEPS as f64, (after - before) / STEPS as f64);
}

fn measured(kind: &str, n: usize) -> [f64; 3] {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).args(["--of", kind, &n.to_string()]).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let values: Vec<f64> = text.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    values.try_into().expect("three numbers")
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--of") {
        return measure(&args[at + 1], args[at + 2].parse().expect("a number"));
    }
    let [_, filling, bare] = measured("nobody", 0);
    println!(
        "{WIDTH} x {LATENTS}, {BATCH} rows a step, buffer of {BUFFER} rows; filling and drawing: {:.1} ms",
        filling * 1e3
    );
    println!("coders  buffers  wall ms  processor ms  a coder more, ms  peak MiB  a coder more, MiB");
    for kind in ["together", "apart"] {
        let mut first = None;
        for n in [1, 2, 4, 8] {
            let [wall, processor, peak] = measured(kind, n);
            let &mut [one_time, one_peak] = first.get_or_insert([processor, peak]);
            let more = |now: f64, one: f64| match n {
                1 => "-".to_owned(),
                _ => format!("{:.1}", (now - one) / (n - 1) as f64),
            };
            println!(
                "{n:6}  {:>7}  {:7.1}  {:12.1}  {:>16}  {peak:8.0}  {:>17}",
                if kind == "together" { 1 } else { n },
                wall * 1e3,
                processor * 1e3,
                more(processor * 1e3, one_time * 1e3),
                more(peak, one_peak),
            );
            if n == 1 {
                println!("        its own step: {:.1} ms, {:.0} MiB", (processor - filling) * 1e3, peak - bare);
            }
        }
    }
}
