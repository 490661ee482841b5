//! Shows what is stored: the newest events, or everything.

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use serde::Deserialize;

use super::error::ApiError;
use crate::app::App;

const USUAL: usize = 100;
const MOST: usize = 1000;

#[derive(Deserialize)]
pub(crate) struct Asked {
    limit: Option<String>,
}

/// `{"events":[…]}`, newest first. Fewer than asked for when they are very long.
pub(crate) async fn newest(State(app): State<App>, Query(asked): Query<Asked>) -> Result<Response, ApiError> {
    let limit = match asked.limit.as_deref().map(str::parse) {
        None => USUAL,
        Some(Ok(limit @ 1..=MOST)) => limit,
        Some(_) => return Err(ApiError::Limit { most: MOST }),
    };
    let lines = app.journal.newest(limit).await.map_err(|error| unreadable(&error))?;
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

/// Every event that is kept, oldest first, one a line; what is stored meanwhile is left out.
pub(crate) async fn everything(State(app): State<App>) -> Result<Response, ApiError> {
    let busy = ApiError::Unavailable("as many downloads are under way as are allowed: try again later");
    let permit = app.downloads.clone().try_acquire_owned().map_err(|_| busy)?;
    let stream = app.journal.everything(permit).map_err(|error| unreadable(&error))?;
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response())
}

fn unreadable(error: &std::io::Error) -> ApiError {
    tracing::error!(%error, "the events can't be read");
    ApiError::Unavailable("the events can't be read now")
}
