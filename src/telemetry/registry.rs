//! Kinds of numbers, and the Prometheus text format.
//!
//! A handle ([`Counter`], [`Seconds`], [`Gauge`], [`Histogram`]) is one shared atomic: components write it, the summary
//! and the status page read it back, and a [`Registry`] that it was added to writes it out. It works the same when
//! nothing shows it, so tests and tools need no registry. Written here, rather than taken from the `metrics` crates,
//! because their counters hold whole numbers only (busy time is a counter of fractional seconds) and cannot be read back.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A count that only grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

/// Time that only grows.
#[derive(Clone, Debug, Default)]
pub struct Seconds {
    nanos: Arc<AtomicU64>,
}

/// A value that goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge {
    bits: Arc<AtomicU64>,
}

/// How long things took, in the buckets of [`Histogram::BOUNDS`].
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    buckets: Arc<[AtomicU64; Histogram::BOUNDS.len() + 1]>,
    sum: Seconds,
}

impl Counter {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// As many as `n`, if it was less: of a count that is kept elsewhere.
    pub fn reach(&self, n: u64) {
        self.0.fetch_max(n, Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Seconds {
    /// `span` more.
    pub fn add(&self, span: Duration) {
        self.nanos.fetch_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// At least `total` from now on: for a sum that somebody else counts.
    pub fn raise_to(&self, total: Duration) {
        self.nanos.fetch_max(u64::try_from(total.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The sum in seconds.
    pub fn get(&self) -> f64 {
        Duration::from_nanos(self.nanos.load(Relaxed)).as_secs_f64()
    }
}

impl Gauge {
    /// Set the value.
    pub fn set(&self, value: f64) {
        self.bits.store(value.to_bits(), Relaxed);
    }

    /// The value; 0 until it was set.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.bits.load(Relaxed))
    }
}

impl Histogram {
    /// Upper bounds of the buckets in seconds: a local write to a hung request.
    pub const BOUNDS: [f64; 10] = [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

    /// Count one that took `span`.
    pub fn observe(&self, span: Duration) {
        let bucket = Self::BOUNDS.partition_point(|&bound| bound < span.as_secs_f64());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum.add(span);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|b| b.load(Relaxed)).sum()
    }
}

/// What all values of one metric have in common.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// Name.
    pub name: &'static str,
    /// What it is, in one sentence without a final stop.
    pub help: &'static str,
    /// Names of its labels, besides those of the registry.
    pub labels: &'static [&'static str],
}

/// The numbers of one pipeline, or of the process.
#[derive(Debug, Default)]
pub struct Registry {
    /// Labels that every value carries.
    labels: Vec<(&'static str, String)>,
    families: Mutex<BTreeMap<&'static str, Shown>>,
}

#[derive(Clone, Debug)]
struct Shown {
    family: &'static Family,
    /// By label values, in the order of [`Family::labels`].
    values: BTreeMap<Vec<String>, Value>,
}

/// A handle of any kind.
#[derive(Clone, Debug)]
pub enum Value {
    /// See [`Counter`].
    Counter(Counter),
    /// See [`Seconds`].
    Seconds(Seconds),
    /// See [`Gauge`].
    Gauge(Gauge),
    /// See [`Histogram`].
    Histogram(Histogram),
}

impl Registry {
    /// An empty registry; every value in it carries `labels`.
    pub fn new(labels: &[(&'static str, &str)]) -> Self {
        let labels = labels.iter().map(|&(name, value)| (name, value.to_owned())).collect();
        Self { labels, families: Mutex::default() }
    }

    /// Show `value` as the member of `family` with these label values. A value that was there under the same labels is
    /// replaced: the component was built anew.
    pub fn add(&self, family: &'static Family, label_values: &[&str], value: impl Into<Value>) {
        assert_eq!(family.labels.len(), label_values.len(), "{} has the labels {:?}", family.name, family.labels);
        let key = label_values.iter().map(|&v| v.to_owned()).collect();
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = families.entry(family.name).or_insert_with(|| Shown { family, values: BTreeMap::new() });
        shown.values.insert(key, value.into());
    }

    /// The counter that is shown as this member of `family`; a new one, if there is none.
    pub fn counter(&self, family: &'static Family, label_values: &[&str]) -> Counter {
        let key: Vec<String> = label_values.iter().map(|&v| v.to_owned()).collect();
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = families.entry(family.name).or_insert_with(|| Shown { family, values: BTreeMap::new() });
        match shown.values.entry(key).or_insert_with(|| Value::Counter(Counter::default())) {
            Value::Counter(counter) => counter.clone(),
            // a family has one kind; a handle that is not shown serves as well as any
            _ => Counter::default(),
        }
    }

    fn snapshot(&self) -> BTreeMap<&'static str, Shown> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All values of all registries in the Prometheus text format 0.0.4, sorted by name.
pub fn render<'a>(registries: impl IntoIterator<Item = &'a Registry>) -> String {
    let mut by_name: BTreeMap<&str, Vec<(&Registry, Shown)>> = BTreeMap::new();
    for registry in registries {
        for (name, shown) in registry.snapshot() {
            by_name.entry(name).or_default().push((registry, shown));
        }
    }
    let mut out = String::new();
    for (name, members) in by_name {
        let help = escape(members[0].1.family.help);
        let kind = members[0].1.values.values().next().map_or("untyped", Value::kind);
        write_line(&mut out, format_args!("# HELP {name} {help}"));
        write_line(&mut out, format_args!("# TYPE {name} {kind}"));
        for (registry, shown) in &members {
            for (label_values, value) in &shown.values {
                let own = shown.family.labels.iter().copied().zip(label_values.iter().map(String::as_str));
                let labels: Vec<_> = registry.labels.iter().map(|(n, v)| (*n, v.as_str())).chain(own).collect();
                value.write(&mut out, name, &labels);
            }
        }
    }
    out
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Counter(_) | Self::Seconds(_) => "counter",
            Self::Gauge(_) => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }

    fn write(&self, out: &mut String, name: &str, labels: &[(&str, &str)]) {
        let shown = LabelSet { labels, bound: None };
        match self {
            Self::Counter(counter) => write_line(out, format_args!("{name}{shown} {}", counter.get())),
            Self::Seconds(seconds) => write_line(out, format_args!("{name}{shown} {}", seconds.get())),
            Self::Gauge(gauge) => write_line(out, format_args!("{name}{shown} {}", Number(gauge.get()))),
            Self::Histogram(histogram) => {
                let mut so_far = 0;
                for (i, bucket) in histogram.buckets.iter().enumerate() {
                    so_far += bucket.load(Relaxed);
                    let bound = Histogram::BOUNDS.get(i).map_or("+Inf".to_owned(), f64::to_string);
                    let shown = LabelSet { labels, bound: Some(&bound) };
                    write_line(out, format_args!("{name}_bucket{shown} {so_far}"));
                }
                write_line(out, format_args!("{name}_sum{shown} {}", histogram.sum.get()));
                write_line(out, format_args!("{name}_count{shown} {so_far}"));
            }
        }
    }
}

impl From<&Counter> for Value {
    fn from(handle: &Counter) -> Self {
        Self::Counter(handle.clone())
    }
}

impl From<&Seconds> for Value {
    fn from(handle: &Seconds) -> Self {
        Self::Seconds(handle.clone())
    }
}

impl From<&Gauge> for Value {
    fn from(handle: &Gauge) -> Self {
        Self::Gauge(handle.clone())
    }
}

impl From<&Histogram> for Value {
    fn from(handle: &Histogram) -> Self {
        Self::Histogram(handle.clone())
    }
}

/// `{a="b",le="1"}`, or nothing if there are no labels.
struct LabelSet<'a> {
    labels: &'a [(&'a str, &'a str)],
    /// Upper bound of a histogram's bucket.
    bound: Option<&'a str>,
}

impl fmt::Display for LabelSet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.labels.iter().copied().chain(self.bound.map(|bound| ("le", bound)));
        for (i, (name, value)) in all.enumerate() {
            let value = escape(value).replace('"', "\\\"");
            write!(f, "{}{name}=\"{value}\"", if i == 0 { '{' } else { ',' })?;
        }
        f.write_str(if self.labels.is_empty() && self.bound.is_none() { "" } else { "}" })
    }
}

/// A float as Prometheus reads it.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            x if x.is_nan() => f.write_str("NaN"),
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            x => write!(f, "{x}"),
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

fn write_line(out: &mut String, line: fmt::Arguments<'_>) {
    writeln!(out, "{line}").expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    static ITEMS: Family = Family { name: "x_items_total", help: "Items\nread", labels: &["stage"] };
    static LEVEL: Family = Family { name: "x_level_ratio", help: "Level", labels: &[] };
    static LATENCY: Family = Family { name: "x_latency_seconds", help: "Latency", labels: &[] };

    #[test]
    fn several_registries_share_one_header_and_labels_are_escaped() {
        let (a, b) = (Registry::new(&[("pipeline", "a")]), Registry::new(&[("pipeline", "say \"b\"\\")]));
        let items = Counter::default();
        items.add(3);
        a.add(&ITEMS, &["read"], &items);
        b.add(&ITEMS, &["read"], &Counter::default());
        let level = Gauge::default();
        level.set(f64::NAN);
        a.add(&LEVEL, &[], &level);
        assert_eq!(
            render([&a, &b]),
            "# HELP x_items_total Items\\nread\n# TYPE x_items_total counter\n\
             x_items_total{pipeline=\"a\",stage=\"read\"} 3\n\
             x_items_total{pipeline=\"say \\\"b\\\"\\\\\",stage=\"read\"} 0\n\
             # HELP x_level_ratio Level\n# TYPE x_level_ratio gauge\nx_level_ratio{pipeline=\"a\"} NaN\n"
        );
    }

    #[test]
    fn buckets_are_cumulative_and_bounds_inclusive() {
        let registry = Registry::default();
        let latency = Histogram::default();
        registry.add(&LATENCY, &[], &latency);
        for millis in [1, 2, 600, 500_000] {
            latency.observe(Duration::from_millis(millis));
        }
        let text = render([&registry]);
        for line in [
            "x_latency_seconds_bucket{le=\"0.001\"} 1",
            "x_latency_seconds_bucket{le=\"0.005\"} 2",
            "x_latency_seconds_bucket{le=\"1\"} 3",
            "x_latency_seconds_bucket{le=\"120\"} 3",
            "x_latency_seconds_bucket{le=\"+Inf\"} 4",
            "x_latency_seconds_sum 500.603",
            "x_latency_seconds_count 4",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
        }
    }

    #[test]
    fn seconds_keep_their_fractions() {
        let seconds = Seconds::default();
        (0..10).for_each(|_| seconds.add(Duration::from_micros(100)));
        assert_eq!(seconds.get(), 0.001);
    }
}
