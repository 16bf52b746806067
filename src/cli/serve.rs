//! `harvestd serve`: many pipelines, until it is told to end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::run::{ABORT_AFTER, EXIT_ABORTED};
use super::traces::TraceArgs;
use super::{Globals, Outcome, output, validate};
use crate::admin::{Access, AdminServer, Board, Bound, Control, Service, Tls, Token};
use crate::config::edits::Edits;
use crate::config::{self, Loaded, Problems, env};
use crate::daemon::memory::Memory;
use crate::daemon::notify::{Notifier, watchdog_period};
use crate::daemon::{Daemon, Loader, RestartPolicy};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::runtime::clock::Clock;
use crate::telemetry::events::RecentEvents;
use crate::units::{ByteSize, HumanDuration};

/// Between two looks at how pipelines fare, where no watchdog wants to know.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Arguments of `serve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd serve /etc/harvestd/pipelines --state-dir /var/lib/harvestd
  harvestd serve a.yaml b.yaml --listen 127.0.0.1:9464 --token-file token
  curl -X POST -H \"Authorization: Bearer $(cat token)\" localhost:9464/v1/pipelines/a/pause

SIGHUP reads the files again: nothing changes unless all are valid; pipelines that did not change keep running. SIGTERM or
SIGINT drains all pipelines, each within its `shutdown.grace`, and exits with 0. A second signal stops at once. What was
paused, stopped and added over HTTP is kept in the state folder. `admin` of a pipeline is not used: there is one endpoint for all.")]
pub(crate) struct ServeArgs {
    /// Pipeline files, and folders of .yaml and .yml files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Address and port of the HTTP endpoint; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:9464", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Folder for what was paused, stopped and added [default: STATE_DIRECTORY, else harvestd in XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// File with the token that changes need (Authorization: Bearer ...) [default: the variable HARVESTD_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificate chain of the endpoint, PEM; read again at each reload
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Authority whose clients may change things without a token, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Ask for the token or certificate for reading too (never for /livez and /readyz)
    #[arg(long)]
    protect_reads: bool,
    /// HTTP connections at a time
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Wait before a pipeline is started again after a fault; doubles with each one
    #[arg(long, default_value = "1s", value_name = "TIME")]
    restart_wait: HumanDuration,
    /// Longest of these waits
    #[arg(long, default_value = "5min", value_name = "TIME")]
    restart_wait_max: HumanDuration,
    /// A pipeline that worked this long is healthy: the next wait is the first one again
    #[arg(long, default_value = "10min", value_name = "TIME")]
    healthy_after: HumanDuration,
    /// Memory that all pipelines may take together: one whose `limits.memory` does not fit waits until others end
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    #[command(flatten)]
    traces: TraceArgs,
}

pub(crate) fn execute(args: &ServeArgs, globals: &Globals, events: &RecentEvents) -> Outcome {
    let access = access(args)?;
    let tls = access.tls.clone();
    access.check(args.listen)?;
    let notifier = Notifier::new(env::of_process("NOTIFY_SOCKET").as_deref())?;
    let memory = Memory::open(&state_folder(args)?)?;
    let runtime = super::async_runtime()?;
    let (traces, otlp) = args.traces.open()?;
    let board = Arc::new(Board::new(Clock::system()).with_events(events).with_traces(&traces));
    let served = runtime.block_on(async {
        let signals = Signals::install()?;
        let sending = otlp.map(|otlp| otlp.start(traces));
        let bound = Bound::to(&args.listen.to_string()).await?;
        let loader = Box::new(Files { paths: args.paths.clone(), globals: globals.clone() });
        let policy = RestartPolicy {
            first_wait: args.restart_wait.0,
            longest_wait: args.restart_wait_max.0.max(args.restart_wait.0),
            healthy_after: args.healthy_after.0,
        };
        let (shown, io) = (Arc::clone(&board), runtime.handle().clone());
        let limit = args.memory.map(|limit| limit.0);
        let daemon = blocking(move || Daemon::start(loader, memory, shown, policy, limit, io)).await??;
        let control = Some(Arc::clone(&daemon) as Arc<dyn Control>);
        let service = Service { control, access, connections: args.connections.into() };
        let server = bound.serve(Arc::clone(&board), service);
        let serving = Serving { daemon, board, notifier: Arc::new(notifier), tls };
        let ended = serving.until_told(signals, server).await;
        if let Some(sending) = sending {
            sending.end().await;
        }
        Ok::<_, Error>(ended)
    });
    // threads that did not end are left to the end of the process
    runtime.shutdown_background();
    served.map_err(Into::into)
}

/// Do what blocks where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.or_kind(ErrorKind::Internal, || "a thread died".to_owned())
}

/// Where pipelines are read from.
struct Files {
    paths: Vec<PathBuf>,
    globals: Globals,
}

