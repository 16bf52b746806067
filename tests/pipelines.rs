//! Every pipeline that ships is valid, and the reference that ships is current.

use std::path::{Path, PathBuf};

use harvestd::config;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The YAML files in `pipelines/`.
fn pipelines() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("pipelines")).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    files
}

#[test]
fn every_pipeline_is_valid_and_says_no_more_than_it_must() {
    let files = pipelines();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let loaded = config::load(&file, &[]).unwrap_or_else(|problems| panic!("{problems}"));
        // a machine with a CUDA driver notes that the CPU is used
        let notes: Vec<_> = loaded.notes.iter().filter(|n| n.path != "model.device").collect();
        assert!(notes.is_empty(), "{}: {notes:#?}", file.display());
    }
}

#[test]
fn what_is_published_is_a_valid_pipeline_that_means_the_same() {
    for file in pipelines() {
        let loaded = config::load(&file, &[]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("published.yaml");
        std::fs::write(&copy, loaded.published.to_string()).unwrap();
        let again = config::load(&copy, &[]).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(again.pipeline, loaded.pipeline, "{}", file.display());
        assert_eq!(again.published, loaded.published, "{}", file.display());
    }
}

/// Run with `UPDATE_DOCS=1` to write the file.
#[test]
fn the_reference_is_current() {
    let path = root().join("docs/pipeline-reference.md");
    let current = config::reference::markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(root().join("docs")).unwrap();
        std::fs::write(&path, &current).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == current, "docs/pipeline-reference.md is out of date: UPDATE_DOCS=1 cargo test --test pipelines");
}
