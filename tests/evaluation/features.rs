//! What latents stand for: the files are read by other libraries, the numbers are those of transformers and numpy, and the
//! pages are looked at in a real browser.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{self, ask_python, harvestd, summary, write_corpus, write_pipeline};

#[test]
fn features_of_a_trained_coder_are_read_by_programs_and_people() {
    let folder = tempfile::tempdir().unwrap();
    let (corpus, out) = (folder.path().join("corpus"), folder.path().join("out"));
    write_corpus(&corpus, 24, 4);
    let pipeline = write_pipeline(&corpus, &out);
    let pipeline = pipeline.to_str().unwrap();
    let early = harvestd(&["features", pipeline]);
    let why = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(early.status.code() == Some(78) && why.contains("there is no coder"), "{why}");
    let ran = harvestd(&["run", pipeline, "--set", "trainers.0.rows=10k"]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));

    let to = out.join("features");
    let given = format!("plain={}", out.join("coder/saelens").display());
    let args = ["features", pipeline, "--out", to.to_str().unwrap(), "--coder", &given, "--tokens", "4096", "--json"];
    let args = [&args[..], &["--format", "parquet,html,delphi,neuronpedia"]].concat();
    let found = harvestd(&args);
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let said = summary(&found);
    let about = &said["coders"][0]["about"];
    assert_eq!((about["coder"].as_str(), about["latents"].as_u64()), (Some("one"), Some(384)));
    assert!(about["tokens"].as_u64().unwrap() >= 4096 && about["rows_paired"] == about["rows"], "{about}");
    let written: Value = serde_json::from_slice(&std::fs::read(to.join("one/about.json")).unwrap()).unwrap();
    assert_eq!(written, *about);
    let judged = out.join("judged");
    let args = ["eval", pipeline, "--out", judged.to_str().unwrap(), "--tokens", "4096", "--json"];
    let judged = summary(&harvestd(&args));
    let evaluation = &judged["report"]["coders"][0]["evaluation"];

    if let Some(python) = support::python("features as other libraries read them") {
        let args = [to.join("one"), out.join("coder/saelens"), "pipelines/quickstart/model".into()];
        let args: Vec<&str> = args.iter().map(|path| path.to_str().unwrap()).collect();
        let read = ask_python(&python, "read_features.py", &args, &Value::Null);
        assert_eq!((read["rows"].as_u64(), read["problems"].clone()), (Some(384), json!([])), "{read}");
        // what `eval` says of the same rows
        let (l0, dead) = (evaluation["l0"].as_f64().unwrap(), evaluation["dead_fraction"].as_f64().unwrap());
        assert!((read["sum_of_densities"].as_f64().unwrap() - l0).abs() < 1e-4, "{l0} {read}");
        assert!((read["silent"].as_f64().unwrap() / 384.0 - dead).abs() < 1e-9, "{dead} {read}");
        // what delphi and SAEDashboard themselves make of it
        let args = [to.join("one"), "pipelines/quickstart/model".into()];
        let args: Vec<&str> = args.iter().map(|path: &std::path::PathBuf| path.to_str().unwrap()).collect();
        let others = ask_python(&python, "read_other_features.py", &args, &Value::Null);
        assert_eq!(others["problems"], json!([]), "{others}");
        // the same coder as others have it
        let args = [to.join("plain"), out.join("coder/saelens"), "pipelines/quickstart/model".into()];
        let args: Vec<&str> = args.iter().map(|path| path.to_str().unwrap()).collect();
        let again = ask_python(&python, "read_features.py", &args, &Value::Null);
        assert_eq!((again["problems"].clone(), again["silent"].clone()), (json!([]), read["silent"].clone()));
    }
    look_at(&to.join("one"), 384);
    refusals(pipeline, &out);
}

/// What cannot be done is said.
fn refusals(pipeline: &str, out: &Path) {
    let to = out.join("refused");
    let fails = |more: &[&str], words: &str| {
        let ran = harvestd(&[&["features", pipeline, "--out", to.to_str().unwrap(), "--tokens", "256"], more].concat());
        let why = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.code() == Some(78) && why.contains(words), "{why}");
    };
    fails(&["--top", "100000"], "--top 100000 is too many");
    fails(&["--set", "corpus.holdout=0%"], "`corpus.holdout` is 0%");
    fails(&["--only-given"], "there is no coder");
    fails(&["--coder", &format!("../up={}", out.join("coder/saelens").display())], "choose another");
    let replay = out.join("replay.yaml");
    let text = std::fs::read_to_string(pipeline).unwrap();
    let trainers = text.split("trainers:").nth(1).unwrap().split("evaluate:").next().unwrap();
    let dataset = out.join("acts");
    let text = format!("version: 1\nname: r\nreplay: {{url: \"{}\"}}\ntrainers:{trainers}", dataset.display());
    std::fs::write(&replay, text).unwrap();
    let ran = harvestd(&["features", replay.to_str().unwrap()]);
    let why = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.code() == Some(78) && why.contains("features are of text"), "{why}");
    // documents that were trained on, in the order of a run
    let args = ["--documents", "trained-on", "--format", "parquet", "--json"];
    let ran =
        harvestd(&[&["features", pipeline, "--out", to.to_str().unwrap(), "--tokens", "1000"], &args[..]].concat());
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(summary(&ran)["coders"][0]["about"]["documents"], "trained-on");
    assert!(to.join("one/examples.parquet").is_file() && !to.join("one/index.html").exists());
}

/// The pages in a real browser.
fn look_at(folder: &Path, latents: u64) {
    let what = "pages of features in a browser";
    let (Some(python), Some(chromium)) = (support::python(what), support::chromium(what)) else { return };
    let args = [chromium.as_str(), folder.to_str().unwrap()];
    let found = ask_python(&python, "look_at_features.py", &args, &Value::Null);
    assert_eq!((found["console"].clone(), found["errors"].clone()), (json!([]), json!([])), "{found}");
    assert_eq!(found["foreign_requests"], json!([]));
    assert_eq!(found["all"].as_u64(), Some(latents), "all latents, silent ones too");
    assert!(found["falling"] == true && found["rising"] == true, "{found}");
    let hits = found["hits"].as_u64().unwrap();
    assert!(hits > 0 && hits < latents && found["every_hit_has_it"] == true, "{found}");
    assert_eq!(found["none"], "no such latents");
    for view in found["views"].as_array().unwrap() {
        assert_eq!(view["overflow"], 0, "nothing sticks out to the side: {view}");
        assert!(Path::new(view["picture"].as_str().unwrap()).metadata().unwrap().len() > 10_000);
    }
    let page = &found["page"];
    assert_eq!(page["heading"], format!("Latent {}", found["clicked"].as_str().unwrap()));
    assert!(page["shaded"].as_u64().unwrap() > 10 && page["backgrounds"].as_u64().unwrap() > 1, "{page}");
    assert!(page["charts"].as_u64().unwrap() >= 1 && page["contexts"].as_u64().unwrap() > 5, "{page}");
    assert_eq!((page["neighbour"].as_str(), page["next"].as_str()), (page["arrived"].as_str(), Some("00001.html")));
    if let Some(keep) = std::env::var_os("HARVESTD_PICTURES") {
        for view in found["views"].as_array().unwrap() {
            let picture = Path::new(view["picture"].as_str().unwrap());
            std::fs::copy(picture, Path::new(&keep).join(picture.file_name().unwrap())).unwrap();
        }
    }
}
