//! Errors as Prometheus answers them.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use golectra_process::LogLimiter;
use golectra_protocol::ErrorCode;
use serde::Serialize;

use crate::history::query::QueryError;
use crate::http::error::ApiError;

/// Log lines about queries that failed for a reason of the server's.
static FAILURES: LogLimiter = LogLimiter::new();

/// Why a request has no answer.
#[derive(Debug)]
pub enum ApiFailure {
    /// It can't be read.
    BadData(String),
    /// It was sent over an older version of HTTP, in which an answer that was cut off looks complete.
    Version,
    /// It can't be run.
    Query(QueryError),
    /// It was refused before it was looked at, as on any other route.
    Refused(ApiError),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    status: &'static str,
    error_type: &'static str,
    error: &'a str,
}

impl ApiFailure {
    /// A parameter that can't be read.
    pub fn parameter(name: &str, problem: impl std::fmt::Display) -> Self {
        Self::BadData(format!("invalid parameter {name:?}: {problem}"))
    }
}

impl IntoResponse for ApiFailure {
    fn into_response(self) -> Response {
        match self {
            Self::BadData(message) => respond(StatusCode::BAD_REQUEST, "bad_data", &message),
            Self::Version => {
                let message = "over HTTP/1.0 an answer that was cut off looks complete: use HTTP/1.1 (nginx: proxy_http_version 1.1)";
                respond(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "bad_data", message)
            }
            Self::Query(error) => query_error(&error),
            Self::Refused(error) => {
                let error_type = match error.status() {
                    StatusCode::SERVICE_UNAVAILABLE => "unavailable",
                    StatusCode::INTERNAL_SERVER_ERROR => "internal",
                    _ => "bad_data",
                };
                let response = respond(error.status(), error_type, error.message());
                error.headers(response)
            }
        }
    }
}

fn query_error(error: &QueryError) -> Response {
    let message = error.to_string();
    let (status, error_type) = match error {
        QueryError::Parameter { .. } => (StatusCode::BAD_REQUEST, "bad_data"),
        QueryError::Execution(_) | QueryError::TooManySeries { .. } | QueryError::TooMuchMemory { .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, "execution")
        }
        QueryError::Timeout { .. } => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
        QueryError::Canceled => (StatusCode::SERVICE_UNAVAILABLE, "canceled"),
        QueryError::QueueFull | QueryError::TooManyExports { .. } | QueryError::MemoryTaken { .. } | QueryError::Unavailable(_) => {
            log(error);
            let code = if matches!(error, QueryError::Unavailable(_)) { ErrorCode::StoreUnavailable } else { ErrorCode::Overloaded };
            let response = respond(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &message);
            return ApiError::new(code, message).retry_after(1).headers(response);
        }
        QueryError::Internal(_) => {
            log(error);
            (StatusCode::INTERNAL_SERVER_ERROR, "internal")
        }
    };
    respond(status, error_type, &message)
}

/// Says in the log what clients are not told.
fn log(error: &QueryError) {
    let reason = error.reason();
    match error {
        QueryError::Internal(cause) => {
            let cause = cause.clone();
            FAILURES.log(reason, move |count| tracing::error!(count, cause, "queries failed"));
        }
        QueryError::Unavailable(cause) => {
            let cause = cause.clone();
            FAILURES.log(reason, move |count| tracing::warn!(count, cause, "queries are refused: the store is unavailable"));
        }
        _ => FAILURES.log(reason, move |count| tracing::warn!(count, reason, "queries are refused: the server is overloaded")),
    }
}

fn respond(status: StatusCode, error_type: &'static str, error: &str) -> Response {
    (status, Json(Body { status: "error", error_type, error })).into_response()
}

impl From<QueryError> for ApiFailure {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl From<ApiError> for ApiFailure {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}
