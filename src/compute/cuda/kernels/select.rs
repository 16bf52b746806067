//! `topk_row`, `batch_*`, `act_compact`: which pre-activations become entries of a code; a block a row.
//!
//! All write codes as [`crate::compute::coder_ops::Code`] has them: ascending latents, then
//! [`crate::compute::coder_ops::NO_LATENT`] with value 0.
//!
//! The largest of a whole batch take several launches: [`BatchThreshold::rounds`] finds the least value that is taken, digit by
//! digit; [`BatchTies`] counts what is exactly there, [`super::csr::Scan`] sums that over the rows, and [`Compact`] writes.

use super::{Entry, In, Launch, Out, Source, arguments, size};

/// The file.
pub const SOURCE: Source = Source {
    name: "select",
    text: include_str!("select.cu"),
    entries: &[TOPK_ROW, BATCH_HISTOGRAM, BATCH_DIGIT, BATCH_TIES, ACT_COMPACT],
};
const TOPK_ROW: Entry = Entry { name: "topk_row", threads: 512, registers: 40 };
const BATCH_HISTOGRAM: Entry = Entry { name: "batch_histogram", threads: 512, registers: 32 };
const BATCH_DIGIT: Entry = Entry { name: "batch_digit", threads: 32, registers: 32 };
const BATCH_TIES: Entry = Entry { name: "batch_ties", threads: 512, registers: 32 };
const ACT_COMPACT: Entry = Entry { name: "act_compact", threads: 512, registers: 48 };

/// Digits of a threshold.
pub const ROUNDS: i32 = 4;

arguments! {
    /// The `k` largest of each row that are positive; of equal ones the lower latent wins.
    pub struct TopK = "TopKArgs" {
        /// `[n, f]`.
        pub u: In<f32>,
        /// `[f]` 0 for latents that are left out; none: all count.
        pub among: In<u8>,
        /// `[n, k]`.
        pub latents: Out<u32>,
        /// `[n, k]`.
        pub values: Out<f32>,
        /// Latents.
        pub f: i32,
        /// Entries a row, at most.
        pub k: i32,
    }
}

arguments! {
    /// One digit of the `count`-th largest positive `u * score` of all rows: counting it, or taking it.
    pub struct BatchThreshold = "ThresholdArgs" {
        /// `[n, f]`.
        pub u: In<f32>,
        /// `[f]` positive, or none.
        pub score: In<f32>,
        /// `[2]` zeros before the first round; after the last the threshold's bits, and how many that are equal to it are taken.
        pub state: Out<u32>,
        /// `[256]` zeros before the first round, and after each.
        pub histogram: Out<u32>,
        /// Entries in all, at most; below 2^32.
        pub count: u64,
        /// Latents.
        pub f: i32,
        /// From 0 to 3.
        pub round: i32,
    }
}

arguments! {
    /// `ties[i]`: how many `u * score` of row `i` are equal to the threshold.
    pub struct BatchTies = "TiesArgs" {
        /// `[n, f]`.
        pub u: In<f32>,
        /// `[f]` positive, or none.
        pub score: In<f32>,
        /// `[2]` of [`BatchThreshold`].
        pub state: In<u32>,
        /// `[n]`.
        pub ties: Out<u32>,
        /// Latents.
        pub f: i32,
    }
}

/// [`Compact::rule`]: `u > 0`.
pub const POSITIVE: i32 = 0;
/// [`Compact::rule`]: `u > threshold[i]`, and `u > 0`.
pub const ABOVE: i32 = 1;
/// [`Compact::rule`]: `|u - threshold[i]| < half_width`; the value is `u` if `u > threshold[i]`, else 0.
pub const NEAR: i32 = 2;
/// [`Compact::rule`]: at or above the batch's threshold; of those equal to it the first ones.
pub const BATCH_LARGEST: i32 = 3;

arguments! {
    /// The entries of each row by a rule.
    pub struct Compact = "CompactArgs" {
        /// `[n, f]`.
        pub u: In<f32>,
        /// `[f]`, of [`ABOVE`] and [`NEAR`].
        pub threshold: In<f32>,
        /// `[f]` positive, of [`BATCH_LARGEST`], or none.
        pub score: In<f32>,
        /// `[2]` of [`BATCH_LARGEST`].
        pub state: In<u32>,
        /// `[n]` ties of the rows before each, of [`BATCH_LARGEST`].
        pub ties_before: In<u32>,
        /// `[n, k]`.
        pub latents: Out<u32>,
        /// `[n, k]`.
        pub values: Out<f32>,
        /// `[n]` entries that each row has: more than `k` means that there were not places enough.
        pub counts: Out<u32>,
        /// Latents.
        pub f: i32,
        /// Places a row.
        pub k: i32,
        /// One of the rules above.
        pub rule: i32,
        /// Of [`NEAR`].
        pub half_width: f32,
    }
}

impl TopK {
    /// Its launch over `n` rows.
    pub fn launch(&self, n: usize) -> Launch<'_> {
        assert!(self.k > 0 && self.f > 0);
        Launch::new(TOPK_ROW, [n, 1], 0, self)
    }
}

impl BatchThreshold {
    /// The launches that count a digit, over `n` rows, and take it.
    pub fn launches(&self, n: usize) -> [Launch<'_>; 2] {
        assert!((0..ROUNDS).contains(&self.round) && self.count > 0 && self.count <= u64::from(u32::MAX));
        [Launch::new(BATCH_HISTOGRAM, [n, 1], 0, self), Launch::new(BATCH_DIGIT, [1, 1], 0, self)]
    }

    /// The arguments of all rounds, in order.
    pub fn rounds(self) -> impl Iterator<Item = Self> {
        (0..ROUNDS).map(move |round| Self { round, ..self })
    }
}

impl BatchTies {
    /// Its launch over `n` rows. They count in floats, which are exact below 2^24.
    pub fn launch(&self, n: usize) -> Launch<'_> {
        assert!(size(self.f) < 1 << 24);
        Launch::new(BATCH_TIES, [n, 1], 0, self)
    }
}

impl Compact {
    /// Its launch over `n` rows.
    pub fn launch(&self, n: usize) -> Launch<'_> {
        assert!((POSITIVE..=BATCH_LARGEST).contains(&self.rule) && self.k > 0);
        let needs_threshold = [ABOVE, NEAR].contains(&self.rule);
        assert!(!needs_threshold || self.threshold.is_given(), "the rule needs thresholds");
        assert!(self.rule != BATCH_LARGEST || self.state.is_given() && self.ties_before.is_given());
        Launch::new(ACT_COMPACT, [n, 1], 0, self)
    }
}
