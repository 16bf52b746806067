//! What a model computes: [`ModelSpec`], read from `config.json` and checked.
//!
//! An option that is known to change what a model of the family computes is either understood or refused by name, never
//! ignored. Options of training (dropout, initialisation) and of numerics alone (upcasting, tensor parallelism) are not read.

use serde_json::Value;

use crate::compute::model_ops::{Activation, NormKind};
use crate::error::Result;
use crate::hooks::{HookPoint, ModulePaths, PointShape, Site};
use crate::model::architectures::Architecture;
use crate::model::blocks::workspace;
use crate::model::json::Config;
pub use crate::model::rope::{Rope, RopeScaling};

/// What a model computes.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The family.
    pub architecture: &'static Architecture,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Head width.
    pub d_head: usize,
    /// Width of the MLP's hidden layer (of an expert's is [`ExpertsSpec::d_expert`]).
    pub d_mlp: usize,
    /// Token ids are below it.
    pub vocab_size: usize,
    /// Positions that the model was made for.
    pub max_positions: usize,
    /// Its norms.
    pub norm: NormSpec,
    /// Where norms and branches stand in a block.
    pub form: BlockForm,
    /// What the attention of all blocks shares.
    pub attention: AttentionSpec,
    /// What the MLPs of all blocks share.
    pub mlp: MlpSpec,
    /// The mixture of experts, if some block has one.
    pub experts: Option<ExpertsSpec>,
    /// Rotary embeddings that blocks choose from; none if positions are learned.
    pub ropes: Vec<Rope>,
    /// Each block.
    pub blocks: Vec<BlockSpec>,
    /// Factor on the token embedding.
    pub embed_scale: Option<f64>,
    /// Logits `l` become `cap tanh(l / cap)`.
    pub logit_softcap: Option<f64>,
    /// Whether the head has a bias.
    pub head_bias: bool,
    /// Whether the head is the token embedding.
    pub tied_head: bool,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence; the first one is written by a model that has several.
    pub eos: Vec<u32>,
    /// Padding.
    pub pad: Option<u32>,
}

/// A model's norms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// Which.
    pub kind: NormKind,
    /// Added to the mean square or the variance.
    pub eps: f64,
    /// Whether files hold the weight minus 1 (Gemma).
    pub stored_minus_one: bool,
}

/// Where norms and branches stand in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockForm {
    /// `x += attention(ln1(x)); x += mlp(ln2(x))`.
    PreNorm,
    /// `x += ln1_post(attention(ln1(x))); x += ln2_post(mlp(ln2(x)))` (Gemma 2 and 3).
    PreAndPostNorm,
    /// `x += ln1_post(attention(x)); x += ln2_post(mlp(x))` (OLMo 2).
    PostNorm,
    /// `x += attention(ln1(x)) + mlp(ln2(x))` (GPT-NeoX).
    Parallel,
    /// `x += attention(ln1(x)) + mlp(ln1(x))` (Phi).
    ParallelSharedNorm,
}

impl BlockForm {
    /// Whether attention and MLP read norms of the residual stream, not the stream itself.
    pub fn has_pre_norms(self) -> bool {
        self != Self::PostNorm
    }

    /// Whether the MLP's input has a norm of its own.
    pub fn has_second_norm(self) -> bool {
        matches!(self, Self::PreNorm | Self::PreAndPostNorm | Self::Parallel)
    }

    /// Whether norms follow attention and MLP.
    pub fn has_post_norms(self) -> bool {
        matches!(self, Self::PreAndPostNorm | Self::PostNorm)
    }

    /// Whether attention and MLP read the same residual stream.
    pub fn is_parallel(self) -> bool {
        matches!(self, Self::Parallel | Self::ParallelSharedNorm)
    }
}

/// Attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Factor on scores before the softmax.
    pub scale: f64,
    /// Scores `s` become `cap tanh(s / cap)` before the softmax.
    pub softcap: Option<f64>,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub out_bias: bool,
    /// Norms of queries and keys.
    pub head_norm: HeadNorm,
}

/// Norms of queries and keys, before rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadNorm {
    /// None.
    Absent,
    /// Of each head; heads share the weight (Qwen 3, Gemma 3; Phi with a layer norm).
    EachHead,
    /// Of all heads together (OLMo 2).
    AllHeads,
}

/// The MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MlpSpec {
    /// `down(f(gate(x)) * up(x))`, or `proj(f(fc(x)))`.
    pub gated: bool,
    /// The function `f`.
    pub activation: Activation,
    /// Whether its matrices have biases.
    pub bias: bool,
}

/// A mixture of experts: gated MLPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertsSpec {
    /// Experts.
    pub count: usize,
    /// Experts a token is sent to.
    pub chosen: usize,
    /// Width of an expert's hidden layer.
    pub d_expert: usize,
    /// Whether the weights of the chosen experts are made to sum to 1.
    pub renormalise: bool,
}

/// What a block has that others may not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockSpec {
    /// Rows that a row sees, itself included, if not all before it.
    pub window: Option<usize>,
    /// Which of [`ModelSpec::ropes`].
    pub rope: usize,
    /// Whether its MLP is the mixture of experts.
    pub experts: bool,
}

