//! Trainers that would draw the same batches: rows are held once, each batch is drawn once, and every trainer makes its
//! step on it.
//!
//! The n-th trainer costs its own step and its own weights. Nothing else differs from training alone: weights, reports and
//! checkpoints are the same bytes, so trainers may be put together and taken apart at every start. One that has its rows,
//! or whose step fails, leaves; the others go on.

use std::sync::Arc;

use crate::compute::CoderOps;
use crate::corpus::cursor::SourceCursor;
use crate::error::Result;
use crate::trainer::mixing_buffer::MixingBuffer;
use crate::trainer::{Trainer, TrainerSettings, checkpoint};

/// Files of a checkpoint: name and bytes.
pub type Files = Vec<(String, Vec<u8>)>;

/// A trainer that left its group, by the number under which it joined: with its rows, and the buffer as it was after its
/// last batch; or the error that ended it.
pub type Left<B> = (usize, Result<Trainer<B>>);

/// Trainers in lockstep.
pub struct Group<B: CoderOps> {
    settings: TrainerSettings,
    /// Shared with nobody but trainers that left, until they are saved.
    buffer: Arc<MixingBuffer>,
    batch_rows: usize,
    cursor: SourceCursor,
    members: Vec<(usize, Trainer<B>)>,
    /// `[batch_rows, width]` scratch.
    batch: Vec<f32>,
}

impl<B: CoderOps> Group<B> {
    /// A group of one, which others can join.
    ///
    /// # Errors
    /// `Internal` if it is in a group already.
    pub fn of(number: usize, mut first: Trainer<B>) -> Result<Self> {
        let buffer = first.take_buffer()?;
        let (settings, cursor, batch_rows) = (first.settings.clone(), first.cursor.clone(), first.plan.batch_rows);
        Ok(Self { settings, buffer, batch_rows, cursor, members: vec![(number, first)], batch: Vec::new() })
    }

    /// Let `trainer` join if it stands where the group stands and draws what it draws; else give it back.
    pub fn join(&mut self, number: usize, mut trainer: Trainer<B>) -> Option<Trainer<B>> {
        let same_place = trainer.cursor == self.cursor && trainer.settings.draws_like(&self.settings);
        let same_rows = || trainer.buffer.as_ref().is_some_and(|buffer| buffer.serves_like(&self.buffer));
        if !same_place || !same_rows() {
            return Some(trainer);
        }
        trainer.buffer = None;
        self.members.push((number, trainer));
        None
    }

    /// The settings in which all of them agree: those of the first.
    pub fn settings(&self) -> &TrainerSettings {
        &self.settings
    }

    /// The stream's state after the last offer.
    pub fn cursor(&self) -> &SourceCursor {
        &self.cursor
    }

    /// The trainers that are still in it, with their numbers.
    pub fn members(&self) -> &[(usize, Trainer<B>)] {
        &self.members
    }

    /// The same, to be told something.
    pub fn trainers_mut(&mut self) -> impl Iterator<Item = &mut Trainer<B>> {
        self.members.iter_mut().map(|(_, trainer)| trainer)
    }

    /// Rows after which all have their rows for certain. 0 if they have.
    pub fn rows_needed(&self) -> u64 {
        let missing = |(_, one): &(usize, Trainer<B>)| one.plan.rows.saturating_sub(one.report.rows);
        let missing = self.members.iter().map(missing).max().unwrap_or(0);
        self.buffer.rows_until(missing.div_ceil(self.batch_rows as u64), self.batch_rows)
    }

    /// Whether all have left.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// As [`Trainer::offer`], for all; gives those that leave.
    ///
    /// # Errors
    /// `Internal` only: an error of one trainer is its own.
    pub fn offer(&mut self, rows: &[f32], doc_ids: &[u64], cursor_after: &SourceCursor) -> Result<Vec<Left<B>>> {
        self.settings.check_rows(rows, doc_ids)?;
        self.cursor.clone_from(cursor_after);
        let (width, mut at, mut left) = (self.settings.width(), 0, Vec::new());
        while at < doc_ids.len() && !self.is_empty() {
            at += Arc::make_mut(&mut self.buffer).fill(&rows[at * width..], &doc_ids[at..]);
            while self.buffer.is_full() && !self.is_empty() {
                self.step(&mut left);
            }
        }
        for (_, trainer) in &mut self.members {
            trainer.now_at(cursor_after, &self.buffer);
        }
        Ok(left)
    }

    /// As [`Trainer::finish`], for all: everybody leaves.
    pub fn finish(&mut self) -> Vec<Left<B>> {
        let mut left = Vec::new();
        while self.buffer.len() >= self.batch_rows && !self.is_empty() {
            self.step(&mut left);
        }
        let going = std::mem::take(&mut self.members);
        if going.is_empty() {
            return left;
        }
        let tail = self.buffer.len();
        Arc::make_mut(&mut self.buffer).clear();
        left.extend(going.into_iter().map(|(number, mut trainer)| {
            trainer.leave_the_tail(tail);
            trainer.buffer = Some(Arc::clone(&self.buffer));
            (number, Ok(trainer))
        }));
        left
    }

    /// One batch, and the step of each on it.
    fn step(&mut self, left: &mut Vec<Left<B>>) {
        // parameters begin with what the buffer holds before the draw
        let begun = self.members.iter_mut().map(|(_, trainer)| trainer.begin(&self.buffer));
        let begun: Vec<Result<()>> = begun.collect();
        let documents = Arc::make_mut(&mut self.buffer).draw(self.batch_rows, &mut self.batch);
        for ((number, mut trainer), begun) in std::mem::take(&mut self.members).into_iter().zip(begun) {
            match begun.and_then(|()| trainer.learn(&self.batch, documents, self.buffer.len())) {
                Err(error) => left.push((number, Err(error))),
                Ok(()) if trainer.done() => {
                    trainer.now_at(&self.cursor, &self.buffer);
                    trainer.buffer = Some(Arc::clone(&self.buffer));
                    left.push((number, Ok(trainer)));
                }
                Ok(()) => self.members.push((number, trainer)),
            }
        }
    }

    /// The buffer's file, which belongs to the checkpoint of each.
    ///
    /// # Errors
    /// `Internal` only.
    pub fn save_buffer(&self) -> Result<(String, Vec<u8>)> {
        checkpoint::write_buffer(&self.buffer, self.settings.width())
    }

    /// The other files of the checkpoint of trainer `number`; `None` if it left.
    ///
    /// # Errors
    /// `Internal` only.
    pub fn save(&self, number: usize) -> Result<Option<Files>> {
        let member = self.members.iter().find(|(n, _)| *n == number);
        member.map(|(_, trainer)| trainer.save_beside(&self.buffer)).transpose()
    }

    /// Take trainer `number` out, as it stands; `None` if it left.
    pub fn take(&mut self, number: usize) -> Option<Trainer<B>> {
        let at = self.members.iter().position(|(n, _)| *n == number)?;
        let (_, mut trainer) = self.members.remove(at);
        trainer.buffer = Some(Arc::clone(&self.buffer));
        Some(trainer)
    }
}

#[cfg(test)]
mod tests;
