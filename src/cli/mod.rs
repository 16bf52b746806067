//! Commands: one file a verb. A verb reads its arguments, calls the library, prints its result to standard output and
//! says by its exit code how it went; logs and progress go to standard error.
//!
//! Exit codes follow `sysexits.h`: 0 ok, 64 wrong usage, 65 unusable data, 69 unavailable, 70 a bug, 73 storage is full,
//! 78 wrong configuration.

mod bench;
mod chosen;
mod compact;
mod devices;
mod eval;
mod export;
mod failure;
mod features;
mod gc;
mod import;
mod inspect;
mod model_folder;
mod output;
mod plan;
mod progress;
mod run;
mod schema;
mod selftest;
mod serve;
mod shell;
mod shuffle;
mod sites;
mod traces;
mod upgrade;
mod validate;
mod verify;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use failure::{Failure, Outcome};

use crate::compute::cpu::heap::{self, Heap};
use crate::config::{self, Loaded, Problems};
use crate::error::{Error, ErrorKind};
use crate::runtime::clock::Clock;
use crate::store::Stores;
use crate::telemetry::events::RecentEvents;
use crate::telemetry::logging::{self, ProgressGuard};

/// Exit code of a wrong command line.
const EXIT_USAGE: u8 = 64;
/// Exit code of a bug.
const EXIT_BUG: u8 = 70;

/// Harvest a language model's activations: train sparse coders online, store Parquet shards exactly once, or both.
#[derive(Debug, Parser)]
#[command(
    name = "harvestd",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Examples:
  harvestd validate pipelines/                     check every pipeline of a folder
  harvestd sites pipelines/smollm2-mid.yaml        what can be captured from a model
  harvestd plan pipelines/smollm2-mid.yaml         sizes, memory and time before anything runs
  harvestd run pipelines/smollm2-mid.yaml          run to the end; run again to resume
  harvestd run p.yaml --set trainers=[] --set dataset.url=s3://bucket/acts
  harvestd verify s3://bucket/acts                 check every shard and commit

Exit codes: 0 ok, 64 usage, 65 data, 69 unavailable, 70 internal, 73 storage full, 78 configuration."
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// Options of every verb.
#[derive(Clone, Debug, Args)]
pub(crate) struct Globals {
    /// Print results as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Override a key of the pipeline, such as trainers.0.rows=1M; may be repeated; the value is YAML
    #[arg(long = "set", global = true, value_name = "PATH=VALUE")]
    pub(crate) sets: Vec<String>,
    /// Option of every object store, such as region=eu-west-1 or retry.budget=5min; may be repeated (docs/stores.md)
    #[arg(long = "store", global = true, value_name = "KEY=VALUE")]
    pub(crate) store: Vec<String>,
    /// How log lines on standard error look
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Human, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter such as info,harvestd::store=debug
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL")]
    pub(crate) log_level: String,
}

impl Globals {
    /// The pipeline of a file, overridden as the command line says.
    pub(crate) fn load(&self, file: impl AsRef<std::path::Path>) -> Result<Loaded, Problems> {
        config::load_with(file, &self.sets, &self.store)
    }

    /// As [`Globals::load`], for a verb that only judges coders which are given to it.
    pub(crate) fn load_to_judge(&self, file: impl AsRef<std::path::Path>) -> Result<Loaded, Problems> {
        config::load_to_judge(file, &self.sets, &self.store)
    }

