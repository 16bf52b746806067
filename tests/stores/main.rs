//! Datasets in real stores: S3 (moto), Azure (azurite), Google (a small server of our own that speaks its XML API), corpora
//! on web servers; and what happens when those stores fail.
//!
//! Servers are started with the Python of `HARVESTD_PYTHON`; azurite with Node. Where they are missing a test is skipped and
//! says so, unless `CI` is set: then that is a failure. Credentials come from the environment alone, so tests that use the
//! library run themselves again as a child with the environment they need.

#[path = "../support/mod.rs"]
mod support;

mod bad_servers;
mod credentials;
mod faults;
mod orphans;
mod protocol;
mod rows;
mod servers;
mod web;

use std::process::Command;

use harvestd::store::Stores;
use servers::Server;

/// Set in the child: what to do, the bucket's URL, `--store` options a line.
const WHAT: &str = "HARVESTD_TEST_WHAT";
const URL: &str = "HARVESTD_TEST_URL";
const OPTIONS: &str = "HARVESTD_TEST_OPTIONS";

/// Do `what` in a process that has the server's credentials.
fn inside_of(server: &Server, what: &str, options: &[String]) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture"])
        .env(WHAT, what)
        .env(URL, &server.url)
        .env(OPTIONS, options.join("\n"))
        .envs(server.variables.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{what}: {out}\n{err}");
}

/// Nothing unless run by a test.
#[test]
fn inside() {
    let Ok(what) = std::env::var(WHAT) else { return };
    let (url, options) = (std::env::var(URL).unwrap(), std::env::var(OPTIONS).unwrap());
    let options: Vec<String> = options.lines().map(str::to_owned).collect();
    let stores = Stores::new(Vec::new(), &options).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        match what.as_str() {
            "protocol" => protocol::everything(&stores, &url).await,
            "parts" => protocol::parts_through_trouble(&stores, &url).await,
            "orphans" => orphans::listed_and_aborted(&stores, &url).await,
            "begin an upload" => orphans::begin_and_be_killed(&stores, &url).await,
            "stray" => bad_servers::leave_a_stray(&stores, &url).await,
            "shuffles" => rows::shuffles_are_the_same(&stores, &url).await,
            "clock" => bad_servers::ages_by_the_stores_clock(&stores, &url).await,
            other => panic!("{other}"),
        }
    });
}

#[test]
fn datasets_and_checkpoints_work_in_s3() {
    let Some(server) = servers::moto() else { return };
    inside_of(&server, "protocol", &server.options);
}

#[test]
fn datasets_and_checkpoints_work_in_azure() {
    let Some(server) = servers::azurite() else { return };
    inside_of(&server, "protocol", &server.options);
}

#[test]
fn datasets_and_checkpoints_work_in_google_cloud_storage() {
    let Some(server) = servers::gcs(&[]) else { return };
    inside_of(&server, "protocol", &server.options);
}
