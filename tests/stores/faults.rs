//! The real program against a real S3 server, with a proxy in between that lets things go wrong.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use harvestd::store::Stores;

use crate::inside_of;
use crate::servers::{self, Server};
use crate::support::http::Request;
use crate::support::proxy::{Fault, Proxy};
use crate::support::reliability::{Difference, Rows, record};
use crate::support::{self, BINARY};

/// A corpus, a pipeline without trainers, and the rows of an undisturbed run.
pub struct Wanted {
    folder: tempfile::TempDir,
    pub rows: Rows,
}

impl Wanted {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        support::write_corpus(&folder.path().join("corpus"), 12, 3);
        support::write_pipeline(&folder.path().join("corpus"), folder.path());
        let wanted = Self { rows: Rows::default(), folder };
        let output =
            Command::new(BINARY).args(["run", "--set", "trainers=[]"]).arg(wanted.pipeline()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let rows = Rows::of_folder(&wanted.folder.path().join("acts"));
        assert!(rows.len() > 1000);
        Self { rows, ..wanted }
    }

    pub fn pipeline(&self) -> PathBuf {
        self.folder.path().join("pipeline.yaml")
    }

    /// Run the pipeline into `url`.
    pub fn run(&self, server: &Server, url: &str, options: &[String]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(["run", "--json", "--set", "trainers=[]", "--set", &format!("dataset.url={url}")]);
        command.args(options.iter().flat_map(|o| ["--store", o]));
        command.arg(self.pipeline()).envs(server.variables.iter().map(|(name, value)| (name, value)));
        command.output().unwrap()
    }

    /// `harvestd verify` is green and complete, and the rows are those of an undisturbed run, or differ by so much.
    pub fn compare(&self, server: &Server, url: &str) -> Difference {
        let mut command = Command::new(BINARY);
        command.args(["verify", "--json", url]).args(server.arguments());
        command.envs(server.variables.iter().map(|(name, value)| (name, value)));
        let output = command.output().unwrap();
        let report = support::summary(&output);
        assert!(output.status.success() && report["ok"] == true && report["complete"] == true, "{report}");
        // this process has no credentials
        let proxy = Proxy::start(&server.address, Fault::Nothing, 0);
        let options = server.options_through(&proxy.endpoint()).into_iter().chain(["anonymous=true".into()]);
        let options: Vec<String> = options.collect();
        let location = Stores::new(Vec::new(), &options).unwrap().open(url).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(Rows::read(&location)).against(&self.rows)
    }
}

/// Impatient, so that tests are quick.
pub fn impatient() -> Vec<String> {
    ["timeout=3s", "retry.first_wait=10ms", "retry.longest_wait=500ms", "retry.budget=40s"].map(str::to_owned).to_vec()
}

/// Runs with each seed through a proxy with `fault`, until they end; their rows must be those of an undisturbed run.
fn survives(server: &Server, wanted: &Wanted, name: &str, fault: Fault, ends_well: bool) {
    let seeds = if std::env::var_os("HARVESTD_LONG_TESTS").is_some() { 10 } else { 2 };
    let (mut difference, mut injected, mut again) = (Difference::default(), 0, 0);
    for seed in 1..=seeds {
        let url = format!("{}/{fault:?}-{seed}", server.url);
        let proxy = Proxy::start(&server.address, fault, seed);
        let options: Vec<String> = server.options_through(&proxy.endpoint()).into_iter().chain(impatient()).collect();
        for attempt in 0.. {
            let output = wanted.run(server, &url, &options);
            let said = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                break;
            }
            assert!(!ends_well, "{name}, seed {seed}: {said}");
            // the answer to a HEAD has no body that could say why
            let unsaid = fault == Fault::Skewed && said.contains("performing HEAD") && said.contains("403 Forbidden");
            let explained = said.contains("clock") || said.contains("gave up after") || unsaid;
            assert!(explained, "{name}, seed {seed}: {said}");
            again += 1;
            if attempt == 1 {
                proxy.calm();
            }
        }
        injected += proxy.injected();
        difference.add(wanted.compare(server, &url));
    }
    eprintln!("{name}: {injected} faults in {seeds} runs, {again} of them run again");
    assert!(injected > 0, "{name} was never injected");
    record(name, seeds, difference);
}