    /// What opens the URLs of the command line.
    pub(crate) fn stores(&self) -> Result<Stores, Error> {
        Stores::new(Vec::new(), &self.store)
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Human,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a pipeline to its end, with progress; continue where a former run stopped
    Run(run::RunArgs),
    /// Run many pipelines for weeks: watched and steered over HTTP, reloaded, started again after faults
    Serve(serve::ServeArgs),
    /// Check pipelines: all problems at once, with line, key, rule and what was probably meant
    Validate(validate::ValidateArgs),
    /// Say what a run would read, compute, keep and write, before anything runs
    Plan(plan::PlanArgs),
    /// Say what a dataset, a checkpoint or an exported coder holds
    Inspect(inspect::InspectArgs),
    /// Check the integrity of a dataset: every commit, checksum, row count and statistic
    Verify(verify::VerifyArgs),
    /// Delete what nothing needs any more from a dataset, and retire its oldest shards; says first what would go
    Gc(gc::GcArgs),
    /// Put a dataset's commits into a manifest, so that it opens in a few requests
    Compact(compact::CompactArgs),
    /// Make a dataset one of the newest format
    Upgrade(upgrade::UpgradeArgs),
    /// Shuffle a dataset globally and exactly into another, with bounded memory
    Shuffle(shuffle::ShuffleArgs),
    /// Bring activations that others computed: .npy, .safetensors, .parquet, .arrow
    Import(import::ImportArgs),
    /// Write a trained coder, or stored activations, in another tool's format
    Export(export::ExportArgs),
    /// Judge trained coders on held-out text or rows: metrics as JSON, and a page with plots
    Eval(eval::EvalArgs),
    /// Say what each latent of trained coders stands for: where it fires, what it promotes, what lies near
    Features(features::FeaturesArgs),
    /// List what can be captured from a model: names, widths, heads, bytes a token; loads no weights
    Sites(sites::SitesArgs),
    /// List what there is to compute on: processor, GPUs, CUDA libraries, and why a GPU cannot be used
    Devices(devices::DevicesArgs),
    /// Check the model's arithmetic on this machine against the f64 reference, site by site
    Selftest(selftest::SelftestArgs),
    /// Measure what this machine can do at most, and how much of it a pipeline reaches
    Bench(bench::BenchArgs),
    /// Print the JSON Schema of the pipeline file, for editors and checks
    Schema(schema::SchemaArgs),
    /// Print what completes this command line in a shell
    Completions(shell::CompletionsArgs),
    /// Write manual pages
    Man(shell::ManArgs),
}

/// Entry point of the binary.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // nothing can be done about a standard stream that cannot be written
            drop(e.print());
            return if e.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    settle_heap(Heap::Shared);
    let json = cli.globals.json;
    let events = RecentEvents::default();
    let bars = match start_log(&cli.globals, &events) {
        Ok(bars) => bars,
        Err(e) => {
            output::complain(&e.to_string());
            return ExitCode::from(EXIT_USAGE);
        }
    };
    // the panic hook has printed the message; what is left to say is whose fault it was
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| dispatch(cli, &bars, &events)));
    let outcome = outcome.unwrap_or_else(|panic| match panic.downcast::<Error>() {
        // a device failed under an operation that has no result
        Ok(error) => Err((*error).into()),
        Err(_) => {
            output::complain("this is a bug in harvestd: please report it with the message above");
            Ok(ExitCode::from(EXIT_BUG))
        }
    });
    outcome.unwrap_or_else(|failure| failure.report(json))
}

fn dispatch(cli: Cli, bars: &ProgressGuard, events: &RecentEvents) -> Outcome {
    let globals = &cli.globals;
    match cli.command {
        Command::Run(args) => run::execute(&args, globals, bars, events),
        Command::Serve(args) => serve::execute(&args, globals, events),
        Command::Validate(args) => validate::execute(&args, globals),
        Command::Plan(args) => plan::execute(&args, globals),
        Command::Inspect(args) => inspect::execute(&args, globals),
        Command::Verify(args) => verify::execute(&args, globals),
        Command::Gc(args) => gc::execute(&args, globals),
        Command::Compact(args) => compact::execute(&args, globals),
        Command::Upgrade(args) => upgrade::execute(&args, globals),
        Command::Shuffle(args) => shuffle::execute(&args, globals),
        Command::Import(args) => import::execute(&args, globals),
        Command::Export(args) => export::execute(&args, globals),
        Command::Eval(args) => eval::execute(&args, globals),
        Command::Features(args) => features::execute(&args, globals),
        Command::Sites(args) => sites::execute(&args, globals),
        Command::Devices(args) => devices::execute(&args, globals),
        Command::Selftest(args) => selftest::execute(&args, globals),
        Command::Bench(args) => bench::execute(&args, globals),
        Command::Schema(args) => schema::execute(&args),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
    }
}

/// Start logging. What is returned lets progress bars and log lines share the terminal.
fn start_log(globals: &Globals, events: &RecentEvents) -> Result<ProgressGuard, Error> {
    let format = match globals.log_format {
        LogFormat::Human => logging::LogFormat::Human,
        LogFormat::Json => logging::LogFormat::Json,
    };
    logging::init(format, &globals.log_level, events.clone(), || Clock::system().since_epoch().as_secs_f64())
}

/// Set the allocator, as far as the environment does not. Before the first thread.
fn settle_heap(heap: Heap) {
    heap::settle(heap, &|variable| config::env::of_process(variable).is_some());
}

/// The runtime for everything that waits for stores and sockets.
fn async_runtime() -> Result<tokio::runtime::Runtime, Error> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("io").build();
    built.map_err(|e| Error::with_source(ErrorKind::Unavailable, "cannot start threads for input and output", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
