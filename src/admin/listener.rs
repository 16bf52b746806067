//! A listener that bounds how many connections there are, how long they may be silent, and how long a request may take to
//! arrive; with TLS, if that is wanted.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use crate::admin::access::Tls;

/// What a connection may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at a time; the others wait in the kernel's backlog.
    pub(super) connections: usize,
    /// A connection without a byte for this long is closed.
    pub(super) silence: Duration,
    /// A request must have arrived, and its answer begun, within this.
    pub(super) request: Duration,
}

/// Accepts connections within [`Bounds`].
pub(super) struct BoundedListener {
    tcp: TcpListener,
    room: Arc<Semaphore>,
    bounds: Bounds,
    tls: Option<Arc<Tls>>,
}

/// A connection that is closed when no byte moved for a while, or when a request takes too long: a client that sends its
/// request drop by drop, or reads nothing, does not hold its place.
pub(super) struct BoundedStream {
    wire: Wire,
    bounds: Bounds,
    /// When the first byte of a request came that is not answered yet.
    request_since: Option<Instant>,
    closes: Pin<Box<Sleep>>,
    peer: Peer,
    _room: OwnedSemaphorePermit,
}

/// What is known of who is at the other end.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    certified: Arc<AtomicBool>,
}

enum Wire {
    Plain(TcpStream),
    /// The handshake goes on while the connection is served, so that a slow one holds up nobody else.
    Shaking(Box<Accept<TcpStream>>),
    Secure(Box<TlsStream<TcpStream>>),
    Broken,
}

impl Peer {
    /// Whether it showed a certificate of the authority for clients.
    pub(super) fn is_certified(&self) -> bool {
        self.certified.load(Ordering::Acquire)
    }
}

impl Connected<IncomingStream<'_, BoundedListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Self {
        stream.io().peer.clone()
    }
}

impl BoundedListener {
    pub(super) fn new(tcp: TcpListener, bounds: Bounds, tls: Option<Arc<Tls>>) -> Self {
        Self { tcp, room: Arc::new(Semaphore::new(bounds.connections)), bounds, tls }
    }
}

impl axum::serve::Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        let room = Arc::clone(&self.room).acquire_owned().await.expect("the semaphore is never closed");
        // tokio's own accept loop logs and waits where the process is out of file descriptors
        let (tcp, address) = axum::serve::Listener::accept(&mut self.tcp).await;
        let wire = match &self.tls {
            None => Wire::Plain(tcp),
            Some(tls) => Wire::Shaking(Box::new(TlsAcceptor::from(tls.current()).accept(tcp))),
        };
        let closes = Box::pin(tokio::time::sleep(self.bounds.silence));
        let (bounds, peer) = (self.bounds, Peer::default());
        (BoundedStream { wire, bounds, request_since: None, closes, peer, _room: room }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

impl BoundedStream {
    /// Finish the handshake, if there is one to finish.
    fn ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Wire::Shaking(accept) = &mut self.wire else { return Poll::Ready(Ok(())) };
        match Pin::new(accept).poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(stream)) => {
                let certified = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
                self.peer.certified.store(certified, Ordering::Release);
                self.wire = Wire::Secure(Box::new(stream));
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                self.wire = Wire::Broken;
                Poll::Ready(Err(error))
            }
        }
    }

    /// Pass on what the socket says; while it says nothing, fail once the time is over.
    fn watch<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            let silent = Instant::now() + self.bounds.silence;
            let late = self.request_since.map(|since| since + self.bounds.request);
            self.closes.as_mut().reset(late.map_or(silent, |late| late.min(silent)));
            return polled;
        }
        self.closes.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn write_with<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut dyn Both>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let polled = match self.ready(context) {
            Poll::Ready(Ok(())) => match &mut self.wire {
                Wire::Plain(tcp) => write(Pin::new(tcp), context),
                Wire::Secure(tls) => write(Pin::new(&mut **tls), context),
                Wire::Shaking(_) | Wire::Broken => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            },
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        self.watch(context, polled)
    }
}

/// Either kind of connection.
trait Both: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Both for T {}

impl AsyncRead for BoundedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        if self.request_since.is_some_and(|since| since.elapsed() >= self.bounds.request) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let polled = match self.ready(cx) {
            Poll::Ready(Ok(())) => match &mut self.wire {
                Wire::Plain(tcp) => Pin::new(tcp).poll_read(cx, into),
                Wire::Secure(tls) => Pin::new(tls).poll_read(cx, into),
                Wire::Shaking(_) | Wire::Broken => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            },
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        if polled.is_ready() && into.filled().len() > before {
            self.request_since.get_or_insert_with(Instant::now);
        }
        self.watch(cx, polled)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        // an answer begins: the request was read
        self.request_since = None;
        self.write_with(cx, |wire, cx| wire.poll_write(cx, from))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write_with(cx, |wire, cx| wire.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write_with(cx, |wire, cx| wire.poll_shutdown(cx))
    }
}
