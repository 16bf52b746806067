//! A short sample of a pipeline: its first batches through tokenizer and model.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::{Failure, async_runtime, model_folder};
use crate::compute::Backend;
use crate::compute::cpu::Cpu;
use crate::config::{Loaded, Sites, env};
use crate::corpus::Corpus;
use crate::corpus::cursor::SourceCursor;
use crate::error::{Error, Result};
use crate::hooks::{HookPoint, Taps, Want};
use crate::model::{self, Model, ModelSource};
use crate::pipeline::prepare::batch_shape;
use crate::runtime::clock::Stopwatch;
use crate::tokens::estimate::estimate;
use crate::tokens::{TokenBatch, TokenStream};

/// Batches that are looked at, at most; the first warms up.
const BATCHES: usize = 16;
/// Longest run of the model, but for a batch.
const FORWARD: Duration = Duration::from_secs(6);

/// What was reached, in tokens a second.
pub(super) struct Sample {
    /// Bytes of text a token.
    pub(super) bytes_per_token: f64,
    /// By the tokenizer, on one thread.
    pub(super) tokenised: f64,
    /// By the forward passes.
    pub(super) forward: f64,
}

/// Run the first batches of a pipeline.
pub(super) fn take(loaded: &Loaded, source: &ModelSource, sites: &Sites, threads: usize) -> Result<Sample, Failure> {
    let harvest = loaded.pipeline.harvest()?;
    // reading goes on with it
    let runtime = async_runtime()?;
    let corpus = Arc::new(runtime.block_on(Corpus::open_in(&harvest.corpus, &loaded.stores))?);
    let tokenizer = Arc::new(model_folder::tokenizer(loaded, source)?);
    let bytes_per_token = estimate(&corpus, &tokenizer)?.bytes_per_token;
    let start = SourceCursor::default();
    let mut stream = TokenStream::new(corpus, tokenizer, &harvest.tokens, loaded.pipeline.seed, start, HashMap::new())?;
    let (watch, mut batches) = (Stopwatch::start(), Vec::new());
    while batches.len() < BATCHES {
        match stream.next(&mut |_, _, _| true)? {
            Some(batch) if batch.n_tokens() > 0 => batches.push(batch),
            Some(_) => {}
            None => break,
        }
    }
    let tokenised = tokens_of(&batches) as f64 / watch.elapsed().as_secs_f64().max(1e-9);
    let backend = Arc::new(env::cpu(threads)?);
    let (shape, format) = (batch_shape(&harvest.tokens), harvest.model.dtype.matrix_format());
    let mut model = model::load(backend, source, shape, format)?;
    let mut look = Look(sites.captured.iter().map(|(point, _)| *point).collect());
    let forward = forward(model.as_mut(), &batches, &mut look)?;
    Ok(Sample { bytes_per_token, tokenised, forward })
}

fn tokens_of(batches: &[TokenBatch]) -> usize {
    batches.iter().map(TokenBatch::n_tokens).sum()
}

/// Tokens a second through the model.
fn forward(model: &mut dyn Model<Cpu>, batches: &[TokenBatch], look: &mut Look) -> Result<f64> {
    let (warm_up, measured) = match batches {
        [] => return Err(Error::data("the corpus gives no tokens to measure on")),
        [only] => (only, batches),
        [first, rest @ ..] => (first, rest),
    };
    model.forward(warm_up, look)?;
    let (watch, mut tokens) = (Stopwatch::start(), 0);
    for batch in measured {
        model.forward(batch, look)?;
        tokens += batch.n_tokens();
        if watch.elapsed() > FORWARD {
            break;
        }
    }
    Ok(tokens as f64 / watch.elapsed().as_secs_f64().max(1e-9))
}

/// Wants points, and does nothing with them.
struct Look(Vec<HookPoint>);

impl<B: Backend> Taps<B> for Look {
    fn wants(&self, point: HookPoint) -> Want {
        if self.0.contains(&point) { Want::Read } else { Want::Nothing }
    }

    fn visit(&mut self, _: &B, _: HookPoint, _: &mut B::Tensor, _: usize, _: usize) -> Result<()> {
        Ok(())
    }
}
