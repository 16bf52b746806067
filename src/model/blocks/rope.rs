//! Tables of rotary position embedding.

use crate::compute::ModelOps;
use crate::model::spec::Rope;

/// Cosines and sines of every position.
pub(in crate::model) struct RopeTables<B: ModelOps> {
    /// `[t, rotary/2]`.
    pub(in crate::model) cos: B::Tensor,
    /// `[t, rotary/2]`.
    pub(in crate::model) sin: B::Tensor,
    /// Channels of a head that are rotated.
    pub(in crate::model) rotary: usize,
}

impl<B: ModelOps> RopeTables<B> {
    /// Tables for positions below `context_length`. Angles are computed in f64 and rounded once, so far positions are as
    /// accurate as near ones.
    pub(in crate::model) fn new(backend: &B, rope: &Rope, context_length: usize) -> Self {
        let frequencies = rope.frequencies(context_length);
        let table = |f: fn(f64) -> f64| -> Vec<f32> {
            let angles = (0..context_length).flat_map(|p| frequencies.iter().map(move |w| p as f64 * w));
            angles.map(|angle| (rope.amplitude() * f(angle)) as f32).collect()
        };
        Self { cos: backend.upload(&table(f64::cos)), sin: backend.upload(&table(f64::sin)), rotary: rope.rotary }
    }
}
