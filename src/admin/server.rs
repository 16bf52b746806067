//! Listens, serves, stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::admin::access::Access;
use crate::admin::board::Board;
use crate::admin::control::Control;
use crate::admin::listener::{BoundedListener, Bounds, Peer};
use crate::admin::routes::{App, router};
use crate::admin::samples;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// Scrapers, probes and a few people; more than that is a mistake or an attack.
pub const CONNECTIONS: usize = 64;

/// A connection without a byte for this long is closed.
const SILENCE: Duration = Duration::from_secs(30);

/// A request must have arrived within this: one that comes drop by drop does not hold its place. Reading all pipeline
/// files again may take its time, so it is no shorter.
const REQUEST: Duration = Duration::from_secs(60);

/// How long open connections may take to end when the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// An address that is taken: nobody is answered yet.
pub struct Bound {
    tcp: TcpListener,
    address: SocketAddr,
}

/// A running server. Dropping it stops it without waiting.
pub struct AdminServer {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

/// What a server serves besides its board.
pub struct Service {
    /// The pipelines of a process that runs many.
    pub control: Option<Arc<dyn Control>>,
    /// Who may do what.
    pub access: Access,
    /// Connections at a time.
    pub connections: usize,
}

impl Bound {
    /// Take the address `listen` (`127.0.0.1:9464`; port 0 takes a free one). Needs a tokio runtime.
    ///
    /// An address that is not one is a [`ErrorKind::Config`] error; one that is taken or not ours,
    /// [`ErrorKind::Unavailable`].
    pub async fn to(listen: &str) -> Result<Self> {
        let wanted: SocketAddr = listen.parse().or_kind(ErrorKind::Config, || {
            format!("admin.listen: `{listen}` is not an address with a port, such as 127.0.0.1:9464")
        })?;
        let tcp = TcpListener::bind(wanted).await.map_err(|e| cannot_listen(wanted, e))?;
        let address = tcp.local_addr().map_err(|e| cannot_listen(wanted, e))?;
        Ok(Self { tcp, address })
    }

    /// Serve `board` and `service`. Needs a tokio runtime.
    pub fn serve(self, board: Arc<Board>, service: Service) -> AdminServer {
        let Self { tcp, address } = self;
        let Service { control, access, connections } = service;
        let (stop, stopped) = oneshot::channel();
        let encrypted = access.tls.is_some();
        let bounds = Bounds { connections, silence: SILENCE, request: REQUEST };
        let listener = BoundedListener::new(tcp, bounds, access.tls.clone());
        let sampled = sample(Arc::clone(&board));
        let router = router(App { board, control, access }).into_make_service_with_connect_info::<Peer>();
        let serve = axum::serve(listener, router).with_graceful_shutdown(async {
            // a dropped sender stops the server as well
            drop(stopped.await);
        });
        let task = tokio::spawn(async move {
            tokio::select! {
                served = async { serve.await } => served,
                () = sampled => Ok(()),
            }
        });
        tracing::info!(%address, encrypted, "admin server listens");
        AdminServer { address, stop, task }
    }
}

impl AdminServer {
    /// Listen on `listen` and serve `board`, for reading only. Needs a tokio runtime.
    ///
    /// # Errors
    /// As [`Bound::to`].
    pub async fn start(listen: &str, board: Arc<Board>) -> Result<Self> {
        let service = Service { control: None, access: Access::default(), connections: CONNECTIONS };
        Ok(Bound::to(listen).await?.serve(board, service))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Take no new connections, let answers that are being written end, and stop.
    pub async fn stop(self) {
        drop(self.stop);
        let abort = self.task.abort_handle();
        match tokio::time::timeout(STOP_WITHIN, self.task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "admin server failed"),
            Ok(Err(error)) => tracing::warn!(%error, "admin server died"),
            Err(_) => abort.abort(),
        }
    }
}

/// Keeps what is shown of the last half hour.
async fn sample(board: Arc<Board>) {
    let mut every = tokio::time::interval(samples::EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        every.tick().await;
        board.sample();
    }
}

fn cannot_listen(address: SocketAddr, error: std::io::Error) -> Error {
    let hint = match error.kind() {
        std::io::ErrorKind::AddrInUse => " (is another harvestd running? set admin.listen, port 0 takes a free one)",
        _ => "",
    };
    Error::with_source(ErrorKind::Unavailable, format!("admin.listen: cannot listen on {address}{hint}"), error)
}
