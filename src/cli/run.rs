//! `harvestd run`: one pipeline, in the foreground, to its end.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::MultiProgress;

use super::progress::Progress;
use super::traces::TraceArgs;
use super::{Globals, Outcome, output};
use crate::admin::{AdminServer, Board, Watched};
use crate::compute::cpu::heap::Heap;
use crate::error::{ErrorKind, ResultExt};
use crate::evaluation::Evaluation;
use crate::pipeline::summary::{RunSummary, TrainerSummary};
use crate::pipeline::{
    self,
    status::{RowsFrom, RunStatus},
};
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;
use crate::store::prices::{Spent, Usage};
use crate::telemetry::events::RecentEvents;
use crate::telemetry::logging::ProgressGuard;
use crate::telemetry::metrics::Metrics;
use crate::units::{ByteSize, Count};

/// Exit code of a run that a second signal (or the end of the grace period) stopped: 128 + SIGINT, as shells expect.
pub(super) const EXIT_ABORTED: u8 = 130;
/// Time between the decision to abort and the end of the process: enough for the log, too little for work.
pub(super) const ABORT_AFTER: Duration = Duration::from_millis(200);

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd run pipelines/quickstart.yaml
  harvestd run p.yaml --set trainers=[] --set dataset.url=s3://bucket/acts
  harvestd run p.yaml --json | jq .trainers

SIGTERM or SIGINT drains: what is in flight is finished in order, whole shards are committed, trainers write a
checkpoint, exit code 0. A second signal stops at once. Running the same command again continues.")]
pub(crate) struct RunArgs {
    /// The pipeline file
    #[arg(value_name = "PIPELINE")]
    pipeline: PathBuf,
    #[command(flatten)]
    traces: TraceArgs,
}

pub(crate) fn execute(args: &RunArgs, globals: &Globals, guard: &ProgressGuard, events: &RecentEvents) -> Outcome {
    let loaded = globals.load(&args.pipeline)?;
    for note in &loaded.notes {
        tracing::warn!("{}", note.line(&loaded.source.display().to_string()));
    }
    if loaded.pipeline.replay().is_some() {
        super::settle_heap(Heap::Kept);
    }
    let runtime = super::async_runtime()?;
    let (traces, otlp) = args.traces.open()?;
    let metrics = Arc::new(Metrics::traced(&loaded.pipeline.name, &traces));
    let status = Arc::new(RunStatus::continuing(&loaded.pipeline.name, metrics));
    let shutdown = Shutdown::new(loaded.pipeline.grace);
    // within the runtime: readers of the corpus start their transfers from wherever they are opened
    let _entered = runtime.enter();
    shutdown.listen_for_signals()?;
    let sending = otlp.map(|otlp| otlp.start(traces));
    exit_when_aborted(&runtime, &shutdown);
    let admin = match loaded.pipeline.admin_listen {
        Some(address) => {
            let board = Arc::new(Board::new(Clock::system()).with_events(events));
            status.lenses.watch();
            board.put(&loaded.pipeline.name, Watched::of(&status, &shutdown));
            Some(runtime.block_on(AdminServer::start(&address.to_string(), board))?)
        }
        None => None,
    };
    let bars = MultiProgress::new();
    let suspend = bars.clone();
    guard.set(Some(Arc::new(move |act: &mut dyn FnMut()| suspend.suspend(act))));
    let progress = Progress::start(Arc::clone(&status), bars);
    let result = pipeline::run(&loaded, &status, &shutdown, runtime.handle(), &Clock::system());
    drop(progress);
    guard.set(None);
    if let Some(admin) = admin {
        runtime.block_on(admin.stop());
    }
    if let Some(sending) = sending {
        runtime.block_on(sending.end());
    }
    if shutdown.is_aborting() {
        output::complain("stopped at once; run it again to continue");
        return Ok(ExitCode::from(EXIT_ABORTED));
    }
    let summary = match result {
        Err(e) if e.kind() == ErrorKind::Closed && shutdown.is_draining() => {
            // nothing had begun that could be drained
            output::complain(&e.to_string());
            return Ok(ExitCode::from(EXIT_ABORTED));
        }
        result => result?,
    };
    if globals.json {
        output::print_json(
            &serde_json::to_value(&summary).or_kind(ErrorKind::Internal, || "write the summary".into())?,
        );
    } else {
        output::print(&table(&summary));
    }
    Ok(verdict(&summary))
}

