//! `harvestd bench roofline`: peaks, work, and the share of the peaks that a short sample reaches.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::sample::{self, Sample};
use crate::cli::{Globals, Outcome, model_folder, output};
use crate::config::{Harvest, Loaded, Sites, env};
use crate::dataset::config::StoredDtype;
use crate::hooks::HookPoint;
use crate::model::config::ModelDtype;
use crate::model::{ModelSource, ModelSpec};
use crate::roofline::machine::{Rate, UnitRate};
use crate::roofline::{ForwardWork, Machine, Stage};
use crate::trainer::target::TargetConfig;

/// Entries a row of a coder that names no number of them.
const UNKNOWN_K: f64 = 100.0;

/// Arguments of `bench roofline`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd bench roofline                           the machine alone: a few seconds
  harvestd bench roofline p.yaml                    and what the pipeline's stages could reach and do reach
  harvestd bench roofline p.yaml --no-sample --json without running the model

Peaks are the best of many short stretches, so other work on the machine lowers them little; a sample is taken as it comes.
A file of 64 MiB is written to --folder and deleted; a model on a hub is downloaded. Nothing else is written.")]
pub(crate) struct RooflineArgs {
    /// A pipeline file
    pipeline: Option<PathBuf>,
    /// Compute threads; 0: as the pipeline says, or one for each core
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1024))]
    threads: u32,
    /// Where the disk is measured
    #[arg(long, default_value = ".", value_name = "DIR")]
    folder: PathBuf,
    /// Count operations and bytes, but do not run the model
    #[arg(long)]
    no_sample: bool,
}

pub(crate) fn execute(args: &RooflineArgs, globals: &Globals) -> Outcome {
    let Some(file) = &args.pipeline else {
        let machine = Machine::measure(&env::cpu(args.threads as usize)?, &args.folder)?;
        report(&machine, None, globals.json);
        return Ok(ExitCode::SUCCESS);
    };
    let loaded = globals.load(file)?;
    let harvest = loaded.pipeline.harvest()?;
    let (source, sites) = model_folder::open(&loaded)?;
    let threads = if args.threads == 0 { harvest.model.threads } else { args.threads };
    let machine = Machine::measure(&env::cpu(threads as usize)?, &args.folder)?;
    let taken = match args.no_sample {
        true => None,
        false => Some(sample::take(&loaded, &source, &sites, machine.threads)?),
    };
    let stages = stages(&loaded, harvest, (&source, &sites), &machine, taken.as_ref());
    report(&machine, Some((&stages, harvest.model.dtype)), globals.json);
    Ok(ExitCode::SUCCESS)
}

/// The stages of a pipeline, with what a sample of them reached.
fn stages(
    loaded: &Loaded,
    harvest: &Harvest,
    (source, sites): (&ModelSource, &Sites),
    machine: &Machine,
    sample: Option<&Sample>,
) -> Vec<Stage> {
    let mut tokenise = Stage::tokenise(sample.map_or(0.0, |sample| sample.bytes_per_token));
    tokenise.measured = sample.map(|sample| sample.tokenised);
    let points: Vec<HookPoint> = sites.captured.iter().map(|(point, _)| *point).collect();
    let work = forward_work(source, &points, harvest.tokens.context_length as usize);
    let mut forward = Stage::forward(work, harvest.model.dtype == ModelDtype::Bfloat16, machine);
    forward[0].measured = sample.map(|sample| sample.forward);
    let mut stages = vec![tokenise];
    stages.extend(forward);
    for (config, read) in loaded.pipeline.trainers.iter().zip(&sites.inputs) {
        let common = config.coder.common();
        let width: usize = read.iter().map(|(_, width)| width).sum();
        // a transcoder reads one of its sites and writes the other; others write what they read
        let widths = match (&config.target, &read[..]) {
            (TargetConfig::Transcoder { .. }, [(_, from), (_, to)]) => [*from as f64, *to as f64],
            _ => [width as f64; 2],
        };
        let k = common.k.unwrap_or(UNKNOWN_K);
        let batch = f64::from(config.batch_rows);
        stages.push(Stage::train(&config.name, widths, f64::from(common.width), k, batch, machine));
    }
    if let Some(dataset) = &loaded.pipeline.dataset {
        let values: usize = sites.stored.iter().map(|(_, width)| width).sum();
        let values = values as f64 * dataset.sample.share();
        let bytes = match dataset.dtype {
            StoredDtype::Float16 | StoredDtype::Bfloat16 => 2.0,
            StoredDtype::Float32 => 4.0,
        };
        stages.push(Stage::store(values, values * bytes, machine));
    }
    stages
}

