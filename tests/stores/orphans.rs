//! Uploads in parts that a killed process left behind: seen, and aborted once they are old enough.

use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use harvestd::store::upload::{Upload, UploadOptions};
use harvestd::store::{Stores, orphans};

use crate::servers::{self, Server};
use crate::{OPTIONS, URL, WHAT, inside_of};

/// Older than any upload.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);

/// In the child: send a part, say so, and wait to be killed.
pub async fn begin_and_be_killed(stores: &Stores, url: &str) {
    let place = stores.open(&format!("{url}/killed/shards/a.parquet")).unwrap();
    let mut upload = Upload::new(place, UploadOptions { part_bytes: 5 << 20, parts_in_flight: 1 });
    upload.write(Bytes::from(vec![7; 11 << 20])).await.unwrap();
    println!("sent");
    tokio::time::sleep(Duration::from_secs(60)).await;
}

/// In the child: uploads below a place and elsewhere.
pub async fn listed_and_aborted(stores: &Stores, url: &str) {
    let left = stores.open(&format!("{url}/killed")).unwrap();
    let found = orphans::list(&left).await.unwrap();
    assert_eq!(found.iter().map(|u| u.object.as_str()).collect::<Vec<_>>(), ["killed/shards/a.parquet"]);
    // moto says of every upload that it began in 2010
    assert!(found[0].age < Duration::from_secs(120) || url.starts_with("s3:"), "{found:?}");
    // a place whose name begins alike is another place
    for name in ["killed-too/b", "other/c", "killed/d", "killed/e", "killed/f"] {
        let place = stores.open(&format!("{url}/{name}")).unwrap();
        let mut upload = Upload::new(place, UploadOptions { part_bytes: 5 << 20, parts_in_flight: 1 });
        upload.write(Bytes::from(vec![7; 6 << 20])).await.unwrap();
        std::mem::forget(upload);
    }
    // forgotten uploads send their first part in tasks that still run
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(orphans::list(&left).await.unwrap().len(), 4);
    assert_eq!(orphans::abort_older_than(&left, CENTURY).await.unwrap(), [], "they are young");
    let aborted = orphans::abort_older_than(&left, Duration::ZERO).await.unwrap();
    assert_eq!(aborted.len(), 4);
    assert_eq!(orphans::list(&left).await.unwrap(), []);
    orphans::abort(&left, &aborted[0]).await.expect("one that is gone is fine");
    assert_eq!(orphans::list(&stores.open(url).unwrap()).await.unwrap().len(), 2, "others' are left alone");
}

fn killed_uploads_are_found(server: &Server) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture"])
        .env(WHAT, "begin an upload")
        .env(URL, &server.url)
        .env(OPTIONS, server.options.join("\n"))
        .envs(server.variables.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("sent")));
    child.kill().unwrap();
    child.wait().unwrap();
    inside_of(server, "orphans", &server.options);
}

#[test]
fn uploads_of_killed_processes_are_aborted_in_s3() {
    let Some(server) = servers::moto() else { return };
    killed_uploads_are_found(&server);
}

#[test]
fn uploads_of_killed_processes_are_aborted_in_google_cloud_storage() {
    let Some(server) = servers::gcs(&[]) else { return };
    killed_uploads_are_found(&server);
}
