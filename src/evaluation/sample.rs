//! The codes of the first rows of a sample, kept for what no running sum can say. Bounded.

use crate::sae::codes::Codes;

/// Rows whose codes are kept, at most.
pub const ROWS_MAX: usize = 32_768;
/// Entries that are kept, at most: coders with long codes have fewer rows.
pub const ENTRIES_MAX: usize = 4 << 20;

/// Codes of rows, and which rows these are.
#[derive(Clone, Debug, Default)]
pub struct CodeSample {
    /// One for each row, ascending.
    pub ids: Vec<u64>,
    /// The codes.
    pub codes: Codes,
    full: bool,
}

impl CodeSample {
    /// Keep the codes of rows `ids`, which are greater than all before, until the sample is full.
    pub fn add(&mut self, ids: &[u64], codes: &Codes) {
        assert_eq!(ids.len(), codes.len(), "one code a row");
        for (&id, (latents, values)) in ids.iter().zip(codes.rows()) {
            self.full |= self.ids.len() >= ROWS_MAX || self.codes.entries() + latents.len() > ENTRIES_MAX;
            if self.full {
                return;
            }
            self.ids.push(id);
            self.codes.push(latents, values);
        }
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