#[test]
fn a_failing_s3_loses_and_doubles_nothing() {
    let Some(server) = servers::moto() else { return };
    let wanted = Wanted::new();
    for (name, fault, ends_well) in [
        ("store: 500 and 503", Fault::Bursts, true),
        ("store: slow start", Fault::SlowStart, true),
        ("store: no answer", Fault::Timeouts, false),
        ("store: truncated bodies", Fault::Truncated, true),
        ("store: reset before", Fault::ResetBefore, true),
        ("store: reset after", Fault::ResetAfter, true),
        ("store: 412 after success", Fault::Refused, true),
        ("store: 409", Fault::Conflict, true),
        ("store: clock refused", Fault::Skewed, false),
        ("store: anything", Fault::Anything, true),
    ] {
        survives(&server, &wanted, name, fault, ends_well);
    }
}

#[test]
fn parts_arrive_whatever_goes_wrong() {
    let Some(mut server) = servers::moto() else { return };
    let (seeds, bucket) = (if std::env::var_os("HARVESTD_LONG_TESTS").is_some() { 10 } else { 2 }, server.url.clone());
    let mut injected = 0;
    for seed in 1..=seeds {
        let proxy = Proxy::start(&server.address, Fault::Anything, seed);
        let options: Vec<String> = server.options_through(&proxy.endpoint()).into_iter().chain(impatient()).collect();
        server.url = format!("{bucket}/{seed}");
        inside_of(&server, "parts", &options);
        injected += proxy.injected();
    }
    assert!(injected > seeds, "{injected} faults");
}

#[test]
fn what_a_run_costs_is_planned_and_counted() {
    let Some(server) = servers::moto() else { return };
    let wanted = Wanted::new();
    let priced = |command: &str| {
        let sets =
            ["trainers=[]", "prices={write_1000: 1000, read_1000: 10, list_1000: 1, gb_month: 1e9, currency: EUR}"];
        let mut all = Command::new(BINARY);
        all.args([command, "--json"]).arg(wanted.pipeline()).args(sets.iter().flat_map(|s| ["--set", s]));
        all.args(["--set", &format!("dataset.url={}/priced", server.url)]).args(server.arguments());
        all.envs(server.variables.iter().map(|(name, value)| (name, value)));
        let output = all.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        support::summary(&output)
    };
    let (planned, spent) = (priced("plan")["cost"].clone(), priced("run"));
    let (stores, dataset) = (&spent["stores"], &spent["dataset"]);
    let sum = |usage: &serde_json::Value| {
        let of = |key: &str| usage[key].as_f64().unwrap();
        of("write") + of("read") / 100.0 + of("list") / 1000.0
    };
    assert!((stores["cost"].as_f64().unwrap() - sum(stores)).abs() < 1e-6, "{stores}");
    assert!((planned["run"].as_f64().unwrap() - sum(&planned["requests"])).abs() < 1e-6, "{planned}");
    assert_eq!((&stores["currency"], &planned["currency"]), (&"EUR".into(), &"EUR".into()));
    // a shard and a commit for each; a header; two writes that try the store out
    let shards = dataset["shards"].as_f64().unwrap();
    assert_eq!(stores["write"].as_f64().unwrap(), 2.0 * shards + 3.0, "{stores}");
    let month = planned["month"].as_f64().unwrap() / dataset["bytes"].as_f64().unwrap();
    assert!((0.5..2.0).contains(&month), "{planned} {dataset}");
}

