//! Which of the kept rows are stored: a decision by hash, the same whoever takes it.

use crate::units::Percent;

/// Keeps a share of the rows.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Hashes below this are kept; `None`: all rows.
    below: Option<u64>,
}

impl Sample {
    /// Keep `share` of the rows.
    pub fn new(share: Percent) -> Self {
        // 2^64 as f64 is exact; a share just below 1 saturates
        Self { below: (share.share() < 1.0).then(|| (share.share() * 2f64.powi(64)) as u64) }
    }

    /// Whether the row at position `pos` of sequence `seq` of `unit` is stored.
    pub fn keeps(self, unit: u32, seq: u32, pos: u32) -> bool {
        let Some(below) = self.below else { return true };
        let mut key = [0; 12];
        key[..4].copy_from_slice(&unit.to_le_bytes());
        key[4..8].copy_from_slice(&seq.to_le_bytes());
        key[8..].copy_from_slice(&pos.to_le_bytes());
        xxhash_rust::xxh3::xxh3_64(&key) < below
    }

    /// Whether every row is stored.
    pub fn keeps_all(self) -> bool {
        self.below.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(share: f64) -> usize {
        let sample = Sample::new(Percent::from_share(share));
        (0..100u32)
            .flat_map(|seq| (0..1000u32).map(move |pos| (seq, pos)))
            .filter(|&(s, p)| sample.keeps(3, s, p))
            .count()
    }

    #[test]
    fn the_share_is_kept() {
        assert_eq!(kept(0.0), 0);
        assert_eq!(kept(1.0), 100_000);
        let tenth = kept(0.1);
        assert!((9_600..10_400).contains(&tenth), "{tenth}"); // 4 standard deviations
    }

    #[test]
    fn a_larger_share_keeps_what_a_smaller_one_keeps() {
        let (small, large) = (Sample::new(Percent::from_share(0.2)), Sample::new(Percent::from_share(0.5)));
        assert!((0..1000).all(|pos| !small.keeps(1, 2, pos) || large.keeps(1, 2, pos)));
    }

    #[test]
    fn the_choice_never_changes() {
        // stored datasets depend on this: a change needs a new format version
        let sample = Sample::new(Percent::from_share(0.25));
        let kept: Vec<u32> = (0..32).filter(|&pos| sample.keeps(0, 0, pos)).collect();
        assert_eq!(kept, [12, 16, 17, 22, 29]);
    }
}
