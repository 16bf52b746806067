//! Real servers, started for a test and stopped after it.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support;

/// Bucket or container of all servers.
pub const BUCKET: &str = "acts";
/// The account and key that every Azurite has.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running server, killed when it goes out of scope.
pub struct Server {
    process: Child,
    /// Host and port.
    pub address: String,
    /// Where its bucket is.
    pub url: String,
    /// `--store` options that reach it.
    pub options: Vec<String>,
    /// Credentials, as variables of the environment.
    pub variables: Vec<(&'static str, String)>,
    /// Files that it needs.
    _folder: Option<tempfile::TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Server {
    /// `--store` arguments that reach it.
    pub fn arguments(&self) -> Vec<String> {
        self.options.iter().flat_map(|o| ["--store".to_owned(), o.clone()]).collect()
    }

    /// `--store` options that reach it through `endpoint`.
    pub fn options_through(&self, endpoint: &str) -> Vec<String> {
        let others = self.options.iter().filter(|o| !o.starts_with("endpoint=")).cloned();
        others.chain([format!("endpoint={endpoint}")]).collect()
    }
}

fn wait_for(address: &str) {
    for _ in 0..600 {
        if TcpStream::connect(address).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("nothing listens at {address} after a minute");
}

fn quiet(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// S3, with an empty bucket.
pub fn moto() -> Option<Server> {
    let python = support::python("datasets in S3")?;
    let address = format!("127.0.0.1:{}", support::free_port());
    let port = address.rsplit(':').next().unwrap();
    let process = quiet(Command::new(python).args(["-m", "moto.server", "-H", "127.0.0.1", "-p", port]));
    let server = Server {
        process,
        url: format!("s3://{BUCKET}"),
        options: vec![format!("endpoint=http://{address}"), "allow_http=true".into(), "region=us-east-1".into()],
        variables: vec![
            ("AWS_ACCESS_KEY_ID", "test-key-id".into()),
            ("AWS_SECRET_ACCESS_KEY", "test-secret-key".into()),
        ],
        address,
        _folder: None,
    };
    wait_for(&server.address);
    let head = format!("PUT /{BUCKET} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", server.address);
    let request = support::http::Request { method: "PUT".into(), target: format!("/{BUCKET}"), head, body: Vec::new() };
    let (head, _) = request.forward(&server.address).unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    Some(server)
}

/// Azure's own emulator, with an empty container.
pub fn azurite() -> Option<Server> {
    let python = support::python("datasets in Azure")?;
    let Some(program) = azurite_program() else {
        assert!(std::env::var_os("CI").is_none(), "HARVESTD_AZURITE is not set: in CI Azure must be tested");
        eprintln!("SKIPPED: HARVESTD_AZURITE is not set; datasets in Azure were not tested");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let address = format!("127.0.0.1:{}", support::free_port());
    let port = address.rsplit(':').next().unwrap();
    let mut command = Command::new(program);
    command.args(["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--blobHost", "127.0.0.1"]);
    command.args(["--blobPort", port, "--location"]).arg(folder.path());
    let process = quiet(&mut command);
    let endpoint = format!("http://{address}/{ACCOUNT}");
    let server = Server {
        process,
        url: format!("az://{BUCKET}"),
        options: vec![format!("endpoint={endpoint}"), "allow_http=true".into(), format!("account={ACCOUNT}")],
        variables: vec![("AZURE_STORAGE_ACCOUNT_KEY", KEY.into())],
        address,
        _folder: Some(folder),
    };
    wait_for(&server.address);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/azure_container.py");
    let made = Command::new(python).args([script, &endpoint, ACCOUNT, KEY, BUCKET]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Some(server)
}

/// `azurite-blob`: that of `HARVESTD_AZURITE`, or the one that CI keeps in the cache.
fn azurite_program() -> Option<PathBuf> {
    if let Some(program) = std::env::var_os("HARVESTD_AZURITE") {
        return Some(program.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let program = cache.join("harvestd/azurite/node_modules/.bin/azurite-blob");
    program.is_file().then_some(program)
}

/// A server of Google's XML API; `arguments` make it a bad one.
pub fn gcs(arguments: &[&str]) -> Option<Server> {
    let python = support::python("datasets in Google Cloud Storage")?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/gcs_stub.py");
    let mut process = Command::new(python).arg(script).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let address = format!("127.0.0.1:{}", port.trim());
    let folder = tempfile::tempdir().unwrap();
    let account = folder.path().join("account.json");
    let key = serde_json::json!({
        "gcs_base_url": format!("http://{address}"), "disable_oauth": true, "client_email": "", "private_key": "",
        "private_key_id": "",
    });
    std::fs::write(&account, key.to_string()).unwrap();
    Some(Server {
        process,
        url: format!("gs://{BUCKET}"),
        options: vec![format!("endpoint=http://{address}"), "allow_http=true".into()],
        variables: vec![("GOOGLE_SERVICE_ACCOUNT", account.to_str().unwrap().into())],
        address,
        _folder: Some(folder),
    })
}
