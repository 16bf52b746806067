//! `harvestd bench`: what this machine can do, and how much of it is reached.

mod roofline;
mod sample;
mod step;

use clap::{Args, Subcommand};

use super::{Globals, Outcome};

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Measure the machine's peaks, and what a pipeline's stages reach of them
    Roofline(roofline::RooflineArgs),
    /// Measure how many rows a second a coder is trained on
    Step(step::StepArgs),
}

pub(crate) fn execute(args: &BenchArgs, globals: &Globals) -> Outcome {
    match &args.what {
        What::Roofline(args) => roofline::execute(args, globals),
        What::Step(args) => step::execute(args, globals),
    }
}
