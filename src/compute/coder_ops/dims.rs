//! Shapes of coders.

/// Shape of a coder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoderDims {
    /// Input width.
    pub d: usize,
    /// Latents.
    pub f: usize,
    /// Width of what is reconstructed.
    pub out: usize,
    /// Groups of as many latents, each with an input of its own. They divide `f`; an encoder's input is `[groups, n, d]`.
    pub groups: usize,
}

impl CoderDims {
    /// A coder that reconstructs its input.
    pub fn square(d: usize, f: usize) -> Self {
        Self { d, f, out: d, groups: 1 }
    }

    /// Latents of a group.
    pub fn group(&self) -> usize {
        self.f / self.groups
    }
}

/// Shape of a code whose latents are pairs: [`CoderOps::pair_heads`]. Latent `(h, i, j)` is `h first second + i second + j`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairShape {
    /// Heads.
    pub heads: usize,
    /// First parts of a head.
    pub first: usize,
    /// Second parts of a head.
    pub second: usize,
    /// Under the root.
    pub epsilon: f64,
}

impl PairShape {
    /// Numbers a row that latents are made of: for each head its first parts, then its second ones.
    pub fn parts(&self) -> usize {
        self.heads * (self.first + self.second)
    }

    /// Latents.
    pub fn latents(&self) -> usize {
        self.heads * self.first * self.second
    }

    /// Where, in a row of parts, the two of a latent are.
    pub fn of(&self, latent: usize) -> (usize, usize) {
        let (head, pair) = (latent / (self.first * self.second), latent % (self.first * self.second));
        let start = head * (self.first + self.second);
        (start + pair / self.second, start + self.first + pair % self.second)
    }
}
