//! The rows that trainers are judged on while they train: computed, or read, once before the first step, and held. They are
//! those that coders are judged on at the end of the run ([`crate::pipeline::evaluate`]).

use std::sync::Arc;

use crate::activation::{ActivationBatch, KeepRule};
use crate::compute::CoderOps;
use crate::error::Result;
use crate::model::Model;
use crate::pipeline::evaluate::Reconstruct;
use crate::pipeline::kept::{Kept, capture, stored};
use crate::pipeline::splice::SpliceTap;
use crate::pipeline::trainers::Trainers;
use crate::tokens::TokenBatch;
use crate::trainer::Trainer;
use crate::trainer::held_out::HeldOut;

/// Give the trainers that want it `tokens` of held-out text.
pub(super) fn text<B: CoderOps>(
    trainers: &mut Trainers<B>,
    model: &mut dyn Model<B>,
    keep: &KeepRule,
    tokens: u64,
    mut next_batch: impl FnMut() -> Result<Option<TokenBatch>>,
) -> Result<()> {
    give(trainers, |coders, all| {
        let mut seen = 0;
        while seen < tokens {
            let Some(batch) = next_batch()? else { break };
            if batch.n_tokens() == 0 {
                continue;
            }
            seen += batch.n_tokens() as u64;
            let allowed = keep.by_token(&batch, &mut vec![Default::default(); batch.n_sequences()]);
            let mut tap = SpliceTap::default();
            capture(&mut tap, coders, &allowed);
            model.forward(&batch, &mut tap)?;
            for (coder, held_out) in coders.iter().zip(&mut *all) {
                let (input, target) = Kept::of(*coder, keep, &allowed, &tap).into_rows();
                held_out.add(input, target);
            }
        }
        Ok(())
    })
}

/// Give the trainers that want it at least `rows` held-out rows, where there are as many.
pub(super) fn rows<B: CoderOps>(
    trainers: &mut Trainers<B>,
    rows: u64,
    mut next_batch: impl FnMut() -> Result<Option<ActivationBatch>>,
) -> Result<()> {
    give(trainers, |coders, all| {
        let mut seen = 0;
        while seen < rows {
            let Some(batch) = next_batch()? else { break };
            seen += batch.n_rows() as u64;
            for (coder, held_out) in coders.iter().zip(&mut *all) {
                let target = if coder.reads() == coder.writes() { None } else { stored(&batch, coder.writes()) };
                if let Some(input) = stored(&batch, coder.reads()) {
                    held_out.add(input.into_owned(), target.map(|target| target.into_owned()));
                }
            }
        }
        Ok(())
    })
}

/// Fill the rows of each kind of sites that trainers read and reconstruct, and let trainers of the same kind share them.
fn give<B: CoderOps>(
    trainers: &mut Trainers<B>,
    fill: impl FnOnce(&[&dyn Reconstruct], &mut [HeldOut]) -> Result<()>,
) -> Result<()> {
    let same = |a: &Trainer<B>, b: &Trainer<B>| a.reads() == b.reads() && a.writes() == b.writes();
    let mut kinds: Vec<&Trainer<B>> = Vec::new();
    for trainer in trainers.training().filter(|trainer| trainer.is_judged_online()) {
        if !kinds.iter().any(|other| same(other, trainer)) {
            kinds.push(trainer);
        }
    }
    if kinds.is_empty() {
        return Ok(());
    }
    let coders: Vec<&dyn Reconstruct> = kinds.iter().map(|trainer| *trainer as &dyn Reconstruct).collect();
    let mut all = vec![HeldOut::default(); coders.len()];
    fill(&coders, &mut all)?;
    if all.iter().any(HeldOut::is_empty) {
        tracing::warn!(
            "nothing is held out: raise corpus.holdout (or replay.holdout) to have coders judged while they train"
        );
    }
    let sites: Vec<_> = kinds.iter().map(|trainer| (trainer.reads().to_vec(), trainer.writes().to_vec())).collect();
    let all: Vec<Arc<HeldOut>> = all.into_iter().map(Arc::new).collect();
    for trainer in trainers.training_mut().filter(|trainer| trainer.is_judged_online()) {
        let kind = sites.iter().position(|(reads, writes)| *reads == trainer.reads() && *writes == trainer.writes());
        if let Some(kind) = kind {
            trainer.judge_on(Arc::clone(&all[kind]));
        }
    }
    Ok(())
}
