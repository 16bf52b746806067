//! Places where a test may end the process as `kill -9` would.
//!
//! `HARVESTD_FAILPOINT=name` ends it when `name` is reached, `name:3` when it is reached the third time. Only builds with
//! the feature `failpoints` look at the variable; in all others the call is nothing.

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
