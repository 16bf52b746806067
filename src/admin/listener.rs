//! A listener that bounds how many connections there are and how long they may be silent.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Accepts at most so many connections at a time; the others wait in the kernel's backlog.
pub(super) struct BoundedListener {
    tcp: TcpListener,
    room: Arc<Semaphore>,
    silence: Duration,
}

/// A connection that is closed when no byte moved for a while: a client that sends its request drop by drop, or reads
/// nothing, holds its place no longer than that a byte.
pub(super) struct BoundedStream {
    tcp: TcpStream,
    silence: Duration,
    closes: Pin<Box<Sleep>>,
    _room: OwnedSemaphorePermit,
}

impl BoundedListener {
    pub(super) fn new(tcp: TcpListener, connections: usize, silence: Duration) -> Self {
        Self { tcp, room: Arc::new(Semaphore::new(connections)), silence }
    }
}

impl axum::serve::Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        let room = Arc::clone(&self.room).acquire_owned().await.expect("the semaphore is never closed");
        // tokio's own accept loop logs and waits where the process is out of file descriptors
        let (tcp, peer) = axum::serve::Listener::accept(&mut self.tcp).await;
        let closes = Box::pin(tokio::time::sleep(self.silence));
        (BoundedStream { tcp, silence: self.silence, closes, _room: room }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

impl BoundedStream {
    /// Pass on what the socket says; while it says nothing, fail once the time is over.
    fn watch<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            let until = Instant::now() + self.silence;
            self.closes.as_mut().reset(until);
            return polled;
        }
        self.closes.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.tcp).poll_read(cx, into);
        self.watch(cx, polled)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.tcp).poll_write(cx, from);
        self.watch(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
