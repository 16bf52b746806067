//! Which hook points a pipeline means: names and globs, resolved against what a model declares.
//!
//! A pattern is a name of [`crate::hooks::name`], or a glob over one: `*` and `?` stay within one dotted segment,
//! `**` crosses segments, `{0,3}`, `{0-11}` and `[0-3]` choose. `blocks.*.hook_mlp_out` is that site in every block. A bracket at the
//! very end chooses heads ([`crate::hooks::heads`]): `blocks.*.attn.hook_z[0-3]`.

use std::collections::BTreeMap;
use std::fmt;

use globset::{GlobBuilder, GlobMatcher};

use crate::hooks::heads::{self, Heads};
use crate::hooks::name::{INPUT, OUTPUT};
use crate::hooks::{HookPoint, ModulePaths, PointShape, Site, SiteWidth};

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

/// What a model's names mean: its points, and its module paths.
#[derive(Clone, Copy, Debug)]
struct Declared<'a> {
    points: &'a [PointShape],
    paths: &'a ModulePaths,
}

/// The points that `patterns` select among `declared`, each with the values of a row: in the order of the forward pass,
/// each once. All problems at once, in the order of `patterns`.
pub fn resolve<P: AsRef<str>>(
    patterns: &[P],
    declared: &[PointShape],
    paths: &ModulePaths,
) -> Result<Vec<SiteWidth>, Vec<SelectionProblem>> {
    let declared = Declared { points: declared, paths };
    let mut chosen = BTreeMap::new();
    let mut problems = Vec::new();
    for pattern in patterns.iter().map(AsRef::as_ref) {
        match declared.select(pattern) {
            Ok(points) => chosen.extend(points.into_iter().map(|found| (found.0.forward_order(), found))),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(chosen.into_values().collect()) } else { Err(problems) }
}

/// Whether `pattern` can mean something in any model: as far as that can be said without one. `tables` are the module paths
/// of all architectures.
pub fn check(pattern: &str, tables: &[&ModulePaths]) -> Result<(), SelectionProblem> {
    let problem = |reason: String, nearest| SelectionProblem { pattern: pattern.to_owned(), reason, nearest };
    let (whole, inside) = heads::split(pattern);
    inside.map(Heads::parse).transpose().map_err(|reason| problem(reason, None))?;
    if is_glob(whole) {
        return matcher(whole).map(drop).map_err(|reason| problem(reason, None));
    }
    if whole.parse::<HookPoint>().is_ok() || tables.iter().any(|paths| paths.point(whole).is_some()) {
        return Ok(());
    }
    let layer = whole.split('.').find_map(heads::number).unwrap_or(0);
    let points = Site::ALL.map(|site| {
        let point = HookPoint { second: false, layer: site.in_block().then_some(layer), site, head: None };
        PointShape { point, width: 1, heads: 1 }
    });
    let nearest = tables.iter().filter_map(|paths| Declared { points: &points, paths }.nearest(whole, inside));
    let likeness = |name: &String| strsim::normalized_damerau_levenshtein(pattern, name);
    let nearest = nearest.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    Err(problem("is not the name of a site of any architecture".to_owned(), nearest))
}

impl Declared<'_> {
    /// The points that one pattern selects; at least one.
    fn select(self, pattern: &str) -> Result<Vec<SiteWidth>, SelectionProblem> {
        let problem = |reason: String, nearest| SelectionProblem { pattern: pattern.to_owned(), reason, nearest };
        let (whole, inside) = heads::split(pattern);
        let heads = inside.map(Heads::parse).transpose().map_err(|reason| problem(reason, None))?;
        let found = self.whole(whole).map_err(|reason| problem(reason, self.nearest(whole, inside)))?;
        let Some(heads) = heads else { return Ok(found.iter().map(|shape| (shape.point, shape.width)).collect()) };
        // a glob means those of its sites that have heads
        let with_heads: Vec<PointShape> = found.iter().copied().filter(PointShape::has_heads).collect();
        let mut points = Vec::new();
        for shape in if with_heads.is_empty() { &found[..1] } else { &with_heads } {
            let nearest = (!shape.has_heads()).then(|| whole.to_owned());
            let heads = heads.of(shape).map_err(|reason| problem(reason, nearest))?;
            points.extend(heads.into_iter().map(|head| (shape.point.at_head(head), shape.head_width())));
        }
        Ok(points)
    }

    /// The whole points that a pattern without heads selects; at least one.
    fn whole(self, pattern: &str) -> Result<Vec<PointShape>, String> {
        if !is_glob(pattern) {
            let point: Option<HookPoint> = pattern.parse().ok().or_else(|| self.paths.point(pattern));
            let point = point.ok_or_else(|| "is not the name of a site".to_owned())?;
            let found = self.points.iter().find(|shape| shape.point == point);
            return found.map(|shape| vec![*shape]).ok_or_else(|| self.missing(point));
        }
        let names = matcher(pattern)?;
        let paths = matcher(pattern.strip_suffix(OUTPUT).unwrap_or(pattern))?;
        // `model.layers.3.*` means modules, not what they read
        let reads = pattern.ends_with(INPUT);
        let is_meant = |point: HookPoint| {
            let modules = self.paths.of(point);
            names.is_match(segments(&point.to_string()))
                || modules.iter().any(|path| path.ends_with(INPUT) == reads && paths.is_match(segments(path)))
        };
        let found: Vec<PointShape> = self.points.iter().copied().filter(|shape| is_meant(shape.point)).collect();
        if found.is_empty() { Err("matches no site of this model".to_owned()) } else { Ok(found) }
    }

    /// Why a well-formed name is not among the points.
    fn missing(self, point: HookPoint) -> String {
        let own = || self.points.iter().filter(|shape| shape.point.second == point.second);
        if point.second && own().next().is_none() {
            return "is of a second model, and there is none: name it in `model.second`".to_owned();
        }
        let last = own().filter_map(|shape| shape.point.layer).max();
        match (point.layer, last) {
            (Some(layer), Some(last)) if layer > last => {
                format!("is in no block of this model: the last one is {last}")
            }
            _ => "is a site that this model does not have".to_owned(),
        }
    }

    /// The valid name or glob most like `pattern`, if one is like it at all; with the heads that were asked for if it has
    /// heads.
    fn nearest(self, pattern: &str, inside: Option<&str>) -> Option<String> {
        /// Less similar than this is another name, not a misspelt one.
        const ALIKE: f64 = 0.5;
        let mut best: Option<(f64, String)> = None;
        for shape in self.points {
            let names = std::iter::once(shape.point.to_string()).chain(self.paths.of(shape.point));
            for name in names {
                let mut candidate = with_layer_of(pattern, shape.point, name);
                let score = strsim::normalized_damerau_levenshtein(pattern, &candidate);
                if score >= ALIKE && best.as_ref().is_none_or(|(top, _)| score > *top) {
                    if let Some(inside) = inside.filter(|_| shape.has_heads()) {
                        candidate = format!("{candidate}[{inside}]");
                    }
                    best = Some((score, candidate));
                }
            }
        }
        best.map(|(_, name)| name)
    }
}

fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?', '[', '{'])
}

/// Dots separate segments as slashes do in paths.
fn segments(name: &str) -> String {
    name.replace('.', "/")
}

fn matcher(pattern: &str) -> Result<GlobMatcher, String> {
    let glob = GlobBuilder::new(&segments(&with_ranges_spelt_out(pattern)))
        .literal_separator(true)
        .build()
        .map_err(|e| format!("is not a glob: {}", e.kind()))?;
    Ok(glob.compile_matcher())
}

/// `{0-3,7}` as globs have it, `{0,1,2,3,7}`; braces with anything else in them stay.
fn with_ranges_spelt_out(pattern: &str) -> String {
    /// More blocks than models have.
    const MOST: u32 = 4096;
    let mut out = String::new();
    let mut rest = pattern;
    while let Some((before, inside, after)) = rest.split_once('{').and_then(|(before, rest)| {
        let (inside, after) = rest.split_once('}')?;
        Some((before, inside, after))
    }) {
        let spelt_out = heads::ranges(inside).filter(|ranges| ranges.iter().all(|(_, last)| *last < MOST));
        let inside = spelt_out.map_or_else(
            || inside.to_owned(),
            |ranges| ranges.into_iter().flat_map(|(a, b)| a..=b).map(|n| n.to_string()).collect::<Vec<_>>().join(","),
        );
        out.push_str(&format!("{before}{{{inside}}}"));
        rest = after;
    }
    out + rest
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

    const PATHS: ModulePaths = ModulePaths {
        blocks: &["model.layers", "layers"],
        in_block: &[
            ("", Site::ResidPost),
            (".input", Site::ResidPre),
            (".mlp", Site::MlpOut),
            (".self_attn.q_proj", Site::Q),
            (".self_attn.o_proj.input", Site::Z),
        ],
        outside: &[("model.norm", Site::LnFinalOut)],
    };

    /// A model of 12 blocks with a few sites, 4 heads and 2 key/value heads.
    fn declared() -> Vec<PointShape> {
        let outside = |site| PointShape { point: HookPoint::outside(site), width: 8, heads: 1 };
        let mut points = vec![outside(Site::Embed)];
        for layer in 0..12 {
            for (site, heads) in SITES {
                points.push(PointShape { point: HookPoint::block(layer, site), width: 8, heads });
            }
        }
        points.push(outside(Site::LnFinalOut));
        points
    }

    const SITES: [(Site, usize); 7] = [
        (Site::ResidPre, 1),
        (Site::Q, 4),
        (Site::K, 2),
        (Site::Z, 4),
        (Site::AttnOut, 1),
        (Site::MlpOut, 1),
        (Site::ResidPost, 1),
    ];

    fn select(patterns: &[&str]) -> Result<Vec<SiteWidth>, Vec<SelectionProblem>> {
        resolve(patterns, &declared(), &PATHS)
    }

    fn resolved(patterns: &[&str]) -> Vec<String> {
        select(patterns).unwrap().iter().map(|(point, _)| point.to_string()).collect()
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
        assert_eq!(resolved(&["blocks.{0-9,11}.hook_mlp_out"]).len(), 11);
        assert_eq!(resolved(&["blocks.{9-30}.hook_{attn,mlp}_out"]).len(), 6);
        assert_eq!(resolved(&["blocks.1*.hook_resid_post"]).len(), 3);
        assert_eq!(resolved(&["model.layers.[0-1]"]), ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]);
        assert_eq!(resolved(&["layers.7.*"]), ["blocks.7.hook_mlp_out"], "modules, not what they read");
        assert_eq!(resolved(&["layers.7.*.output"]), ["blocks.7.hook_mlp_out"]);
        assert_eq!(resolved(&["layers.7.**.input"]), ["blocks.7.hook_resid_pre", "blocks.7.attn.hook_z"]);
        assert_eq!(resolved(&["layers.{7-8}.input"]), ["blocks.7.hook_resid_pre", "blocks.8.hook_resid_pre"]);
        assert_eq!(resolved(&["blocks.7.*"]).len(), 4, "attn.hook_z is a segment deeper");
        assert_eq!(resolved(&["blocks.7.**"]).len(), SITES.len());
        assert_eq!(resolved(&["**"]).len(), declared().len());
        assert_eq!(resolved(&[]).len(), 0);
    }

    #[test]
    fn a_bracket_at_the_end_chooses_heads() {
        assert_eq!(select(&["blocks.3.attn.hook_z[1]"]).unwrap(), [(HookPoint::block(3, Site::Z).at_head(1), 2)]);
        assert_eq!(
            resolved(&[
                "blocks.3.attn.hook_z[0,3]",
                "blocks.3.attn.hook_z",
                "model.layers.3.self_attn.o_proj.input[0]"
            ]),
            ["blocks.3.attn.hook_z", "blocks.3.attn.hook_z[0]", "blocks.3.attn.hook_z[3]"]
        );
        assert_eq!(resolved(&["blocks.*.attn.hook_z[*]"]).len(), 12 * 4);
        assert_eq!(resolved(&["blocks.[0-1].attn.hook_{q,k}[0-1]"]).len(), 2 * 2 * 2);
        assert_eq!(resolved(&["layers.{0,2}.self_attn.q_proj.output[3]"]).len(), 2);
        assert_eq!(resolved(&["blocks.0.**[*]"]).len(), 4 + 2 + 4, "those of the sites that have heads");
        assert_eq!(resolved(&["model.layers.[0-1]"]).len(), 2, "behind a dot it is a class of characters");
    }

    #[test]
    fn heads_that_are_not_there_are_problems() {
        let problem = |pattern: &str| select(&[pattern]).unwrap_err().remove(0).to_string();
        let found = problem("blocks.3.attn.hook_z[4]");
        assert!(found.ends_with("asks for head 4, and `blocks.3.attn.hook_z` has 4 heads, 0 to 3"), "{found}");
        let found = problem("blocks.0.attn.hook_{q,k}[3]");
        assert!(found.contains("`blocks.0.attn.hook_k` has 2 heads, 0 to 1"), "not only the queries: {found}");
        let found = problem("blocks.3.hook_resid_post[0]");
        assert!(found.ends_with("has none; did you mean `blocks.3.hook_resid_post`?"), "{found}");
        let found = problem("blocks.3.hook_resid_*[0]");
        assert!(found.contains("has none"), "{found}");
        let found = problem("blocks.3.attn.hook_zz[2]");
        assert!(found.ends_with("did you mean `blocks.3.attn.hook_z[2]`?"), "{found}");
        let found = problem("blocks.3.attn.hook_z[0:2]");
        assert!(found.contains("a range [0-3]"), "{found}");
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
        let problems = select(&patterns).unwrap_err();
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
        /// However heads are written, they are the points that each of them alone is.
        #[test]
        fn a_list_of_heads_is_its_heads(parts in proptest::collection::vec((0u32..4, 0u32..4), 1..5), glob: bool) {
            let site = if glob { "blocks.1*.attn.hook_z" } else { "blocks.11.attn.hook_z" };
            let write = |&(a, b): &(u32, u32)| if a < b { format!("{a}-{b}") } else { a.to_string() };
            let list = format!("{site}[{}]", parts.iter().map(write).collect::<Vec<_>>().join(","));
            let alone: Vec<String> =
                parts.iter().flat_map(|&(a, b)| a..=b.max(a)).map(|head| format!("{site}[{head}]")).collect();
            let alone: Vec<&str> = alone.iter().map(String::as_str).collect();
            let found = select(&[&list]).unwrap();
            proptest::prop_assert!(found.iter().all(|(point, width)| point.head.is_some() && *width == 2));
            proptest::prop_assert_eq!(found, select(&alone).unwrap());
        }

        #[test]
        fn any_text_selects_something_or_is_a_problem(text in "[a-z_.*?{}\\[\\]0-9,!-]{0,40}|blocks\\.[*0-9]{1,3}\\.[a-z_.*]{1,20}|blocks\\.3\\.attn\\.hook_[zkq]\\[[-0-9,*\\[\\] ]{0,12}\\]") {
            match select(&[text.as_str()]) {
                Ok(points) => assert!(!points.is_empty() && points.is_sorted_by_key(|(point, _)| point.forward_order())),
                Err(problems) => assert_eq!(problems.len(), 1),
            }
        }
    }

    #[test]
    fn without_a_model_only_what_no_model_has_is_a_problem() {
        for fine in
            ["blocks.99.hook_resid_post", "layers.3.mlp", "blocks.3.attn.hook_result[40]", "blocks.*.x", "hook_*[*]"]
        {
            assert_eq!(check(fine, &[&PATHS]), Ok(()), "{fine}");
        }
        let problem = |pattern: &str| check(pattern, &[&PATHS]).unwrap_err().to_string();
        let found = problem("blocks.7.attn.hook_zz[2]");
        assert!(found.ends_with("of any architecture; did you mean `blocks.7.attn.hook_z[2]`?"), "{found}");
        let found = problem("layers.11.mpl");
        assert!(found.ends_with("did you mean `layers.11.mlp`?"), "{found}");
        assert!(problem("blocks.[.hook_z").contains("not a glob"));
        assert!(problem("blocks.3.attn.hook_z[a]").contains("[0-3]"));
    }

    #[test]
    fn one_bad_pattern_spoils_the_selection() {
        assert!(select(&["hook_embed", "nope"]).is_err());
    }
}
