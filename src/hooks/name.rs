//! Names of hook points: TransformerLens names, and the Hugging Face module paths that mean the same value.
//!
//! A module path names what the module returns: `model.layers.3` is the residual stream that leaves block 3,
//! `model.layers.3.mlp` is what its MLP adds. Paths of a bare base model (`layers.3.mlp`) are accepted too.

use std::str::FromStr;

use crate::hooks::{HookPoint, Site};

/// Module paths of a family of Hugging Face models.
struct Family {
    /// What stands before `.{layer}`.
    blocks: [&'static str; 2],
    /// Path below the block, and the site that it names.
    in_block: &'static [(&'static str, Site)],
    /// Whole paths of sites outside the blocks.
    outside: &'static [(&'static str, Site)],
}

const FAMILIES: [Family; 2] = [
    Family {
        blocks: ["model.layers", "layers"],
        in_block: &[
            ("", Site::ResidPost),
            (".input_layernorm", Site::Ln1Out),
            (".self_attn.q_proj", Site::Q),
            (".self_attn.k_proj", Site::K),
            (".self_attn.v_proj", Site::V),
            (".self_attn", Site::AttnOut),
            (".self_attn.o_proj", Site::AttnOut),
            (".post_attention_layernorm", Site::Ln2Out),
            (".mlp.gate_proj", Site::MlpPre),
            (".mlp.up_proj", Site::MlpPreLinear),
            (".mlp", Site::MlpOut),
            (".mlp.down_proj", Site::MlpOut),
        ],
        outside: &[
            ("model.embed_tokens", Site::Embed),
            ("embed_tokens", Site::Embed),
            ("model.norm", Site::LnFinalOut),
            ("norm", Site::LnFinalOut),
        ],
    },
    Family {
        blocks: ["transformer.h", "h"],
        in_block: &[
            ("", Site::ResidPost),
            (".ln_1", Site::Ln1Out),
            (".attn", Site::AttnOut),
            (".attn.c_proj", Site::AttnOut),
            (".ln_2", Site::Ln2Out),
            (".mlp.c_fc", Site::MlpPre),
            (".mlp.act", Site::MlpPost),
            (".mlp", Site::MlpOut),
            (".mlp.c_proj", Site::MlpOut),
        ],
        outside: &[
            ("transformer.wte", Site::Embed),
            ("wte", Site::Embed),
            ("transformer.wpe", Site::PosEmbed),
            ("wpe", Site::PosEmbed),
            ("transformer.ln_f", Site::LnFinalOut),
            ("ln_f", Site::LnFinalOut),
        ],
    },
];

/// A name that is neither a TransformerLens hook nor a known module path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of a site")]
pub struct UnknownName(pub String);

/// Reads TransformerLens names and Hugging Face module paths.
impl FromStr for HookPoint {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        transformer_lens(name).or_else(|| module_path(name)).ok_or_else(|| UnknownName(name.to_owned()))
    }
}

/// Every name of `point`: the TransformerLens name, then module paths.
pub fn names(point: HookPoint) -> Vec<String> {
    let mut names = vec![point.to_string()];
    for family in &FAMILIES {
        match point.layer {
            Some(layer) => {
                for (suffix, _) in family.in_block.iter().filter(|(_, site)| *site == point.site) {
                    names.extend(family.blocks.iter().map(|blocks| format!("{blocks}.{layer}{suffix}")));
                }
            }
            None => {
                let paths = family.outside.iter().filter(|(_, site)| *site == point.site);
                names.extend(paths.map(|(path, _)| (*path).to_owned()));
            }
        }
    }
    names
}

fn transformer_lens(name: &str) -> Option<HookPoint> {
    if let Some(rest) = name.strip_prefix("blocks.") {
        let (layer, suffix) = rest.split_once('.')?;
        let site = Site::ALL.into_iter().find(|site| site.in_block() && site.suffix() == suffix)?;
        return Some(HookPoint::block(layer_number(layer)?, site));
    }
    let site = Site::ALL.into_iter().find(|site| !site.in_block() && site.suffix() == name)?;
    Some(HookPoint::outside(site))
}

fn module_path(name: &str) -> Option<HookPoint> {
    FAMILIES.iter().find_map(|family| {
        if let Some((_, site)) = family.outside.iter().find(|(path, _)| *path == name) {
            return Some(HookPoint::outside(*site));
        }
        let rest = family.blocks.iter().find_map(|blocks| name.strip_prefix(blocks)?.strip_prefix('.'))?;
        let (layer, suffix) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
        let (_, site) = family.in_block.iter().find(|(path, _)| *path == suffix)?;
        Some(HookPoint::block(layer_number(layer)?, *site))
    })
}

/// A layer as this crate prints it: no sign, no leading zero.
fn layer_number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|layer: &u32| layer.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            for name in names(point) {
                assert_eq!(name.parse(), Ok(point), "{name}");
            }
        }
    }

    #[test]
    fn no_name_belongs_to_two_points() {
        let mut all: Vec<String> = every_point().flat_map(names).collect();
        let n = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), n);
    }

    #[test]
    fn module_paths_name_what_the_module_returns() {
        for (path, name) in [
            ("model.layers.3", "blocks.3.hook_resid_post"),
            ("model.layers.3.self_attn", "blocks.3.hook_attn_out"),
            ("model.layers.3.post_attention_layernorm", "blocks.3.ln2.hook_out"),
            ("layers.12.mlp.up_proj", "blocks.12.mlp.hook_pre_linear"),
            ("model.norm", "ln_final.hook_out"),
            ("transformer.h.0.mlp.c_fc", "blocks.0.mlp.hook_pre"),
            ("h.0.attn", "blocks.0.hook_attn_out"),
            ("transformer.wpe", "hook_pos_embed"),
        ] {
            assert_eq!(path.parse::<HookPoint>().unwrap().to_string(), name);
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
            "model.layers",
            "model.layers.",
            "model.layers.-1.mlp",
            "model.layers.3.mlp.",
            "transformer.h.3.attn.c_attn",
            "blocks.99999999999.attn.hook_z",
        ] {
            assert!(name.parse::<HookPoint>().is_err(), "{name}");
        }
    }
}
