//! What the latents of trained coders stand for: one pass of text through the model and all coders at once.

use std::sync::Arc;

use crate::compute::cpu::Cpu;
use crate::config::Loaded;
use crate::config::env;
use crate::error::{Error, Result};
use crate::evaluation::geometry::norms;
use crate::features::cache::Cache;
use crate::features::directions::{self, Directions};
use crate::features::{About, Collector, Features, Settings};
use crate::hooks::{Site, SiteWidth};
use crate::model::Model;
use crate::pipeline::evaluate::Reconstruct;
use crate::pipeline::judge::coders::{self, Judged};
use crate::pipeline::judge::held_out::Text;
use crate::pipeline::judge::{self, Chosen};
use crate::pipeline::kept::{Kept, capture};
use crate::pipeline::locate::Located;
use crate::pipeline::splice::SpliceTap;
use crate::sae::codes::Codes;
use crate::tokens::{Pieces, TokenBatch};

/// What is looked at.
#[derive(Debug)]
pub struct Wanted {
    /// Tokens to read.
    pub tokens: u64,
    /// Of which documents.
    pub documents: Documents,
    /// Whether every row has a code: special tokens, and with them excluded positions and outliers.
    pub special_tokens: bool,
    /// Which coders.
    pub chosen: Chosen,
    /// How much is kept of each latent.
    pub settings: Settings,
    /// Whether every activation is kept besides.
    pub cache: bool,
}

/// Documents of a corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Documents {
    /// Those that are held out.
    HeldOut,
    /// All others, in the order of a run.
    TrainedOn,
}

impl Documents {
    fn name(self) -> &'static str {
        match self {
            Self::HeldOut => "held-out",
            Self::TrainedOn => "trained-on",
        }
    }
}

/// What was found of a coder.
#[derive(Debug)]
pub struct Found {
    /// The coder, and what was read.
    pub about: About,
    /// Its latents.
    pub features: Features,
    /// Every activation, if it was wanted.
    pub cache: Option<Cache>,
}

/// What was found.
#[derive(Debug)]
pub struct Outcome {
    /// Of each coder.
    pub coders: Vec<Found>,
    /// What token ids stand for.
    pub pieces: Pieces,
}

/// Go through the text.
///
/// # Errors
/// `Config` if there is no coder, no text, or a coder does not fit its site; `Data` if a folder or checkpoint cannot be read.
pub fn find(loaded: &Loaded, located: &Located, wanted: &Wanted, io: &tokio::runtime::Handle) -> Result<Outcome> {
    let backend = Arc::new(env::cpu(loaded.pipeline.harvest()?.model.threads as usize)?);
    let coders = coders::open(loaded, Some(located), &wanted.chosen, &backend, io)?;
    if let Some(coder) = coders.iter().find(|coder| coder.name.contains(['/', '\\']) || coder.name.starts_with('.')) {
        return Err(Error::config(format!(
            "coder `{}`: its name becomes that of a folder: choose another",
            coder.name
        )));
    }
    let mut text = Text::open(loaded, located, wanted.special_tokens, &coders, &backend, io)?;
    let held: u64 = coders.iter().map(|coder| wanted.settings.bytes_max(coder.n_latents())).sum();
    let (documents, memory) = (wanted.documents.name(), format!("{} MiB", held >> 20));
    tracing::info!(tokens = wanted.tokens, documents, coders = coders.len(), contexts_at_most = memory, "reading");
    let context = loaded.pipeline.harvest()?.tokens.context_length as usize;
    let mut watched: Vec<Watched> = coders.iter().map(|coder| Watched::new(coder, wanted, context)).collect();
    let memory = loaded.pipeline.memory_limit.0;
    match wanted.documents {
        Documents::HeldOut => {
            let mut stream = text.held_out()?;
            watch(&mut text, &mut watched, (wanted.tokens, memory), || stream.next_batch())?;
        }
        Documents::TrainedOn => {
            let mut stream = text.trained_on()?;
            watch(&mut text, &mut watched, (wanted.tokens, memory), || stream.next(&mut |_, _, _| true))?;
        }
    }
    if watched.iter().all(|watched| watched.collector.rows() == 0) {
        let hint = "raise corpus.holdout, or read the others with --documents trained-on";
        return Err(Error::config(format!("there is no {documents} text: {hint}")));
    }
    let mut found = Vec::new();
    for Watched { coder, collector, cache } in watched {
        tracing::info!(coder = coder.name, "comparing directions");
        let directions = directions(coder, text.model.as_mut(), &backend, &wanted.settings)?;
        let features = Features::new(collector, directions);
        let about = About {
            pipeline: loaded.pipeline.name.clone(),
            model: loaded.published["model"]["source"].as_str().unwrap_or_default().to_owned(),
            coder: coder.name.clone(),
            from: coder.from.clone(),
            reads: judge::names(coder.reads()),
            writes: judge::names(coder.writes()),
            documents: documents.to_owned(),
            special_tokens: wanted.special_tokens,
            ..About::default()
        };
        found.push(Found { about: about.of(&features), features, cache });
    }
    Ok(Outcome { coders: found, pieces: Pieces::of(&text.tokenizer) })
}

/// A coder while text goes through it.
struct Watched<'a> {
    coder: &'a Judged,
    collector: Collector,
    cache: Option<Cache>,
}

impl<'a> Watched<'a> {
    fn new(coder: &'a Judged, wanted: &Wanted, context: usize) -> Self {
        let f = coder.n_latents();
        let cache = wanted.cache.then(|| Cache::new(f, context));
        Self { coder, collector: Collector::new(f, wanted.settings), cache }
    }
}

