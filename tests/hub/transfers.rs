//! What arrives, and how: layout, resuming, trying again, sharing.

use std::time::{Duration, Instant};

use harvestd::error::ErrorKind;
use harvestd::hub::{self, HubName, Progress};

use super::server::{COMMIT, Fault, Hub, REPO};
use super::{Place, model, names, weights};

#[tokio::test]
async fn a_model_lands_in_pythons_layout_and_is_asked_for_once() {
    let weights = weights();
    let hub = Hub::start(&model(&weights)).await;
    hub.require("hf_secret", false);
    let place = Place::new(&hub).with_token("hf_secret");
    let progress = Progress::default();
    let snapshot = place.fetch_counting("hf://owner/tiny", &progress).await.unwrap();

    assert_eq!((snapshot.commit.as_str(), &snapshot.file), (COMMIT, &None));
    assert_eq!(snapshot.folder, place.repo().join("snapshots").join(COMMIT));
    assert_eq!(names(&snapshot.folder), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(std::fs::read(snapshot.folder.join("model.safetensors")).unwrap(), weights);
    let link = std::fs::read_link(snapshot.folder.join("model.safetensors")).unwrap();
    assert_eq!(link.to_str().unwrap(), format!("../../blobs/{}", hub.etag("model.safetensors")));
    let mut etags = ["config.json", "tokenizer.json", "model.safetensors"].map(|file| hub.etag(file));
    etags.sort();
    assert_eq!(names(&place.repo().join("blobs")), etags);
    assert_eq!(std::fs::read_to_string(place.repo().join("refs/main")).unwrap(), COMMIT);
    let absent = names(&place.repo().join(".no_exist").join(COMMIT));
    let expected = [
        "added_tokens.json",
        "chat_template.jinja",
        "generation_config.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
    ];
    assert_eq!(absent, expected);
    let bytes = weights.len() as u64 + 25;
    let counts = progress.snapshot();
    assert_eq!((counts.bytes, counts.bytes_total, counts.received), (bytes, bytes, bytes));

    let seen = hub.take_seen();
    assert!(seen.iter().any(|s| s.host == "store"), "large files come from the store");
    for request in &seen {
        // the store is another origin: the token must not arrive there
        assert_eq!(request.token.is_some(), request.host == "hub", "{request:?}");
    }
    let asked = |seen: &[super::server::Seen]| seen.iter().map(|s| s.path.clone()).collect::<Vec<_>>();
    place.fetch_main().await.unwrap();
    assert_eq!(asked(&hub.take_seen()), [format!("/api/models/{REPO}/revision/main")], "a branch may have moved");
    place.fetch(&format!("hf://{REPO}@{COMMIT}")).await.unwrap();
    assert_eq!(asked(&hub.take_seen()), Vec::<String>::new(), "a commit cannot have changed");
}

#[tokio::test]
async fn a_moved_branch_brings_only_what_changed() {
    let (old, new) = (weights(), vec![1; 100]);
    let hub = Hub::start(&model(&old)).await;
    let place = Place::new(&hub);
    place.fetch_main().await.unwrap();
    let commit = "ffffffffffffffffffffffffffffffffffffffff";
    hub.commit("main", commit, &model(&new)[..4]);
    // a revision that cannot be a model leaves what was there
    place.refusal().await;
    assert_eq!(std::fs::read_to_string(place.repo().join("refs/main")).unwrap(), COMMIT);

    hub.commit("main", commit, &[&model(&old)[1..], &[("config.json", b"{}")]].concat());
    hub.take_seen();
    let snapshot = place.fetch_main().await.unwrap();
    assert_eq!(snapshot.commit, commit);
    assert_eq!(std::fs::read_to_string(snapshot.folder.join("config.json")).unwrap(), "{}");
    assert_eq!(hub.take_gets().len(), 0, "the weights are the same blob");
    assert_eq!(std::fs::read_to_string(place.repo().join("refs/main")).unwrap(), commit);
    assert!(place.repo().join("snapshots").join(COMMIT).join("config.json").is_file(), "the old commit stays");
}

#[tokio::test]
async fn revisions_with_slashes_and_single_files_work() {
    let weights = weights();
    let hub = Hub::start(&model(&weights)).await;
    hub.commit("refs/pr/1", &"a".repeat(40), &[("q4/m.gguf", &weights), ("README.md", b"x")]);
    let place = Place::new(&hub);
    let snapshot = place.fetch("hf://owner/tiny@refs/pr/1/q4/m.gguf").await.unwrap();
    assert_eq!(std::fs::read(snapshot.path()).unwrap(), weights);
    assert_eq!(snapshot.path(), snapshot.folder.join("q4/m.gguf"));
    assert!(std::fs::read_link(snapshot.path()).unwrap().starts_with("../../../blobs"));
    assert!(place.repo().join("refs/refs/pr/1").is_file());
    // with the file in the cache nobody is needed
    hub.take_seen();
    place.fetch(&format!("hf://owner/tiny@{}/q4/m.gguf", "a".repeat(40))).await.unwrap();
    assert_eq!(hub.take_seen().len(), 0);
}

#[tokio::test]
async fn the_files_of_an_index_are_brought() {
    let (one, two) = (weights(), vec![3; 70_000]);
    let index = br#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-1.safetensors"}}"#;
    let files: [(&str, &[u8]); 5] = [
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("m-1.safetensors", &one),
        ("m-2.safetensors", &two),
        ("m-3.safetensors", b"of another variant"),
    ];
    let hub = Hub::start(&files).await;
    let place = Place::new(&hub);
    let snapshot = place.fetch_main().await.unwrap();
    let expected = ["config.json", "m-1.safetensors", "m-2.safetensors", "model.safetensors.index.json"];
    assert_eq!(names(&snapshot.folder), expected);
    assert_eq!(std::fs::read(snapshot.folder.join("m-2.safetensors")).unwrap(), two);
    // one shard is lost: the commit is not complete any more
    std::fs::remove_file(snapshot.folder.join("m-2.safetensors")).unwrap();
    let name = HubName::parse("hf://owner/tiny").unwrap();
    assert_eq!(hub::cached(&name, &place.settings), None);
    place.fetch(&format!("hf://{REPO}@{COMMIT}")).await.unwrap();
    assert!(hub::cached(&name, &place.settings).is_some());
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let weights = weights();
    let hub = Hub::start(&model(&weights)).await;
    hub.fail(&[Fault::BreakAfter(150_000), Fault::EndAfter(100_000)]);
    let place = Place::new(&hub);
    let progress = Progress::default();
    let snapshot = place.fetch_counting("hf://owner/tiny", &progress).await.unwrap();
    assert_eq!(std::fs::read(snapshot.folder.join("model.safetensors")).unwrap(), weights);
    let ranges: Vec<_> = hub.take_gets().into_iter().map(|s| s.range).collect();
    assert_eq!(ranges, [None, Some("bytes=150000-".to_owned()), Some("bytes=250000-".to_owned())]);
    assert_eq!(progress.snapshot().received, weights.len() as u64 + 25, "nothing came twice");
}

#[tokio::test]
async fn a_later_process_goes_on_where_one_gave_up() {
    let weights = weights();
    let hub = Hub::start(&model(&weights)).await;
    hub.fail(&[Fault::StallAfter(123_456)]);
    let mut place = Place::new(&hub);
    place.settings.timeout = Duration::from_millis(300);
    place.settings.retry.budget = Duration::ZERO;
    // the first try ended after enough bytes to be worth a second, which gets the same answer
    hub.fail(&[Fault::Status(503, None)]);
    let e = place.refusal().await;
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    assert!(!e.to_string().contains("signature"), "a signed address is shown: {e}");
    let partial = place.repo().join("blobs").join(format!("{}.incomplete", hub.etag("model.safetensors")));
    assert_eq!(partial.metadata().unwrap().len(), 123_456);
    hub.take_seen();
    let snapshot = place.fetch_main().await.unwrap();
    assert_eq!(hub.take_gets()[0].range.as_deref(), Some("bytes=123456-"));
    assert_eq!(std::fs::read(snapshot.folder.join("model.safetensors")).unwrap(), weights);
    assert!(!partial.exists());
}

#[tokio::test]
async fn a_server_without_ranges_and_a_damaged_part_cost_a_whole_transfer() {
    let weights = weights();
    let hub = Hub::start(&model(&weights)).await;
    hub.fail(&[Fault::BreakAfter(150_000), Fault::NoRanges]);
    let place = Place::new(&hub);
    let snapshot = place.fetch_main().await.unwrap();
    assert_eq!(std::fs::read(snapshot.folder.join("model.safetensors")).unwrap(), weights);

    // a power failure left zeros, or a longer file than it can be
    for left in [vec![0; 200_000], vec![0; 500_000], weights[..400_000].to_vec()] {
        let place = Place::new(&hub);
        let blobs = place.repo().join("blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(format!("{}.incomplete", hub.etag("model.safetensors"))), left).unwrap();
        let snapshot = place.fetch_main().await.unwrap();
        assert_eq!(std::fs::read(snapshot.folder.join("model.safetensors")).unwrap(), weights);
    }
}

#[tokio::test]
async fn a_busy_hub_is_asked_again_when_it_says() {
    let weights = weights();
    let hub = Hub::start(&model(&weights)).await;
    hub.fail_hub(&[Fault::Status(500, None), Fault::Status(429, Some(1))]);
    hub.fail(&[Fault::Status(503, None), Fault::Status(429, Some(1))]);
    let (place, start) = (Place::new(&hub), Instant::now());
    place.fetch_main().await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(2), "it was asked again too soon");
}

#[tokio::test]
async fn a_hub_that_stays_away_is_given_up() {
    let weights = weights();
    let hub = Hub::start(&model(&weights)).await;
    let mut place = Place::new(&hub);
    place.settings.retry.budget = Duration::from_millis(300);
    hub.fail_hub(&vec![Fault::Status(502, None); 1000]);
    let e = place.refusal().await;
    assert_eq!(e.kind(), ErrorKind::Unavailable);
    assert!(e.to_string().contains("gave up after") && e.to_string().contains("502"), "{e}");
    // nobody listens there at all
    place.settings.endpoint = url::Url::parse("http://127.0.0.1:9").unwrap();
    assert_eq!(place.refusal().await.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn without_the_hub_the_cache_serves_and_offline_nobody_is_asked() {
    let weights = weights();
    let hub = Hub::start(&model(&weights)).await;
    let mut place = Place::new(&hub);
    place.settings.offline = true;
    let e = place.refusal().await;
    assert_eq!(e.kind(), ErrorKind::Config);
    assert!(e.to_string().contains("HF_HUB_OFFLINE"), "{e}");
    assert_eq!(hub.take_seen().len(), 0, "it was asked all the same");
    place.settings.offline = false;
    let online = place.fetch_main().await.unwrap();
    // away: the branch means what it meant last time, found out without a long wait
    place.settings.endpoint = url::Url::parse("http://127.0.0.1:9").unwrap();
    let start = Instant::now();
    assert_eq!(place.fetch_main().await.unwrap(), online);
    assert!(start.elapsed() < Duration::from_secs(1));
    place.settings.offline = true;
    assert_eq!(place.fetch_main().await.unwrap(), online);
    std::fs::remove_file(place.repo().join("blobs").join(hub.etag("model.safetensors"))).unwrap();
    assert!(place.refusal().await.to_string().contains("`model.safetensors` is missing"));
    // a link to nothing is mended
    place.settings = Place { settings: place.settings.clone(), folder: tempfile::tempdir().unwrap() }.settings;
    place.settings.offline = false;
    place.settings.endpoint = url::Url::parse(&hub.url).unwrap();
    let snapshot = place.fetch_main().await.unwrap();
    assert_eq!(std::fs::read(snapshot.folder.join("model.safetensors")).unwrap(), weights);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_at_once_download_once() {
    let weights = weights();
    let hub = Hub::start(&model(&weights)).await;
    hub.fail(&[Fault::BreakAfter(150_000)]);
    let place = Place::new(&hub);
    let all = futures::future::join_all((0..5).map(|_| place.fetch_main())).await;
    for snapshot in all {
        assert_eq!(std::fs::read(snapshot.unwrap().folder.join("model.safetensors")).unwrap(), weights);
    }
    assert_eq!(hub.take_gets().len(), 2, "one download in two parts");
    assert!(place.folder.path().join("hub/CACHEDIR.TAG").is_file());
}
