//! `harvestd features`: what the latents of trained coders stand for.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::chosen::{self, ChosenArgs};
use super::{Globals, Outcome, async_runtime, model_folder, output};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::export;
use crate::features::{About, Settings};
use crate::pipeline::features::{self, Documents, Found, Wanted};
use crate::report::features as pages;
use crate::report::html::percent;
use crate::store::{Location, objects};
use crate::tokens::Pieces;
use crate::units::Count;

/// What was looked at.
const ABOUT_FILE: &str = "about.json";
/// A row a latent.
const FEATURES_FILE: &str = "features.parquet";
/// A row a context.
const EXAMPLES_FILE: &str = "examples.parquet";
/// Tokens where neither the command line nor the pipeline says.
const TOKENS: u64 = 1_000_000;
/// Contexts of a latent and tokens of a context, at most: what is kept is memory times latents.
const KEPT_MAX: usize = 1000;

/// Arguments of `features`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd features pipelines/quickstart.yaml --out features
  harvestd features p.yaml --coder other=exported/resid14 --tokens 10M --documents trained-on
  harvestd features p.yaml --top 50 --sampled 100 --before 40 --after 20 --format parquet

Coders are those of `harvestd eval`. Each gets a folder of its name with about.json, features.parquet, examples.parquet and
index.html, which opens in a browser without a server. What is in them is in docs/features.md.")]
pub(crate) struct FeaturesArgs {
    /// The pipeline file
    pipeline: PathBuf,
    #[command(flatten)]
    chosen: ChosenArgs,
    /// Tokens to read [default: 1M]
    #[arg(long, value_name = "N", value_parser = chosen::at_least_one)]
    tokens: Option<Count>,
    /// Which documents are read
    #[arg(long, value_enum, default_value_t = DocumentsArg::HeldOut, value_name = "WHICH")]
    documents: DocumentsArg,
    /// Look at special tokens too, and with them excluded positions and outliers, which training leaves out
    #[arg(long)]
    special_tokens: bool,
    /// Strongest contexts of a latent
    #[arg(long, default_value_t = Settings::default().top, value_name = "N")]
    top: usize,
    /// Contexts of a latent drawn from all
    #[arg(long, default_value_t = Settings::default().sampled, value_name = "N")]
    sampled: usize,
    /// Slices by strength that these are cut into
    #[arg(long, default_value_t = Settings::default().strata, value_name = "N")]
    strata: usize,
    /// Tokens of a context before its peak
    #[arg(long, default_value_t = Settings::default().before, value_name = "N")]
    before: usize,
    /// Tokens of a context after its peak
    #[arg(long, default_value_t = Settings::default().after, value_name = "N")]
    after: usize,
    /// Nearest latents, and latents that fire on the same rows
    #[arg(long, default_value_t = Settings::default().neighbours, value_name = "N")]
    neighbours: usize,
    /// Tokens promoted most, and as many suppressed most
    #[arg(long, default_value_t = Settings::default().tokens, value_name = "N")]
    promoted: usize,
    /// What is written; several with commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Format::Parquet, Format::Html], value_name = "FORMAT")]
    format: Vec<Format>,
    /// Where each coder's folder goes: a folder or URL; files of the same names are replaced
    #[arg(long, default_value = "features", value_name = "DIR")]
    out: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DocumentsArg {
    /// Those that are held out
    HeldOut,
    /// All others, in the order of a run
    TrainedOn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// features.parquet and examples.parquet
    Parquet,
    /// index.html and its pages
    Html,
    /// delphi/: every activation, as the LatentCache that delphi explains latents from
    Delphi,
    /// neuronpedia/: dashboards as SAEDashboard writes them for Neuronpedia
    Neuronpedia,
}

pub(crate) fn execute(args: &FeaturesArgs, globals: &Globals) -> Outcome {
    let loaded = globals.load(&args.pipeline)?;
    if loaded.pipeline.replay().is_some() {
        let problem = "features are of text: give a pipeline that reads a corpus, not one that replays stored rows";
        return Err(Error::config(problem).into());
    }
    let place = loaded.stores.open(&args.out)?;
    place.writable()?;
    let wanted = Wanted {
        tokens: chosen::tokens(args.tokens, 0, TOKENS),
        documents: match args.documents {
            DocumentsArg::HeldOut => Documents::HeldOut,
            DocumentsArg::TrainedOn => Documents::TrainedOn,
        },
        special_tokens: args.special_tokens,
        chosen: args.chosen.open(&loaded.stores)?,
        settings: settings(args, loaded.pipeline.seed.0)?,
        cache: args.format.contains(&Format::Delphi),
    };
    let located = model_folder::fetch_model(&loaded.pipeline.harvest()?.model)?;
    let runtime = async_runtime()?;
    let found = features::find(&loaded, &located, &wanted, runtime.handle())?;
    let mut said = Vec::new();
    for coder in &found.coders {
        let folder = place.child(&coder.about.coder);
        tracing::info!(coder = coder.about.coder, to = %folder.shown, "writing");
        runtime.block_on(write(args, &folder, coder, &found.pieces))?;
        said.push((&coder.about, folder.shown));
    }
    if globals.json {
        let coders: Vec<Value> = said.iter().map(|(about, folder)| json!({"out": folder, "about": about})).collect();
        output::print_json(&json!({"coders": coders}));
    } else {
        print(&said);
    }
    Ok(ExitCode::SUCCESS)
}

fn settings(args: &FeaturesArgs, seed: u64) -> Result<Settings> {
    let named = [
        ("--top", args.top),
        ("--sampled", args.sampled),
        ("--before", args.before),
        ("--after", args.after),
        ("--neighbours", args.neighbours),
        ("--promoted", args.promoted),
    ];
    if let Some((name, value)) = named.into_iter().find(|(_, value)| *value > KEPT_MAX) {
        return Err(Error::config(format!("{name} {value} is too many: at most {KEPT_MAX}")));
    }
    if args.strata == 0 || args.promoted == 0 {
        return Err(Error::config("--strata and --promoted must be at least 1"));
    }
    Ok(Settings {
        top: args.top,
        sampled: args.sampled,
        strata: args.strata,
        before: args.before,
        after: args.after,
        neighbours: args.neighbours,
        tokens: args.promoted,
        seed,
    })
}

async fn write(args: &FeaturesArgs, folder: &Location, found: &Found, pieces: &Pieces) -> Result<()> {
    let Found { about, features, cache } = found;
    let text = serde_json::to_vec_pretty(about).or_kind(ErrorKind::Internal, || "write about.json".to_owned())?;
    objects::replace(&folder.child(ABOUT_FILE), text.into()).await?;
    if args.format.contains(&Format::Parquet) {
        let table = export::features::latents(features, pieces)?;
        objects::replace(&folder.child(FEATURES_FILE), table.into()).await?;
        let table = export::features::examples(features, pieces)?;
        objects::replace(&folder.child(EXAMPLES_FILE), table.into()).await?;
    }
    if args.format.contains(&Format::Html) {
        for page in 0..pages::n_pages(features.len()) {
            let text = pages::page(features, about, pieces, page);
            objects::replace(&folder.child(&pages::page_file(page)), text.into()).await?;
        }
        // last: what it links to is there
        let text = pages::index(features, about, pieces);
        objects::replace(&folder.child(pages::INDEX_FILE), text.into()).await?;
    }
    if let Some(cache) = cache {
        export::delphi::write(cache, about, &folder.child("delphi")).await?;
    }
    if args.format.contains(&Format::Neuronpedia) {
        for (name, bytes) in export::neuronpedia::files(features, about, pieces) {
            objects::replace(&folder.child("neuronpedia").child(&name), bytes?.into()).await?;
        }
    }
    Ok(())
}

fn print(said: &[(&About, String)]) {
    let header = ["coder", "site", "latents", "tokens", "rows", "never fired", "written to"];
    let rows = said.iter().map(|(about, folder)| {
        vec![
            about.coder.clone(),
            about.reads.clone(),
            about.latents.to_string(),
            about.tokens.to_string(),
            about.rows.to_string(),
            percent(about.silent as f64 / about.latents.max(1) as f64),
            folder.clone(),
        ]
    });
    output::print(&output::table(&header, &header[2..6], rows).to_string());
}
