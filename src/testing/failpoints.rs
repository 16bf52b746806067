//! Places where a test may end the process as `kill -9` would.
//!
//! `HARVESTD_FAILPOINT=name` ends it when `name` is reached, `name:3` when it is reached the third time. Only builds with
//! the feature `failpoints` look at the variable; in all others the call is nothing. Those builds also upload in small
//! parts, so that small shards have several.

/// Every failpoint, in the order of the data path. A test visits all of them.
pub const FAILPOINTS: &[&str] = &[
    "header_before",
    "header_written",
    "read_begun",
    "tokenized",
    "forward_begun",
    "forward_done",
    "fanned_out",
    "sequence_encoded",
    "upload_begun",
    "part_sent",
    "shard_before_upload_end",
    "upload_parts_arrived",
    "shard_uploaded",
    "shard_committed",
    "checkpoint_begun",
    "checkpoint_file",
    "checkpoint_before_marker",
    "checkpoint_after_marker",
    "checkpoint_pruned",
    "stages_ended",
    "export_begun",
    "export_file",
    "export_done",
    "segments_uploaded",
    "piece_written",
    "piece_indexed",
    "bucket_written",
    "bucket_committed",
];

/// End the process here if the environment names this failpoint.
#[cfg(feature = "failpoints")]
#[allow(clippy::disallowed_methods)] // a test outside the process has no other way in
pub fn failpoint(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static REACHED: AtomicU64 = AtomicU64::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("HARVESTD_FAILPOINT").ok()?;
        Some(match text.split_once(':') {
            Some((name, nth)) => (name.to_owned(), nth.parse().ok()?),
            None => (text, 1),
        })
    });
    if let Some((wanted, nth)) = wanted
        && wanted == name
        && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == *nth
    {
        tracing::error!(name, "failpoint reached, ending the process");
        std::process::abort();
    }
}

/// Nothing: this build has no failpoints.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn failpoint(_name: &str) {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Collect the names in calls of `failpoint` below `folder`.
    fn called(folder: &Path, names: &mut BTreeSet<String>) {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                called(&path, names);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                let calls = text.split(concat!("failpoint", "(\"")).skip(1).filter_map(|rest| rest.split('"').next());
                names.extend(calls.map(str::to_owned));
            }
        }
    }

    #[test]
    fn the_list_names_every_call_and_nothing_else() {
        let mut names = BTreeSet::new();
        called(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut names);
        let listed: BTreeSet<String> = super::FAILPOINTS.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(names, listed);
    }
}
