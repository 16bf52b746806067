//! Heads of a site: the bracket at the end of a pattern.
//!
//! `hook_z[5]` is one head, `[0,3]` are two, `[0-3]` are four, `[0-3,7]` five, `[*]` all. Numbers are those of the site's
//! own heads: key/value heads where there are fewer of them, chosen experts in a mixture of experts. Directly behind a dot
//! a bracket is a glob's class of characters, as in `blocks.[0-3]`.

use std::collections::BTreeSet;

use crate::hooks::PointShape;

/// Which heads of a site a pattern means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heads {
    /// Every head, each as a point of its own.
    Each,
    /// From the first to the last of each pair.
    Ranges(Vec<(u32, u32)>),
}

/// `pattern` without the bracket at its end, and what the bracket holds, if there is one.
pub fn split(pattern: &str) -> (&str, Option<&str>) {
    let Some(inside) = pattern.strip_suffix(']') else { return (pattern, None) };
    match inside.rfind('[') {
        Some(open) if open > 0 && !inside[..open].ends_with('.') => (&pattern[..open], Some(&inside[open + 1..])),
        _ => (pattern, None),
    }
}

impl Heads {
    /// Read what stands between the brackets; the error says what may stand there.
    pub fn parse(inside: &str) -> Result<Self, String> {
        if inside.trim() == "*" {
            return Ok(Self::Each);
        }
        ranges(inside).map(Self::Ranges).ok_or_else(|| {
            format!("asks for heads `[{inside}]`: write a number, a list [0,3], a range [0-3], or [*] for each head")
        })
    }

    /// The heads of `shape` that are meant, in order; the error says how many there are.
    pub fn of(&self, shape: &PointShape) -> Result<Vec<u32>, String> {
        if !shape.has_heads() {
            return Err(format!("asks for heads, and `{}` has none", shape.point));
        }
        let n = shape.heads as u32;
        match self {
            Self::Each => Ok((0..n).collect()),
            Self::Ranges(ranges) => match ranges.iter().find(|(_, last)| *last >= n) {
                Some((_, beyond)) => {
                    let few = if n == 1 { "only head 0".to_owned() } else { format!("{n} heads, 0 to {}", n - 1) };
                    Err(format!("asks for head {beyond}, and `{}` has {few}", shape.point))
                }
                None => Ok(ranges
                    .iter()
                    .flat_map(|&(first, last)| first..=last)
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect()),
            },
        }
    }
}

/// Numbers and ranges with commas between them, `0-3,7`: the first and the last of each.
pub(super) fn ranges(text: &str) -> Option<Vec<(u32, u32)>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((number(first.trim())?, number(last.trim())?)).filter(|(first, last)| first <= last)
    };
    text.split(',').map(range).collect()
}

/// A number as this crate prints it: no sign, no leading zero.
pub(super) fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::{HookPoint, Site};

    fn shape(site: Site, heads: usize) -> PointShape {
        PointShape { point: HookPoint::block(0, site), width: 8 * heads, heads }
    }

    #[test]
    fn only_a_bracket_right_behind_a_name_is_a_selector() {
        assert_eq!(split("blocks.3.attn.hook_z[5]"), ("blocks.3.attn.hook_z", Some("5")));
        assert_eq!(split("blocks.[0-3].attn.hook_z[*]"), ("blocks.[0-3].attn.hook_z", Some("*")));
        assert_eq!(split("a[]"), ("a", Some("")));
        for whole in ["blocks.[0-3]", "blocks.[0-3].hook_z", "[0]", "]", "a]", "", "a[0"] {
            assert_eq!(split(whole), (whole, None));
        }
    }

    #[test]
    fn reads_numbers_lists_ranges_and_all() {
        let z = shape(Site::Z, 9);
        let heads = |inside: &str| Heads::parse(inside).unwrap().of(&z).unwrap();
        assert_eq!(heads("5"), [5]);
        assert_eq!(heads("0,3"), [0, 3]);
        assert_eq!(heads("0-3"), [0, 1, 2, 3]);
        assert_eq!(heads("7, 0-1, 1"), [0, 1, 7]);
        assert_eq!(heads("*"), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        for wrong in ["", ",", "1,", "-1", "3-1", "a", "+1", "01", "1-2-3", "0:4", "!0", "4294967296", "**"] {
            assert!(Heads::parse(wrong).unwrap_err().contains("[0-3]"), "{wrong}");
        }
    }

    #[test]
    fn heads_that_are_not_there_are_refused_with_their_number() {
        let error = |inside: &str, shape: PointShape| Heads::parse(inside).unwrap().of(&shape).unwrap_err();
        assert!(error("2-9", shape(Site::Z, 9)).contains("head 9, and `blocks.0.attn.hook_z` has 9 heads, 0 to 8"));
        assert!(error("0-4294967295", shape(Site::Z, 9)).contains("head 4294967295"));
        assert!(error("1", shape(Site::K, 1)).contains("only head 0"));
        assert!(error("*", shape(Site::ResidPost, 1)).contains("has none"));
        assert_eq!(Heads::Each.of(&shape(Site::K, 1)).unwrap(), [0], "one key/value head is a head");
    }
}
