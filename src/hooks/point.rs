//! Hook points: a site at a layer, or one head of it.

use std::fmt;

use crate::hooks::Site;

/// What names of a second model's points begin with.
pub(super) const SECOND: &str = "second.";

/// A site at a layer, or one head of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HookPoint {
    /// Whether it is of the second of two models that run side by side.
    pub second: bool,
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
        Self { second: false, layer: Some(layer), site, head: None }
    }

    /// A point outside the blocks.
    pub fn outside(site: Site) -> Self {
        debug_assert!(!site.in_block());
        Self { second: false, layer: None, site, head: None }
    }

    /// The same point of the second of two models.
    pub fn of_second(self) -> Self {
        Self { second: true, ..self }
    }

    /// The same point of the first of two models.
    pub fn of_first(self) -> Self {
        Self { second: false, ..self }
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
        let of = if self.second { "of the second model: " } else { "" };
        let whole = format!("{of}{}", self.site.definition());
        self.head.map_or_else(|| whole.clone(), |head| format!("{whole}; head {head} alone"))
    }

    /// A key that grows along the forward pass; the second of two models comes after the first.
    pub fn forward_order(self) -> (bool, u32, Site, Option<u32>) {
        let stage = match (self.layer, self.site) {
            (Some(layer), _) => layer + 1,
            (None, Site::Embed | Site::PosEmbed) => 0,
            (None, _) => u32::MAX,
        };
        (self.second, stage, self.site, self.head)
    }
}

/// The TransformerLens name; a head's number stands in brackets behind it, `second.` before that of a second model.
impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.second {
            f.write_str(SECOND)?;
        }
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
