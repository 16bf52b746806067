use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

/// Metrics in which every family has a value.
fn everything() -> String {
    let metrics = Metrics::new("tiny \"quoted\"");
    metrics.stage("read").busy.add(Duration::from_millis(1500));
    metrics.trainer("topk").loss.set(0.25);
    metrics.store("dataset").request(StoreOperation::Put, Duration::from_millis(30));
    metrics.store("dataset").error(ErrorKind::Unavailable);
    metrics.queue("tokens", &QueueStats::default());
    metrics.run.drop_n(DropReason::NonFinite, 3);
    let process = ProcessMetrics::new(1.7e9);
    process.answers("/metrics", "200").inc();
    process.render([&metrics])
}

#[test]
fn every_family_is_written_by_somebody() {
    let text = everything();
    for family in FAMILIES {
        assert!(text.contains(&format!("# HELP {} ", family.name)), "{} is never written", family.name);
    }
    assert_eq!(text.matches("# HELP ").count(), FAMILIES.len());
}

#[test]
fn names_follow_the_scheme() {
    const AREAS: [&str; 12] = [
        "stage", "queue", "store", "trainer", "corpus", "forward", "run", "dataset", "memory", "process", "http",
        "screen",
    ];
    let text = everything();
    let mut seen = BTreeSet::new();
    for family in FAMILIES {
        let name = family.name;
        assert!(seen.insert(name), "{name} is declared twice");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
        let area = name.strip_prefix("harvestd_").and_then(|rest| rest.split('_').next()).unwrap();
        assert!(AREAS.contains(&area), "{name}: unknown area {area}");
        let is_counter = text.contains(&format!("# TYPE {name} counter\n"));
        assert_eq!(is_counter, name.ends_with("_total"), "{name}: counters, and only they, end in _total");
        assert!(!family.help.is_empty() && !family.help.ends_with('.'), "{name}: {:?}", family.help);
        assert!(family.labels.iter().all(|l| *l != "pipeline" && *l != "le"), "{name}");
    }
}

#[test]
fn numbers_arrive_where_their_names_say() {
    let text = everything();
    for line in [
        "harvestd_stage_busy_seconds_total{pipeline=\"tiny \\\"quoted\\\"\",stage=\"read\"} 1.5",
        "harvestd_trainer_loss{pipeline=\"tiny \\\"quoted\\\"\",trainer=\"topk\"} 0.25",
        "harvestd_store_requests_total{pipeline=\"tiny \\\"quoted\\\"\",store=\"dataset\",operation=\"put\"} 1",
        "harvestd_store_errors_total{pipeline=\"tiny \\\"quoted\\\"\",store=\"dataset\",kind=\"unavailable\"} 1",
        "harvestd_run_dropped_items_total{pipeline=\"tiny \\\"quoted\\\"\",reason=\"non_finite\"} 3",
        "harvestd_process_start_time_seconds 1700000000",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
    }
}

#[test]
fn the_order_of_label_arrays_is_the_order_of_the_enums() {
    assert!(ErrorKind::ALL.iter().enumerate().all(|(i, &k)| k as usize == i));
    assert!(StoreOperation::ALL.iter().enumerate().all(|(i, &o)| o as usize == i));
    assert!(DropReason::ALL.iter().enumerate().all(|(i, &r)| r as usize == i));
}

#[test]
fn a_name_has_one_set_of_handles_and_pipelines_are_separate() {
    let (a, b) = (Metrics::new("a"), Metrics::new("b"));
    a.stage("read").items_in.add(2);
    a.stage("read").items_in.add(3);
    assert_eq!(a.stages()["read"], StageSnapshot { items_in: 5, ..StageSnapshot::default() });
    assert!(b.stages().is_empty());
    a.run.drop_n(DropReason::Holdout, 7);
    assert_eq!((a.run.dropped().get(DropReason::Holdout), b.run.dropped().is_empty()), (7, true));
}

#[test]
fn resident_memory_is_plausible() {
    let bytes = resident_bytes().unwrap();
    assert!((1 << 20..1 << 40).contains(&bytes), "{bytes}");
}

#[test]
fn a_pipeline_is_in_one_state_and_the_process_tells_of_itself() {
    let metrics = Metrics::new("a");
    metrics.run.enter("running");
    metrics.run.enter("draining");
    let process = ProcessMetrics::new(0.0);
    process.reloaded(false);
    let text = process.render([&metrics]);
    let states: Vec<&str> =
        text.lines().filter(|l| l.starts_with("harvestd_run_state{") && l.ends_with(" 1")).collect();
    assert_eq!(states, ["harvestd_run_state{pipeline=\"a\",state=\"draining\"} 1"]);
    assert!(text.contains("harvestd_process_reloads_total{result=\"refused\"} 1"), "{text}");
    let value = |name: &str| -> f64 {
        text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')).unwrap().parse().unwrap()
    };
    assert!(value("harvestd_process_threads") >= 2.0 && value("harvestd_process_open_files") >= 3.0);
    assert!((0.0..36_000.0).contains(&value("harvestd_process_cpu_seconds_total")));
}

/// Prometheus's own linter. Where it is not installed this says so; CI must have it.
#[test]
fn promtool_accepts_the_output() {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "promtool is not installed: {error}");
            eprintln!("SKIPPED promtool_accepts_the_output: promtool is not installed (Debian package `prometheus`)");
            return;
        }
    };
    child.stdin.take().unwrap().write_all(everything().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
