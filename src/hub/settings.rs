//! Where the hub is, where its files are kept, and what may be asked of it: the environment variables of Python's
//! `huggingface_hub`, with its defaults.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::runtime::retry::RetryPolicy;

/// The public hub.
const ENDPOINT: &str = "https://huggingface.co";
/// Silence after which a connection is given up.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a download goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The hub's address (`HF_ENDPOINT`).
    pub endpoint: Url,
    /// What lets us see private and gated models (`HF_TOKEN`, or the file `$HF_HOME/token`).
    pub token: Option<Token>,
    /// The folder that Python shares (`HF_HUB_CACHE`, or `$HF_HOME/hub`).
    pub cache: PathBuf,
    /// Ask nobody: the cache must do (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// Silence after which a connection is given up (`HF_HUB_DOWNLOAD_TIMEOUT`, in seconds).
    pub timeout: Duration,
    /// How long to try again what failed for a passing reason.
    pub retry: RetryPolicy,
}

/// A secret that prints as dots.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token; none if `text` is blank. Errors name `place`, never the token.
    pub fn new(text: &str, place: &str) -> Result<Option<Self>> {
        let text = text.trim();
        if text.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(Error::config(format!("{place} holds characters that no token has")));
        }
        Ok(Some(Self(text.to_owned())).filter(|token| !token.0.is_empty()))
    }

    /// The secret, for the one header that carries it.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(...)")
    }
}

impl Settings {
    /// Read them from variables. An empty variable is none.
    pub fn from_env(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let first = |names: &[&str]| names.iter().find_map(|name| lookup(name).filter(|value| !value.is_empty()));
        let user = first(&["HOME"]).map(PathBuf::from);
        let path = |names: &[&str]| first(names).map(|text| expand(&text, user.as_ref()));
        let home = path(&["HF_HOME"])
            .or_else(|| path(&["XDG_CACHE_HOME"]).map(|caches| caches.join("huggingface")))
            .or_else(|| Some(user.as_ref()?.join(".cache/huggingface")))
            .ok_or_else(|| Error::config("there is no home folder to keep models in: set HF_HOME"))?;
        let cache = path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]).unwrap_or_else(|| home.join("hub"));
        let token = match first(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]) {
            Some(text) => Token::new(&text, "HF_TOKEN")?,
            None => token_file(path(&["HF_TOKEN_PATH"]).unwrap_or_else(|| home.join("token")))?,
        };
        let is_set = |name| first(&[name]).is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&&*v.to_uppercase()));
        let timeout = match first(&["HF_HUB_DOWNLOAD_TIMEOUT"]) {
            Some(text) => seconds(&text)?,
            None => TIMEOUT,
        };
        Ok(Self {
            endpoint: endpoint(first(&["HF_ENDPOINT"]).as_deref().unwrap_or(ENDPOINT))?,
            token,
            cache,
            offline: is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE"),
            timeout,
            retry: RetryPolicy::default(),
        })
    }
}

/// `~` at the beginning is the home folder, as in Python.
fn expand(text: &str, user: Option<&PathBuf>) -> PathBuf {
    match (text.strip_prefix('~'), user) {
        (Some(rest), Some(user)) if rest.is_empty() || rest.starts_with('/') => user.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(text),
    }
}

fn token_file(path: PathBuf) -> Result<Option<Token>> {
    match std::fs::read_to_string(&path) {
        Ok(text) => Token::new(&text, &format!("`{}`", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        // it is another program's file: what it does not let us read, we do not need
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the hub's token cannot be read");
            Ok(None)
        }
    }
}

fn seconds(text: &str) -> Result<Duration> {
    let value = text.trim().parse::<u64>().ok().filter(|seconds| (1..=86_400).contains(seconds));
    value.map(Duration::from_secs).ok_or_else(|| {
        Error::config(format!("HF_HUB_DOWNLOAD_TIMEOUT must be whole seconds from 1 to 86400, not `{text}`"))
    })
}

fn endpoint(text: &str) -> Result<Url> {
    let url =
        Url::parse(text.trim_end_matches('/')).or_kind(ErrorKind::Config, || "HF_ENDPOINT is not a URL".to_owned())?;
    let is_plain = matches!(url.scheme(), "http" | "https")
        && url.host().is_some()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !is_plain {
        return Err(Error::config("HF_ENDPOINT must be like https://host, without a user, `?` or `#`"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::from_env(&|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn defaults_and_folders_are_pythons() {
        let s = read(&[("HOME", "/u")]).unwrap();
        assert_eq!(
            (s.endpoint.as_str(), s.cache.to_str()),
            ("https://huggingface.co/", Some("/u/.cache/huggingface/hub"))
        );
        assert!(s.token.is_none() && !s.offline && s.timeout == TIMEOUT);
        let cache = |variables: &[(&str, &str)]| read(variables).unwrap().cache;
        assert_eq!(cache(&[("HF_HOME", "/h")]).to_str(), Some("/h/hub"));
        assert_eq!(cache(&[("HOME", "/u"), ("HF_HOME", "~/h")]).to_str(), Some("/u/h/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]).to_str(), Some("/x/huggingface/hub"));
        assert_eq!(cache(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]).to_str(), Some("/c"));
        assert_eq!(read(&[]).unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn the_token_is_a_variable_or_a_file_and_never_printed() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path().to_str().unwrap();
        assert_eq!(read(&[("HF_HOME", at)]).unwrap().token, None);
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(read(&[("HF_HOME", at)]).unwrap().token.unwrap().reveal(), "hf_file");
        let s = read(&[("HF_HOME", at), ("HF_TOKEN", " hf_secret ")]).unwrap();
        assert_eq!(s.token.as_ref().unwrap().reveal(), "hf_secret");
        assert!(!format!("{s:?}").contains("secret"));
        let e = read(&[("HF_HOME", at), ("HF_TOKEN", "hf_sec\nret")]).unwrap_err();
        assert!(e.to_string().contains("HF_TOKEN") && !e.to_string().contains("sec"), "{e}");
    }

    #[test]
    fn wrong_variables_are_configuration_errors() {
        let is_wrong = |name, value| {
            let e = read(&[("HOME", "/u"), (name, value)]).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Config);
            assert!(e.to_string().contains(name), "{e}");
        };
        is_wrong("HF_ENDPOINT", "nowhere");
        is_wrong("HF_ENDPOINT", "file:///x");
        is_wrong("HF_ENDPOINT", "https://user:password@host");
        is_wrong("HF_HUB_DOWNLOAD_TIMEOUT", "0");
        is_wrong("HF_HUB_DOWNLOAD_TIMEOUT", "soon");
        assert!(read(&[("HOME", "/u"), ("HF_HUB_OFFLINE", "yes")]).unwrap().offline);
        assert!(!read(&[("HOME", "/u"), ("HF_HUB_OFFLINE", "0")]).unwrap().offline);
    }
}
