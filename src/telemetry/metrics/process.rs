//! Numbers of the process itself, and the whole output.

use std::time::Duration;

use super::{
    BUILD, HTTP_REQUESTS, MEMORY_LIMIT, MEMORY_RESERVED, Metrics, OPEN_FILES, PROCESSOR, RELOADS, RESIDENT, START_TIME,
    THREADS,
};
use crate::telemetry::registry::{Counter, Gauge, Registry, Seconds, render};

/// Numbers of the process, shared by its pipelines.
#[derive(Debug)]
pub struct ProcessMetrics {
    registry: Registry,
    resident: Gauge,
    processor: Seconds,
    open_files: Gauge,
    threads: Gauge,
    memory_limit: Gauge,
    memory_reserved: Gauge,
    reloads: [Counter; 2],
}

impl ProcessMetrics {
    /// Metrics of a process that started `start_time` seconds after 1970-01-01 UTC.
    pub fn new(start_time: f64) -> Self {
        let registry = Registry::default();
        let (start, build) = (Gauge::default(), Gauge::default());
        start.set(start_time);
        build.set(1.0);
        registry.add(&START_TIME, &[], &start);
        registry.add(&BUILD, &[env!("CARGO_PKG_VERSION")], &build);
        let process = Self {
            registry,
            resident: Gauge::default(),
            processor: Seconds::default(),
            open_files: Gauge::default(),
            threads: Gauge::default(),
            memory_limit: Gauge::default(),
            memory_reserved: Gauge::default(),
            reloads: Default::default(),
        };
        process.reserved(None, 0);
        let Self { registry, resident, processor, open_files, threads, memory_limit, memory_reserved, reloads } =
            &process;
        registry.add(&MEMORY_LIMIT, &[], memory_limit);
        registry.add(&MEMORY_RESERVED, &[], memory_reserved);
        registry.add(&RESIDENT, &[], resident);
        registry.add(&PROCESSOR, &[], processor);
        registry.add(&OPEN_FILES, &[], open_files);
        registry.add(&THREADS, &[], threads);
        registry.add(&RELOADS, &["refused"], &reloads[0]);
        registry.add(&RELOADS, &["taken"], &reloads[1]);
        process
    }

    /// Show what pipelines may reserve, and what they have reserved.
    pub fn reserved(&self, limit: Option<u64>, taken: u64) {
        self.memory_limit.set(limit.map_or(f64::INFINITY, |limit| limit as f64));
        self.memory_reserved.set(taken as f64);
    }

    /// Count a reload.
    pub fn reloaded(&self, taken: bool) {
        self.reloads[usize::from(taken)].inc();
    }

    /// The count of answers with `code` on `route`. Both are few: routes are those that exist, codes those that they give.
    pub fn answers(&self, route: &str, code: &str) -> Counter {
        self.registry.counter(&HTTP_REQUESTS, &[route, code])
    }

    /// Measure, and write out together with the numbers of `pipelines`.
    pub fn render<'a>(&'a self, pipelines: impl IntoIterator<Item = &'a Metrics>) -> String {
        if let Some(bytes) = resident_bytes() {
            self.resident.set(bytes as f64);
        }
        if let Some(n) = of_status("Threads:").and_then(|n| n.parse::<f64>().ok()) {
            self.threads.set(n);
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            // one of them is this listing
            self.open_files.set(files.count().saturating_sub(1) as f64);
        }
        if let Some(used) = processor_time() {
            self.processor.raise_to(used);
        }
        render(std::iter::once(&self.registry).chain(pipelines.into_iter().map(Metrics::registry)))
    }
}

/// Resident memory of this process, where the system tells (Linux).
pub fn resident_bytes() -> Option<u64> {
    of_status("VmRSS:")?.strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// What the system says of this process under `key`.
fn of_status(key: &str) -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix(key))?.trim().to_owned())
}

/// Time that all threads computed.
pub fn processor_time() -> Option<Duration> {
    // user and system time in hundredths of a second, which Linux promises to programs whatever it counts in itself; the
    // name before them may hold anything, so what is counted from is its closing parenthesis
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}
