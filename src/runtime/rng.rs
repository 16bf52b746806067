//! One seed, many independent random streams, each resumable at a position.
//!
//! Every use of randomness draws from a stream named for its purpose (`"units"`, `"init"`, `"buffer"`), so adding
//! a use never shifts another, and the same seed gives the same run on every machine. ChaCha8 is seekable: a stream's
//! whole state is its key, its stream number and its position.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

/// Twelve hexadecimal digits that no other process draws: what tells writers of one dataset apart. The only randomness
/// that is not of a seed.
///
/// [`Internal`](crate::error::ErrorKind::Internal): the operating system gives none.
pub fn unique_id() -> crate::error::Result<String> {
    let mut bytes = [0; 6];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| crate::error::Error::internal("the operating system gives no random numbers"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The seed of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed(pub u64);

impl Seed {
    /// Another seed, for the worker with this id.
    pub fn of_worker(self, id: &str) -> Self {
        Self(self.0 ^ xxhash_rust::xxh3::xxh3_64(id.as_bytes()))
    }

    /// The stream for `purpose`; the same purpose always gives the same numbers.
    pub fn stream(self, purpose: &str) -> Rng {
        let mut inner = ChaCha8Rng::seed_from_u64(self.0);
        inner.set_stream(xxhash_rust::xxh3::xxh3_64(purpose.as_bytes()));
        Rng { inner }
    }
}

/// A random stream.
#[derive(Clone, Debug)]
pub struct Rng {
    inner: ChaCha8Rng,
}

/// Where a [`Rng`] stands; enough to continue it exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngState {
    key: [u8; 32],
    stream: u64,
    /// In words of 32 bits from the stream's start; a string, because JSON numbers are too short for u128.
    position: String,
}

impl Rng {
    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.inner.next_u64()
    }

    /// Uniform in `0..n` without bias (Lemire's multiply-and-reject). `n` must be positive.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "below(0)");
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// Uniform in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * 2f64.powi(-53)
    }

    /// Standard normal (Box-Muller; one of the pair, so that the position stays a simple function of the draws).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
    }

    /// Shuffle in place (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }

    /// Where this stream stands.
    pub fn state(&self) -> RngState {
        RngState {
            key: self.inner.get_seed(),
            stream: self.inner.get_stream(),
            position: self.inner.get_word_pos().to_string(),
        }
    }

    /// A stream that continues at `state`. `None` if the position is not a number.
    pub fn from_state(state: &RngState) -> Option<Self> {
        let mut inner = ChaCha8Rng::from_seed(state.key);
        inner.set_stream(state.stream);
        inner.set_word_pos(state.position.parse().ok()?);
        Some(Self { inner })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_stream_continues_exactly() {
        let mut a = Seed(7).stream("buffer");
        for _ in 0..1001 {
            a.below(17);
        }
        let state: RngState = serde_json::from_str(&serde_json::to_string(&a.state()).unwrap()).unwrap();
        let mut b = Rng::from_state(&state).unwrap();
        assert_eq!(
            (0..100).map(|_| a.next_u64()).collect::<Vec<_>>(),
            (0..100).map(|_| b.next_u64()).collect::<Vec<_>>()
        );
    }

    #[test]
    fn purposes_are_independent_and_stable() {
        assert_ne!(Seed(7).stream("a").next_u64(), Seed(7).stream("b").next_u64());
        assert_eq!(Seed(7).stream("a").next_u64(), Seed(7).stream("a").next_u64());
    }

    #[test]
    fn below_is_uniform() {
        let mut rng = Seed(1).stream("t");
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[rng.below(7) as usize] += 1;
        }
        assert!(counts.iter().all(|&c| (9_500..10_500).contains(&c)), "{counts:?}");
    }
}
