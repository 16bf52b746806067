//! A model's sites as people want to read them: blocks that are alike are one line.

use std::fmt::Write;

use crate::hooks::{HookPoint, ModulePaths, PointShape, Site};

/// A site with the blocks in which it has the same shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteGroup {
    /// The site.
    pub site: Site,
    /// The blocks, in order; none for a site outside the blocks.
    pub layers: Vec<u32>,
    /// Shape of one of its points.
    pub shape: PointShape,
}

/// The sites among `points`, in the order of the forward pass through one block.
pub fn groups(points: &[PointShape]) -> Vec<SiteGroup> {
    let mut groups: Vec<SiteGroup> = Vec::new();
    for &shape in points {
        let PointShape { point: HookPoint { site, layer, .. }, width, heads } = shape;
        let like = |g: &&mut SiteGroup| (g.site, g.shape.width, g.shape.heads) == (site, width, heads);
        match groups.iter_mut().find(like) {
            Some(group) => group.layers.extend(layer),
            None => groups.push(SiteGroup { site, layers: layer.into_iter().collect(), shape }),
        }
    }
    // a stable sort: shapes of a site stay in the order of their first blocks
    groups.sort_by_key(|group| {
        let (_, stage, site, _) = group.shape.point.forward_order();
        (stage.min(1) + u32::from(stage == u32::MAX), site)
    });
    groups
}

impl SiteGroup {
    /// A pattern that selects the whole group: `blocks.{0-29}.hook_mlp_out`.
    pub fn name(&self) -> String {
        match self.layers.as_slice() {
            [] => self.site.suffix().to_owned(),
            layers => format!("blocks.{}.{}", numbers(layers), self.site.suffix()),
        }
    }

    /// Hugging Face's names of the group, in a whole model, as patterns.
    pub fn aliases(&self, paths: &ModulePaths) -> Vec<String> {
        paths.of_site(self.site, paths.blocks.get(..1).unwrap_or_default(), &numbers(&self.layers))
    }
}

/// Growing numbers as a glob: `3`, `{0-29}`, `{0,2,4-6}`.
fn numbers(numbers: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let mut text = String::new();
    for (i, (first, last)) in runs.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        // writing to a string cannot fail
        let _ = if first == last { write!(text, "{comma}{first}") } else { write!(text, "{comma}{first}-{last}") };
    }
    if numbers.len() == 1 { text } else { format!("{{{text}}}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::resolve;

    const PATHS: ModulePaths = ModulePaths {
        blocks: &["model.layers", "layers"],
        in_block: &[("", Site::ResidPost), (".self_attn.o_proj.input", Site::Z)],
        outside: &[("model.norm", Site::LnFinalOut), ("norm", Site::LnFinalOut)],
    };

    /// Seven blocks; the third has other heads, and the last has no `ResidPost`.
    fn points() -> Vec<PointShape> {
        let mut points = vec![PointShape { point: HookPoint::outside(Site::Embed), width: 8, heads: 1 }];
        for layer in 0..7 {
            let heads = if layer == 2 { 4 } else { 2 };
            points.push(PointShape { point: HookPoint::block(layer, Site::Z), width: 8, heads });
            if layer < 6 {
                points.push(PointShape { point: HookPoint::block(layer, Site::ResidPost), width: 8, heads: 1 });
            }
        }
        points.push(PointShape { point: HookPoint::outside(Site::LnFinalOut), width: 8, heads: 1 });
        points
    }

    #[test]
    fn blocks_that_are_alike_are_one_line() {
        let groups = groups(&points());
        let names: Vec<String> = groups.iter().map(SiteGroup::name).collect();
        assert_eq!(
            names,
            [
                "hook_embed",
                "blocks.{0-1,3-6}.attn.hook_z",
                "blocks.2.attn.hook_z",
                "blocks.{0-5}.hook_resid_post",
                "ln_final.hook_out"
            ]
        );
        assert_eq!(groups[3].aliases(&PATHS), ["model.layers.{0-5}"]);
        assert_eq!(groups[4].aliases(&PATHS), ["model.norm", "norm"]);
    }

    #[test]
    fn every_line_is_a_pattern_that_selects_it() {
        for group in groups(&points()) {
            let wanted = group.layers.len().max(1);
            for pattern in group.aliases(&PATHS).into_iter().chain([group.name()]) {
                let found = resolve(&[&pattern], &points(), &PATHS).unwrap();
                assert_eq!(found.len(), wanted, "{pattern}");
                assert!(found.iter().all(|(point, _)| point.site == group.site));
            }
        }
    }
}