/// Requests are planned as they are made: by class within a fifth (or one), of new datasets, of ones that go on, of column
/// groups, checkpoints and corpora.
#[test]
fn requests_are_planned_as_they_are_made() {
    let Some(server) = servers::moto() else { return };
    let wanted = Wanted::new();
    let (corpus, folder) = (format!("{}/corpus", server.url), wanted.folder.path().join("corpus"));
    for (name, bytes) in support::files(&folder) {
        let head = format!(
            "PUT /acts/corpus/{name} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            server.address,
            bytes.len()
        );
        let request = Request { method: "PUT".into(), target: format!("/acts/corpus/{name}"), head, body: bytes };
        assert!(request.forward(&server.address).unwrap().0.starts_with("HTTP/1.1 200"));
    }
    let asked = |command: &str, sets: &[&str]| {
        let mut all = Command::new(BINARY);
        all.args([command, "--json"]).arg(wanted.pipeline()).args(sets.iter().flat_map(|set| ["--set", set]));
        all.args(server.arguments()).envs(server.variables.iter().map(|(name, value)| (name, value)));
        let output = all.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        support::summary(&output)
    };
    let compared = |what: &str, sets: &[&str]| {
        let (planned, spent) = (asked("plan", sets), asked("run", sets));
        for class in ["write", "read", "list", "delete"] {
            let [wanted, found] =
                [&planned["cost"]["requests"], &spent["stores"]].map(|usage| usage[class].as_f64().unwrap());
            let near = (wanted - found).abs() <= (0.2 * found).max(1.0);
            assert!(near, "{what}: {wanted} {class} requests planned, {found} made: {planned} {spent}");
        }
        (planned, spent)
    };
    let url = format!("dataset.url={}/planned", server.url);
    let (untrained, small) = ("trainers=[]", "dataset.rows_per_shard=1000");
    compared("a new dataset", &[untrained, &url, small]);
    compared("one that is done", &[untrained, &url, small]);
    let more = "capture=[\"blocks.1.hook_resid_post\", \"blocks.2.hook_mlp_out\", \"blocks.0.hook_resid_post\"]";
    let (planned, spent) = compared("a column group", &[untrained, &url, small, more]);
    let parts = planned["dataset"]["parts"].as_array().unwrap();
    assert_eq!((parts.len(), &parts[0]["shards"], &parts[0]["exists"]), (2, &0.0.into(), &true.into()), "{planned}");
    let [added, found] = [&parts[1]["bytes"], &spent["dataset"]["columns"][0]["bytes"]].map(|n| n.as_f64().unwrap());
    assert!((added / found - 1.0).abs() < 0.2, "{added} {found}");
    compared("a column group that is done", &[untrained, &url, small, more]);
    let limit = ["limits.store_bytes=1GiB", "dataset.keep={rows: 2000, grace: 0s}"];
    let kept = format!("dataset.url={}/kept", server.url);
    compared("a limit", &[untrained, &kept, small, limit[0]]);
    let checkpoints = format!("trainers.0.checkpoint.url={}/coder", server.url);
    compared("a checkpoint", &["dataset=null", "trainers.0.checkpoint.every=10h", &checkpoints]);
    let paths = format!("corpus.paths=[\"{corpus}/*.jsonl\"]");
    let local = format!("dataset.url={}", wanted.folder.path().join("local").display());
    compared("a corpus", &[untrained, &paths, &local]);
    compared(
        "all of it",
        &[
            &paths,
            &format!("dataset.url={}/all", server.url),
            "trainers.0.checkpoint.every=10h",
            &format!("{checkpoints}-all"),
        ],
    );
}

#[test]
fn a_dead_store_is_given_up_in_time_and_words() {
    let wanted = Wanted::new();
    let Some(server) = servers::gcs(&[]) else { return };
    let options = ["endpoint=http://127.0.0.1:9", "allow_http=true", "retry.budget=2s", "retry.first_wait=50ms"];
    let options = options.map(str::to_owned);
    let since = Instant::now();
    let output = wanted.run(&server, "gs://acts/dead", &options);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("gave up after") && said.contains(" tries in "), "{said}");
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
}
