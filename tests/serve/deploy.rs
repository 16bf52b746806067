//! What is in `deploy/`: generated where it follows from the program, and judged by the tools that will read it.
//! `UPDATE_DOCS=1` writes what is generated.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use harvestd::telemetry::metrics::FAMILIES;
use serde_json::{Value, json};

use crate::support::*;

struct Alert {
    name: &'static str,
    expr: &'static str,
    for_: &'static str,
    severity: &'static str,
    summary: &'static str,
    /// In the table of the manual.
    action: &'static str,
}

const ALERTS: &[Alert] = &[
    Alert {
        name: "HarvestdDown",
        expr: "up{job=~\".*harvestd.*\"} == 0",
        for_: "5m",
        severity: "critical",
        summary: "harvestd cannot be scraped",
        action: "`systemctl status harvestd`, or the pod's events; the log's last lines say why it ended",
    },
    Alert {
        name: "HarvestdPipelineFailed",
        expr: "harvestd_run_state{state=\"failed\"} == 1",
        for_: "1m",
        severity: "critical",
        summary: "{{ $labels.pipeline }} cannot go on until somebody changes something",
        action: "`reason` in `/v1/pipelines/NAME` says what; mend it, then reload",
    },
    Alert {
        name: "HarvestdRestarts",
        expr: "increase(harvestd_run_restarts_total[1h]) > 3",
        for_: "0m",
        severity: "warning",
        summary: "{{ $labels.pipeline }} was started again {{ $value | humanize }} times within an hour",
        action: "`reason`, and `harvestd_run_faults_total` by `kind`: `unavailable` is a store or hub, `device` a GPU, `internal` a bug to report",
    },
    Alert {
        name: "HarvestdStalled",
        expr: "harvestd_run_state{state=\"running\"} == 1 and on (pipeline) rate(harvestd_forward_rows_total[15m]) == 0 \
               and on (pipeline) harvestd_run_done_units < harvestd_run_work_units",
        for_: "15m",
        severity: "critical",
        summary: "{{ $labels.pipeline }} runs and computes nothing",
        action: "`/livez` names a stage that stands still; the stage whose `busy` grows while others are blocked is the one",
    },
    Alert {
        name: "HarvestdStoreFailing",
        expr: "sum by (pipeline, store) (rate(harvestd_store_errors_total{kind=\"unavailable\"}[10m])) > 0.1",
        for_: "10m",
        severity: "warning",
        summary: "requests of {{ $labels.pipeline }} to its {{ $labels.store }} store fail",
        action: "the store's own status, credentials, network; `harvestd_store_retries_total` shows since when",
    },
    Alert {
        name: "HarvestdLosesData",
        expr: "increase(harvestd_run_dropped_items_total{reason=~\"non_finite|damaged_file|slow_trainer\"}[1h]) > 0",
        for_: "0m",
        severity: "warning",
        summary: "{{ $labels.pipeline }} drops data: {{ $labels.reason }}",
        action: "the reasons are listed below; `non_finite`: the model's dtype; `damaged_file`: the corpus; `slow_trainer`: `when_slow`",
    },
    Alert {
        name: "HarvestdTrainerDiverges",
        expr: "increase(harvestd_trainer_skipped_steps_total[1h]) > 0 or harvestd_trainer_fvu_ratio > 1",
        for_: "10m",
        severity: "warning",
        summary: "trainer {{ $labels.trainer }} of {{ $labels.pipeline }} diverges",
        action: "a lower learning rate, more `warmup_steps`, or `clip_norm`; start it from an earlier checkpoint",
    },
    Alert {
        name: "HarvestdLatentsDie",
        expr: "harvestd_trainer_dead_latents_ratio > 0.5 and on (pipeline, trainer) harvestd_trainer_steps_total > 5000",
        for_: "30m",
        severity: "warning",
        summary: "{{ $value | humanizePercentage }} of the latents of {{ $labels.trainer }} are dead",
        action: "an auxiliary loss or resampling (docs/coders.md), a lower learning rate, a narrower coder",
    },
    Alert {
        name: "HarvestdReloadRefused",
        expr: "increase(harvestd_process_reloads_total{result=\"refused\"}[15m]) > 0",
        for_: "0m",
        severity: "warning",
        summary: "a reload was refused: the old configuration runs",
        action: "`harvestd validate` on the folder, or the log, lists every problem",
    },
    Alert {
        name: "HarvestdMemoryHigh",
        expr: "harvestd_process_resident_bytes > 1.3 * sum without (pipeline) (harvestd_memory_budget_bytes > 0)",
        for_: "30m",
        severity: "warning",
        summary: "resident memory is {{ $value | humanize1024 }}B, beyond the buffers' budget by a third",
        action: "`harvestd plan` says what weights and working space come to; lower `limits.memory` or give more",
    },
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compare a generated file with what is there, or write it.
fn is_current(path: &str, text: &str) {
    let path = root().join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "{} is out of date: UPDATE_DOCS=1 cargo test --test serve deploy", path.display());
}

