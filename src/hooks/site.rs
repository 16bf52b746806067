//! Sites and hook points.

use std::fmt;

/// A kind of place in a transformer. Letters in shapes: `n` rows (tokens), `d` residual width, `h` heads, `k` key/value
/// heads, `e` head width, `m` MLP width, `t` context length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// `hook_embed` `[n, d]`: the token embedding, before positions are added.
    Embed,
    /// `hook_pos_embed` `[n, d]`: the learned position embedding (gpt2).
    PosEmbed,
    /// `blocks.L.hook_resid_pre` `[n, d]`: the residual stream that enters the block.
    ResidPre,
    /// `blocks.L.ln1.hook_normalized` `[n, d]`: the first norm's output before its weight and bias.
    Ln1Normalized,
    /// `blocks.L.ln1.hook_out` `[n, d]`: the first norm's output with weight and bias: what q, k and v read.
    Ln1Out,
    /// `blocks.L.attn.hook_q` `[n, h*e]`: queries with bias, before rotary embedding.
    Q,
    /// `blocks.L.attn.hook_k` `[n, k*e]`: keys with bias, before rotary embedding; key/value heads not repeated.
    K,
    /// `blocks.L.attn.hook_v` `[n, k*e]`: values with bias; key/value heads not repeated.
    V,
    /// `blocks.L.attn.hook_rot_q` `[n, h*e]`: queries after rotary embedding, not yet scaled.
    RotQ,
    /// `blocks.L.attn.hook_rot_k` `[n, k*e]`: keys after rotary embedding.
    RotK,
    /// `blocks.L.attn.hook_pattern` `[n, h*t]`: attention probabilities of each head over positions of the sequence.
    Pattern,
    /// `blocks.L.attn.hook_z` `[n, h*e]`: heads' outputs, concatenated: what the output projection reads.
    Z,
    /// `blocks.L.hook_attn_out` `[n, d]`: what attention adds to the residual stream, bias included.
    AttnOut,
    /// `blocks.L.hook_resid_mid` `[n, d]`: the residual stream between attention and MLP.
    ResidMid,
    /// `blocks.L.ln2.hook_normalized` `[n, d]`: the second norm's output before its weight and bias.
    Ln2Normalized,
    /// `blocks.L.ln2.hook_out` `[n, d]`: the second norm's output with weight and bias: what the MLP reads.
    Ln2Out,
    /// `blocks.L.mlp.hook_pre` `[n, m]`: before the activation function (the gate's output in a gated MLP).
    MlpPre,
    /// `blocks.L.mlp.hook_pre_linear` `[n, m]`: a gated MLP's linear branch (up projection).
    MlpPreLinear,
    /// `blocks.L.mlp.hook_post` `[n, m]`: neurons: what the MLP's last matrix reads.
    MlpPost,
    /// `blocks.L.hook_mlp_out` `[n, d]`: what the MLP adds to the residual stream, bias included.
    MlpOut,
    /// `blocks.L.hook_resid_post` `[n, d]`: the residual stream that leaves the block.
    ResidPost,
    /// `ln_final.hook_normalized` `[n, d]`: the final norm's output before its weight and bias.
    LnFinalNormalized,
    /// `ln_final.hook_out` `[n, d]`: the final norm's output with weight and bias: what the head reads.
    LnFinalOut,
}

impl Site {
    /// All sites, in the order in which a forward pass meets them.
    pub const ALL: [Self; 23] = [
        Self::Embed,
        Self::PosEmbed,
        Self::ResidPre,
        Self::Ln1Normalized,
        Self::Ln1Out,
        Self::Q,
        Self::K,
        Self::V,
        Self::RotQ,
        Self::RotK,
        Self::Pattern,
        Self::Z,
        Self::AttnOut,
        Self::ResidMid,
        Self::Ln2Normalized,
        Self::Ln2Out,
        Self::MlpPre,
        Self::MlpPreLinear,
        Self::MlpPost,
        Self::MlpOut,
        Self::ResidPost,
        Self::LnFinalNormalized,
        Self::LnFinalOut,
    ];