impl Loader for Files {
    fn files(&self) -> Result<Vec<PathBuf>> {
        let files = validate::yaml_files(&self.paths)?;
        if files.is_empty() {
            tracing::warn!("there are no pipelines yet: SIGHUP, or POST /v1/reload, looks again");
        }
        Ok(files)
    }

    fn load(&self, file: &Path, edits: &Edits) -> Result<Loaded, Problems> {
        let loaded = config::load_edited(file, &self.globals.sets, &self.globals.store, edits)?;
        validate::check_deeply(&loaded)?;
        Ok(loaded)
    }
}

fn access(args: &ServeArgs) -> Result<Access> {
    let token = match &args.token_file {
        Some(file) => Some(std::fs::read_to_string(file).map_err(|e| {
            Error::with_source(ErrorKind::Config, format!("--token-file: cannot read `{}`", file.display()), e)
        })?),
        None => env::of_process("HARVESTD_TOKEN").filter(|token| !token.is_empty()),
    };
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Some(Arc::new(Tls::open(certificate, key, args.tls_client_ca.as_deref())?)),
        _ => None,
    };
    Ok(Access { token: token.map(|token| Token::new(&token)).transpose()?, tls, protect_reads: args.protect_reads })
}

fn state_folder(args: &ServeArgs) -> Result<PathBuf> {
    if let Some(folder) = &args.state_dir {
        return Ok(folder.clone());
    }
    let of = |variable: &str| env::of_process(variable).filter(|value| !value.is_empty());
    // systemd gives several, separated by colons, where a unit has several
    if let Some(folders) = of("STATE_DIRECTORY") {
        return Ok(folders.split(':').next().unwrap_or_default().into());
    }
    let base = of("XDG_STATE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(of("HOME")?).join(".local/state")));
    let base = base.ok_or_else(|| Error::config("--state-dir is needed: neither STATE_DIRECTORY nor HOME is set"))?;
    Ok(base.join("harvestd"))
}

/// What the process listens to.
struct Signals {
    hang_up: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> Result<Self> {
        let install = |kind| signal(kind).or_kind(ErrorKind::Internal, || "cannot install a signal handler".to_owned());
        Ok(Self {
            hang_up: install(SignalKind::hangup())?,
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
        })
    }

    /// The name of the next one that ends the process.
    async fn end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// A process that serves.
struct Serving {
    daemon: Arc<Daemon>,
    board: Arc<Board>,
    notifier: Arc<Notifier>,
    tls: Option<Arc<Tls>>,
}

impl Serving {
    /// Serve until a signal comes, then drain.
    async fn until_told(self, mut signals: Signals, server: AdminServer) -> ExitCode {
        self.notifier.ready(&self.daemon.in_a_line());
        let watchdog = {
            let of = |variable: &str| env::of_process(variable);
            watchdog_period(of("WATCHDOG_USEC").as_deref(), of("WATCHDOG_PID").as_deref(), std::process::id())
        };
        let mut beat = tokio::time::interval(watchdog.unwrap_or(LOOK_EVERY));
        loop {
            tokio::select! {
                _ = signals.hang_up.recv() => self.reload(),
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                _ = beat.tick() => self.beat(),
            }
        }
        tracing::info!("draining all pipelines; a second signal stops at once");
        self.board.ends();
        self.notifier.stopping(self.daemon.grace());
        let daemon = Arc::clone(&self.daemon);
        let mut end = std::pin::pin!(blocking(move || daemon.end()));
        let left = loop {
            tokio::select! {
                left = &mut end => break left.unwrap_or_default(),
                _ = beat.tick() => self.beat(),
                name = signals.end() => {
                    tracing::warn!(signal = name, "second signal, stopping at once");
                    self.daemon.abort();
                    tokio::time::sleep(ABORT_AFTER).await;
                    output::complain("stopped at once; start it again to continue");
                    return ExitCode::from(EXIT_ABORTED);
                }
            }
        };
        server.stop().await;
        if left.is_empty() {
            tracing::info!("all pipelines are saved");
            return ExitCode::SUCCESS;
        }
        output::complain(&format!("did not end within their grace period: {}; nothing is lost", left.join(", ")));
        ExitCode::from(EXIT_ABORTED)
    }

    /// Say that the process is alive, if it is.
    fn beat(&self) {
        match self.board.liveness().ok {
            true => self.notifier.alive(&self.daemon.in_a_line()),
            false => tracing::error!("a pipeline stands still; /livez says which"),
        }
    }

    /// Read everything again, beside what goes on.
    fn reload(&self) {
        tracing::info!("SIGHUP: reading the pipelines again");
        let (daemon, notifier, tls) = (Arc::clone(&self.daemon), Arc::clone(&self.notifier), self.tls.clone());
        tokio::task::spawn_blocking(move || {
            notifier.reloading();
            if let Some(Err(error)) = tls.map(|tls| tls.reload()) {
                tracing::error!(%error, "the certificate in use stays");
            }
            // what was refused is in the log
            drop(daemon.reload());
            notifier.ready(&daemon.in_a_line());
        });
    }
}
