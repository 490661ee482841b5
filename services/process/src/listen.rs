//! An HTTP/1 server for clients that may be slow, silent, numerous or hostile.
//!
//! It uses hyper's connection builder instead of `axum::serve`, which keeps a silent connection open for ever. Here every state
//! of a connection has a time limit, the number of connections is bounded, and a shutdown closes all of them within a time
//! limit too.

mod connection;
mod guard;
mod heads;
mod metrics;
#[cfg(test)]
mod tests;
mod timer;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use self::heads::Heads;
pub use self::metrics::{ConnectionMetrics, Cut};
use crate::{LogLimiter, system};

/// What a connection takes beside the share of a long head and what handlers hold: the first 8 KiB of a head, hyper's 8 KiB for writing, and its state.
pub const CONNECTION_BYTES: usize = 20 << 10;

/// The memory of long heads, unless [`ConnectionLimits::heads_bytes`] says otherwise.
pub const HEADS_BYTES: usize = 32 << 20;

/// The pause after `accept` failed, such as when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits of time, size and number for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// From a request's first byte, or from accepting a connection, to the end of the request's head.
    pub headers: Duration,
    /// Between two requests on one connection.
    pub idle: Duration,
    /// The longest time that a write may wait without the client taking a byte.
    pub write_stall: Duration,
    /// The longest time from the first write that has to wait for the client to its next request. Without this limit a client
    /// that takes a byte now and then could keep an answer in memory for ever.
    pub slow_write: Duration,
    /// Each time that the client has taken this many bytes, the time of `slow_write` begins anew: a client that keeps this pace may take
    /// any time for the whole answer. Without it `slow_write` is the time for the whole answer.
    pub slow_write_bytes: Option<usize>,
    /// Connections open at once; more wait in the kernel's queue. A quarter of the process's file descriptors is always left
    /// free.
    pub max_connections: usize,
    /// Bytes of a request's head, at least 8 KiB; a longer one is answered 431.
    pub max_header_bytes: usize,
    /// The memory that heads longer than 8 KiB may take together; a connection whose head does not get its share is closed. A share lasts until its
    /// connection ends, since that may keep the buffer.
    pub heads_bytes: usize,
    /// From the end of `linger` until connections that are still in use are cut.
    pub drain: Duration,
    /// From the start of a shutdown, how long requests are answered as before, but with `Connection: close` on every answer. A
    /// client with a kept-alive connection then learns from an answer that it must reconnect; if the idle connection were closed
    /// at once, its next request could be lost.
    pub linger: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            headers: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            write_stall: Duration::from_secs(30),
            slow_write: Duration::from_mins(5),
            slow_write_bytes: None,
            max_connections: 8192,
            max_header_bytes: 64 << 10,
            heads_bytes: HEADS_BYTES,
            drain: Duration::from_secs(10),
            linger: Duration::ZERO,
        }
    }
}

/// A service that answers requests: a router, or a router behind layers that run before routing.
pub trait App: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static {}

impl<S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static> App for S {}

/// Serves `app` until `shutdown` is cancelled and every connection is closed, which takes at most `limits.linger` and then
/// `limits.drain`.
///
/// Handlers get the peer's address from axum's `ConnectInfo<SocketAddr>`; an IPv4 peer of a dual-stack socket is shown as IPv4.
pub async fn serve(listener: TcpListener, app: impl App, limits: ConnectionLimits, shutdown: CancellationToken) {
    serve_counted(listener, app, limits, ConnectionMetrics::default(), shutdown).await;
}

/// Like [`serve`], with metrics.
pub async fn serve_counted(
    listener: TcpListener,
    app: impl App,
    limits: ConnectionLimits,
    metrics: ConnectionMetrics,
    shutdown: CancellationToken,
) {
    let open_files = system::raise_open_files();
    let cap = limits.max_connections.min(open_files - open_files / 4).clamp(1, Semaphore::MAX_PERMITS);
    let mut gate = Gate { listener, permits: Arc::new(Semaphore::new(cap)), metrics: metrics.clone(), log: LogLimiter::new() };
    let tasks = TaskTracker::new();
    let stages = Stages { leave: shutdown.clone(), close: CancellationToken::new(), abort: CancellationToken::new() };
    let heads = Heads::new(limits.heads_bytes);
    let linger = limits.linger;
    let mut over = pin!(async move {
        shutdown.cancelled().await;
        if !linger.is_zero() {
            sleep(linger).await;
        }
    });
    loop {
        let (stream, peer, permit) = tokio::select! {
            next = gate.next() => next,
            () = over.as_mut() => break,
        };
        let connection = connection::run(stream, peer, app.clone(), limits, heads.clone(), metrics.clone(), stages.child());
        tasks.spawn(async move {
            connection.await;
            drop(permit);
        });
    }
    // From here on new clients are refused instead of waiting for an answer.
    drop(gate);
    stages.close.cancel();
    tasks.close();
    if timeout(limits.drain, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "cutting connections that did not finish in time");
        stages.abort.cancel();
        tasks.wait().await;
    }
}

/// The signals to connections during a shutdown, in this order.
#[derive(Clone, Debug)]
struct Stages {
    /// The next answer is the last one of the connection.
    leave: CancellationToken,
    /// Close when idle, or after the answer in progress.
    close: CancellationToken,
    /// Close at once.
    abort: CancellationToken,
}

impl Stages {
    /// The signals for one connection, on tokens of its own: waiting on them takes no lock that connections share.
    fn child(&self) -> Self {
        Self { leave: self.leave.child_token(), close: self.close.child_token(), abort: self.abort.child_token() }
    }
}

/// Accepts connections, up to the limit.
struct Gate {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    metrics: ConnectionMetrics,
    log: LogLimiter,
}

impl Gate {
    /// Waits for room and accepts the next connection.
    async fn next(&mut self) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
        let permit = self.permit().await;
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    return (stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()), permit);
                }
                // The client closed the connection before it was accepted.
                Err(error) if client_is_gone(&error) => {}
                Err(error) => {
                    self.metrics.accept_failed();
                    self.log.log("accept", move |count| {
                        tracing::error!(count, %error, "connections cannot be accepted: if the error says too many open files, raise that limit");
                    });
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn permit(&mut self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                return permit;
            }
            self.metrics.cap_reached();
            self.log.log("cap", |count| tracing::warn!(count, "the limit of open connections is reached: new connections wait"));
            // The semaphore is never closed; if it were, the loop would try again.
            if let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await {
                return permit;
            }
        }
    }
}

fn client_is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
