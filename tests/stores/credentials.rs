//! Where the keys of S3 come from: the program is asked to read a dataset, and a server writes down who signed.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::BINARY;
use crate::support::http::{Server, answer};

/// Answers as the metadata services of an instance and of a container do, and 404 to everything else, whose key ids it notes.
fn server() -> (Server, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let signed = Arc::clone(&seen);
    let keys = |id: &str| {
        format!(
            r#"{{"Code": "Success", "AccessKeyId": "{id}", "SecretAccessKey": "secret", "Token": "token",
                "Expiration": "2100-01-01T00:00:00Z"}}"#
        )
    };
    let server = Server::start(move |request, out| {
        let bytes = match (request.method.as_str(), request.target.as_str()) {
            ("PUT", "/latest/api/token") => answer("200 OK", "", b"metadata-token"),
            (_, target) if target.starts_with("/latest/") => match request.header("x-aws-ec2-metadata-token") {
                Some("metadata-token") if target.ends_with('/') => answer("200 OK", "", b"role"),
                Some("metadata-token") => answer("200 OK", "", keys("of-the-instance").as_bytes()),
                _ => answer("401 Unauthorized", "", b""),
            },
            (_, "/container") if request.header("authorization") == Some("container-token") => {
                answer("200 OK", "", keys("of-the-container").as_bytes())
            }
            _ => {
                let by = request.header("authorization").unwrap_or("Credential=nobody/");
                let id = by.split("Credential=").nth(1).unwrap_or_default().split('/').next().unwrap_or_default();
                signed.lock().unwrap().push(id.to_owned());
                match request.target.contains("list-type=") {
                    true => answer("200 OK", "", b"<ListBucketResult></ListBucketResult>"),
                    false => answer("404 Not Found", "", b"<Error><Code>NoSuchKey</Code></Error>"),
                }
            }
        };
        out.write_all(&bytes).is_ok()
    });
    (server, seen)
}

fn inspect(server: &Server, variables: &[(&str, &str)], options: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(["inspect", "s3://acts/x", "--store", "allow_http=true", "--store", "region=eu-west-1", "--store"]);
    command.arg(format!("endpoint=http://{}", server.address));
    command.args(options.iter().flat_map(|o| ["--store", o]));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("HOME", "/nonexistent").envs(variables.iter().copied()).output().unwrap()
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let file = folder.join(name);
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Whose keys sign, with these variables and options.
type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a [&'a str]);

#[test]
fn keys_come_from_where_the_providers_tools_have_them() {
    let folder = tempfile::tempdir().unwrap();
    let profiles = "[default]\naws_access_key_id = of-the-file\naws_secret_access_key = s\n[other]\n\
                    aws_access_key_id = of-the-profile\naws_secret_access_key = s\n";
    let file = write(folder.path(), "credentials", profiles);
    let token = write(folder.path(), "token", "container-token");
    let (server, seen) = server();
    let here = format!("http://{}", server.address);
    let container = format!("{here}/container");
    let environment = [("AWS_ACCESS_KEY_ID", "of-the-environment"), ("AWS_SECRET_ACCESS_KEY", "s")];
    let from_file = [("AWS_SHARED_CREDENTIALS_FILE", file.as_str())];
    let cases: [Case<'_>; 6] = [
        ("of-the-environment", [&environment[..], &from_file[..]].concat(), &[]),
        ("of-the-file", from_file.to_vec(), &[]),
        ("of-the-profile", [&from_file[..], &[("AWS_PROFILE", "other")]].concat(), &[]),
        (
            "of-the-container",
            vec![
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.as_str()),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.as_str()),
            ],
            &[],
        ),
        ("of-the-instance", vec![("AWS_METADATA_ENDPOINT", here.as_str())], &[]),
        ("nobody", environment.to_vec(), &["anonymous=true"]),
    ];
    for (who, variables, options) in cases {
        seen.lock().unwrap().clear();
        let output = inspect(&server, &variables, options);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{who}: {said}");
        assert!(said.contains("holds no dataset"), "{who}: {said}");
        let seen = seen.lock().unwrap().clone();
        assert!(!seen.is_empty() && seen.iter().all(|id| id == who), "{who}: {seen:?}");
    }
}

#[test]
fn that_there_are_no_credentials_is_said_soon() {
    let (server, _) = server();
    let since = Instant::now();
    // nothing listens there
    let output = inspect(&server, &[("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")], &["retry.first_wait=10ms"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("no credentials were found"), "{said}");
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
}
