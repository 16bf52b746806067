//! Looks, from within a stage of trainers.

use std::sync::Arc;
use std::time::Duration;

use crate::activation::ActivationBatch;
use crate::compute::coder_ops::CoderOps;
use crate::error::Result;
use crate::pipeline::lens::{Lens, Lenses};
use crate::pipeline::splice::side_by_side;
use crate::runtime::clock::Stopwatch;
use crate::sae::codes::Codes;
use crate::sae::export::ExportMetadata;
use crate::tokens::{Segment, TokenBatch};
use crate::trainer::Trainer;
use crate::trainer::group::Group;

/// One in so many parts of the time may go into looking.
const TIME_SHARE: u32 = 50;
/// Rows that are looked at at once, about: whole attention contexts.
const ROWS: usize = 512;
/// Between two copies of the curves.
const CURVES_EVERY: Duration = Duration::from_secs(1);
/// Between two readings of directions: a whole decoder is copied for them.
const DIRECTIONS_EVERY: Duration = Duration::from_secs(2);
/// A decoder larger than this is not copied while it trains.
const DECODER_BYTES_MAX: usize = 512 << 20;

/// Looks within its share of time, at the trainers of one stage.
pub struct Looker {
    lenses: Arc<Lenses>,
    began: Stopwatch,
    spent: Duration,
    gave_up: bool,
    curves: Option<Stopwatch>,
    directions: Option<Stopwatch>,
    rows: Vec<f32>,
    out: Vec<f32>,
    codes: Codes,
}

impl Looker {
    /// One that has seen nothing.
    pub fn new(lenses: Arc<Lenses>) -> Self {
        Self {
            lenses,
            began: Stopwatch::start(),
            spent: Duration::ZERO,
            gave_up: false,
            curves: None,
            directions: None,
            rows: Vec::new(),
            out: Vec::new(),
            codes: Codes::default(),
        }
    }

    /// Look at the trainers of `group` after `batch`, if it is time. What goes wrong here is no fault of theirs.
    pub fn look<B: CoderOps>(&mut self, group: &Group<B>, batch: &ActivationBatch) {
        if !self.lenses.are_watched() || self.gave_up {
            return;
        }
        if is_over(&mut self.curves, CURVES_EVERY) {
            group.members().iter().for_each(|(_, trainer)| self.lens(trainer).set_curves(trainer.history()));
        }
        if is_over(&mut self.directions, DIRECTIONS_EVERY) {
            group.members().iter().for_each(|(_, trainer)| self.read_directions(trainer));
        }
        if self.spent * TIME_SHARE > self.began.elapsed() || batch.n_rows() == 0 {
            return;
        }
        let watch = Stopwatch::start();
        if let Err(error) = self.code(group, batch) {
            tracing::warn!(%error, "the latents of coders in training cannot be shown");
            self.gave_up = true;
        }
        self.spent += watch.elapsed();
    }

    /// The last state of a trainer that leaves.
    pub fn leave<B: CoderOps>(&self, trainer: &Trainer<B>) {
        if self.lenses.are_watched() {
            self.lens(trainer).set_curves(trainer.history());
        }
    }

    fn lens<B: CoderOps>(&self, trainer: &Trainer<B>) -> Arc<Lens> {
        let settings = trainer.settings();
        self.lenses.of(&settings.config.name, trainer.n_latents(), settings.writes())
    }

    fn code<B: CoderOps>(&mut self, group: &Group<B>, batch: &ActivationBatch) -> Result<()> {
        let tokens = first_rows(batch, ROWS);
        let sites = &group.settings().sites;
        let values: Option<Vec<&[f32]>> =
            sites.iter().map(|(point, _)| batch.site(*point).map(|site| &site.data[..])).collect();
        let Some(values) = values else { return Ok(()) };
        side_by_side(&values, sites, 0..tokens.n_tokens(), &mut self.rows);
        let rows: Vec<u32> = (0..tokens.n_tokens() as u32).collect();
        for (_, trainer) in group.members() {
            let report = trainer.report();
            if report.step > 0 {
                let reads = trainer.settings().reads();
                let width: usize = reads.iter().map(|(_, width)| width).sum();
                let all: usize = sites.iter().map(|(_, width)| width).sum();
                // what it reads stands first in a row
                let own: Vec<f32> = self.rows.chunks_exact(all).flat_map(|row| &row[..width]).copied().collect();
                trainer.code(&own, &mut self.out, &mut self.codes)?;
                self.lens(trainer).add(&tokens, &rows, &self.codes, report.rows);
            }
        }
        Ok(())
    }

    /// Read the directions that somebody asked for.
    fn read_directions<B: CoderOps>(&self, trainer: &Trainer<B>) {
        let lens = self.lens(trainer);
        let wanted = lens.take_wanted();
        if wanted.is_empty() || trainer.report().step == 0 {
            return;
        }
        let width: usize = trainer.settings().writes().iter().map(|(_, width)| width).sum();
        if trainer.n_latents() * width * 4 > DECODER_BYTES_MAX {
            return lens.never_effects("the decoder is too large to be copied while it trains");
        }
        let Ok(coder) = trainer.exported(ExportMetadata::default()) else {
            return lens.never_effects("its weights are of a kind that is not exported");
        };
        let decoder = &coder.params.w_dec;
        if decoder.len() != coder.dims.f * width {
            return lens.never_effects("its decoder has no row for each latent");
        }
        let row = |latent: u32| {
            let row = decoder.get(latent as usize * width..)?.get(..width)?;
            Some((latent, row.to_vec()))
        };
        lens.put_directions(wanted.into_iter().filter_map(row).collect());
        self.lenses.ask_model();
    }
}

/// Whether `every` is over since `last`, which then starts again.
fn is_over(last: &mut Option<Stopwatch>, every: Duration) -> bool {
    let over = last.is_none_or(|last| last.elapsed() >= every);
    if over {
        *last = Some(Stopwatch::start());
    }
    over
}

/// The first rows of a batch as tokens: about `most`, up to the end of a document's part of a sequence. Rows that were not
/// kept are not there: what stands around a token is what was kept around it.
fn first_rows(batch: &ActivationBatch, most: usize) -> TokenBatch {
    let starts_context =
        |row: usize| row == 0 || batch.seq[row] != batch.seq[row - 1] || batch.doc_id[row] != batch.doc_id[row - 1];
    let n = batch.n_rows();
    let end = (most.min(n)..n).find(|&row| starts_context(row)).unwrap_or(n).min(4 * most);
    let starts: Vec<usize> = (0..end).filter(|&row| starts_context(row)).collect();
    let ends = starts.iter().skip(1).copied().chain([end]);
    let segments =
        starts.iter().zip(ends).map(|(&start, end)| Segment { start: start as u32, len: (end - start) as u32 });
    let seq_starts = batch.seq_starts.iter().copied().filter(|&start| (start as usize) < end).chain([end as u32]);
    TokenBatch {
        unit: batch.unit,
        first_seq: batch.first_seq,
        ids: batch.token_id[..end].to_vec(),
        doc_ids: batch.doc_id[..end].to_vec(),
        seq_starts: seq_starts.collect(),
        segments: segments.collect(),
        ..TokenBatch::default()
    }
}
