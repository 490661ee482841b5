//! The middleware of all requests and answers.

pub mod access;
pub mod answer;
pub mod drain;
pub mod observe;
pub mod path;

use std::panic::AssertUnwindSafe;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::FutureExt as _;

use crate::http::{AppState, error};

/// All of it in one layer, since axum boxes the service of each layer.
pub async fn around(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let takes_gzip = answer::accepts_gzip(request.headers());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let name = matched.as_ref().map(MatchedPath::as_str);
    // The hash allows guesses of the key to be tested, so only routes whose clients rely on it send it.
    let hash_key = state.key.as_ref().filter(|_| answer::answers_with_hash(name) && !state.signatures.are_required());
    let watch = observe::Watch::begin(&state.metrics, &request);
    let route = async {
        let (request, rest) = drain::keep(request);
        let answer = match path::refusal(&request) {
            Some(refusal) => refusal,
            None => match access::check(&state, request) {
                Ok(request) => next.run(request).await,
                Err(refusal) => refusal,
            },
        };
        rest.drain().await;
        answer
    };
    // State that a panic may have left inconsistent is dropped with the request.
    let route = AssertUnwindSafe(route).catch_unwind();
    let finished = async { answer::finish(route.await.unwrap_or_else(error::panicked), name, takes_gzip, hash_key).await };
    watch.see(finished).await
}
