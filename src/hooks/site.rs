//! Sites: kinds of places in a transformer, with their names and definitions.

/// A kind of place in a transformer. Letters in shapes: `n` rows (tokens), `d` residual width, `h` heads, `k` key/value
/// heads, `e` head width, `m` MLP width, `t` context length, `r` experts, `s` experts a token is sent to.
///
/// Names and definitions are in [`Site::suffix`] and [`Site::definition`]; which architecture has which site is in
/// `docs/sites.md`. The order is that in which a forward pass meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// `[n, d]`.
    Embed,
    /// `[n, d]`.
    PosEmbed,
    /// `[n, d]`.
    ResidPre,
    /// `[n, 1]`.
    Ln1Scale,
    /// `[n, d]`.
    Ln1Normalized,
    /// `[n, d]`.
    Ln1Out,
    /// `[n, h*e]`.
    Q,
    /// `[n, k*e]`.
    K,
    /// `[n, k*e]`.
    V,
    /// `[n, h*e]`.
    QNormOut,
    /// `[n, k*e]`.
    KNormOut,
    /// `[n, h*e]`.
    RotQ,
    /// `[n, k*e]`.
    RotK,
    /// `[n, h*t]`.
    AttnScores,
    /// `[n, h*t]`.
    Pattern,
    /// `[n, h*e]`.
    Z,
    /// `[n, h*d]`.
    Result,
    /// `[n, d]`.
    AttnRaw,
    /// `[n, 1]`.
    Ln1PostScale,
    /// `[n, d]`.
    Ln1PostNormalized,
    /// `[n, d]`.
    AttnOut,
    /// `[n, d]`.
    ResidMid,
    /// `[n, 1]`.
    Ln2Scale,
    /// `[n, d]`.
    Ln2Normalized,
    /// `[n, d]`.
    Ln2Out,
    /// `[n, r]`.
    RouterLogits,
    /// `[n, s]`.
    ExpertIndices,
    /// `[n, s]`.
    ExpertWeights,
    /// `[n, m]`, or `[n, s*m]` in a mixture of experts.
    MlpPre,
    /// `[n, m]`, or `[n, s*m]` in a mixture of experts.
    MlpPreLinear,
    /// `[n, m]`, or `[n, s*m]` in a mixture of experts.
    MlpPost,
    /// `[n, s*d]`.
    ExpertOut,
    /// `[n, d]`.
    MlpRaw,
    /// `[n, 1]`.
    Ln2PostScale,
    /// `[n, d]`.
    Ln2PostNormalized,
    /// `[n, d]`.
    MlpOut,
    /// `[n, d]`.
    ResidPost,
    /// `[n, 1]`.
    LnFinalScale,
    /// `[n, d]`.
    LnFinalNormalized,
    /// `[n, d]`.
    LnFinalOut,
    /// Activations that were computed elsewhere, under the name that they were imported with; see
    /// [`crate::hooks::HookPoint::stored`].
    Named(&'static str),
}

impl Site {
    /// All sites, in the order in which a forward pass meets them.
    pub const ALL: [Self; 40] = [
        Self::Embed,
        Self::PosEmbed,
        Self::ResidPre,
        Self::Ln1Scale,
        Self::Ln1Normalized,
        Self::Ln1Out,
        Self::Q,
        Self::K,
        Self::V,
        Self::QNormOut,
        Self::KNormOut,
        Self::RotQ,
        Self::RotK,
        Self::AttnScores,
        Self::Pattern,
        Self::Z,
        Self::Result,
        Self::AttnRaw,
        Self::Ln1PostScale,
        Self::Ln1PostNormalized,
        Self::AttnOut,
        Self::ResidMid,
        Self::Ln2Scale,
        Self::Ln2Normalized,
        Self::Ln2Out,
        Self::RouterLogits,
        Self::ExpertIndices,
        Self::ExpertWeights,
        Self::MlpPre,
        Self::MlpPreLinear,
        Self::MlpPost,
        Self::ExpertOut,
        Self::MlpRaw,
        Self::Ln2PostScale,
        Self::Ln2PostNormalized,
        Self::MlpOut,
        Self::ResidPost,
        Self::LnFinalScale,
        Self::LnFinalNormalized,
        Self::LnFinalOut,
    ];

