//! Names of hook points: TransformerLens names, and the Hugging Face module paths that mean the same value.
//!
//! A module path names what the module returns: `model.layers.3` is the residual stream that leaves block 3,
//! `model.layers.3.mlp` is what its MLP adds. `.output` behind it says the same, `.input` names what the module reads. The
//! same path means different values in different architectures, so each architecture has its own table.

use std::str::FromStr;

use crate::hooks::point::SECOND;
use crate::hooks::{HookPoint, Site, heads};

/// Hugging Face's module paths of an architecture, and the sites that they name.
#[derive(Debug)]
pub struct ModulePaths {
    /// What may stand before `.{layer}`: in a whole model, and in a bare base model.
    pub blocks: &'static [&'static str],
    /// Paths below a block (with the dot in front; empty for the block itself), and their sites. Behind `.input` is what
    /// the module reads.
    pub in_block: &'static [(&'static str, Site)],
    /// Whole paths of sites outside the blocks.
    pub outside: &'static [(&'static str, Site)],
}

impl ModulePaths {
    /// The point that a module path names.
    pub fn point(&self, path: &str) -> Option<HookPoint> {
        let path = path.strip_suffix(OUTPUT).unwrap_or(path);
        if let Some((_, site)) = self.outside.iter().find(|(known, _)| *known == path) {
            return Some(HookPoint::outside(*site));
        }
        let rest = self.blocks.iter().find_map(|blocks| path.strip_prefix(blocks)?.strip_prefix('.'))?;
        let (layer, suffix) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
        let (_, site) = self.in_block.iter().find(|(known, _)| *known == suffix)?;
        Some(HookPoint::block(heads::number(layer)?, *site))
    }

    /// The paths that name the whole of `point`; a second model's has none.
    pub fn of(&self, point: HookPoint) -> Vec<String> {
        if point.second {
            return Vec::new();
        }
        self.of_site(point.site, self.blocks, &point.layer.map(|layer| layer.to_string()).unwrap_or_default())
    }

    /// The paths of `site`, below `blocks` with `layer` as the block's number if it is in a block.
    pub(super) fn of_site(&self, site: Site, blocks: &[&str], layer: &str) -> Vec<String> {
        let paths = if site.in_block() { self.in_block } else { self.outside };
        let paths = paths.iter().filter(|(_, named)| *named == site).map(|(path, _)| *path);
        if site.in_block() {
            paths.flat_map(|path| blocks.iter().map(move |blocks| format!("{blocks}.{layer}{path}"))).collect()
        } else {
            paths.map(str::to_owned).collect()
        }
    }
}

/// What stands behind a module path to say that what it reads is meant.
pub(super) const INPUT: &str = ".input";
/// What may stand behind a module path to say that its output is meant.
pub(super) const OUTPUT: &str = ".output";

/// A name that is not that of a TransformerLens hook.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of a site")]
pub struct UnknownName(pub String);

/// Reads what `Display` writes: a TransformerLens name, with a head's number in brackets if one head is meant.
impl FromStr for HookPoint {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let (whole, head) = heads::split(name);
        let point = match whole.strip_prefix(SECOND) {
            Some(whole) => transformer_lens(whole).map(HookPoint::of_second),
            None => transformer_lens(whole),
        };
        let point = match head {
            None => point,
            Some(head) => heads::number(head).and_then(|head| Some(point?.at_head(head))),
        };
        point.ok_or_else(|| UnknownName(name.to_owned()))
    }
}

