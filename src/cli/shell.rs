//! `harvestd completions` and `harvestd man`: what shells and `man` know of the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Outcome, output};
use crate::error::{ErrorKind, ResultExt};

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd completions bash > ~/.local/share/bash-completion/completions/harvestd
  harvestd completions zsh > ~/.zfunc/_harvestd        with fpath+=~/.zfunc before compinit
  harvestd completions fish > ~/.config/fish/completions/harvestd.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd man ~/.local/share/man/man1 && man harvestd-serve")]
pub(crate) struct ManArgs {
    /// Where the pages are written: one of the program, one of each command
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

pub(crate) fn completions(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "harvestd", &mut script);
    output::print(String::from_utf8_lossy(&script).trim_end());
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(args: &ManArgs) -> Outcome {
    let folder = &args.folder;
    let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    written.or_kind(ErrorKind::Unavailable, || format!("cannot write to `{}`", folder.display()))?;
    output::complain(&format!("pages are in `{}`", folder.display()));
    Ok(ExitCode::SUCCESS)
}
