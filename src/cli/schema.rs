//! `harvestd schema`: the pipeline format, for editors and for people.

use std::process::ExitCode;

use clap::Args;

use super::{Outcome, output};
use crate::config;

/// Arguments of `schema`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd schema > pipeline.schema.json     then, as the first line of a pipeline:
                                             # yaml-language-server: $schema=pipeline.schema.json
  harvestd schema --markdown | less")]
pub(crate) struct SchemaArgs {
    /// Print the reference in Markdown instead
    #[arg(long)]
    markdown: bool,
}

pub(crate) fn execute(args: &SchemaArgs) -> Outcome {
    if args.markdown {
        output::print(config::reference::markdown().trim_end());
    } else {
        output::print_json(&config::schema());
    }
    Ok(ExitCode::SUCCESS)
}
