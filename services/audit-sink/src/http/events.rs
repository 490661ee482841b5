//! Shows what is stored: the newest events, or all of them.

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use golectra_process::LogLimiter;
use http::header::CONTENT_TYPE;
use serde::Deserialize;

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
    let lines = state.journal.newest(limit).await.map_err(unreadable)?;
    // Each line is JSON already.
    let mut body = b"{\"events\":[".to_vec();
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(line);
    }
    body.extend_from_slice(b"]}");
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

/// Every event that is kept, oldest first, one a line. Events stored after the request came are left out.
pub(crate) async fn everything(State(state): State<SinkState>) -> Result<Response, ApiError> {
    let busy = ApiError::Unavailable("too many downloads are under way: try again later");
    let permit = state.downloads.clone().try_acquire_owned().map_err(|_| busy)?;
    let stream = state.journal.everything(permit).map_err(unreadable)?;
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response())
}

fn unreadable(error: std::io::Error) -> ApiError {
    UNREADABLE_LOG.log("unreadable", move |count| tracing::error!(count, %error, "the events can't be read"));
    ApiError::Unavailable("the events can't be read now")
}
