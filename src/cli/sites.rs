//! `harvestd sites`: what can be captured from a model, without loading its weights (a hub's model is downloaded, though).

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{Globals, Outcome, model_folder, output};
use crate::error::{Error, Result};
use crate::hooks::listing::{SiteGroup, groups};
use crate::hooks::{ModulePaths, PointShape};
use crate::model::ModelSpec;
use crate::units::ByteSize;

/// Context length for which attention patterns are described where nothing names one.
const CONTEXT_LENGTH: usize = 1024;

/// Arguments of `sites`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd sites models/pythia-160m             every site, blocks that are alike as one line
  harvestd sites pipeline.yaml                  those of a pipeline's model
  harvestd sites models/pythia-160m --layer 3   names as they stand in block 3
  harvestd sites models/pythia-160m --json | jq -r '.sites[].name'

Every name is a pattern for `capture`; a head is chosen in brackets behind it: blocks.3.attn.hook_z[5].")]
pub(crate) struct SitesArgs {
    /// A model as in `model.source`, or a pipeline file
    #[arg(value_name = "MODEL")]
    model: String,
    /// Only this block
    #[arg(long, value_name = "N")]
    layer: Option<u32>,
    /// Positions of a sequence, which attention patterns are as wide as [default: the pipeline's, or 1024, or fewer if the
    /// model has fewer]
    #[arg(long, value_name = "N")]
    context_length: Option<usize>,
}

pub(crate) fn execute(args: &SitesArgs, globals: &Globals) -> Outcome {
    let is_pipeline = Path::new(&args.model).extension().is_some_and(|e| e == "yaml" || e == "yml");
    let (source, from_pipeline) = if is_pipeline {
        let pipeline = globals.load(&args.model)?.pipeline;
        let harvest = pipeline.harvest()?;
        (harvest.model.source.clone(), Some(harvest.tokens.context_length as usize))
    } else {
        (args.model.clone(), None)
    };
    let opened = model_folder::fetch(&source)?.open()?;
    let spec = opened.spec();
    let context_length =
        args.context_length.or(from_pipeline).unwrap_or_else(|| CONTEXT_LENGTH.min(spec.max_positions)).max(1);
    let points = chosen(spec, context_length, args.layer)?;
    let report = Report { source: &source, spec, context_length, points };
    if globals.json {
        output::print_json(&report.to_json());
    } else {
        report.print();
    }
    Ok(ExitCode::SUCCESS)
}

/// The points that are asked for.
fn chosen(spec: &ModelSpec, context_length: usize, layer: Option<u32>) -> Result<Vec<PointShape>> {
    let mut points = spec.points(context_length);
    if let Some(layer) = layer {
        if layer >= spec.n_layers() {
            return Err(Error::config(format!(
                "--layer {layer}: the model has {} blocks, numbered from 0",
                spec.n_layers()
            )));
        }
        points.retain(|shape| shape.point.layer == Some(layer));
    }
    Ok(points)
}

/// What is printed.
struct Report<'a> {
    source: &'a str,
    spec: &'a ModelSpec,
    context_length: usize,
    points: Vec<PointShape>,
}

impl Report<'_> {
    fn paths(&self) -> &'static ModulePaths {
        self.spec.module_paths()
    }

    fn to_json(&self) -> Value {
        let site = |group: &SiteGroup| {
            let PointShape { width, heads, .. } = group.shape;
            let has_heads = group.shape.has_heads();
            json!({
                "name": group.name(),
                "aliases": group.aliases(self.paths()),
                "layers": group.layers,
                "width": width,
                "heads": has_heads.then_some(heads),
                "head_width": has_heads.then(|| group.shape.head_width()),
                "bytes_per_token": {"float32": width * 4, "float16": width * 2},
                "edits_propagate": group.site.edits_propagate(),
                "definition": group.site.definition(),
            })
        };
        json!({
            "model": self.source,
            "context_length": self.context_length,
            "sites": groups(&self.points).iter().map(site).collect::<Vec<_>>(),
        })
    }

    fn print(&self) {
        let rows = groups(&self.points).into_iter().map(|group| {
            let PointShape { width, heads, .. } = group.shape;
            let aliases: String = group.aliases(self.paths()).iter().map(|alias| format!("\n= {alias}")).collect();
            vec![
                group.name(),
                width.to_string(),
                if group.shape.has_heads() { heads.to_string() } else { String::new() },
                ByteSize(width as u64 * 4).to_string(),
                ByteSize(width as u64 * 2).to_string(),
                format!("{}{aliases}", group.site.definition()),
            ]
        });
        let header = ["site", "width", "heads", "float32", "float16", "what it is"];
        output::print(&output::table(&header, &["width", "heads", "float32", "float16"], rows).to_string());
        let spec = self.spec;
        output::print(&format!(
            "\n{}: {} blocks, {} wide, {} heads of {}, {} key/value heads. Sizes are of one token at one block; \
             attention patterns are for a context of {}.\nA head alone: blocks.0.attn.hook_z[0]; several: [0,1], [0-3]; \
             each: [*].",
            self.source,
            spec.n_layers(),
            spec.d_model,
            spec.n_heads,
            spec.d_head,
            spec.n_kv_heads,
            self.context_length
        ));
    }
}
