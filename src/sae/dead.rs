//! Latents that stopped firing, by tokens since each fired last.

/// Tokens since each latent fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadTracker {
    silent_tokens: Vec<u64>,
    dead_after: u64,
}

impl DeadTracker {
    /// All `f` latents count as having just fired. One is dead once it has not fired for more than `dead_after` tokens.
    pub fn new(f: usize, dead_after: u64) -> Self {
        Self { silent_tokens: vec![0; f], dead_after }
    }

    /// Continue from `silent_tokens`, `[f]`.
    pub fn restore(silent_tokens: Vec<u64>, dead_after: u64) -> Self {
        Self { silent_tokens, dead_after }
    }

    /// A batch of `tokens` rows, in which latent `i` fired if `starts[i + 1] > starts[i]`: `[f + 1]`.
    pub fn update(&mut self, starts: &[u32], tokens: u64) {
        for (silent, ends) in self.silent_tokens.iter_mut().zip(starts.windows(2)) {
            *silent = if ends[1] > ends[0] { 0 } else { *silent + tokens };
        }
    }

    /// These latents start anew: they count as having just fired.
    pub fn renew(&mut self, latents: &[u32]) {
        latents.iter().for_each(|&latent| self.silent_tokens[latent as usize] = 0);
    }

    /// The dead latents, ascending.
    pub fn dead(&self) -> Vec<u32> {
        let silent = self.silent_tokens.iter().enumerate();
        silent.filter(|(_, tokens)| **tokens > self.dead_after).map(|(i, _)| i as u32).collect()
    }

    /// Share of latents that are dead.
    pub fn dead_fraction(&self) -> f64 {
        let dead = self.silent_tokens.iter().filter(|&&tokens| tokens > self.dead_after).count();
        dead as f64 / self.silent_tokens.len().max(1) as f64
    }

    /// `[f]` tokens since each latent fired.
    pub fn silent_tokens(&self) -> &[u64] {
        &self.silent_tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latent_dies_after_the_window_and_revives_when_it_fires() {
        let mut tracker = DeadTracker::new(3, 20);
        let only_second_fires = [0, 0, 4, 4];
        tracker.update(&only_second_fires, 10);
        tracker.update(&only_second_fires, 10);
        assert!(tracker.dead().is_empty(), "20 tokens are not more than 20");
        tracker.update(&only_second_fires, 10);
        assert_eq!(tracker.dead(), [0, 2]);
        assert!((tracker.dead_fraction() - 2.0 / 3.0).abs() < 1e-12);
        tracker.update(&[0, 1, 1, 1], 10);
        assert_eq!(tracker.dead(), [2]);
        assert_eq!(tracker.silent_tokens(), [0, 10, 40]);
    }
}
