//! The code of a batch, and which pre-activations become entries of one.

use crate::compute::coder_ops::CoderOps;

/// Marks an unused place of a [`Code`].
pub const NO_LATENT: u32 = u32::MAX;

/// The code of a batch: up to `k` latents a row.
///
/// The entries of a row come first and in ascending order of their latents; the places after them hold [`NO_LATENT`].
/// Buffers may be larger than `[rows, k]`; the first `rows * k` places are used. Where the number of entries differs from
/// row to row, `k` is that of the longest row of the batch, and the buffers grow to it ([`CoderOps::select`]).
pub struct Code<B: CoderOps + ?Sized> {
    /// Rows in use.
    pub rows: usize,
    /// Places a row.
    pub k: usize,
    /// `[rows, k]` latents.
    pub latents: B::Index,
    /// `[rows, k]` values, positive unless a [`Rule`] says otherwise; 0 in unused places.
    pub values: B::Tensor,
}

impl<B: CoderOps> Code<B> {
    /// Room for the code of `rows` rows.
    pub fn new(backend: &B, rows: usize, k: usize) -> Self {
        Self { rows, k, latents: backend.index(rows * k), values: backend.zeros(rows * k) }
    }

    /// Places in use.
    pub fn places(&self) -> usize {
        self.rows * self.k
    }
}

/// The entries of a [`Code`] grouped by latent.
pub struct ByLatent<B: CoderOps + ?Sized> {
    /// `[f + 1]` where each latent's entries start in `places`.
    pub starts: B::Index,
    /// Places of the entries (`row * k + i`), ascending within a latent. It grows with the code.
    pub places: B::Index,
}

impl<B: CoderOps> ByLatent<B> {
    /// Room for the entries of `[rows, k]` places over `f` latents.
    pub fn new(backend: &B, rows: usize, k: usize, f: usize) -> Self {
        Self { starts: backend.index(f + 1), places: backend.index(rows * k) }
    }
}

/// A set of latents.
pub struct Subset<'a, B: CoderOps + ?Sized> {
    /// Latents, ascending; the first `len` places are used.
    pub latents: &'a B::Index,
    /// Latents in the set.
    pub len: usize,
}

/// Which pre-activations become entries of a code: [`CoderOps::select`]. Per-latent tensors are `[f]`.
pub enum Rule<'a, B: CoderOps + ?Sized> {
    /// `u > 0`.
    Positive,
    /// `u > threshold[i]`, and `u > 0`.
    Above(&'a B::Tensor),
    /// `|u - threshold[i]| < half_width`; the entry's value is `u` if `u > threshold[i]`, else 0.
    Near {
        /// Centre of the window.
        threshold: &'a B::Tensor,
        /// Half its width.
        half_width: f64,
    },
    /// `u < threshold[i]`, for the latents of a set; the entry's value is `threshold[i] - u`.
    Below {
        /// The bound.
        threshold: &'a B::Tensor,
        /// The latents looked at.
        among: Subset<'a, B>,
    },
    /// The `k` largest `u * score[i]` of each row (`u` without a score), those of them with `u > 0` unless `signed`. Of
    /// equal ones the lower latent wins.
    RowLargest {
        /// Entries a row, at most.
        k: usize,
        /// Weights of the ranking, not negative; latents of weight 0 are left out.
        score: Option<&'a B::Tensor>,
        /// Whether entries that are not positive count too.
        signed: bool,
    },
    /// The largest `u * score[i]` of each row, as many as bring their norm `sqrt(sum (u score[i])^2)` closest to
    /// `norm[b]`: at least one, fewer than all latents; those of them with `u > 0`. Of equally close numbers of entries the
    /// smaller wins, of equal entries the lower latent.
    RowNorm {
        /// `[rows]` what the norm of each row's entries is to be.
        norm: &'a B::Tensor,
        /// Weights of the ranking and in the norm, positive.
        score: Option<&'a B::Tensor>,
    },
    /// The largest `u` of each row among each of `groups` ranges of as many latents, where it is positive. Of equal ones the
    /// lower latent wins.
    GroupLargest {
        /// Ranges; they divide the latents.
        groups: usize,
    },
    /// The `counts[i]` largest `u` of each latent over all rows, those of them with `u > 0`. Of equal ones the earlier row
    /// wins.
    ColumnLargest {
        /// `[f]` entries a latent, at most.
        counts: &'a B::Index,
    },
    /// The `count` largest `u * score[i]` of all rows together, those of them with `u > 0`. Of equal ones the earlier row
    /// wins, then the lower latent.
    BatchLargest {
        /// Entries in all, at most.
        count: usize,
        /// Weights of the ranking, positive.
        score: Option<&'a B::Tensor>,
    },
}
