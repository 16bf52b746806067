//! Coders on what a pipeline holds out, after training or without it: every metric of [`crate::evaluation`], for several
//! coders and for every two of them.
//!
//! What is held out is what the end of a run is judged on: documents of the corpus, or stored rows of a replay. It is gone
//! through twice, first for the mean of each site.

pub(in crate::pipeline) mod coders;
pub(in crate::pipeline) mod held_out;

use std::sync::Arc;

use crate::compute::cpu::Cpu;
use crate::config::env;
use crate::config::{Input, Loaded};
use crate::error::{Error, Result};
use crate::evaluation::geometry::Dictionary;
use crate::evaluation::{description, matching, universality};
use crate::hooks::SiteWidth;
use crate::pipeline::evaluate::{self, CoderSums, Reconstruct};
use crate::pipeline::judge::coders::Judged;
use crate::pipeline::locate::Located;
use crate::report::result::FORMAT;
use crate::report::{CoderReport, HeldOut, PairReport, Report};
use crate::store::Location;

/// Coders in one evaluation, at most: as many as a grid makes. A sample of the codes of each is kept.
pub const CODERS_MAX: usize = 64;
/// Of so many, every two are compared: the first.
pub const PAIRED_MAX: usize = 16;

/// What is evaluated.
#[derive(Debug)]
pub struct Wanted {
    /// Tokens, or stored rows, to judge on.
    pub tokens: u64,
    /// Whether every row is judged and replaced: special tokens, and with them excluded positions and outliers.
    pub special_tokens: bool,
    /// Which coders.
    pub chosen: Chosen,
}

/// Which coders are looked at.
#[derive(Debug)]
pub struct Chosen {
    /// Whether the pipeline's own trainers are, those that have a checkpoint.
    pub trainers: bool,
    /// Other coders.
    pub coders: Vec<Given>,
}

/// A coder that is not a trainer of the pipeline.
#[derive(Debug)]
pub struct Given {
    /// Its name in the report.
    pub name: String,
    /// A folder of SAELens or sparsify, a trainer's folder or a checkpoint in it.
    pub folder: Location,
    /// Its site, where the folder does not say.
    pub site: Option<String>,
}

/// The names of sites.
pub(super) fn names(sites: &[SiteWidth]) -> String {
    sites.iter().map(|(point, _)| point.to_string()).collect::<Vec<_>>().join(", ")
}

/// Evaluate. `located` is the pipeline's model, which a replay does not need.
///
/// # Errors
/// `Config` if nothing is held out, there is no coder, or one does not fit its site; `Data` if a folder or checkpoint
/// cannot be read.
pub fn judge(
    loaded: &Loaded,
    located: Option<&Located>,
    wanted: &Wanted,
    io: &tokio::runtime::Handle,
) -> Result<Report> {
    let threads = loaded.pipeline.harvest().map_or(0, |harvest| harvest.model.threads as usize);
    let backend = Arc::new(env::cpu(threads)?);
    let coders = coders::open(loaded, located, &wanted.chosen, &backend, io)?;
    let (source, sums) = match (&loaded.pipeline.input, located) {
        (Input::Harvest(_), Some(located)) => ("text", held_out::text(loaded, located, wanted, &coders, &backend, io)?),
        (Input::Harvest(_), None) => return Err(Error::internal("there is no model to evaluate with")),
        (Input::Replay(replay), _) => ("rows", held_out::rows(loaded, replay, wanted, &coders, io)?),
    };
    let dictionaries: Vec<Option<Dictionary>> = coders.iter().map(Judged::dictionary).collect();
    let mut reports = Vec::with_capacity(coders.len());
    for ((coder, sums), dictionary) in coders.iter().zip(&sums).zip(&dictionaries) {
        tracing::info!(coder = coder.name, "measuring directions and codes");
        reports.push(report(coder, sums, dictionary.as_ref(), &backend));
    }
    let mut pairs = Vec::new();
    if coders.len() > PAIRED_MAX {
        tracing::warn!(coders = coders.len(), "only the first {PAIRED_MAX} are compared with each other");
    }
    for second in 0..coders.len().min(PAIRED_MAX) {
        for first in 0..second {
            let (a, b) = (&coders[first].name, &coders[second].name);
            tracing::info!(first = a, second = b, "comparing");
            let both = dictionaries[first].as_ref().zip(dictionaries[second].as_ref());
            pairs.push(pair((&coders[first], &sums[first]), (&coders[second], &sums[second]), both, &backend));
        }
    }
    Ok(Report {
        format: FORMAT,
        harvestd: env!("CARGO_PKG_VERSION").to_owned(),
        pipeline: loaded.pipeline.name.clone(),
        held_out: HeldOut { source: source.to_owned(), wanted: wanted.tokens, special_tokens: wanted.special_tokens },
        coders: reports,
        pairs,
    })
}

fn report(coder: &Judged, sums: &CoderSums, dictionary: Option<&Dictionary>, backend: &Cpu) -> CoderReport {
    let decoder = dictionary.filter(|dictionary| !dictionary.rows_scaled);
    let decoder = decoder.map(|dictionary| (dictionary, sums.reconstruction.variance()));
    let sample = sums.sample.as_ref();
    CoderReport {
        name: coder.name.clone(),
        from: coder.from.clone(),
        site: names(coder.writes()),
        width: evaluate::width(coder.writes()),
        latents: coder.n_latents(),
        trained_rows: coder.trained_rows,
        evaluation: sums.evaluation(),
        density: sums.sparsity.histogram(),
        description: sample.and_then(|sample| description::describe(sample, decoder)),
        dark_matter: sums.dark_matter.as_ref().and_then(|sums| sums.finish()),
        geometry: dictionary.map(|dictionary| dictionary.geometry(backend)),
        history: coder.history.clone(),
        held_out_history: coder.held_out_history.clone(),
    }
}

fn pair(
    (first, first_sums): (&Judged, &CoderSums),
    (second, second_sums): (&Judged, &CoderSums),
    dictionaries: Option<(&Dictionary, &Dictionary)>,
    backend: &Cpu,
) -> PairReport {
    let samples = first_sums.sample.as_ref().zip(second_sums.sample.as_ref());
    let latents = (first.n_latents(), second.n_latents());
    PairReport {
        first: first.name.clone(),
        second: second.name.clone(),
        matching: dictionaries.and_then(|(a, b)| matching::compare(backend, a, b)),
        universality: samples.and_then(|samples| universality::compare(samples, latents, dictionaries)),
    }
}
