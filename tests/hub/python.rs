//! Python's `huggingface_hub` and this program share one cache. Needs a Python that has it, named by `HARVESTD_PYTHON`.

use std::process::Command;

use super::server::{COMMIT, Hub, REPO};
use super::{Place, model, weights};

async fn run(python: String, verb: &'static str, hub: &Hub, place: &Place) {
    let (url, cache) = (hub.url.clone(), place.settings.cache.clone());
    let output = tokio::task::spawn_blocking(move || {
        Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/hub_cache.py"))
            .args([verb, REPO, COMMIT])
            .env("HF_ENDPOINT", url)
            .env("HF_HUB_CACHE", &cache)
            .env("HF_HOME", cache.parent().unwrap())
            .env("HF_HUB_DISABLE_XET", "1")
            .env("HF_HUB_DISABLE_TELEMETRY", "1")
            .output()
            .unwrap()
    });
    let output = output.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn python_finds_what_was_downloaded_here() {
    let Some(python) = super::support::python("huggingface_hub on the same cache") else { return };
    let weights = weights();
    let hub = Hub::start(&model(&weights)).await;
    let place = Place::new(&hub);
    place.fetch_main().await.unwrap();
    hub.take_seen();
    run(python, "find", &hub, &place).await;
    let seen = hub.take_seen();
    assert!(seen.is_empty(), "it asked the hub: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_python_downloaded_is_found_here() {
    let Some(python) = super::support::python("huggingface_hub on the same cache") else { return };
    let weights = weights();
    let hub = Hub::start(&model(&weights)).await;
    let mut place = Place::new(&hub);
    run(python, "download", &hub, &place).await;
    hub.take_seen();
    place.settings.offline = true;
    let snapshot = place.fetch_main().await.unwrap();
    assert_eq!(snapshot.commit, COMMIT);
    assert_eq!(std::fs::read(snapshot.folder.join("model.safetensors")).unwrap(), weights);
    // online, the blobs are recognised by their etags
    place.settings.offline = false;
    place.fetch(&format!("hf://{REPO}@{COMMIT}")).await.unwrap();
    assert_eq!(hub.take_gets().len(), 0);
}
