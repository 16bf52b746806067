//! Contexts of one latent that are kept: the strongest, and a fair draw from all. Both are bounded.

/// Where a token stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Hash of the document.
    pub document: u64,
    /// The corpus's unit.
    pub unit: u32,
    /// Sequence of the unit.
    pub sequence: u32,
    /// Position in the sequence.
    pub position: u32,
}

/// Tokens around a peak, with the latent's activation at each.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    /// Where the peak is.
    pub place: Place,
    /// The activation there.
    pub activation: f32,
    /// Which of the tokens it is.
    pub peak: u32,
    /// `[n]` token ids.
    pub ids: Box<[u32]>,
    /// `[n]` activations: 0 where the latent does not fire, and at rows that have no code.
    pub activations: Box<[f32]>,
}

impl Context {
    fn size(&self) -> f32 {
        self.activation.abs()
    }
}

/// The strongest contexts, no two with the same tokens; of equally strong ones the first.
#[derive(Clone, Debug, Default)]
pub(super) struct Strongest {
    /// Strongest first.
    kept: Vec<Context>,
}

impl Strongest {
    pub(super) fn kept(&self) -> &[Context] {
        &self.kept
    }

    /// Consider a context of this size; it is made only if it may stay.
    pub(super) fn offer(&mut self, size: f32, most: usize, make: impl FnOnce() -> Context) {
        let room = self.kept.len() < most;
        if !room && self.kept.last().is_none_or(|weakest| size <= weakest.size()) {
            return;
        }
        let context = make();
        if let Some(same) = self.kept.iter().position(|kept| kept.ids == context.ids) {
            if self.kept[same].size() >= size {
                return;
            }
            self.kept.remove(same);
        }
        let at = self.kept.partition_point(|kept| kept.size() >= size);
        self.kept.insert(at, context);
        self.kept.truncate(most);
    }
}

/// A draw in which every context so far is with the same probability. (Vitter 1985, algorithm R.)
#[derive(Clone, Debug, Default)]
pub(super) struct Draw {
    offered: u64,
    kept: Vec<Context>,
}

impl Draw {
    /// How many were offered.
    pub(super) fn offered(&self) -> u64 {
        self.offered
    }

    pub(super) fn offer(&mut self, most: usize, key: u64, make: impl FnOnce() -> Context) {
        let n = self.offered;
        self.offered += 1;
        if self.kept.len() < most {
            self.kept.push(make());
            return;
        }
        // the bias of the remainder is below 2^-30 for any number of contexts that can be seen
        let place = mixed(key ^ mixed(n)) % (n + 1);
        if let Some(kept) = self.kept.get_mut(place as usize) {
            *kept = make();
        }
    }

    /// Strongest first, cut into `strata` slices of equally many: each with its slice.
    pub(super) fn by_strength(&self, strata: usize) -> Vec<(u32, &Context)> {
        let mut sorted: Vec<&Context> = self.kept.iter().collect();
        sorted.sort_by(|a, b| b.size().total_cmp(&a.size()));
        let n = sorted.len().max(1);
        sorted.into_iter().enumerate().map(|(i, context)| ((i * strata.max(1) / n) as u32, context)).collect()
    }
}

/// A number that looks random. (Steele et al. 2014, SplitMix64.)
pub(super) fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
