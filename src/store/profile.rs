//! Keys from AWS's shared credentials file: `~/.aws/credentials`, or where `AWS_SHARED_CREDENTIALS_FILE` says; the section
//! that `AWS_PROFILE` names, or `default`. Only keys that stand there: single sign-on and `credential_process` are not read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::store::backend;

/// Keys that are taken over.
const KEYS: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];

/// The profile's keys, by the names that the environment has for them; none where there is no such file or profile.
pub(super) fn credentials(environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let file = match environment.get("aws_shared_credentials_file") {
        Some(file) => PathBuf::from(file),
        None => match backend::environment("HOME").remove("home") {
            Some(home) => PathBuf::from(home).join(".aws/credentials"),
            None => return BTreeMap::new(),
        },
    };
    let profile = environment.get("aws_profile").map_or("default", String::as_str);
    // a file that cannot be read holds no keys
    std::fs::read_to_string(file).map(|text| keys(&text, profile)).unwrap_or_default()
}

fn keys(text: &str, profile: &str) -> BTreeMap<String, String> {
    let mut inside = false;
    let mut found = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name.trim() == profile;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside)
            && KEYS.contains(&key.trim())
        {
            found.insert(key.trim().to_owned(), value.trim().to_owned());
        }
    }
    // half a key opens nothing and would hide an instance's own
    if found.contains_key(KEYS[0]) && found.contains_key(KEYS[1]) { found } else { BTreeMap::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# comment\n[default]\naws_access_key_id = A\naws_secret_access_key=B\n\n[ other ]\n\
                        aws_access_key_id=C\naws_secret_access_key = D=\naws_session_token = T\nregion = x\n[half]\n\
                        aws_access_key_id = E\n";

    #[test]
    fn the_profile_that_is_named_counts() {
        let read = |profile| keys(FILE, profile).into_values().collect::<Vec<_>>();
        assert_eq!(read("default"), ["A", "B"]);
        assert_eq!(read("other"), ["C", "D=", "T"]);
        assert!(read("half").is_empty() && read("none").is_empty());
    }

    #[test]
    fn the_file_is_where_the_environment_says() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        std::fs::write(&file, FILE).unwrap();
        let mut environment = BTreeMap::new();
        environment.insert("aws_shared_credentials_file".to_owned(), file.to_str().unwrap().to_owned());
        assert_eq!(credentials(&environment)["aws_access_key_id"], "A");
        environment.insert("aws_profile".to_owned(), "other".to_owned());
        assert_eq!(credentials(&environment)["aws_access_key_id"], "C");
        environment.insert("aws_shared_credentials_file".to_owned(), "/no/such/file".to_owned());
        assert!(credentials(&environment).is_empty());
    }
}