/// The process ends soon after a second signal, whatever its threads are doing.
#[allow(clippy::disallowed_methods, reason = "stopping at once is what was asked for; nothing is left half written")]
fn exit_when_aborted(runtime: &tokio::runtime::Runtime, shutdown: &Shutdown) {
    let shutdown = shutdown.clone();
    runtime.spawn(async move {
        shutdown.aborting().await;
        tokio::time::sleep(ABORT_AFTER).await;
        std::process::exit(i32::from(EXIT_ABORTED));
    });
}

/// A failed trainer does not stop the others, but the run did not do all it was asked to.
fn verdict(summary: &RunSummary) -> ExitCode {
    let failed: Vec<&TrainerSummary> = summary.trainers.iter().filter(|t| t.error.is_some()).collect();
    for trainer in &failed {
        output::complain(&format!(
            "trainer `{}` failed: {}",
            trainer.name,
            trainer.error.as_deref().unwrap_or_default()
        ));
    }
    if let Some(reason) = &summary.stopped {
        output::complain(reason);
        return ExitCode::from(ErrorKind::Full.exit_code());
    }
    match failed.first() {
        Some(first) => ExitCode::from(first.error_kind.unwrap_or(ErrorKind::Internal).exit_code()),
        None => ExitCode::SUCCESS,
    }
}

/// The summary for people.
fn table(s: &RunSummary) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    let state = match (&s.stopped, s.interrupted) {
        (Some(_), _) => "stopped: storage is full",
        (None, true) => "interrupted: run it again to continue",
        (None, false) => "complete",
    };
    row("pipeline", format!("{} ({state})", s.pipeline));
    match s.rows_from {
        RowsFrom::Corpus => {
            let (tokens, rate) = (Count(s.tokens), s.tokens_per_second);
            let computed =
                format!("{} documents, {tokens} tokens in {:.1} s: {rate:.0} tokens/s", s.documents, s.seconds);
            row("computed", computed);
            row("kept", format!("{} rows", Count(s.rows)));
        }
        RowsFrom::Dataset => {
            row("read", format!("{} rows in {:.1} s: {:.0} rows/s", Count(s.rows), s.seconds, s.rows_per_second));
        }
    }
    let dropped: Vec<String> = s.dropped.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
    row("not kept", if dropped.is_empty() { "nothing".to_owned() } else { dropped.join(", ") });
    if let Some(d) = &s.dataset {
        let whole = if d.complete { "" } else { " (not complete)" };
        let size = format!("{} rows, {} shards, {}{whole}", Count(d.rows), d.shards, ByteSize(d.bytes));
        row("dataset", format!("{size}\n{}", d.url));
        for group in &d.columns {
            let whole = if group.complete { "" } else { " (not complete)" };
            let size = format!("{} rows, {} shards, {}{whole}", Count(group.rows), group.shards, ByteSize(group.bytes));
            row("column group", format!("{size}\n{}", group.url));
        }
    }
    if s.stores.usage != Usage::default() {
        row("stores", stores_cell(&s.stores));
    }
    for stage in &s.stages {
        row(
            &format!("stage {}", stage.stage),
            format!(
                "{} in, {} out, {}, busy {:.1} s, blocked {:.1} s",
                stage.items_in,
                stage.items_out,
                ByteSize(stage.bytes),
                stage.busy_seconds,
                stage.blocked_seconds
            ),
        );
    }
    for t in &s.trainers {
        row(&format!("trainer {}", t.name), trainer_cell(t));
    }
    if let Some(column) = table.column_mut(0) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    match comparison(&s.trainers) {
        Some(comparison) => format!("{table}\n{comparison}"),
        None => table.to_string(),
    }
}