fn rules(indent: &str) -> String {
    let mut out = format!("{indent}groups:\n{indent}  - name: harvestd\n{indent}    rules:\n");
    for Alert { name, expr, for_, severity, summary, action } in ALERTS {
        let expr = expr.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(out, "{indent}      - alert: {name}\n{indent}        expr: >-\n{indent}          {expr}").unwrap();
        writeln!(out, "{indent}        for: {for_}\n{indent}        labels: {{severity: {severity}}}").unwrap();
        writeln!(out, "{indent}        annotations:\n{indent}          summary: {}", json!(summary)).unwrap();
        writeln!(out, "{indent}          description: {}", json!(action)).unwrap();
    }
    out
}

fn is_there(program: &str) -> bool {
    let found = Command::new(program).arg(if program == "kubectl" { "help" } else { "--version" }).output().is_ok();
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{program} is not installed: in CI deploy/ must be tested with it");
        eprintln!("SKIPPED: {program} is not installed; deploy/ was not tested with it");
    }
    found
}

/// What a command printed, which must have succeeded.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

#[test]
fn alerts_are_current_known_to_promtool_and_in_the_manual() {
    let header = "# Written by tests/serve/deploy.rs.\n";
    is_current("deploy/prometheus/alerts.yaml", &format!("{header}{}", rules("")));
    let resource = "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: harvestd\nspec:\n";
    is_current("deploy/kubernetes/components/prometheus/rules.yaml", &format!("{header}{resource}{}", rules("  ")));
    let manual = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    for Alert { name, expr, action, .. } in ALERTS {
        let row = format!("| `{name}` | {action} |");
        assert!(manual.contains(&row), "docs/operations.md lacks: {row}");
        for word in
            expr.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|w| w.starts_with("harvestd_"))
        {
            assert!(FAMILIES.iter().any(|family| family.name == word), "{name}: there is no metric {word}");
        }
    }
    if is_there("promtool") {
        let text = said(
            Command::new("promtool").args(["check", "rules", "deploy/prometheus/alerts.yaml"]).current_dir(root()),
        );
        assert!(text.contains(&format!("{} rules found", ALERTS.len())), "{text}");
        said(
            Command::new("promtool").args(["test", "rules", "deploy/prometheus/alerts.test.yaml"]).current_dir(root()),
        );
    }
}

/// A panel for every metric, in rows by area.
fn dashboard() -> Value {
    let mut panels = Vec::new();
    let (mut y, mut x, mut area_before) = (0, 0, "");
    for (i, family) in FAMILIES.iter().enumerate() {
        let name = family.name;
        let area = name.split('_').nth(1).unwrap();
        if area != area_before {
            y += 8;
            panels.push(json!({"type": "row", "title": area, "id": 1000 + i, "collapsed": false, "panels": [],
                "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}));
            (x, area_before) = (0, area);
            y += 1;
        } else if x == 24 {
            (x, y) = (0, y + 8);
        }
        let of_process = ["process", "http"].contains(&area);
        let chosen = if of_process { "" } else { "{pipeline=~\"$pipeline\"}" };
        let by = family.labels.iter().copied().chain((!of_process).then_some("pipeline")).collect::<Vec<_>>();
        let legend = by.iter().map(|label| format!("{{{{{label}}}}}")).collect::<Vec<_>>().join(" ");
        let histogram = name == "harvestd_store_request_seconds";
        let counter = name.ends_with("_total");
        let expr = match (histogram, counter) {
            (true, _) => format!(
                "histogram_quantile(0.95, sum by (le, {}) (rate({name}_bucket{chosen}[$__rate_interval])))",
                by.join(", ")
            ),
            (_, true) if by.is_empty() => format!("rate({name}{chosen}[$__rate_interval])"),
            (_, true) => format!("sum by ({}) (rate({name}{chosen}[$__rate_interval]))", by.join(", ")),
            (_, false) => format!("{name}{chosen}"),
        };
        let unit = match name.trim_end_matches("_total").rsplit('_').next().unwrap() {
            "bytes" if counter => "Bps",
            "bytes" => "bytes",
            // busy seconds a second: a share
            "seconds" if counter => "percentunit",
            "seconds" => "s",
            "ratio" => "percentunit",
            _ if counter => "cps",
            _ => "short",
        };
        panels.push(json!({
            "type": "timeseries", "id": i + 1, "title": name.trim_start_matches("harvestd_").replace('_', " "),
            "description": family.help, "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "gridPos": {"x": x, "y": y, "w": 8, "h": 8},
            "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
            "targets": [{"refId": "A", "expr": expr, "legendFormat": legend}],
        }));
        x += 8;
    }
    json!({
        "title": "harvestd", "uid": "harvestd", "schemaVersion": 39, "tags": ["harvestd"], "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"}, "editable": true,
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus"},
            {"name": "pipeline", "type": "query", "datasource": {"type": "prometheus", "uid": "${datasource}"},
             "query": "label_values(harvestd_run_state, pipeline)", "includeAll": true, "multi": true, "refresh": 2},
        ]},
        "panels": panels,
    })
}

