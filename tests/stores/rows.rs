//! Stored rows in S3: imported, shuffled, replayed; a shuffle that is killed goes on there.

use std::collections::BTreeMap;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use harvestd::store::{Stores, objects};
use serde_json::Value;

use crate::inside_of;
use crate::servers::{self, Server};
use crate::support::{BINARY, killed_until_done};

/// Shuffles that are killed.
const ROUNDS: usize = 3;

const PIPELINE: &str = r#"version: 1
name: stored
replay: {url: SRC, order: shuffled, epochs: 2, holdout: 10%}
trainers:
  - name: one
    input: made.up
    buffer: {rows: 512}
    coder: {type: topk, width: 64, k: 4}
    optimizer: {type: adam, learning_rate: 1.0e-3}
    batch_rows: 256
    rows: 4k
    checkpoint: {url: DST}
"#;

fn start(server: &Server, args: &[&str], more: &[&str]) -> Child {
    let mut command = Command::new(BINARY);
    command.args(args).args(server.arguments()).args(more);
    command.envs(server.variables.iter().map(|(name, value)| (name, value)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn harvestd(server: &Server, args: &[&str], more: &[&str]) -> Output {
    start(server, args, more).wait_with_output().unwrap()
}

fn done(output: Output) -> Output {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// An array of `rows` rows of 16 f32, one of them with a NaN.
fn npy(rows: usize) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, 16), }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    let mut out =
        [b"\x93NUMPY\x01\x00", &(header.len() as u16 + 1).to_le_bytes()[..], header.as_bytes(), b"\n"].concat();
    let values = (0..rows * 16).map(|i| if i == 555 { f32::NAN } else { ((i * 7919) % 10_007) as f32 / 5000.0 - 1.0 });
    values.for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
    out
}

/// Every shuffle that was killed ended in the objects of the one that was not.
pub async fn shuffles_are_the_same(stores: &Stores, url: &str) {
    let objects_of = async |name: &str| {
        let place = stores.open(&format!("{url}/{name}")).unwrap();
        let mut found = BTreeMap::new();
        for object in objects::list(&place).await.unwrap() {
            let name = object.location.as_ref().split_once('/').unwrap().1.to_owned();
            let bytes = objects::read(&place.child(&name)).await.unwrap().unwrap();
            found.insert(name, bytes);
        }
        found
    };
    let whole = objects_of("whole").await;
    assert!(whole.len() > 10 && whole.keys().all(|name| !name.starts_with("scratch")), "{:?}", whole.keys());
    for round in 0..ROUNDS {
        let killed = objects_of(&format!("killed-{round}")).await;
        assert!(killed.keys().eq(whole.keys()), "{:?}", killed.keys());
        assert!(killed == whole, "round {round}: the bytes differ");
    }
}

#[test]
fn stored_rows_are_imported_shuffled_and_replayed_in_s3() {
    let Some(server) = servers::moto() else { return };
    let scratch = tempfile::tempdir().unwrap();
    std::fs::create_dir(scratch.path().join("arrays")).unwrap();
    for (i, rows) in [5000, 3001].into_iter().enumerate() {
        std::fs::write(scratch.path().join(format!("arrays/{i}.npy")), npy(rows)).unwrap();
    }
    let at = |name: &str| format!("{}/{name}", server.url);
    let arrays = scratch.path().join("arrays").display().to_string();
    let local = scratch.path().join("src").display().to_string();
    let site = ["--site", "made.up", "--rows-per-shard", "1000", "--json"];
    done(harvestd(&server, &["import", &arrays, &local], &site));
    let there = done(harvestd(&server, &["import", &arrays, &at("src")], &site));
    let imported: Value = serde_json::from_slice(&there.stdout).unwrap();
    assert_eq!((&imported["totals"]["rows"], &imported["dropped"]["non_finite"]), (&7999.into(), &2.into()));
    done(harvestd(&server, &["import", &arrays, &at("src")], &site));

    let options = ["--seed", "4", "--memory", "200KiB", "--workers", "2"];
    let watch = Instant::now();
    done(harvestd(&server, &["shuffle", &at("src"), &at("whole")], &options));
    let took = watch.elapsed();
    let (mut random, mut kills) = (5, 0);
    for round in 0..ROUNDS {
        let to = at(&format!("killed-{round}"));
        let begin = || start(&server, &["shuffle", &at("src"), &to], &options);
        let (killed, last) = killed_until_done(took.max(Duration::from_millis(300)), &mut random, 3, begin);
        done(last);
        kills += killed;
        done(harvestd(&server, &["verify", &to], &[]));
    }
    inside_of(&server, "shuffles", &server.options);
    assert!(kills > 0, "nothing was killed");

    let refused = harvestd(&server, &["shuffle", &at("src"), &at("alone")], &["--store", "conditional_put=none"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(78) && text.contains("--alone"), "{text}");
    done(harvestd(&server, &["shuffle", &at("src"), &at("alone")], &["--alone", "--store", "conditional_put=none"]));

    let pipeline = scratch.path().join("pipeline.yaml");
    std::fs::write(&pipeline, PIPELINE.replace("SRC", &at("src")).replace("DST", &at("coder"))).unwrap();
    let output = done(harvestd(&server, &["run", pipeline.to_str().unwrap(), "--json"], &[]));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(summary["trainers"][0]["rows"].as_u64().unwrap() >= 3500, "{summary}");
    assert!(summary["rows_per_second"].as_f64().unwrap() > 0.0 && summary["rows_from"] == "dataset", "{summary}");
    assert!(summary["trainers"][0]["evaluation"]["rows"].as_u64().unwrap() > 100, "{summary}");
}
