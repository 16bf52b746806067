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
use crate::pipeline::evaluate::{self, Reconstruct};
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
    let (mut found, d_model) = (Vec::new(), text.model.spec().d_model);
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
            promotes_through: judge::names(&chosen(coder.writes(), &promoting(coder.writes(), d_model))),
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
    // it has made a step, and reconstructs rows: it would not be judged else
    let Some(dictionary) = coder.dictionary() else { return Ok(Directions::default()) };
    let (width, d_model) = (dictionary.decoder_width, model.spec().d_model);
    let promoting = promoting(coder.writes(), d_model);
    let effects = if promoting.is_empty() {
        let (coder, site) = (&coder.name, judge::names(coder.writes()));
        tracing::warn!(coder, site, "is not in the residual stream: no promoted tokens");
        Vec::new()
    } else {
        if promoting.len() < coder.writes().len() {
            let (coder, through) = (&coder.name, judge::names(&chosen(coder.writes(), &promoting)));
            tracing::info!(coder, through, "promoted tokens are those of one site's part of decoder rows");
        }
        let summed = summed(&dictionary.decoder, width, &columns(coder.writes(), &promoting), d_model);
        directions::effects(&summed, d_model, settings.tokens, |rows, out| model.token_effects(rows, out))?
    };
    let n = settings.neighbours;
    let near_encoder = match dictionary.has_encoder() {
        true => directions::nearest(backend, &dictionary.encoder, dictionary.encoder_width, n),
        false => Vec::new(),
    };
    Ok(Directions {
        decoder_norms: norms(&dictionary.decoder, width).into_iter().map(|norm| norm as f32).collect(),
        effects,
        near_decoder: directions::nearest(backend, &dictionary.decoder, width, n),
        near_encoder,
    })
}

/// The sites among these whose parts of a decoder row promote tokens: where all are added to the residual stream every one,
/// else the last that is a view of the stream or added to it. None if there is no such site.
pub(super) fn promoting(sites: &[SiteWidth], d_model: usize) -> Vec<usize> {
    let is_added = |(point, _): &SiteWidth| match point.site {
        Site::Result => point.head.is_some(),
        site => matches!(site, Site::Embed | Site::PosEmbed | Site::AttnOut | Site::MlpOut),
    };
    let is_stream = |(point, _): &SiteWidth| matches!(point.site, Site::ResidPre | Site::ResidMid | Site::ResidPost);
    // the second model of a pair has a head of its own
    let fits = |site: &SiteWidth| !site.0.second && site.1 == d_model && (is_added(site) || is_stream(site));
    match sites.iter().all(|site| fits(site) && is_added(site)) {
        true => (0..sites.len()).collect(),
        false => sites.iter().rposition(fits).into_iter().collect(),
    }
}

/// Those of `sites` that were chosen.
fn chosen(sites: &[SiteWidth], which: &[usize]) -> Vec<SiteWidth> {
    which.iter().map(|&i| sites[i]).collect()
}

/// Where their parts of a row begin.
pub(super) fn columns(sites: &[SiteWidth], which: &[usize]) -> Vec<usize> {
    which.iter().map(|&i| evaluate::width(&sites[..i])).collect()
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
        assert_eq!(promoting(&[at(0, Site::ResidPost)], 4), [0]);
        assert_eq!(promoting(&[at(0, Site::ResidPost), at(1, Site::ResidPost)], 4), [1]);
        assert_eq!(promoting(&[at(0, Site::MlpOut), at(1, Site::MlpOut)], 4), [0, 1]);
        // of a crosscoder the last that reaches the stream of the model whose head it is
        let wide = (HookPoint::block(0, Site::MlpPost), 6);
        let sites = [wide, at(1, Site::ResidPost), at(2, Site::MlpOut), wide];
        assert_eq!(promoting(&sites, 4), [2]);
        assert_eq!(columns(&sites, &[1, 2]), [6, 10]);
        let mut second = at(1, Site::ResidPost);
        second.0.second = true;
        assert_eq!(promoting(&[at(0, Site::ResidPost), second], 4), [0]);
        assert_eq!(promoting(&[wide, at(1, Site::MlpPost)], 4), [0; 0]);
        assert_eq!(promoting(&[at(0, Site::ResidPost)], 8), [0; 0]);
        let head = (HookPoint::block(0, Site::Result).at_head(1), 4);
        assert_eq!(promoting(&[head], 4), [0]);
        let rows = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        assert_eq!(summed(&rows, 4, &[0, 2], 2), [4.0, 6.0, 12.0, 14.0]);
        assert_eq!(summed(&rows, 4, &[2], 2), [3.0, 4.0, 7.0, 8.0]);
    }
}