#[test]
fn the_dashboard_shows_every_metric() {
    is_current("deploy/grafana/dashboard.json", &format!("{:#}\n", dashboard()));
    let shown = dashboard().to_string();
    for family in FAMILIES {
        assert!(shown.contains(family.name), "{}", family.name);
    }
    if is_there("promtool") {
        // every query is one
        let panels = dashboard()["panels"].as_array().cloned().unwrap();
        let queries = panels.iter().filter_map(|panel| panel["targets"][0]["expr"].as_str());
        let mut text = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
        for (i, query) in queries.enumerate() {
            let query = query.replace("$__rate_interval", "5m").replace("$pipeline", ".*");
            writeln!(text, "      - {{record: q{i}, expr: {}}}", json!(query)).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("queries.yaml");
        std::fs::write(&file, text).unwrap();
        said(Command::new("promtool").args(["check", "rules"]).arg(&file));
    }
}

#[test]
fn systemd_takes_the_unit_and_finds_it_closed() {
    if !is_there("systemd-analyze") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("harvestd.service");
    let text = std::fs::read_to_string(root().join("deploy/systemd/harvestd.service")).unwrap();
    // the program is not installed where tests run
    std::fs::write(&unit, text.replace("/usr/bin/harvestd", BINARY)).unwrap();
    let text = said(Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&unit));
    assert!(!text.contains("harvestd.service:"), "{text}");
    let text = said(
        Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=20", "--no-pager"]).arg(&unit),
    );
    assert!(text.contains("Overall exposure level"), "{text}");
    // what the unit passes is understood
    let help = said(Command::new(BINARY).args(["serve", "--help"]));
    let environment = std::fs::read_to_string(root().join("deploy/systemd/harvestd.env")).unwrap();
    let kubernetes = std::fs::read_to_string(root().join("deploy/kubernetes/base/statefulset.yaml")).unwrap();
    for option in (environment + &kubernetes).split([' ', '=', '\n', '`']).filter(|word| word.starts_with("--")) {
        assert!(help.contains(option), "`serve` has no {option}");
    }
}

#[test]
fn kubernetes_manifests_render_and_fit_the_schemas() {
    let overlays = ["cpu", "gpu", "workers"];
    if !is_there("kubectl") {
        return;
    }
    for overlay in overlays {
        let folder = root().join("deploy/kubernetes/overlays").join(overlay);
        let text = said(Command::new("kubectl").arg("kustomize").arg(&folder));
        for kind in [
            "StatefulSet",
            "Service",
            "ServiceAccount",
            "ConfigMap",
            "Secret",
            "PodDisruptionBudget",
            "NetworkPolicy",
            "ServiceMonitor",
            "PrometheusRule",
        ] {
            assert!(text.contains(&format!("\nkind: {kind}\n")), "{overlay} has no {kind}");
        }
        let Some(python) = python("the schemas of Kubernetes") else { continue };
        let rendered: PathBuf = tempfile::tempdir().unwrap().keep().join("all.yaml");
        std::fs::write(&rendered, text).unwrap();
        let found = said(Command::new(python).arg(root().join("tests/python/kubernetes_check.py")).arg(&rendered));
        assert!(found.contains("7 objects fit"), "{overlay}: {found}");
        std::fs::remove_dir_all(rendered.parent().unwrap()).unwrap();
    }
}
