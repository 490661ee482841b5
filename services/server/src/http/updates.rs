//! POST /updates: a batch of metrics.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use golectra_protocol::{header as names, json};
use serde::Serialize;

use super::AppState;
use super::error::ApiError;
use super::extract::{ClientAddress, Key, Payload, Sender};
use crate::ingest::Write;
use crate::store::Applied;

#[derive(Serialize)]
struct Updated {
    updated: usize,
}

/// Answers with the number of metrics in the batch; a repeat gets the same answer, since it has the same body.
pub async fn post(
    State(state): State<AppState>,
    Sender(source): Sender,
    Key(key): Key,
    ClientAddress(peer): ClientAddress,
    payload: Payload,
) -> Result<Response, ApiError> {
    let metrics = json::decode_batch(&payload.bytes, state.max_batch_items)?;
    let updated = metrics.len();
    let write = Write { source, key, digest: payload.digest(), metrics, peer };
    let applied = state.ingest.write(write).await?;
    Ok(replayed(&applied, Json(Updated { updated })))
}

/// The answer to a write, with a header if the batch had been applied before.
pub fn replayed(applied: &Applied, answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    if *applied == Applied::Repeat {
        response.headers_mut().insert(names::IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
