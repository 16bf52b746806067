//! `harvestd inspect`: what a dataset, a trainer's checkpoint or an exported coder holds.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{Globals, Outcome, async_runtime, output};
use crate::catalog::Catalog;
use crate::catalog::checkpoints::{self, Checkpoint};
use crate::catalog::inspect::{DatasetSummary, inspect};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::pipeline::coders;
use crate::sae::export::{Architecture, ExportedCoder};
use crate::store::Location;
use crate::trainer::{StepReport, TrainerSettings};
use crate::units::{ByteSize, Count};

/// Arguments of `inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd inspect out/acts                        a dataset: rows, sites, statistics, where it comes from
  harvestd inspect s3://acts/coders/resid14        a trainer's folder: its newest checkpoint
  harvestd inspect out/coders/resid14/saelens      an exported coder
  harvestd inspect out/acts --json | jq '.sites[0].statistics.mean_norm'")]
pub(crate) struct InspectArgs {
    /// A local path or URL
    url: String,
}

pub(crate) fn execute(args: &InspectArgs, globals: &Globals) -> Outcome {
    let location = globals.stores()?.open(&args.url)?;
    let found = async_runtime()?.block_on(open(&location))?;
    if globals.json {
        output::print_json(&found.to_json()?);
    } else {
        found.print(&location.shown);
    }
    Ok(ExitCode::SUCCESS)
}

/// What stands at a place.
enum Found {
    Dataset(Box<DatasetSummary>),
    Checkpoint(Box<CheckpointSummary>),
    Coder(Box<ExportedCoder>),
}

/// A trainer's state in brief.
struct CheckpointSummary {
    folder: String,
    files: Vec<(String, u64)>,
    settings: TrainerSettings,
    report: StepReport,
}

async fn open(location: &Location) -> Result<Found> {
    if Catalog::read_header(location).await?.is_some() {
        let catalog = Catalog::open(location.clone()).await?;
        return Ok(Found::Dataset(Box::new(inspect(&catalog).await?)));
    }
    if let Some(coder) = coders::find(location).await? {
        return Ok(Found::Coder(Box::new(coder)));
    }
    if let Some(checkpoint) = checkpoints::at(location).await? {
        return Ok(Found::Checkpoint(Box::new(CheckpointSummary::of(checkpoint)?)));
    }
    Err(Error::data(format!("`{}` holds no dataset, checkpoint or exported coder", location.shown)))
}

impl CheckpointSummary {
    fn of(checkpoint: Checkpoint) -> Result<Self> {
        let sizes = checkpoint.files.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect();
        let files: Vec<(String, Vec<u8>)> = checkpoint.files.into_iter().map(|(n, b)| (n, b.into())).collect();
        Ok(Self {
            folder: checkpoint.folder,
            files: sizes,
            settings: TrainerSettings::of_checkpoint(&files)?,
            report: StepReport::of_checkpoint(&files)?,
        })
    }
}

impl Found {
    fn to_json(&self) -> Result<Value> {
        let value = |v: serde_json::Result<Value>| v.or_kind(ErrorKind::Internal, || "write as JSON".to_owned());
        Ok(match self {
            Self::Dataset(summary) => value(serde_json::to_value(summary))?,
            Self::Checkpoint(c) => json!({
                "folder": c.folder,
                "files": c.files.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect::<Vec<_>>(),
                "point": c.settings.point().to_string(),
                "width": c.settings.width(),
                "seed": c.settings.seed.0,
                "trainer": value(serde_json::to_value(&c.settings.config))?,
                "report": value(serde_json::to_value(&c.report))?,
            }),
            Self::Coder(coder) => json!({
                "d_in": coder.dims.d,
                "d_sae": coder.dims.f,
                "architecture": coder.saelens_name().unwrap_or(coder.architecture.name()),
                "d_out": coder.dims.out,
                "transcoder": coder.transcodes,
                "k": match coder.architecture {
                    Architecture::Topk { k } => Some(k),
                    _ => None,
                },
                "metadata": coder.metadata,
            }),
        })
    }

    fn print(&self, shown: &str) {
        match self {
            Self::Dataset(summary) => print_dataset(summary),
            Self::Checkpoint(checkpoint) => print_checkpoint(checkpoint),
            Self::Coder(coder) => print_coder(coder, shown),
        }
    }
}

