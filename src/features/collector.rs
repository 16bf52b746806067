//! What latents do on text: fed batch after batch, asked at any moment.
//!
//! A *peak* is a row on which a latent fires, and no row of the same attention context within reach (the larger of
//! [`Settings::before`] and [`Settings::after`] tokens) has a larger activation; of equal ones the first is the peak. So no
//! context's peak is inside another context of the same place.

use crate::features::Settings;
use crate::features::coactivation::{Coactivation, Pairs};
use crate::features::contexts::{Context, Draw, Place, Strongest, mixed};
use crate::features::sizes::Sizes;
use crate::sae::codes::Codes;
use crate::tokens::{Segment, TokenBatch};

/// What is known of one latent.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// How strongly it fires.
    pub sizes: Sizes,
    /// Sequences in which it fires.
    pub sequences: u64,
    /// The last of them: its unit, and its place there.
    last: Option<(u32, u32)>,
    strongest: Strongest,
    draw: Draw,
}

impl Seen {
    /// Peaks.
    pub fn peaks(&self) -> u64 {
        self.draw.offered()
    }

    /// The strongest contexts, strongest first.
    pub fn top(&self) -> &[Context] {
        self.strongest.kept()
    }

    /// Contexts drawn from all, strongest first, cut into `strata` slices of equally many: each with its slice.
    pub fn sampled(&self, strata: usize) -> Vec<(u32, &Context)> {
        self.draw.by_strength(strata)
    }
}

/// A latent on a row.
#[derive(Clone, Copy)]
struct Entry {
    latent: u32,
    /// Of the batch.
    row: u32,
    value: f32,
}

/// Collects.
#[derive(Clone, Debug)]
pub struct Collector {
    settings: Settings,
    rows: u64,
    tokens: u64,
    latents: Vec<Seen>,
    pairs: Pairs,
}

impl Collector {
    /// Nothing yet, of a coder of `f` latents.
    pub fn new(f: usize, settings: Settings) -> Self {
        Self { settings, rows: 0, tokens: 0, latents: vec![Seen::default(); f], pairs: Pairs::default() }
    }

    /// How much is kept.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Rows that had a code.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Tokens of the batches, with those that had none.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Latents.
    pub fn len(&self) -> usize {
        self.latents.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.latents.is_empty()
    }

    /// What is known of a latent.
    pub fn latent(&self, latent: usize) -> &Seen {
        &self.latents[latent]
    }

    /// Which latents fire on the same rows.
    pub fn coactivation(&self) -> Coactivation {
        self.pairs.finish(self.len(), self.settings.neighbours)
    }

    /// Add a batch: `codes` are those of its `rows`, which ascend.
    pub fn add(&mut self, batch: &TokenBatch, rows: &[u32], codes: &Codes) {
        assert_eq!(rows.len(), codes.len(), "one code a row");
        self.tokens += batch.n_tokens() as u64;
        let (mut next, mut entries) = (0, Vec::new());
        let mut sequence = 0;
        for segment in &batch.segments {
            let end = segment.start + segment.len;
            entries.clear();
            while next < rows.len() && rows[next] < end {
                self.add_row(rows[next], codes.row(next), &mut entries);
                next += 1;
            }
            while batch.seq_starts.get(sequence + 1).is_some_and(|start| *start <= segment.start) {
                sequence += 1;
            }
            entries.sort_unstable_by_key(|entry| (entry.latent, entry.row));
            let place = Some((batch.unit, batch.first_seq + sequence as u32));
            for of_latent in entries.chunk_by(|a, b| a.latent == b.latent) {
                let seen = &mut self.latents[of_latent[0].latent as usize];
                if seen.last != place {
                    (seen.last, seen.sequences) = (place, seen.sequences + 1);
                }
                self.add_peaks(batch, (*segment, sequence), of_latent);
            }
        }
    }

    fn add_row(&mut self, row: u32, (latents, values): (&[u32], &[f32]), entries: &mut Vec<Entry>) {
        let first = entries.len();
        for (&latent, &value) in latents.iter().zip(values).filter(|(_, value)| **value != 0.0 && value.is_finite()) {
            self.latents[latent as usize].sizes.add(value.abs());
            entries.push(Entry { latent, row, value });
        }
        if self.settings.neighbours > 0 {
            self.pairs.add(self.rows, entries[first..].iter().map(|entry| entry.latent));
        }
        self.rows += 1;
    }

    /// The peaks of one latent in one attention context.
    fn add_peaks(&mut self, batch: &TokenBatch, at: (Segment, usize), entries: &[Entry]) {
        let Settings { top, sampled, before, after, seed, .. } = self.settings;
        for (i, entry) in entries.iter().enumerate() {
            if !is_peak(entries, i, before.max(after) as u32) {
                continue;
            }
            let make = || context(batch, at, (before as u32, after as u32), entries, *entry);
            let seen = &mut self.latents[entry.latent as usize];
            seen.strongest.offer(entry.value.abs(), top, make);
            seen.draw.offer(sampled, mixed(seed ^ u64::from(entry.latent)), make);
        }
    }
}

/// Whether no entry within reach is larger, or as large and before.
fn is_peak(entries: &[Entry], i: usize, reach: u32) -> bool {
    let (row, size) = (entries[i].row, entries[i].value.abs());
    let mut before = entries[..i].iter().rev().take_while(|other| row - other.row <= reach);
    let mut after = entries[i + 1..].iter().take_while(|other| other.row - row <= reach);
    before.all(|other| other.value.abs() < size) && after.all(|other| other.value.abs() <= size)
}

/// The tokens around a peak.
fn context(
    batch: &TokenBatch,
    (segment, sequence): (Segment, usize),
    (before, after): (u32, u32),
    entries: &[Entry],
    peak: Entry,
) -> Context {
    let start = peak.row.saturating_sub(before).max(segment.start);
    let end = (peak.row + after + 1).min(segment.start + segment.len);
    let mut activations = vec![0.0; (end - start) as usize];
    for entry in entries.iter().filter(|entry| (start..end).contains(&entry.row)) {
        activations[(entry.row - start) as usize] = entry.value;
    }
    let first_of_sequence = batch.seq_starts.get(sequence).copied().unwrap_or_default();
    Context {
        place: Place {
            document: batch.doc_ids.get(peak.row as usize).copied().unwrap_or_default(),
            unit: batch.unit,
            sequence: batch.first_seq + sequence as u32,
            position: peak.row - first_of_sequence,
        },
        activation: peak.value,
        peak: peak.row - start,
        ids: batch.ids[start as usize..end as usize].into(),
        activations: activations.into(),
    }
}
