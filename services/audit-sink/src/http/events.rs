//! Shows what is stored: the newest events, or all of them.

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use golectra_process::LogLimiter;
use http::Version;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::error::ApiError;
use crate::state::SinkState;

const DEFAULT_LIMIT: usize = 100;
const LARGEST_LIMIT: usize = 1000;

static UNREADABLE_LOG: LogLimiter = LogLimiter::new();

#[derive(Deserialize)]
pub(crate) struct NewestQuery {
    limit: Option<String>,
}

/// `{"events":[…]}`, newest first. Fewer than asked for when they are very long.
pub(crate) async fn newest(State(state): State<SinkState>, Query(query): Query<NewestQuery>) -> Result<Response, ApiError> {
    let limit = match query.limit.as_deref().map(str::parse) {
        None => DEFAULT_LIMIT,
        Some(Ok(limit @ 1..=LARGEST_LIMIT)) => limit,
        Some(_) => return Err(ApiError::Limit { largest: LARGEST_LIMIT }),
    };
    let busy = ApiError::Unavailable("too many others read the newest events: try again later");
    let permit = state.newest.clone().try_acquire_owned().map_err(|_| busy)?;
    let (lines, permit) = state.journal.newest(limit, permit).await.map_err(unreadable)?;
    // Each line is JSON already.
    let (start, end) = (b"{\"events\":[", b"]}");
    let bytes: usize = lines.iter().map(|line| line.len() + 1).sum();
    let mut body = Vec::with_capacity(start.len() + bytes + end.len());
    body.extend_from_slice(start);
    for (index, line) in lines.into_iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&line);
    }
    body.extend_from_slice(end);
    let body = Bytes::from_owner(NewestBody { body, _permit: permit });
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

/// A body of the newest events. Its turn ends when the client has it.
struct NewestBody {
    body: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for NewestBody {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// Every event that is kept, oldest first, one a line. Events stored after the request came are left out.
pub(crate) async fn everything(State(state): State<SinkState>, version: Version) -> Result<Response, ApiError> {
    // In HTTP/1.0 the end of the connection is the end of the answer, so that an incomplete answer looks complete.
    if version < Version::HTTP_11 {
        return Err(ApiError::Version);
    }
    let busy = ApiError::Unavailable("too many downloads are under way: try again later");
    let permit = state.downloads.clone().try_acquire_owned().map_err(|_| busy)?;
    let stream = state.journal.everything(permit).map_err(unreadable)?;
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response())
}

fn unreadable(error: std::io::Error) -> ApiError {
    UNREADABLE_LOG.log("unreadable", move |count| tracing::error!(count, %error, "the events can't be read"));
    ApiError::Unavailable("the events can't be read now")
}
