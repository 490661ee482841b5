//! Serving HTTP/1 to clients that may be slow, silent, many or hostile.
//!
//! hyper's connection builder is driven here rather than through `axum::serve`, which keeps a silent connection open for
//! ever: every state a connection can be in has a time limit, the number of connections has a bound, and a shutdown ends
//! all of them within one more.

mod connection;
mod guard;
mod stats;
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

pub use self::stats::{ConnectionStats, Cut};
use crate::{LogLimiter, system};

/// The pause after the system could not give a connection, as when it is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// From a request's first byte, or from accepting a connection, to the end of the request's head.
    pub headers: Duration,
    /// Between two requests on one connection.
    pub idle: Duration,
    /// While writing, without the client taking a byte.
    pub write_stall: Duration,
    /// From the first time that the client keeps an answer waiting to its next request. A client that takes a byte now and then would
    /// otherwise hold what its answer holds for ever.
    pub slow_write: Duration,
    /// Connections open at once; more wait in the kernel's queue. A quarter of the process's file descriptors stay free in any case.
    pub max_connections: usize,
    /// Bytes of a request's head, at least 8 KiB; a longer one is answered 431.
    pub max_header_bytes: usize,
    /// From the start of a shutdown until connections that still work are cut.
    pub drain: Duration,
    /// How much of `drain` is spent answering as before, but for `Connection: close` on every answer: a client that keeps its
    /// connections then leaves with an answer in hand, where an idle connection that is closed may meet a request on its way.
    pub linger: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            headers: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            write_stall: Duration::from_secs(30),
            slow_write: Duration::from_mins(5),
            max_connections: 8192,
            max_header_bytes: 64 << 10,
            drain: Duration::from_secs(10),
            linger: Duration::ZERO,
        }
    }
}

/// What answers requests: a router, or one behind layers that come before routing.
pub trait App: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static {}

impl<S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static> App for S {}

/// Serves `app` until `shutdown` is cancelled and every connection is closed, which takes at most `limits.drain`.
///
/// Handlers find the peer's address in axum's `ConnectInfo<SocketAddr>`; an IPv4 peer of a dual-stack socket is shown as IPv4.
pub async fn serve(listener: TcpListener, app: impl App, limits: ConnectionLimits, shutdown: CancellationToken) {
    serve_counted(listener, app, limits, ConnectionStats::default(), shutdown).await;
}

/// As [`serve`], counting into `stats`.
pub async fn serve_counted(
    listener: TcpListener,
    app: impl App,
    limits: ConnectionLimits,
    stats: ConnectionStats,
    shutdown: CancellationToken,
) {
    let open_files = system::raise_open_files();
    let cap = limits.max_connections.min(open_files - open_files / 4).clamp(1, Semaphore::MAX_PERMITS);
    let mut gate = Gate { listener, permits: Arc::new(Semaphore::new(cap)), stats: stats.clone(), log: LogLimiter::new() };
    let tasks = TaskTracker::new();
    let stages = Stages { leave: shutdown.clone(), close: CancellationToken::new(), abort: CancellationToken::new() };
    let linger = limits.linger.min(limits.drain);
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
        let connection = connection::run(stream, peer, app.clone(), limits, stats.clone(), stages.child());
        tasks.spawn(async move {
            connection.await;
            drop(permit);
        });
    }
    // New clients are refused from here on rather than left waiting.
    drop(gate);
    stages.close.cancel();
    tasks.close();
    if timeout(limits.drain.saturating_sub(linger), tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "connections that did not finish in time are cut");
        stages.abort.cancel();
        tasks.wait().await;
    }
}

/// What connections are told as serving ends, in this order.
#[derive(Clone, Debug)]
struct Stages {
    /// The next answer is the connection's last.
    leave: CancellationToken,
    /// Close when idle, and after the answer that is under way.
    close: CancellationToken,
    /// End at once.
    abort: CancellationToken,
}

impl Stages {
    /// The same for one connection, which then shares no lock with the others.
    fn child(&self) -> Self {
        Self { leave: self.leave.child_token(), close: self.close.child_token(), abort: self.abort.child_token() }
    }
}

/// Where connections come in.
struct Gate {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    stats: ConnectionStats,
    log: LogLimiter,
}

impl Gate {
    /// The next connection, once there is room for one.
    async fn next(&mut self) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
        let permit = self.permit().await;
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    return (stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()), permit);
                }
                // The client went away before it was accepted; the next one may be fine.
                Err(error) if client_is_gone(&error) => {}
                Err(error) => {
                    self.stats.accept_failed();
                    self.log.log("accept", move |count| {
                        tracing::error!(count, %error, "connections cannot be accepted: raise the limit of open files if it is that");
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
            self.stats.cap_reached();
            self.log.log("cap", |count| tracing::warn!(count, "as many connections are open as are allowed: new ones wait"));
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