/// What the model, and a second one beside it, compute for a token.
fn forward_work(source: &ModelSource, points: &[HookPoint], context: usize) -> ForwardWork {
    let of = |spec: &ModelSpec, second: bool| {
        let own: Vec<HookPoint> = points.iter().filter(|p| p.second == second).map(|p| p.of_first()).collect();
        ForwardWork::of(spec, &own, context)
    };
    let first = of(source.spec(), false);
    source.second().map_or(first, |second| first.and(of(second.spec(), true)))
}

fn report(machine: &Machine, pipeline: Option<(&[Stage], ModelDtype)>, as_json: bool) {
    if as_json {
        let stages = pipeline.map(|(stages, _)| {
            let all = stages.iter().map(|stage| {
                json!({"name": stage.name.trim(), "per": stage.per, "flops": stage.flops, "bytes": stage.bytes,
                    "ideal": stage.ideal, "measured": stage.measured, "reached": stage.reached()})
            });
            all.collect::<Vec<_>>()
        });
        output::print_json(&json!({"machine": machine, "stages": stages}));
        return;
    }
    print_machine(machine);
    if let Some((stages, dtype)) = pipeline {
        output::print("");
        output::print(&stage_table(stages).to_string());
        let products = match (dtype, machine.multiplies_bf16) {
            (ModelDtype::Float32, _) => "float32: products are f32",
            (ModelDtype::Bfloat16, true) => "bfloat16: products run on avx512 bf16, twice as fast here as f32",
            (ModelDtype::Bfloat16, false) => "bfloat16: products are widened to f32, which is as fast or faster here",
        };
        output::print(&format!(
            "\nmodel.dtype {products}. An ideal rate is that of a stage that has the machine to itself."
        ));
    }
}

fn print_machine(machine: &Machine) {
    output::print(&format!("{}, {} compute threads", machine.processor, machine.threads));
    if machine.has_amx {
        output::print("it has AMX tiles, which this build neither uses nor measures");
    }
    output::print("");
    let rate = |name: &str, rate: Rate, unit: &str| {
        let giga = |rate: f64| format!("{:.1} {unit}", rate / 1e9);
        vec![name.to_owned(), giga(rate.one), giga(rate.all)]
    };
    let units = machine.units.iter().map(|UnitRate { name, flops, .. }| rate(name, *flops, "GF/s"));
    let memory = [rate("memory read", machine.read, "GB/s"), rate("memory copy", machine.copy, "GB/s")];
    let disk = vec!["disk write, synced".to_owned(), format!("{:.2} GB/s", machine.disk_write / 1e9), String::new()];
    let header = ["peak", "one thread", "all threads"];
    output::print(&output::table(&header, &header[1..], units.chain(memory).chain([disk])).to_string());
}

fn stage_table(stages: &[Stage]) -> comfy_table::Table {
    let rows = stages.iter().map(|stage| {
        let or_dash = |value: Option<f64>, show: fn(f64) -> String| value.map_or_else(|| "-".to_owned(), show);
        vec![
            stage.name.clone(),
            format!("{:.2}", stage.flops / 1e6),
            format!("{:.3}", stage.bytes / 1e3),
            or_dash(stage.ideal, |rate| format!("{rate:.0}/s")),
            or_dash(stage.measured, |rate| format!("{rate:.0}/s")),
            or_dash(stage.reached(), |share| format!("{:.0}%", share * 100.0)),
            stage.per.to_owned(),
        ]
    });
    let header = ["stage", "MFLOP", "kB", "ideal", "measured", "reached", "of a"];
    output::table(&header, &header[1..6], rows)
}
