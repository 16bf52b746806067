//! Names of models on a hub: `hf://owner/name@revision/file.gguf`.

use std::fmt;

use crate::error::{Error, Result};

/// What a source on a hub begins with.
pub const SCHEME: &str = "hf://";
/// The branch that is meant where none is named.
const DEFAULT_REVISION: &str = "main";
/// Longest name of a repository, owner included: the hub's own limit.
const NAME_MAX: usize = 96;

/// A model on a hub: a repository, a revision of it, and one file if only that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    /// `owner/name`, or `name` for the few models that have no owner.
    pub repo: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// A GGUF file of the repository.
    pub file: Option<String>,
}

impl HubName {
    /// Whether `source` names something on a hub, rightly or wrongly.
    pub fn is_hub(source: &str) -> bool {
        source.starts_with(SCHEME)
    }

    /// Read `hf://[owner/]name[@revision][/file.gguf]`. A slash in a revision is written `%2F`, but for `refs/pr/N`.
    ///
    /// Errors ([`crate::error::ErrorKind::Config`]) say what is wrong with the name.
    pub fn parse(source: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::config(format!("`{source}` is no model on a hub: {why} (hf://owner/name, hf://owner/name@revision)"))
        };
        let rest = source.strip_prefix(SCHEME).ok_or_else(|| wrong("it does not begin with hf://"))?;
        let (repo, revision, file) = match rest.split_once('@') {
            Some((repo, rest)) => {
                let (revision, file) = split_revision(rest);
                (repo.to_owned(), revision.replace("%2F", "/").replace("%2f", "/"), file.map(str::to_owned))
            }
            None => {
                let mut parts = rest.splitn(3, '/');
                let repo: Vec<&str> = parts.by_ref().take(2).collect();
                (repo.join("/"), DEFAULT_REVISION.to_owned(), parts.next().map(str::to_owned))
            }
        };
        if ["datasets", "spaces", "kernels", "buckets"].iter().any(|kind| repo.split('/').next() == Some(kind)) {
            return Err(wrong("it names another kind of repository"));
        }
        check_repo(&repo).map_err(&wrong)?;
        if !is_plain_path(&revision) || revision.starts_with('-') {
            return Err(wrong("the revision is not a branch, tag or commit"));
        }
        if let Some(file) = &file {
            if !is_plain_path(file) {
                return Err(wrong("the file is not a path within the repository"));
            }
            if !file.to_ascii_lowercase().ends_with(".gguf") {
                return Err(wrong("only a .gguf file may be named alone"));
            }
        }
        Ok(Self { repo, revision, file })
    }

    /// The commit, if the revision is one written in full: then nothing about this name can change.
    pub fn pinned(&self) -> Option<&str> {
        Some(self.revision.as_str()).filter(|revision| is_commit(revision))
    }

    /// What other tools call the model at `source`: the repository, or the path as it is.
    pub fn model_name(source: &str) -> String {
        Self::parse(source).map_or_else(|_| source.to_owned(), |name| name.repo)
    }
}

/// As it is written in a pipeline.
impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}@{}", self.repo, self.revision)?;
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))
    }
}

/// Whether `text` is the full name of a commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_lower_hex(text)
}

/// Whether `text` is digits of a hash, as hubs write them.
pub(super) fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `path` stays within the folder that it is relative to, on every system.
pub(super) fn is_plain_path(path: &str) -> bool {
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.len() <= 1024
        && path.split('/').all(is_plain)
        && !path.contains(|c: char| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|'))
}

/// Revision and file of what follows the `@`. The names of pull requests and conversions hold slashes.
fn split_revision(text: &str) -> (&str, Option<&str>) {
    let slashes = if text.starts_with("refs/pr/") || text.starts_with("refs/convert/") { 2 } else { 0 };
    match text.match_indices('/').nth(slashes) {
        Some((at, _)) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

/// The hub's own rules for names; with them, two names never share a folder.
fn check_repo(repo: &str) -> Result<(), &'static str> {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let is_good = |part: &str| {
        let ends = |c: char| matches!(c, '-' | '.');
        !part.is_empty() && part.bytes().all(is_allowed) && !part.starts_with(ends) && !part.ends_with(ends)
    };
    if repo.len() > NAME_MAX || repo.split('/').count() > 2 || !repo.split('/').all(is_good) {
        return Err("the repository must be `owner/name` of letters, digits, `-`, `_` and `.`");
    }
    if repo.contains("--") || repo.contains("..") {
        return Err("the repository must not contain `--` or `..`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn parts(source: &str) -> (String, String, Option<String>) {
        let name = HubName::parse(source).unwrap();
        (name.repo, name.revision, name.file)
    }

    #[test]
    fn names_are_taken_apart() {
        let is = |source: &str, repo: &str, revision: &str, file: Option<&str>| {
            assert_eq!(parts(source), (repo.to_owned(), revision.to_owned(), file.map(str::to_owned)), "{source}");
        };
        is("hf://gpt2", "gpt2", "main", None);
        is("hf://EleutherAI/pythia-70m", "EleutherAI/pythia-70m", "main", None);
        is("hf://EleutherAI/pythia-70m@step3000", "EleutherAI/pythia-70m", "step3000", None);
        is("hf://a/b/Q4_K_M.gguf", "a/b", "main", Some("Q4_K_M.gguf"));
        is("hf://a/b@v1/q4/m.gguf", "a/b", "v1", Some("q4/m.gguf"));
        is("hf://a/b@refs/pr/7", "a/b", "refs/pr/7", None);
        is("hf://a/b@refs/pr/7/m.gguf", "a/b", "refs/pr/7", Some("m.gguf"));
        is("hf://a/b@feature%2Fx", "a/b", "feature/x", None);
        assert_eq!(HubName::parse("hf://a/b").unwrap().to_string(), "hf://a/b@main");
        assert_eq!(HubName::model_name("hf://a/b@v1"), "a/b");
        assert_eq!(HubName::model_name("models/b"), "models/b");
    }

    #[test]
    fn only_full_commits_are_pinned() {
        let commit = "2439f60ef33a0d46d85da5001d52aeda5b00ce9f";
        assert_eq!(HubName::parse(&format!("hf://a/b@{commit}")).unwrap().pinned(), Some(commit));
        assert_eq!(HubName::parse("hf://a/b@2439f60").unwrap().pinned(), None);
        assert_eq!(HubName::parse(&format!("hf://a/b@{}", commit.to_uppercase())).unwrap().pinned(), None);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (source, word) in [
            ("hf://", "owner/name"),
            ("hf://a/", "owner/name"),
            ("hf:///b", "owner/name"),
            ("hf://../b", "owner/name"),
            ("hf://a/b--c", "`--`"),
            ("hf://a/b..c", "`..`"),
            ("hf://a/b c", "owner/name"),
            ("hf://a/b@", "revision"),
            ("hf://a/b@..", "revision"),
            ("hf://a/b@%2F..%2F..%2Fx", "revision"),
            ("hf://a/b@v1/../x.gguf", "file"),
            ("hf://a/b@v1/", "file"),
            ("hf://a/b/model.safetensors", ".gguf"),
            ("hf://a/b/c/d@v1", "owner/name"),
            ("hf://datasets/a/b", "kind"),
        ] {
            let e = HubName::parse(source).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Config, "{source}");
            assert!(e.to_string().contains(word), "{source}: {e}");
        }
    }
}