/// Several coders side by side: of held-out text where they were judged, else of their last steps.
fn comparison(trainers: &[TrainerSummary]) -> Option<Table> {
    if trainers.len() < 2 {
        return None;
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["trainer", "site", "rows", "L0", "FVU", "dead", "CE recovered"]);
    for t in trainers {
        let judged = t.evaluation.as_ref().and_then(|e| e.language_model.as_ref());
        let of_coder = |shown: String| if has_no_coder(t) { "failed".to_owned() } else { shown };
        table.add_row([
            t.name.clone(),
            t.site.clone(),
            of_coder(Count(t.rows).to_string()),
            of_coder(format!("{:.1}", t.l0)),
            of_coder(format!("{:.4}", t.fvu)),
            of_coder(format!("{:.1}%", 100.0 * t.dead_fraction)),
            judged.map_or_else(|| "-".to_owned(), |m| format!("{:.2}%", 100.0 * m.ce_recovered)),
        ]);
    }
    for column in 2..7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    Some(table)
}

fn stores_cell(spent: &Spent) -> String {
    let Usage { write, list, read, delete, read_bytes } = spent.usage;
    let bytes = ByteSize(read_bytes as u64);
    let requests = format!("{write} writes, {read} reads ({bytes}), {list} listings, {delete} deletes");
    let cost = match (spent.cost, &spent.currency) {
        (Some(cost), Some(currency)) => format!(": {cost:.4} {currency}"),
        _ => String::new(),
    };
    format!("{requests}, {} made again{cost}", spent.retries)
}

/// Whether a trainer failed so that none of its numbers means anything.
fn has_no_coder(t: &TrainerSummary) -> bool {
    t.error.is_some() && t.rows == 0
}

fn trainer_cell(t: &TrainerSummary) -> String {
    let mut lines = vec![format!(
        "{}: {} rows, loss {:.3}, FVU {:.4}, L0 {:.1}, dead {:.1}%",
        t.site,
        Count(t.rows),
        t.loss,
        t.fvu,
        t.l0,
        100.0 * t.dead_fraction
    )];
    if has_no_coder(t) {
        lines = vec![t.site.clone()];
    }
    if let Some(Evaluation { reconstruction: e, sparsity, language_model, sites, .. }) = &t.evaluation {
        lines.push(format!(
            "held out: {} rows, FVU {:.4}, explained variance {:.4}, cosine {:.4}, MSE {:.3}, L0 {:.1}, never active {:.1}%",
            e.rows,
            e.fvu,
            e.explained_variance,
            e.cosine,
            e.mse,
            sparsity.l0,
            100.0 * sparsity.dead_fraction
        ));
        for site in sites {
            lines.push(format!("  {}: FVU {:.4}", site.site, site.reconstruction.fvu));
        }
        if let Some(m) = language_model {
            lines.push(format!(
                "cross-entropy: clean {:.4}, reconstructed {:.4}, zero-ablated {:.4}; recovered {:.2}%, KL {:.4}",
                m.ce_clean,
                m.ce_spliced,
                m.ce_zero_ablated,
                100.0 * m.ce_recovered,
                m.kl
            ));
        }
    }
    lines.push(format!("checkpoint: {}", t.checkpoint));
    if let Some(exported) = &t.exported {
        lines.push(format!("SAELens folder: {exported}"));
    }
    if let Some(why) = &t.not_in_saelens {
        lines.push(match &t.circuit_tracer {
            Some(folder) => format!("circuit-tracer folder: {folder} (no SAELens folder: {why})"),
            None => format!("no SAELens folder: {why}; the checkpoint is the coder"),
        });
    }
    if let Some(error) = &t.error {
        lines.push(format!("FAILED: {error}"));
    }
    lines.join("\n")
}