impl ModelSpec {
    /// Read `config.json`'s contents.
    pub fn parse(config: &Value) -> Result<Self> {
        let config = Config::new(config)?;
        let architecture = Architecture::from_model_type(config.text("model_type")?)?;
        if !config.flag_or("is_causal", true)? {
            return Err(config.wrong("is_causal", "is not supported: rows see what stands before them"));
        }
        let spec = (architecture.parse)(architecture, &config)?;
        config.refuse_unread()?;
        Ok(spec)
    }

    /// Blocks.
    pub fn n_layers(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Values of a row of the MLP's hidden layer, in the widest block.
    pub fn hidden_width(&self) -> usize {
        let experts = self.experts.map_or(0, |experts| experts.chosen * experts.d_expert);
        let dense = if self.blocks.iter().all(|block| block.experts) { 0 } else { self.d_mlp };
        experts.max(dense)
    }

    /// Why it is not computed on a GPU, if it is not: operations that have no kernels yet.
    pub fn not_on_gpu(&self) -> Option<&'static str> {
        let widths = [self.d_model, self.d_head, self.d_mlp];
        if self.experts.is_some() {
            return Some("it has a mixture of experts");
        }
        if self.d_head > 256 {
            return Some("its heads are wider than 256");
        }
        widths.iter().any(|width| width % 8 != 0).then_some("a width is no multiple of 8")
    }

    /// Whether positions are embeddings of their own, of which there are [`ModelSpec::max_positions`].
    pub fn has_learned_positions(&self) -> bool {
        self.ropes.is_empty()
    }

    /// The points that the model has, with their shapes, along the forward pass. Attention patterns are as wide as
    /// `heads * context_length`.
    pub fn points(&self, context_length: usize) -> Vec<PointShape> {
        let mut points = Vec::new();
        for site in Site::ALL {
            if !site.in_block() {
                points.extend(self.shape(site, None, context_length).map(|(width, heads)| PointShape {
                    point: HookPoint::outside(site),
                    width,
                    heads,
                }));
                continue;
            }
            for (layer, block) in (0..).zip(&self.blocks) {
                points.extend(self.shape(site, Some(block), context_length).map(|(width, heads)| PointShape {
                    point: HookPoint::block(layer, site),
                    width,
                    heads,
                }));
            }
        }
        points.sort_by_key(|shape| shape.point.forward_order());
        points
    }

    /// Values that a forward pass's buffers hold for each row of a batch, when `points` are wanted.
    pub fn workspace_values(&self, points: &[HookPoint], context_length: usize) -> usize {
        workspace::values_per_row(self, points, context_length)
    }

    /// What Hugging Face calls the points.
    pub fn module_paths(&self) -> &'static ModulePaths {
        &self.architecture.paths
    }

    /// Values a row at `site` of a block, and its equal parts; `None` if there is no such site.
    fn shape(&self, site: Site, block: Option<&BlockSpec>, context_length: usize) -> Option<(usize, usize)> {
        let (h, k, e, d) = (self.n_heads, self.n_kv_heads, self.d_head, self.d_model);
        let experts = self.experts.filter(|_| block.is_some_and(|block| block.experts));
        let only_if = |there: bool, shape: (usize, usize)| there.then_some(shape);
        let hidden = experts.map_or((self.d_mlp, 1), |x| (x.chosen * x.d_expert, x.chosen));
        let (rotary, head_norm) = (!self.ropes.is_empty(), self.attention.head_norm != HeadNorm::Absent);
        match site {
            Site::PosEmbed => only_if(self.has_learned_positions(), (d, 1)),
            Site::Embed | Site::ResidPre | Site::AttnOut | Site::MlpOut | Site::ResidPost => Some((d, 1)),
            Site::Ln1Scale => only_if(self.form.has_pre_norms(), (1, 1)),
            Site::Ln1Normalized | Site::Ln1Out => only_if(self.form.has_pre_norms(), (d, 1)),
            Site::Q | Site::Z => Some((h * e, h)),
            Site::K | Site::V => Some((k * e, k)),
            Site::QNormOut => only_if(head_norm, (h * e, h)),
            Site::KNormOut => only_if(head_norm, (k * e, k)),
            Site::RotQ => only_if(rotary, (h * e, h)),
            Site::RotK => only_if(rotary, (k * e, k)),
            Site::AttnScores | Site::Pattern => Some((h * context_length, h)),
            Site::Result => Some((h * d, h)),
            Site::Ln1PostScale | Site::Ln2PostScale => only_if(self.form.has_post_norms(), (1, 1)),
            Site::AttnRaw | Site::Ln1PostNormalized | Site::MlpRaw | Site::Ln2PostNormalized => {
                only_if(self.form.has_post_norms(), (d, 1))
            }
            Site::ResidMid => only_if(!self.form.is_parallel(), (d, 1)),
            Site::Ln2Scale => only_if(self.form.has_second_norm(), (1, 1)),
            Site::Ln2Normalized | Site::Ln2Out => only_if(self.form.has_second_norm(), (d, 1)),
            Site::RouterLogits => experts.map(|x| (x.count, 1)),
            Site::ExpertIndices | Site::ExpertWeights => experts.map(|x| (x.chosen, x.chosen)),
            Site::ExpertOut => experts.map(|x| (x.chosen * d, x.chosen)),
            Site::MlpPre | Site::MlpPost => Some(hidden),
            Site::MlpPreLinear => only_if(self.mlp.gated, hidden),
            Site::LnFinalScale => Some((1, 1)),
            Site::LnFinalNormalized | Site::LnFinalOut => Some((d, 1)),
            Site::Named(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
