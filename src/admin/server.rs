//! Listens, serves, stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::admin::board::Board;
use crate::admin::listener::BoundedListener;
use crate::admin::routes::router;
use crate::error::{Error, ErrorKind, Result, ResultExt};

/// Scrapers, probes and a few people; more than that is a mistake or an attack.
const CONNECTIONS: usize = 64;

/// A connection without a byte for this long is closed.
const SILENCE: Duration = Duration::from_secs(30);

/// How long open connections may take to end when the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// A running server. Dropping it stops it without waiting.
pub struct AdminServer {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl AdminServer {
    /// Listen on `listen` (`127.0.0.1:9464`; port 0 takes a free one) and serve `board`. Needs a tokio runtime.
    ///
    /// An address that is not one is a [`ErrorKind::Config`] error; one that is taken or not ours,
    /// [`ErrorKind::Unavailable`].
    pub async fn start(listen: &str, board: Arc<Board>) -> Result<Self> {
        let wanted: SocketAddr = listen.parse().or_kind(ErrorKind::Config, || {
            format!("admin.listen: `{listen}` is not an address with a port, such as 127.0.0.1:9464")
        })?;
        let tcp = TcpListener::bind(wanted).await.map_err(|e| cannot_listen(wanted, e))?;
        let address = tcp.local_addr().map_err(|e| cannot_listen(wanted, e))?;
        let (stop, stopped) = oneshot::channel();
        let listener = BoundedListener::new(tcp, CONNECTIONS, SILENCE);
        let serve = axum::serve(listener, router(board)).with_graceful_shutdown(async {
            // a dropped sender stops the server as well
            drop(stopped.await);
        });
        let task = tokio::spawn(async move { serve.await });
        tracing::info!(%address, "admin server listens");
        Ok(Self { address, stop, task })
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

fn cannot_listen(address: SocketAddr, error: std::io::Error) -> Error {
    let hint = match error.kind() {
        std::io::ErrorKind::AddrInUse => " (is another harvestd running? set admin.listen, port 0 takes a free one)",
        _ => "",
    };
    Error::with_source(ErrorKind::Unavailable, format!("admin.listen: cannot listen on {address}{hint}"), error)
}
