//! Which hook points a pipeline means: names and globs, resolved against what a model declares.
//!
//! A pattern is a name of [`crate::hooks::name`], or a glob over one: `*` and `?` stay within one dotted segment,
//! `**` crosses segments, `{0,3}` and `[0-3]` choose. `blocks.*.hook_mlp_out` is that site in every block.

use std::collections::BTreeSet;
use std::fmt;

use globset::{GlobBuilder, GlobMatcher};

use crate::hooks::HookPoint;
use crate::hooks::name::names;

/// A pattern that selects nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectionProblem {
    /// As written.
    pub pattern: String,
    /// Why it selects nothing.
    pub reason: String,
    /// The valid pattern that looks most like it.
    pub nearest: Option<String>,
}

impl fmt::Display for SelectionProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.pattern, self.reason)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean `{nearest}`?"),
            None => Ok(()),
        }
    }
}

/// The points among `declared` (with their widths) that `patterns` select: in the order of the forward pass, each once.
/// All problems at once, in the order of `patterns`.
pub fn resolve<P: AsRef<str>>(
    patterns: &[P],
    declared: &[(HookPoint, usize)],
) -> Result<Vec<HookPoint>, Vec<SelectionProblem>> {
    let mut chosen = BTreeSet::new();
    let mut problems = Vec::new();
    for pattern in patterns.iter().map(AsRef::as_ref) {
        match points_of(pattern, declared) {
            Ok(points) => chosen.extend(points.into_iter().map(|point| (point.forward_order(), point))),
            Err(reason) => problems.push(SelectionProblem {
                pattern: pattern.to_owned(),
                reason,
                nearest: nearest(pattern, declared),
            }),
        }
    }
    if problems.is_empty() { Ok(chosen.into_iter().map(|(_, point)| point).collect()) } else { Err(problems) }
}

/// The declared points that one pattern selects; at least one.
fn points_of(pattern: &str, declared: &[(HookPoint, usize)]) -> Result<Vec<HookPoint>, String> {
    if !is_glob(pattern) {
        let point: HookPoint = pattern.parse().map_err(|_| "is not the name of a site".to_owned())?;
        return if declared.iter().any(|(p, _)| *p == point) { Ok(vec![point]) } else { Err(missing(point, declared)) };
    }
    let glob = matcher(pattern)?;
    let found: Vec<HookPoint> = declared
        .iter()
        .map(|(point, _)| *point)
        .filter(|point| names(*point).iter().any(|name| glob.is_match(name.replace('.', "/"))))
        .collect();
    if found.is_empty() { Err("matches no site of this model".to_owned()) } else { Ok(found) }
}

fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?', '[', '{'])
}

/// Dots separate segments as slashes do in paths.
fn matcher(pattern: &str) -> Result<GlobMatcher, String> {
    let path = pattern.replace('.', "/");
    let glob =
        GlobBuilder::new(&path).literal_separator(true).build().map_err(|e| format!("is not a glob: {}", e.kind()))?;
    Ok(glob.compile_matcher())
}

/// Why a well-formed name is not among `declared`.
fn missing(point: HookPoint, declared: &[(HookPoint, usize)]) -> String {
    let last = declared.iter().filter_map(|(p, _)| p.layer).max();
    match (point.layer, last) {
        (Some(layer), Some(last)) if layer > last => format!("is in no block of this model: the last one is {last}"),
        _ => "is a site that this model does not have".to_owned(),
    }
}

/// The valid name or glob most like `pattern`, if one is like it at all.
fn nearest(pattern: &str, declared: &[(HookPoint, usize)]) -> Option<String> {
    /// Less similar than this is another name, not a misspelt one.
    const ALIKE: f64 = 0.5;
    let mut best: Option<(f64, String)> = None;
    for (point, _) in declared {
        for name in names(*point) {
            let candidate = with_layer_of(pattern, *point, name);
            let score = strsim::normalized_damerau_levenshtein(pattern, &candidate);
            if score >= ALIKE && best.as_ref().is_none_or(|(top, _)| score > *top) {
                best = Some((score, candidate));
            }
        }
    }
    best.map(|(_, name)| name)
}

/// `name` with its layer written as a glob if the pattern has one there: `blocks.3.hook_z` becomes `blocks.*.hook_z`.
fn with_layer_of(pattern: &str, point: HookPoint, name: String) -> String {
    let (Some(layer), Some(glob)) = (point.layer, pattern.split('.').find(|segment| is_glob(segment))) else {
        return name;
    };
    let layer = layer.to_string();
    name.split('.').map(|segment| if segment == layer { glob } else { segment }).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::Site;

    /// A model of 12 blocks with a few sites.
    fn declared() -> Vec<(HookPoint, usize)> {
        let mut points = vec![(HookPoint::outside(Site::Embed), 8)];
        for layer in 0..12 {
            for site in [Site::ResidPre, Site::Z, Site::AttnOut, Site::MlpOut, Site::ResidPost] {
                points.push((HookPoint::block(layer, site), 8));
            }
        }
        points.push((HookPoint::outside(Site::LnFinalOut), 8));
        points
    }

    fn resolved(patterns: &[&str]) -> Vec<String> {
        resolve(patterns, &declared()).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_and_aliases_come_in_forward_order_without_duplicates() {
        let found = resolved(&[
            "model.norm",
            "model.layers.10.mlp",
            "blocks.2.attn.hook_z",
            "blocks.10.hook_mlp_out",
            "hook_embed",
        ]);
        assert_eq!(found, ["hook_embed", "blocks.2.attn.hook_z", "blocks.10.hook_mlp_out", "ln_final.hook_out"]);
    }

    #[test]
    fn globs_choose_layers_and_stay_within_a_segment() {
        assert_eq!(resolved(&["blocks.*.hook_mlp_out"]).len(), 12);
        assert_eq!(resolved(&["blocks.{0,3}.hook_mlp_out"]), ["blocks.0.hook_mlp_out", "blocks.3.hook_mlp_out"]);
        assert_eq!(resolved(&["blocks.1*.hook_resid_post"]).len(), 3);
        assert_eq!(resolved(&["model.layers.[0-1]"]), ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]);
        assert_eq!(resolved(&["blocks.7.*"]).len(), 4, "attn.hook_z is a segment deeper");
        assert_eq!(resolved(&["blocks.7.**"]).len(), 5);
        assert_eq!(resolved(&["**"]).len(), declared().len());
        assert_eq!(resolved(&[]).len(), 0);
    }

    #[test]
    fn every_problem_is_reported_with_the_nearest_name() {
        let patterns = [
            "blocks.3.hook_resid_pots",
            "blocks.*.hook_mlp_uot",
            "blocks.99.hook_mlp_out",
            "hook_pos_embed",
            "[",
            "zzz",
        ];
        let problems = resolve(&patterns, &declared()).unwrap_err();
        assert_eq!(problems.iter().map(|p| p.pattern.as_str()).collect::<Vec<_>>(), patterns);
        assert_eq!(problems[0].nearest.as_deref(), Some("blocks.3.hook_resid_post"));
        assert_eq!(problems[1].nearest.as_deref(), Some("blocks.*.hook_mlp_out"));
        assert!(problems[2].reason.contains("the last one is 11"), "{}", problems[2]);
        assert!(problems[3].reason.contains("does not have"), "{}", problems[3]);
        assert!(problems[4].reason.contains("not a glob"), "{}", problems[4]);
        assert_eq!(problems[5].nearest, None);
        assert_eq!(
            problems[0].to_string(),
            "`blocks.3.hook_resid_pots` is not the name of a site; did you mean `blocks.3.hook_resid_post`?"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_selects_something_or_is_a_problem(text in "[a-z_.*?{}\\[\\]0-9,!-]{0,40}|blocks\\.[*0-9]{1,3}\\.[a-z_.*]{1,20}") {
            match resolve(&[text.as_str()], &declared()) {
                Ok(points) => assert!(!points.is_empty() && points.is_sorted_by_key(|point| point.forward_order())),
                Err(problems) => assert_eq!(problems.len(), 1),
            }
        }
    }

    #[test]
    fn one_bad_pattern_spoils_the_selection() {
        assert!(resolve(&["hook_embed", "nope"], &declared()).is_err());
    }
}