fn watch(
    text: &mut Text,
    watched: &mut [Watched<'_>],
    (tokens, memory): (u64, u64),
    mut next_batch: impl FnMut() -> Result<Option<TokenBatch>>,
) -> Result<()> {
    let coders: Vec<&dyn Reconstruct> = watched.iter().map(|watched| watched.coder as &dyn Reconstruct).collect();
    let (mut seen, mut out, mut codes) = (0, Vec::new(), Codes::default());
    while seen < tokens {
        let Some(batch) = next_batch()? else { break };
        seen += batch.n_tokens() as u64;
        let allowed = text.keep.by_token(&batch, &mut vec![Default::default(); batch.n_sequences()]);
        let mut tap = SpliceTap::default();
        capture(&mut tap, &coders, &allowed);
        text.model.forward(&batch, &mut tap)?;
        for (coder, watched) in coders.iter().zip(&mut *watched) {
            let kept = Kept::of(*coder, &text.keep, &allowed, &tap);
            coder.reconstruct(&kept.input, &mut out, &mut codes)?;
            watched.collector.add(&batch, &kept.positions, &codes);
            if let Some(cache) = &mut watched.cache {
                cache.add(&batch, &kept.positions, &codes);
            }
        }
        let held: u64 = watched.iter().flat_map(|watched| &watched.cache).map(Cache::bytes).sum();
        if held > memory {
            return Err(Error::config(format!(
                "after {seen} tokens delphi's cache, which has every activation, takes {} MiB, and limits.memory is {} MiB: \
                 give fewer --tokens, or raise limits.memory",
                held >> 20,
                memory >> 20
            )));
        }
    }
    Ok(())
}

/// What a coder's weights say.
fn directions(coder: &Judged, model: &mut dyn Model<Cpu>, backend: &Cpu, settings: &Settings) -> Result<Directions> {
    let Some(dictionary) = coder.dictionary() else {
        let coder = &coder.name;
        tracing::warn!(coder, "its weights are of a kind that is not exported: no promoted tokens and no neighbours");
        return Ok(Directions::default());
    };
    let width = dictionary.decoder_width;
    let effects = match parts_to_logits(coder.writes(), model.spec().d_model) {
        Some(parts) => {
            let d_model = model.spec().d_model;
            let summed = summed(&dictionary.decoder, width, &parts, d_model);
            directions::effects(&summed, d_model, settings.tokens, |rows, out| model.token_effects(rows, out))?
        }
        None => {
            let (coder, site) = (&coder.name, judge::names(coder.writes()));
            tracing::warn!(coder, site, "is not in the residual stream: no promoted tokens");
            Vec::new()
        }
    };
    let n = settings.neighbours;
    Ok(Directions {
        decoder_norms: norms(&dictionary.decoder, width).into_iter().map(|norm| norm as f32).collect(),
        effects,
        near_decoder: directions::nearest(backend, &dictionary.decoder, width, n),
        near_encoder: directions::nearest(backend, &dictionary.encoder, dictionary.encoder_width, n),
    })
}

/// The parts of a decoder row that are added to the residual stream, by their first columns: of several sites that are all
/// added to it every one, of views of the stream the last. `None` if there is a site of another space.
pub(super) fn parts_to_logits(sites: &[SiteWidth], d_model: usize) -> Option<Vec<usize>> {
    let is_added = |(point, _): &SiteWidth| match point.site {
        Site::Result => point.head.is_some(),
        site => matches!(site, Site::Embed | Site::PosEmbed | Site::AttnOut | Site::MlpOut),
    };
    let is_stream = |(point, _): &SiteWidth| matches!(point.site, Site::ResidPre | Site::ResidMid | Site::ResidPost);
    let fits = sites.iter().all(|site| site.1 == d_model && (is_added(site) || is_stream(site)));
    let all: Vec<usize> = (0..sites.len()).map(|i| i * d_model).collect();
    match (fits, sites.iter().all(is_added)) {
        (false, _) => None,
        (true, true) => Some(all),
        (true, false) => all.last().map(|&last| vec![last]),
    }
}

/// The sum of some parts `[d]` of each row `[width]`, given by their first columns.
pub(super) fn summed(rows: &[f32], width: usize, parts: &[usize], d: usize) -> Vec<f32> {
    let sum = |row: &[f32], column: usize| parts.iter().map(|part| row[part + column]).sum::<f32>();
    rows.chunks_exact(width)
        .flat_map(|row| (0..d).map(move |column| (row, column)))
        .map(|(row, column)| sum(row, column))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::HookPoint;

    #[test]
    fn only_what_reaches_the_stream_promotes_tokens() {
        let at = |layer, site| (HookPoint::block(layer, site), 4);
        assert_eq!(parts_to_logits(&[at(0, Site::ResidPost)], 4), Some(vec![0]));
        assert_eq!(parts_to_logits(&[at(0, Site::ResidPost), at(1, Site::ResidPost)], 4), Some(vec![4]));
        assert_eq!(parts_to_logits(&[at(0, Site::MlpOut), at(1, Site::MlpOut)], 4), Some(vec![0, 4]));
        assert_eq!(parts_to_logits(&[at(0, Site::ResidPost), at(1, Site::MlpPost)], 4), None);
        assert_eq!(parts_to_logits(&[at(0, Site::ResidPost)], 8), None);
        let head = (HookPoint::block(0, Site::Result).at_head(1), 4);
        assert_eq!(parts_to_logits(&[head], 4), Some(vec![0]));
        let rows = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        assert_eq!(summed(&rows, 4, &[0, 2], 2), [4.0, 6.0, 12.0, 14.0]);
        assert_eq!(summed(&rows, 4, &[2], 2), [3.0, 4.0, 7.0, 8.0]);
    }
}
