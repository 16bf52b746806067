//! The `harvestd` binary: hand the command line to [`harvestd::cli`] and turn its answer into an exit code.

fn main() -> std::process::ExitCode {
    harvestd::cli::main()
}
