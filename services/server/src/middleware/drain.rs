//! After an early refusal the rest of the request is still read, so that the client gets the answer instead of a connection
//! reset.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

/// How much is read and discarded; for a client that sends more the connection is closed.
const MAX_DRAINED_BYTES: usize = 8 << 20;

/// For how long the rest is read.
const LIMIT: Duration = Duration::from_secs(5);

/// Shares a request's body, so that the part which its handler did not read can be read later.
pub fn keep(request: Request) -> (Request, Rest) {
    // A client with `Expect: 100-continue` has not sent the body: reading would ask it to send.
    let waits = request.headers().contains_key(header::EXPECT);
    if waits || request.body().is_end_stream() {
        return (request, Rest(None));
    }
    let (parts, body) = request.into_parts();
    let shared = Shared(Arc::new(Mutex::new(Some(body))));
    (Request::from_parts(parts, Body::new(Shared(Arc::clone(&shared.0)))), Rest(Some(shared)))
}

/// The rest of a body, if there may be one.
pub struct Rest(Option<Shared>);

impl Rest {
    /// Reads and discards the rest.
    pub async fn drain(self) {
        let Some(mut body) = self.0.and_then(|shared| shared.lock().take()) else { return };
        let rest = async {
            let mut dropped = 0;
            while dropped < MAX_DRAINED_BYTES
                && let Some(Ok(frame)) = body.frame().await
            {
                dropped += frame.data_ref().map_or(0, Bytes::len);
            }
        };
        // If the client is too slow or sends too much, hyper closes the connection after the answer.
        let _ = tokio::time::timeout(LIMIT, rest).await;
    }
}

/// A body that can still be drained after its handler stopped reading. `None` once it was read to its end or failed.
struct Shared(Arc<Mutex<Option<Body>>>);

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Body>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut body = self.lock();
        let Some(inner) = body.as_mut() else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(inner).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            *body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}
