//! Datasets and checkpoints in a real S3 server: moto, from PyPI (`moto[server]`).
//!
//! The server is started with the Python named by `HARVESTD_PYTHON`, or `python3`. Where it has no moto the test is skipped,
//! unless `CI=true`: then that is a failure. The address and credentials of a store come from the environment alone, so the
//! test runs itself again as a child with the environment it needs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use harvestd::catalog::verify::{remove_unreferenced, verify};
use harvestd::catalog::{Catalog, checkpoints};
use harvestd::dataset::config::{CompressionConfig, Layout, StoredDtype};
use harvestd::dataset::paths;
use harvestd::dataset::schema::{ShardSpec, SiteColumn};
use harvestd::error::ErrorKind;
use harvestd::hooks::{HookPoint, Site};
use harvestd::sink::SinkOptions;
use harvestd::store::upload::UploadOptions;
use harvestd::store::{Location, objects};
use harvestd::testing::datasets::{interleaved, small_spec, units, write};

const BUCKET: &str = "acts";
/// Set in the child: host and port of the server.
const SERVER: &str = "HARVESTD_TEST_S3_SERVER";

struct Server {
    process: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A running server with an empty bucket; `None` (said loudly) where there is no moto and none is demanded.
fn start_server() -> Option<Server> {
    let python = std::env::var_os("HARVESTD_PYTHON").into_iter().chain(["python3".into()]).find(|python| {
        let found = Command::new(python).args(["-c", "import moto.server"]).stderr(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    });
    let Some(python) = python else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no Python with moto[server]: CI must test against S3");
        eprintln!("SKIPPED: no Python with moto[server], datasets in S3 were not tested");
        return None;
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let process = Command::new(python)
        .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server { process, address: format!("127.0.0.1:{port}") };
    for _ in 0..600 {
        if TcpStream::connect(&server.address).is_ok() {
            assert!(request(&server.address, "PUT", "").starts_with("HTTP/1.1 200"));
            return Some(server);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("moto did not start within a minute");
}

/// The answer to a request on the bucket.
fn request(address: &str, method: &str, query: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let text = format!(
        "{method} /{BUCKET}{query} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn datasets_and_checkpoints_work_in_s3() {
    let Some(server) = start_server() else { return };
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture"])
        .env(SERVER, &server.address)
        .env("AWS_ENDPOINT", format!("http://{}", server.address))
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_REGION", "us-east-1")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

/// Nothing unless run by the test above.
#[test]
fn inside() {
    let Ok(server) = std::env::var(SERVER) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        racing_workers_and_a_late_one().await;
        large_shards_are_uploaded_in_parts(&server).await;
        checkpoints_are_kept().await;
    });
}

async fn racing_workers_and_a_late_one() {
    let location = Location::open(&format!("s3://{BUCKET}/race")).unwrap();
    let spec = small_spec(StoredDtype::Float16, Layout::Typed, CompressionConfig::None);
    let units = units(&spec, &[&[17, 9, 30, 12, 0, 28], &[40, 1, 39, 2], &[]]);
    let run = |attempt: &'static str, sizes: usize| {
        let (location, spec, batches) = (&location, &spec, interleaved(&units, &[sizes]));
        async move {
            let options = SinkOptions { attempt: Some(attempt.into()), ..SinkOptions::default() };
            write(location, spec, 3, &batches, options).await.unwrap().1
        }
    };
    let (a, b) = tokio::join!(run("a", 2), run("b", 2));
    let ours = a.iter().chain(&b).filter(|shard| !shard.theirs).count();
    assert!(run("c", 2).await.is_empty());
    let catalog = Catalog::open(location.clone()).await.unwrap();
    assert_eq!(catalog.commits().await.unwrap().len(), ours);
    let stray = paths::shard(9, 9, None);
    objects::create(&location.child(&stray), Bytes::from_static(b"x")).await.unwrap();
    let report = verify(&catalog, |_, _| ()).await.unwrap();
    assert!(report.ok() && report.complete() && report.unreferenced.len() == 1, "{report:?}");
    assert_eq!(remove_unreferenced(&catalog, &report, Duration::MAX).await.unwrap(), [stray]);
    let other = ShardSpec { rows_per_shard: 41, ..spec.clone() };
    let error = write(&location, &other, 3, &[], SinkOptions::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Config);
}

async fn large_shards_are_uploaded_in_parts(server: &str) {
    let location = Location::open(&format!("s3://{BUCKET}/large")).unwrap();
    let spec = ShardSpec {
        sites: vec![SiteColumn { point: HookPoint::block(1, Site::ResidPost), width: 768 }],
        rows_per_shard: 8192,
        rows_per_group: 2048,
        ..small_spec(StoredDtype::Float16, Layout::Typed, CompressionConfig::None)
    };
    let units = units(&spec, &[&[1024; 12]]);
    let batches = interleaved(&units, &[2]);
    let options =
        SinkOptions { upload: UploadOptions { part_bytes: 5 << 20, parts_in_flight: 2 }, ..SinkOptions::default() };
    // stop with a multipart upload under way: it is aborted
    let (catalog, committed) = write(&location, &spec, 1, &batches[..3], options.clone()).await.unwrap();
    assert!(committed.is_empty());
    assert!(!request(server, "GET", "?uploads").contains("<UploadId>"));
    write(&location, &spec, 1, &batches, options).await.unwrap();
    let report = verify(&catalog, |_, _| ()).await.unwrap();
    assert!(report.ok() && report.complete() && report.unreferenced.is_empty(), "{report:?}");
    assert_eq!((report.rows, report.shards), (12 * 1024, 2));
    assert!(!request(server, "GET", "?uploads").contains("<UploadId>"));
}

async fn checkpoints_are_kept() {
    let location = Location::open(&format!("s3://{BUCKET}/coder")).unwrap();
    let files = |step: u64| vec![("state".to_owned(), Bytes::from(vec![step as u8; 1000]))];
    for step in 1..5 {
        checkpoints::save(&location, step, files(step), 2).await.unwrap();
    }
    objects::delete(&location.child("step-000000004-000/state")).await.unwrap();
    let found = checkpoints::latest(&location).await.unwrap().unwrap();
    assert_eq!((found.step, found.files), (3, files(3)));
    assert_eq!(objects::list(&location).await.unwrap().len(), 3);
}
