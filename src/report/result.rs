//! What an evaluation found: written as `evaluation.json`, and shown by the page.

use serde::{Deserialize, Serialize};

use crate::evaluation::Evaluation;
use crate::evaluation::dark_matter::DarkMatter;
use crate::evaluation::description::Description;
use crate::evaluation::geometry::Geometry;
use crate::evaluation::matching::Matching;
use crate::evaluation::sparsity::DensityHistogram;
use crate::evaluation::universality::Universality;
use crate::trainer::history::{HeldOutPoint, HistoryPoint};

/// Version of [`Report`].
pub const FORMAT: u32 = 1;

/// Coders, judged on the same held-out text or rows, and compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// The version that wrote it.
    pub harvestd: String,
    /// The pipeline.
    pub pipeline: String,
    /// What the coders were judged on.
    pub held_out: HeldOut,
    /// The coders.
    pub coders: Vec<CoderReport>,
    /// Every two of them.
    pub pairs: Vec<PairReport>,
}

/// What coders were judged on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// `text` (documents of the corpus) or `rows` (of a stored dataset).
    pub source: String,
    /// Tokens or rows that were asked for; there may be fewer.
    pub wanted: u64,
    /// Whether special tokens are judged and replaced too, and with them excluded positions and outliers, which training
    /// leaves out.
    pub special_tokens: bool,
}

/// One coder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CoderReport {
    /// Name.
    pub name: String,
    /// The checkpoint or folder.
    pub from: String,
    /// The site.
    pub site: String,
    /// Values a row.
    pub width: usize,
    /// Latents.
    pub latents: usize,
    /// Rows that it was trained on, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_rows: Option<u64>,
    /// Metrics; absent where nothing was held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
    /// How often its latents fire.
    pub density: DensityHistogram,
    /// Bits that its codes take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Description>,
    /// How much of its error is linear; absent with too few rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dark_matter: Option<DarkMatter>,
    /// How its directions lie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geometry: Option<Geometry>,
    /// Its training, if the checkpoint has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryPoint>,
    /// What it was on held-out rows while it trained, if it was judged then (`evaluate_every_rows`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_out_history: Vec<HeldOutPoint>,
}

/// Two coders.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PairReport {
    /// The first's name.
    pub first: String,
    /// The second's.
    pub second: String,
    /// Their directions; absent where they are of different widths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matching: Option<Matching>,
    /// Their codes on the same rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub universality: Option<Universality>,
}
