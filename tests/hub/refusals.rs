//! What is refused: wrong contents, hostile names, missing rights.

use harvestd::error::ErrorKind;

use super::server::{Fault, Hub, REPO};
use super::{Place, model, names, weights};

#[tokio::test]
async fn contents_with_another_digest_are_not_kept() {
    let weights = weights();
    for (file, fault) in
        [("model.safetensors", Some(Fault::Garbage)), ("model.safetensors", Some(Fault::Longer)), ("config.json", None)]
    {
        let hub = Hub::start(&model(&weights)).await;
        match &fault {
            Some(fault) => hub.fail(std::slice::from_ref(fault)),
            None => hub.promise(file, &"0".repeat(40)),
        }
        let place = Place::new(&hub);
        let e = place.refusal().await;
        assert_eq!(e.kind(), ErrorKind::Data, "{e}");
        assert!(e.to_string().contains(file), "{e}");
        let blobs = names(&place.repo().join("blobs"));
        assert!(!blobs.iter().any(|name| name.starts_with(&hub.etag(file))), "{fault:?}: {blobs:?}");
        assert!(!names(&place.repo().join("snapshots").join(super::server::COMMIT)).contains(&file.to_owned()));
        assert!(!place.repo().join("refs/main").exists(), "a revision leads to half a model");
        if fault.is_some() {
            place.fetch_main().await.expect("the next time it is right");
        }
    }
}

#[tokio::test]
async fn rights_and_names_that_are_missing_are_explained() {
    let weights = weights();
    let hub = Hub::start(&model(&weights)).await;
    let place = Place::new(&hub);
    let message = async |source: &str| {
        let e = place.fetch(source).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Config, "{e}");
        e.to_string()
    };
    assert!(message("hf://owner/other").await.contains("owner/other"));
    assert!(message("hf://owner/tiny@v9").await.contains("no revision `v9`"));
    assert!(message("hf://owner/tiny/q4.gguf").await.contains("no `q4.gguf`"));
    hub.require("hf_right", true);
    let gated = message("hf://owner/tiny").await;
    assert!(gated.contains("accept its licence at http://127.0.0.1") && gated.contains("set HF_TOKEN"), "{gated}");
    let place = Place::new(&hub).with_token("hf_wrong");
    let e = place.refusal().await.to_string();
    assert!(e.contains("gated") && e.contains("may not read it") && !e.contains("hf_wrong"), "{e}");
    hub.require("hf_right", false);
    assert!(place.refusal().await.to_string().contains("is refused"));
    assert!(Place::new(&hub).refusal().await.to_string().contains("private"));
    Place::new(&hub).with_token("hf_right").fetch_main().await.unwrap();
}

#[tokio::test]
async fn names_and_promises_that_lead_elsewhere_are_refused() {
    let weights = weights();
    for name in ["../../../escape.safetensors", "/etc/passwd", "a/../../b", "a\\b", "a\0b", ""] {
        let hub = Hub::start(&model(&weights)).await;
        hub.list_falsely(name);
        let place = Place::new(&hub);
        let e = place.refusal().await;
        assert!(e.kind() == ErrorKind::Data && e.to_string().contains("not a path within it"), "{name:?}: {e}");
        assert!(!place.settings.cache.exists(), "something was written");
    }
    for etag in ["../../../escape", "a/b", ""] {
        let hub = Hub::start(&model(&weights)).await;
        hub.promise("model.safetensors", etag);
        assert_eq!(Place::new(&hub).refusal().await.kind(), ErrorKind::Data, "{etag:?}");
    }
    for commit in ["main", "../../x", &"F".repeat(40)] {
        let hub = Hub::start(&model(&weights)).await;
        hub.commit("main", commit, &model(&weights));
        assert!(Place::new(&hub).refusal().await.to_string().contains("cannot be"), "{commit}");
    }
    let hub = Hub::start(&model(&weights)).await;
    hub.misdirect("file:///etc/passwd");
    assert!(Place::new(&hub).refusal().await.to_string().contains("unsafe"));
    hub.misdirect(&format!("{}/{REPO}/resolve/main/model.safetensors", hub.url));
    assert!(Place::new(&hub).refusal().await.to_string().contains("in circles"));
}

#[tokio::test]
async fn a_repository_that_is_no_model_is_refused() {
    let shard: &[u8] = b"x";
    let index = |names: &str| format!(r#"{{"weight_map": {names}}}"#).into_bytes();
    let (absent, outside) =
        (index(r#"{"a": "m-1.safetensors", "b": "m-2.safetensors"}"#), index(r#"{"a": "../x.safetensors"}"#));
    const INDEX: &str = "model.safetensors.index.json";
    for (files, word) in [
        (vec![("config.json", shard), ("pytorch_model.bin", shard)], "convert them to safetensors"),
        (vec![("config.json", shard), ("q4.gguf", shard), ("q8.gguf", shard)], "hf://owner/tiny@main/q4.gguf"),
        (vec![("config.json", shard)], "no weights"),
        (vec![("model.safetensors", shard)], "no `config.json`"),
        (
            vec![("config.json", shard), (INDEX, &absent), ("m-1.safetensors", shard)],
            "`m-2.safetensors`, which is not there",
        ),
        (vec![("config.json", shard), (INDEX, &outside)], "not a plain name"),
    ] {
        let hub = Hub::start(&files).await;
        let place = Place::new(&hub);
        let e = place.refusal().await;
        assert!(e.to_string().contains(word), "{e}");
        assert!(names(&place.repo().join("blobs")).len() <= 2, "weights were downloaded");
    }
}
