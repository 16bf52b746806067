//! Names of stored sites: a model's, or any other under which activations were imported.

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock};

use crate::hooks::name::UnknownName;
use crate::hooks::{HookPoint, Site};

/// Characters of a name, at most.
const NAME_LENGTH_MAX: usize = 200;
/// The columns that every shard has besides its sites.
const TAKEN: [&str; 5] = ["doc_id", "unit", "seq", "pos", "token_id"];

impl HookPoint {
    /// The site that a dataset stores as `name`: a model's ([`str::parse`]) or, under any other name of letters, digits and
    /// `. _ - / [ ]`, one that was imported.
    ///
    /// # Errors
    /// A name that is empty, too long, that of an id column, or holds other characters.
    pub fn stored(name: &str) -> Result<Self, UnknownName> {
        if let Ok(point) = name.parse() {
            return Ok(point);
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/[]".contains(c);
        if TAKEN.contains(&name) || name.is_empty() || name.len() > NAME_LENGTH_MAX || !name.chars().all(allowed) {
            return Err(UnknownName(name.to_owned()));
        }
        Ok(Self::outside(Site::Named(interned(name))))
    }
}

/// One copy of each name, for as long as the process lives: points are compared and copied all the time, and names come
/// from headers and command lines, so there are few.
fn interned(name: &str) -> &'static str {
    static NAMES: OnceLock<Mutex<BTreeSet<&'static str>>> = OnceLock::new();
    let mut names = NAMES.get_or_init(Mutex::default).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return known;
    }
    let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.insert(kept);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_they_are_shown() {
        for name in ["blocks.3.hook_resid_post", "blocks.3.attn.hook_z[5]", "vision/layer-4.cls", "layer[0]", "x"] {
            let point = HookPoint::stored(name).unwrap();
            assert_eq!(point.to_string(), name);
            assert_eq!(HookPoint::stored(name), Ok(point));
        }
        assert_eq!(HookPoint::stored("blocks.3.hook_resid_post"), "blocks.3.hook_resid_post".parse());
        for name in ["", "doc_id", "unit", "seq", "pos", "token_id", "a b", "ü", "a\nb", &"x".repeat(201)] {
            assert!(HookPoint::stored(name).is_err(), "{name}");
        }
    }
}