fn print_dataset(summary: &DatasetSummary) {
    let header = &summary.header;
    let mut lines = vec![
        ("dataset", summary.url.clone()),
        ("begun by", header.run_id.clone()),
        ("rows", format!("{} in {} shards, {}", summary.rows, summary.shards, ByteSize(summary.bytes))),
        ("from", format!("{} documents, {} tokens", summary.documents, summary.tokens)),
        ("units", format!("{} of {} done", summary.units_done, summary.units)),
        ("sample", header.sample.to_string()),
        ("model", header.fingerprints.model.clone()),
        ("tokenizer", header.fingerprints.tokenizer.clone()),
        ("corpus", header.fingerprints.corpus.clone()),
    ];
    if summary.generation > 0 {
        lines.push(("manifest", format!("generation {}, {} shards", summary.generation, summary.covered)));
    }
    if summary.retired_shards > 0 {
        lines.push(("retired", format!("{} rows in {} shards", summary.retired_rows, summary.retired_shards)));
    }
    lines.extend(summary.dropped.iter().map(|(reason, n)| ("dropped", format!("{n} {}", reason.as_str()))));
    output::fields(&lines);
    output::print(&format!("\n{}", site_table(summary)));
    for group in &summary.columns {
        let name = group.header.column_group.as_deref().unwrap_or_default();
        let done = format!("{} of {} units", group.units_done, group.units);
        let size = format!("{} rows in {} shards, {}", group.rows, group.shards, ByteSize(group.bytes));
        output::print(&format!("\ncolumn group {name}: {size}; {done} done\n{}", site_table(group)));
    }
}

/// The sites of a dataset, or of a column group, with their statistics.
fn site_table(summary: &DatasetSummary) -> comfy_table::Table {
    let header = ["site", "width", "dtype", "rows", "mean norm", "max norm", "variance", "not finite"];
    let rows = summary.sites.iter().map(|s| {
        vec![
            s.site.name.clone(),
            s.site.width.to_string(),
            word(&s.site.dtype),
            s.statistics.count.to_string(),
            format!("{:.4}", s.statistics.mean_norm),
            format!("{:.4}", s.statistics.max_norm),
            format!("{:.4}", s.variance),
            s.statistics.non_finite.to_string(),
        ]
    });
    output::table(&header, &header[1..], rows)
}

/// A word as it stands in the pipeline file.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

fn print_checkpoint(checkpoint: &CheckpointSummary) {
    let CheckpointSummary { folder, files, settings, report } = checkpoint;
    let config = &settings.config;
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    output::fields(&[
        ("checkpoint", folder.clone()),
        ("files", format!("{}, {}", files.len(), ByteSize(bytes))),
        ("trainer", config.name.clone()),
        ("input", format!("{}, {} wide", settings.point(), settings.width())),
        ("coder", serde_json::to_string(&config.coder).unwrap_or_default()),
        ("rows", format!("{} of {}, {} steps", Count(report.rows), config.rows, report.step)),
        ("loss", format!("{:.5}", report.loss)),
        ("fvu", format!("{:.5} (last batch)", report.fvu)),
        ("l0", format!("{:.1}", report.l0)),
        ("dead", format!("{:.2}%", report.dead_fraction * 100.0)),
    ]);
}

fn print_coder(coder: &ExportedCoder, shown: &str) {
    let kind = match coder.architecture {
        Architecture::Topk { k } => format!("{}, k = {k}", coder.kind()),
        _ => coder.kind(),
    };
    let mut lines = vec![
        ("coder", shown.to_owned()),
        ("kind", kind),
        ("latents", coder.dims.f.to_string()),
        ("width", coder.dims.d.to_string()),
    ];
    if coder.transcodes {
        lines.push(("reconstructs", coder.dims.out.to_string()));
    }
    let known = [
        "hook_name",
        "hook_name_out",
        "hook_head_index",
        "model_name",
        "dataset_path",
        "context_size",
        "harvestd_version",
    ];
    lines.extend(known.into_iter().filter_map(|key| {
        let value = coder.metadata.get(key).filter(|value| !value.is_null())?;
        Some((key, value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
    }));
    output::fields(&lines);
}
