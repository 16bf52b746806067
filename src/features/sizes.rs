//! How strongly a latent fires: counts of activations in bins of equal ratio.
//!
//! Bins divide each power of two into [`BINS_PER_OCTAVE`] equal parts, from `2^-30` to `2^30`, so a quantile is off by 1/32 of
//! itself at most. Only bins between the smallest and the largest that occurred take memory.

/// Parts of each power of two: the four leading bits of the mantissa.
pub const BINS_PER_OCTAVE: u32 = 16;
const SHIFT: u32 = 23 - 4;
const SMALLEST: f32 = 1.0 / (1 << 30) as f32;
const LARGEST: f32 = (1 << 30) as f32;

/// Sizes (magnitudes) of a latent's activations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sizes {
    n: u64,
    sum: f64,
    min: f32,
    max: f32,
    /// The bin of `counts[0]`.
    first: u32,
    counts: Vec<u64>,
}

fn bin(size: f32) -> u32 {
    size.clamp(SMALLEST, LARGEST).to_bits() >> SHIFT
}

fn lower_edge(bin: u32) -> f32 {
    f32::from_bits(bin << SHIFT)
}

impl Sizes {
    /// Count one, which is not 0.
    pub fn add(&mut self, size: f32) {
        let bin = bin(size);
        if self.counts.is_empty() {
            (self.first, self.min, self.max) = (bin, size, size);
        } else if bin < self.first {
            let room = (self.first - bin) as usize;
            self.counts.splice(..0, std::iter::repeat_n(0, room));
            self.first = bin;
        }
        let at = (bin - self.first) as usize;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] += 1;
        self.n += 1;
        self.sum += f64::from(size);
        (self.min, self.max) = (self.min.min(size), self.max.max(size));
    }

    /// How many there were.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Their mean; 0 without any.
    pub fn mean(&self) -> f64 {
        self.sum / self.n.max(1) as f64
    }

    /// The smallest; 0 without any.
    pub fn min(&self) -> f32 {
        self.min
    }

    /// The largest; 0 without any.
    pub fn max(&self) -> f32 {
        self.max
    }

    /// What a share `q` of them does not exceed: the middle of its bin. The ends are exact.
    pub fn quantile(&self, q: f64) -> f32 {
        let wanted = ((q * self.n as f64).ceil() as u64).clamp(1, self.n.max(1));
        if wanted <= 1 || self.n == 0 {
            return self.min;
        }
        if wanted == self.n {
            return self.max;
        }
        let mut below = 0;
        let found = self.counts.iter().position(|count| {
            below += count;
            below >= wanted
        });
        let bin = self.first + found.unwrap_or_default() as u32;
        let middle = 0.5 * (lower_edge(bin) + lower_edge(bin + 1));
        middle.clamp(self.min, self.max)
    }

    /// The histogram with `per_octave` (a power of two up to [`BINS_PER_OCTAVE`]) bins a power of two: edges, one more than
    /// there are bins, and counts.
    pub fn histogram(&self, per_octave: u32) -> (Vec<f32>, Vec<u64>) {
        if self.counts.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let merged = (BINS_PER_OCTAVE / per_octave).max(1);
        let (first, last) = (self.first / merged, (self.first + self.counts.len() as u32 - 1) / merged);
        let mut counts = vec![0; (last - first + 1) as usize];
        for (at, count) in self.counts.iter().enumerate() {
            counts[((self.first + at as u32) / merged - first) as usize] += count;
        }
        ((first..=last + 1).map(|bin| lower_edge(bin * merged)).collect(), counts)
    }
}
