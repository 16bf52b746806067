//! `model.source: hf://...` through the commands, with the environment's variables.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::names;
use super::server::{COMMIT, Fault, Hub};
use super::support::{BINARY, signal, summary, write_corpus, write_pipeline};

/// The shipped model on a hub, and a pipeline that names it there.
struct Setup {
    hub: Hub,
    scratch: tempfile::TempDir,
    pipeline: PathBuf,
}

impl Setup {
    async fn new() -> Self {
        let read = |name: &str| std::fs::read(Path::new("pipelines/quickstart/model").join(name)).unwrap();
        let (config, tokenizer, weights) = (read("config.json"), read("tokenizer.json"), read("model.safetensors"));
        let files: [(&str, &[u8]); 3] =
            [("config.json", &config), ("tokenizer.json", &tokenizer), ("model.safetensors", &weights)];
        let hub = Hub::start(&files).await;
        let scratch = tempfile::tempdir().unwrap();
        write_corpus(&scratch.path().join("corpus"), 6, 3);
        let pipeline = write_pipeline(&scratch.path().join("corpus"), &scratch.path().join("out"));
        let text = std::fs::read_to_string(&pipeline).unwrap();
        std::fs::write(&pipeline, text.replace("pipelines/quickstart/model", "hf://owner/tiny@main")).unwrap();
        Self { hub, scratch, pipeline }
    }

    fn home(&self) -> PathBuf {
        self.scratch.path().join("home")
    }

    fn command(&self, verb: &str, more: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.arg(verb).arg(&self.pipeline).args(more).args(["--set", "trainers=[]"]);
        command.env("HF_HOME", self.home()).env("HF_ENDPOINT", &self.hub.url).env_remove("HF_TOKEN");
        command.env_remove("HF_HUB_CACHE").env_remove("HF_HUB_OFFLINE").env("HF_HUB_DOWNLOAD_TIMEOUT", "5");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, verb: &str, more: &[&str]) -> Output {
        let mut command = self.command(verb, more);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_takes_its_model_from_the_hub_and_says_which() {
    let setup = Setup::new().await;
    let validated = setup.run("validate", &[]).await;
    assert!(validated.status.success());
    let text = String::from_utf8_lossy(&validated.stdout).into_owned();
    assert!(text.contains("not in the hub's cache") && text.contains("were not checked"), "{text}");
    assert_eq!(setup.hub.take_seen().len(), 0, "validate went to the network");

    let first = setup.run("run", &["--json"]).await;
    assert!(first.status.success(), "{}", errors(&first));
    assert!(summary(&first)["rows"].as_u64().unwrap() > 0);
    let header = std::fs::read(setup.scratch.path().join("out/acts/dataset.json")).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&header).unwrap();
    let model = &header["model"];
    assert_eq!((&model["source"], &model["commit"]), (&"hf://owner/tiny@main".into(), &COMMIT.into()));
    assert_eq!(model["weights_sha256"], setup.hub.etag("model.safetensors"), "what was loaded is what the hub has");

    // the same files from a folder are the same model
    let folder = setup.run("run", &["--json", "--set", "model.source=pipelines/quickstart/model"]).await;
    assert!(folder.status.success(), "{}", errors(&folder));
    let text = String::from_utf8_lossy(&setup.run("validate", &[]).await.stdout).into_owned();
    assert!(!text.contains("not checked"), "the cache is looked into: {text}");
    let wrong = setup.run("validate", &["--set", "capture=[blocks.77.hook_mlp_out]"]).await;
    assert_eq!(wrong.status.code(), Some(78));

    setup.hub.take_seen();
    let pinned = format!("model.source=hf://owner/tiny@{COMMIT}");
    let pinned = setup.run("selftest", &["--set", &pinned, "--sequences", "1", "--tokens", "8"]).await;
    assert!(pinned.status.success(), "{}", errors(&pinned));
    assert_eq!(setup.hub.take_seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_start_together_download_once() {
    let setup = Setup::new().await;
    let all = futures::future::join_all((0..3).map(|_| setup.run("plan", &["--json"]))).await;
    for output in all {
        assert!(output.status.success(), "{}", errors(&output));
    }
    assert_eq!(setup.hub.take_gets().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_download_is_continued() {
    let setup = Setup::new().await;
    setup.hub.fail(&[Fault::StallAfter(3_000_000)]);
    let child = setup.command("run", &[]).spawn().unwrap();
    let blobs = setup.home().join("hub/models--owner--tiny/blobs");
    let size = || {
        let part = names(&blobs).into_iter().find(|name| name.ends_with(".incomplete"));
        part.and_then(|name| blobs.join(name).metadata().ok()).map_or(0, |m| m.len())
    };
    for _ in 0..400 {
        if size() == 3_000_000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    signal(&child, libc::SIGINT);
    let stopped = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(stopped.status.code(), Some(130), "{}", errors(&stopped));
    assert!(errors(&stopped).contains("goes on from there"), "{}", errors(&stopped));
    assert_eq!(size(), 3_000_000);
    setup.hub.take_seen();
    let again = setup.run("plan", &["--json"]).await;
    assert!(again.status.success(), "{}", errors(&again));
    assert_eq!(setup.hub.take_gets()[0].range.as_deref(), Some("bytes=3000000-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_without_the_model_says_so() {
    let setup = Setup::new().await;
    let mut command = setup.command("run", &[]);
    let output = command.env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", errors(&output));
    assert!(errors(&output).contains("HF_HUB_OFFLINE"), "{}", errors(&output));
    assert_eq!(setup.hub.take_seen().len(), 0);
}