    /// The name after `blocks.L.`, or the whole name of a site that is not in a block.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Embed => "hook_embed",
            Self::PosEmbed => "hook_pos_embed",
            Self::ResidPre => "hook_resid_pre",
            Self::Ln1Normalized => "ln1.hook_normalized",
            Self::Ln1Out => "ln1.hook_out",
            Self::Q => "attn.hook_q",
            Self::K => "attn.hook_k",
            Self::V => "attn.hook_v",
            Self::RotQ => "attn.hook_rot_q",
            Self::RotK => "attn.hook_rot_k",
            Self::Pattern => "attn.hook_pattern",
            Self::Z => "attn.hook_z",
            Self::AttnOut => "hook_attn_out",
            Self::ResidMid => "hook_resid_mid",
            Self::Ln2Normalized => "ln2.hook_normalized",
            Self::Ln2Out => "ln2.hook_out",
            Self::MlpPre => "mlp.hook_pre",
            Self::MlpPreLinear => "mlp.hook_pre_linear",
            Self::MlpPost => "mlp.hook_post",
            Self::MlpOut => "hook_mlp_out",
            Self::ResidPost => "hook_resid_post",
            Self::LnFinalNormalized => "ln_final.hook_normalized",
            Self::LnFinalOut => "ln_final.hook_out",
        }
    }

    /// What exactly the values are, in one line.
    pub fn definition(self) -> &'static str {
        match self {
            Self::Embed => "the token embedding, before positions are added",
            Self::PosEmbed => "the learned position embedding (gpt2)",
            Self::ResidPre => "the residual stream that enters the block",
            Self::Ln1Normalized => "the first norm's output before its weight and bias",
            Self::Ln1Out => "the first norm's output with weight and bias: what q, k and v read",
            Self::Q => "queries with bias, before rotary embedding",
            Self::K => "keys with bias, before rotary embedding; key/value heads not repeated",
            Self::V => "values with bias; key/value heads not repeated",
            Self::RotQ => "queries after rotary embedding, not yet scaled",
            Self::RotK => "keys after rotary embedding",
            Self::Pattern => "attention probabilities of each head over positions of the sequence",
            Self::Z => "heads' outputs, concatenated: what the output projection reads",
            Self::AttnOut => "what attention adds to the residual stream, bias included",
            Self::ResidMid => "the residual stream between attention and MLP",
            Self::Ln2Normalized => "the second norm's output before its weight and bias",
            Self::Ln2Out => "the second norm's output with weight and bias: what the MLP reads",
            Self::MlpPre => "before the activation function (the gate's output in a gated MLP)",
            Self::MlpPreLinear => "a gated MLP's linear branch (up projection)",
            Self::MlpPost => "neurons: what the MLP's last matrix reads",
            Self::MlpOut => "what the MLP adds to the residual stream, bias included",
            Self::ResidPost => "the residual stream that leaves the block",
            Self::LnFinalNormalized => "the final norm's output before its weight and bias",
            Self::LnFinalOut => "the final norm's output with weight and bias: what the head reads",
        }
    }

    /// Whether the site exists once a block.
    pub fn in_block(self) -> bool {
        !matches!(self, Self::Embed | Self::PosEmbed | Self::LnFinalNormalized | Self::LnFinalOut)
    }

    /// Whether changing the value at this site changes what later layers compute. Not so for the normalized values before
    /// the weight, which are computed on the side.
    pub fn edits_propagate(self) -> bool {
        !matches!(
            self,
            Self::Ln1Normalized | Self::Ln2Normalized | Self::LnFinalNormalized | Self::Pattern | Self::PosEmbed
        )
    }
}

/// A site at a layer.
///
/// The derived order (layer first, then site) is not the order of the forward pass for sites outside blocks; use
/// [`HookPoint::forward_order`] for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HookPoint {
    /// The block, for sites in a block.
    pub layer: Option<u32>,
    /// The site.
    pub site: Site,
}

impl HookPoint {
    /// A point in block `layer`.
    pub fn block(layer: u32, site: Site) -> Self {
        debug_assert!(site.in_block());
        Self { layer: Some(layer), site }
    }

    /// A point outside the blocks.
    pub fn outside(site: Site) -> Self {
        debug_assert!(!site.in_block());
        Self { layer: None, site }
    }

    /// A key that grows along the forward pass.
    pub fn forward_order(self) -> (u32, Site) {
        let stage = match (self.layer, self.site) {
            (Some(layer), _) => layer + 1,
            (None, Site::Embed | Site::PosEmbed) => 0,
            (None, _) => u32::MAX,
        };
        (stage, self.site)
    }
}

/// The TransformerLens name.
impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            Some(layer) => write!(f, "blocks.{layer}.{}", self.site.suffix()),
            None => f.write_str(self.site.suffix()),
        }
    }
}