    /// The name after `blocks.L.`, or the whole name of a site that is not in a block.
    pub fn suffix(self) -> &'static str {
        self.facts().0
    }

    /// What exactly the values are, in one line.
    pub fn definition(self) -> &'static str {
        self.facts().1
    }

    /// Values a row, in the letters of [`Site`].
    pub fn width(self) -> &'static str {
        match self {
            Self::Ln1Scale | Self::Ln1PostScale | Self::Ln2Scale | Self::Ln2PostScale | Self::LnFinalScale => "1",
            Self::Q | Self::QNormOut | Self::RotQ | Self::Z => "h*e",
            Self::K | Self::V | Self::KNormOut | Self::RotK => "k*e",
            Self::AttnScores | Self::Pattern => "h*t",
            Self::Result => "h*d",
            Self::RouterLogits => "r",
            Self::ExpertIndices | Self::ExpertWeights => "s",
            Self::MlpPre | Self::MlpPreLinear | Self::MlpPost => "m, or s*m",
            Self::ExpertOut => "s*d",
            _ => "d",
        }
    }

    /// Name and definition.
    fn facts(self) -> (&'static str, &'static str) {
        match self {
            Self::Embed => {
                ("hook_embed", "the token embedding as the residual stream starts with it, before positions are added")
            }
            Self::PosEmbed => ("hook_pos_embed", "the learned position embedding"),
            Self::ResidPre => ("hook_resid_pre", "the residual stream that enters the block"),
            Self::Ln1Scale => {
                ("ln1.hook_scale", "what the first norm divides by: the root of the (centred) mean square plus epsilon")
            }
            Self::Ln1Normalized => ("ln1.hook_normalized", "the first norm's output before its weight and bias"),
            Self::Ln1Out => ("ln1.hook_out", "the first norm's output with weight and bias: what q, k and v read"),
            Self::Q => ("attn.hook_q", "queries with bias, before query norm and rotary embedding"),
            Self::K => {
                ("attn.hook_k", "keys with bias, before key norm and rotary embedding; key/value heads not repeated")
            }
            Self::V => ("attn.hook_v", "values with bias; key/value heads not repeated"),
            Self::QNormOut => ("attn.q_norm.hook_out", "queries after their norm with weight, before rotary embedding"),
            Self::KNormOut => ("attn.k_norm.hook_out", "keys after their norm with weight, before rotary embedding"),
            Self::RotQ => ("attn.hook_rot_q", "queries after rotary embedding, not yet scaled"),
            Self::RotK => ("attn.hook_rot_k", "keys after rotary embedding"),
            Self::AttnScores => (
                "attn.hook_attn_scores",
                "scaled (and soft-capped) scores of each head over positions of the sequence, before the softmax; 0 where a row does not attend",
            ),
            Self::Pattern => {
                ("attn.hook_pattern", "attention probabilities of each head over positions of the sequence")
            }
            Self::Z => ("attn.hook_z", "heads' outputs, concatenated: what the output projection reads"),
            Self::Result => {
                ("attn.hook_result", "each head's share of the output projection, without bias, in the residual space")
            }
            Self::AttnRaw => {
                ("attn.hook_out", "the output projection's result with bias, before the norm that follows it")
            }
            Self::Ln1PostScale => ("ln1_post.hook_scale", "what the norm after attention divides by"),
            Self::Ln1PostNormalized => {
                ("ln1_post.hook_normalized", "the output of the norm after attention, before its weight")
            }
            Self::AttnOut => (
                "hook_attn_out",
                "what attention adds to the residual stream: with bias, and after the norm that follows it, if any",
            ),
            Self::ResidMid => ("hook_resid_mid", "the residual stream between attention and MLP"),
            Self::Ln2Scale => ("ln2.hook_scale", "what the second norm divides by"),
            Self::Ln2Normalized => ("ln2.hook_normalized", "the second norm's output before its weight and bias"),
            Self::Ln2Out => ("ln2.hook_out", "the second norm's output with weight and bias: what the MLP reads"),
            Self::RouterLogits => {
                ("mlp.hook_router_logits", "the router's score of each expert, before softmax and choice")
            }
            Self::ExpertIndices => ("mlp.hook_expert_indices", "the chosen experts' numbers, by falling weight"),
            Self::ExpertWeights => {
                ("mlp.hook_expert_weights", "the weights with which the chosen experts' outputs are added")
            }
            Self::MlpPre => (
                "mlp.hook_pre",
                "before the activation function (the gate's output in a gated MLP); of each chosen expert in a mixture of experts",
            ),
            Self::MlpPreLinear => (
                "mlp.hook_pre_linear",
                "a gated MLP's linear branch (up projection); of each chosen expert in a mixture of experts",
            ),
            Self::MlpPost => (
                "mlp.hook_post",
                "neurons: what the MLP's last matrix reads; of each chosen expert in a mixture of experts",
            ),
            Self::ExpertOut => ("mlp.hook_expert_out", "the chosen experts' outputs, not yet weighted"),
            Self::MlpRaw => ("mlp.hook_out", "the MLP's output with bias, before the norm that follows it"),
            Self::Ln2PostScale => ("ln2_post.hook_scale", "what the norm after the MLP divides by"),
            Self::Ln2PostNormalized => {
                ("ln2_post.hook_normalized", "the output of the norm after the MLP, before its weight")
            }
            Self::MlpOut => (
                "hook_mlp_out",
                "what the MLP adds to the residual stream: with bias, and after the norm that follows it, if any",
            ),
            Self::ResidPost => ("hook_resid_post", "the residual stream that leaves the block"),
            Self::LnFinalScale => ("ln_final.hook_scale", "what the final norm divides by"),
            Self::LnFinalNormalized => {
                ("ln_final.hook_normalized", "the final norm's output before its weight and bias")
            }
            Self::LnFinalOut => {
                ("ln_final.hook_out", "the final norm's output with weight and bias: what the head reads")
            }
            Self::Named(name) => (name, "activations that were imported"),
        }
    }

    /// Whether the site exists once a block.
    pub fn in_block(self) -> bool {
        !matches!(
            self,
            Self::Embed
                | Self::PosEmbed
                | Self::LnFinalScale
                | Self::LnFinalNormalized
                | Self::LnFinalOut
                | Self::Named(_)
        )
    }

    /// Whether changing the value at this site changes what later layers compute. Not so for values that are computed on
    /// the side, because only a tap wants them.
    pub fn edits_propagate(self) -> bool {
        !matches!(
            self,
            Self::PosEmbed
                | Self::Ln1Scale
                | Self::Ln1Normalized
                | Self::AttnScores
                | Self::Pattern
                | Self::Result
                | Self::Ln1PostScale
                | Self::Ln1PostNormalized
                | Self::Ln2Scale
                | Self::Ln2Normalized
                | Self::ExpertIndices
                | Self::Ln2PostScale
                | Self::Ln2PostNormalized
                | Self::LnFinalScale
                | Self::LnFinalNormalized
        )
    }

    /// What a row's equal parts are counted by, in the letters of [`Site`].
    pub fn parts(self) -> &'static str {
        match self {
            Self::K | Self::V | Self::KNormOut | Self::RotK => "k",
            Self::ExpertIndices | Self::ExpertWeights | Self::ExpertOut => "s",
            Self::MlpPre | Self::MlpPreLinear | Self::MlpPost => "s, if there are experts",
            _ if self.is_per_head() => "h",
            _ => "",
        }
    }

    /// Whether a row is made of attention heads.
    pub fn is_per_head(self) -> bool {
        matches!(
            self,
            Self::Q
                | Self::K
                | Self::V
                | Self::QNormOut
                | Self::KNormOut
                | Self::RotQ
                | Self::RotK
                | Self::AttnScores
                | Self::Pattern
                | Self::Z
                | Self::Result
        )
    }

    /// Whether a row's norm says something about the token: not so for patterns (as many values as positions) and for
    /// values that are numbers of something.
    pub fn has_norm(self) -> bool {
        !matches!(
            self,
            Self::Pattern
                | Self::AttnScores
                | Self::ExpertIndices
                | Self::Ln1Scale
                | Self::Ln1PostScale
                | Self::Ln2Scale
                | Self::Ln2PostScale
                | Self::LnFinalScale
        )
    }
}
