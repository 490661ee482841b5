//! Answers to requests that match no route.

use axum::http::StatusCode;

/// The answer to a path without a route.
pub async fn not_found() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "not found")
}

/// The answer to a method that a route does not have; axum adds the header Allow.
pub async fn method_not_allowed() -> (StatusCode, &'static str) {
    (StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
}
