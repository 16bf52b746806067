//! Hook points: a site at a layer, or one head of it.

use std::fmt;

use crate::hooks::Site;

/// A site at a layer, or one head of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HookPoint {
    /// The block, for sites in a block.
    pub layer: Option<u32>,
    /// The site.
    pub site: Site,
    /// The head (key/value head, chosen expert) whose values are meant; all of them if `None`.
    pub head: Option<u32>,
}

/// A point that a model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointShape {
    /// The whole point, without a head.
    pub point: HookPoint,
    /// Values a row.
    pub width: usize,
    /// Equal parts of a row that can be captured alone: heads, key/value heads, chosen experts; 1 if there are none.
    pub heads: usize,
}

/// A point or one head of it, and the values that a row of it has.
pub type SiteWidth = (HookPoint, usize);

impl PointShape {
    /// Whether one head of the point can be captured alone. A single key/value head is one.
    pub fn has_heads(&self) -> bool {
        self.heads > 1 || self.point.site.is_per_head()
    }

    /// Values a row of one head.
    pub fn head_width(&self) -> usize {
        self.width / self.heads.max(1)
    }
}

impl HookPoint {
    /// A point in block `layer`.
    pub fn block(layer: u32, site: Site) -> Self {
        debug_assert!(site.in_block());
        Self { layer: Some(layer), site, head: None }
    }

    /// A point outside the blocks.
    pub fn outside(site: Site) -> Self {
        debug_assert!(!site.in_block());
        Self { layer: None, site, head: None }
    }

    /// One head of this point.
    pub fn at_head(self, head: u32) -> Self {
        Self { head: Some(head), ..self }
    }

    /// The point with all its heads: what a model visits.
    pub fn whole(self) -> Self {
        Self { head: None, ..self }
    }

    /// What exactly the values are, in one line.
    pub fn definition(self) -> String {
        let whole = self.site.definition();
        self.head.map_or_else(|| whole.to_owned(), |head| format!("{whole}; head {head} alone"))
    }

    /// A key that grows along the forward pass.
    pub fn forward_order(self) -> (u32, Site, Option<u32>) {
        let stage = match (self.layer, self.site) {
            (Some(layer), _) => layer + 1,
            (None, Site::Embed | Site::PosEmbed) => 0,
            (None, _) => u32::MAX,
        };
        (stage, self.site, self.head)
    }
}

/// The TransformerLens name; a head's number stands in brackets behind it.
impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            Some(layer) => write!(f, "blocks.{layer}.{}", self.site.suffix())?,
            None => f.write_str(self.site.suffix())?,
        }
        match self.head {
            Some(head) => write!(f, "[{head}]"),
            None => Ok(()),
        }
    }
}
