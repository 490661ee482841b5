//! One connection, from accept to close.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::guard::{Guard, Phase};
use super::heads::Heads;
use super::timer::Never;
use super::{App, ConnectionLimits, ConnectionMetrics, Stages};

/// hyper's own minimum for its read buffer, which is also what the buffer has at first.
pub(super) const MIN_BUFFER_BYTES: usize = 8 << 10;

/// Answers the connection's requests until the connection closes, exceeds a limit or is told to end.
pub(super) async fn run(
    stream: TcpStream,
    peer: SocketAddr,
    app: impl App,
    limits: ConnectionLimits,
    heads: Heads,
    metrics: ConnectionMetrics,
    stages: Stages,
) {
    let _open = metrics.opened();
    // Nagle's algorithm only delays answers, which are written whole. If it can't be turned off they still arrive.
    let _ = stream.set_nodelay(true);
    let phase = Phase::default();
    let io = TokioIo::new(Guard::new(stream, phase.clone(), limits, heads.share(), metrics));
    let leave = Arc::new(stages.leave);
    let service = service_fn(move |request| answer(app.clone(), request, peer, phase.clone(), Arc::clone(&leave)));
    let connection = http1::Builder::new()
        // The size of the buffer limits heads. hyper's limit for them would also replace the 16 KiB that it allows after the last chunk of a body.
        .max_buf_size(limits.max_header_bytes.max(MIN_BUFFER_BYTES))
        // The guard enforces the limits. But hyper polls the stream after an answer, which starts the guard's limit for idle
        // connections, only if it has a header timeout itself. So it gets one with a timer that never fires.
        .timer(Never)
        .header_read_timeout(limits.headers.saturating_add(limits.idle))
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let ended = async {
        tokio::select! {
            result = connection.as_mut() => return result,
            () = stages.close.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    if let Some(Err(error)) = stages.abort.run_until_cancelled(ended).await {
        tracing::debug!(%peer, %error, "a connection ended with an error");
    }
}

async fn answer(
    app: impl App,
    mut request: Request<Incoming>,
    peer: SocketAddr,
    phase: Phase,
    leave: Arc<CancellationToken>,
) -> Result<Response<Tracked>, Infallible> {
    phase.busy();
    request.extensions_mut().insert(ConnectInfo(peer));
    let mut response = app.oneshot(request).await?;
    if leave.is_cancelled() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Tracked { body, _until: UntilIdle(phase) }))
}

/// The body of an answer; sets the connection's phase to idle when it is dropped.
struct Tracked {
    body: Body,
    _until: UntilIdle,
}

struct UntilIdle(Phase);

impl Drop for UntilIdle {
    fn drop(&mut self) {
        self.0.idle();
    }
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