fn transformer_lens(name: &str) -> Option<HookPoint> {
    if let Some(rest) = name.strip_prefix("blocks.") {
        let (layer, suffix) = rest.split_once('.')?;
        let site = Site::ALL.into_iter().find(|site| site.in_block() && site.suffix() == suffix)?;
        return Some(HookPoint::block(heads::number(layer)?, site));
    }
    let site = Site::ALL.into_iter().find(|site| !site.in_block() && site.suffix() == name)?;
    Some(HookPoint::outside(site))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ARCHITECTURES;

    fn every_point() -> impl Iterator<Item = HookPoint> {
        Site::ALL.into_iter().flat_map(|site| {
            let layers: &[u32] = if site.in_block() { &[0, 3, 117] } else { &[0] };
            layers.iter().map(
                move |&layer| {
                    if site.in_block() { HookPoint::block(layer, site) } else { HookPoint::outside(site) }
                },
            )
        })
    }

    #[test]
    fn every_name_of_every_point_reads_back() {
        for point in every_point() {
            assert_eq!(point.to_string().parse(), Ok(point));
            assert_eq!(point.at_head(12).to_string().parse(), Ok(point.at_head(12)));
            let second = point.of_second();
            assert_eq!(second.to_string(), format!("second.{point}"));
            assert_eq!(second.to_string().parse(), Ok(second));
            assert_eq!(second.at_head(1).to_string().parse(), Ok(second.at_head(1)));
        }
    }

    #[test]
    fn refuses_what_is_no_name() {
        for name in [
            "",
            "blocks",
            "blocks.3",
            "blocks.+3.hook_z",
            "blocks.03.attn.hook_z",
            "blocks.x.attn.hook_z",
            "blocks.3.hook_embed",
            "blocks.3.hook_resid_posts",
            "blocks.99999999999.attn.hook_z",
            "blocks.3.attn.hook_z[]",
            "blocks.3.attn.hook_z[*]",
            "blocks.3.attn.hook_z[05]",
            "blocks.3.attn.hook_z[5",
            "blocks.3.attn.hook_z[5][5]",
            "model.layers.3.mlp",
            "second.",
            "second.second.blocks.3.hook_resid_post",
            "blocks.second.3.hook_resid_post",
        ] {
            assert!(name.parse::<HookPoint>().is_err(), "{name}");
        }
    }

    const PATHS: ModulePaths = ModulePaths {
        blocks: &["model.layers", "layers"],
        in_block: &[("", Site::ResidPost), (".input", Site::ResidPre), (".mlp", Site::MlpOut), (".o.input", Site::Z)],
        outside: &[("norm", Site::LnFinalOut), ("head.input", Site::LnFinalOut)],
    };

    #[test]
    fn module_paths_name_what_the_module_returns_or_reads() {
        for (path, name) in [
            ("model.layers.3", "blocks.3.hook_resid_post"),
            ("layers.3.output", "blocks.3.hook_resid_post"),
            ("layers.3.input", "blocks.3.hook_resid_pre"),
            ("model.layers.12.mlp", "blocks.12.hook_mlp_out"),
            ("model.layers.12.o.input", "blocks.12.attn.hook_z"),
            ("norm", "ln_final.hook_out"),
            ("head.input", "ln_final.hook_out"),
        ] {
            assert_eq!(PATHS.point(path).unwrap().to_string(), name);
        }
        assert_eq!(PATHS.of(HookPoint::block(3, Site::MlpOut)), ["model.layers.3.mlp", "layers.3.mlp"]);
        assert_eq!(PATHS.of(HookPoint::outside(Site::LnFinalOut)), ["norm", "head.input"]);
        for path in
            ["", "model.layers", "layers.", "layers.-1.mlp", "layers.03.mlp", "layers.3.mlp.", "layers.3.o", ".output"]
        {
            assert_eq!(PATHS.point(path), None, "{path}");
        }
    }

    #[test]
    fn no_path_of_an_architecture_names_two_points() {
        for architecture in ARCHITECTURES {
            let paths = &architecture.paths;
            for point in every_point() {
                for path in paths.of(point) {
                    assert_eq!(paths.point(&path), Some(point), "{architecture:?} {path}");
                    assert!(path.parse::<HookPoint>().is_err(), "{path} is also a TransformerLens name");
                }
            }
        }
    }
}
