//! GET /api/v1/snapshot: all metrics over all sources.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::AppState;
use super::error::ApiError;
use crate::middleware::answer::Held;

/// How many answers there may be at the same time. Each has every metric in memory: several times while it is made, and once until it is sent.
const MOST: usize = 2;
static TURNS: Semaphore = Semaphore::const_new(MOST);

/// How long a request waits for another one to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// The answer: ids and their values.
#[derive(Serialize)]
pub struct Body {
    gauges: BTreeMap<String, f64>,
    counters: BTreeMap<String, i64>,
}

/// Each gauge's newest value and each counter's sum.
pub async fn get(State(state): State<AppState>) -> Result<Response, ApiError> {
    let turn = turn(&TURNS).await?;
    let store = Arc::clone(&state.store);
    // A store may go on reading after the client has disconnected, so the turn must not end with the request.
    let read = tokio::spawn(async move { (store.snapshot().await, turn) });
    let (snapshot, turn) = read.await.map_err(|_| ApiError::internal())?;
    let snapshot = snapshot?;
    let mut answer = Json(Body { gauges: snapshot.gauges, counters: snapshot.counters }).into_response();
    answer.extensions_mut().insert(Held(Arc::new(turn)));
    Ok(answer)
}

/// Waits for a turn. Requests get theirs in the order in which they came.
async fn turn(turns: &'static Semaphore) -> Result<SemaphorePermit<'static>, ApiError> {
    match timeout(PATIENCE, turns.acquire()).await {
        Ok(Ok(turn)) => Ok(turn),
        _ => Err(ApiError::overloaded("too many answers of /api/v1/snapshot are under way").retry_after(5)),
    }
}

#[cfg(test)]
mod tests {
    use golectra_protocol::ErrorCode;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_its_turn_and_is_refused_after_a_while() {
        static ONE: Semaphore = Semaphore::const_new(1);
        let first = turn(&ONE).await.unwrap();
        let start = Instant::now();
        let refusal = turn(&ONE).await.map(drop).unwrap_err();
        assert_eq!((refusal.code(), start.elapsed()), (ErrorCode::Overloaded, PATIENCE));
        let (second, ()) = tokio::join!(turn(&ONE), async { drop(first) });
        assert!(second.is_ok());
        assert_eq!(start.elapsed(), PATIENCE, "at once");
    }
}
