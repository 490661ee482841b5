//! One error type for every route, and how it looks to a client: JSON on JSON routes, text on text routes.
//!
//! A 4xx says what was wrong with the request. A 5xx tells nothing of the inside; its cause is logged here.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use golectra_process::LogLimiter;
use golectra_protocol::json::DecodeError;
use golectra_protocol::{ErrorCode, WindowError};
use serde::Serialize;

use crate::ingest::IngestError;
use crate::store::StoreError;

/// Log lines about refused requests, by their codes: whoever is refused tries again, and so do thousands of others.
pub static REFUSALS: LogLimiter = LogLimiter::new();

/// Why a request is refused.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
    /// The `code` of the answer, also for `golectra_ingest_rejected_total`; one of [`ErrorCode`]'s.
    reason: &'static str,
    retry_after_seconds: Option<u32>,
    close: bool,
}

/// Why a request was refused, as a short name: left on the answer for the layer that counts.
#[derive(Debug, Clone, Copy)]
pub struct Refused(pub &'static str);

/// An error on a route that answers text.
#[derive(Debug)]
pub struct TextError(pub ApiError);

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    code: &'static str,
}

impl ApiError {
    /// An error with its status, a short name for metrics, and a sentence for people.
    pub fn new(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        debug_assert!(ErrorCode::parse(reason).is_some(), "{reason} is not in the protocol's table of error codes");
        Self { status, message: message.into(), reason, retry_after_seconds: None, close: false }
    }

    /// 400: the request is malformed.
    pub fn bad_request(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason, message)
    }

    /// 404: no such metric.
    pub fn no_such_metric() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_metric", "metric not found")
    }

    /// 503: the server has no room or its store does not answer, try again later.
    pub fn unavailable(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, message).retry_after(1)
    }

    /// 503: there is no room for the request now. `limit` is for the log: which limit it was.
    pub fn overloaded(limit: &'static str) -> Self {
        REFUSALS.log("overloaded", move |count| tracing::warn!(count, limit, "requests are refused: the server is overloaded"));
        Self::unavailable("overloaded", "the server is overloaded, try again later")
    }

    /// Says when to try again, in seconds.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// Closes the connection after the answer.
    pub fn close(mut self) -> Self {
        self.close = true;
        self
    }

    /// Its status.
    #[cfg(test)]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// Its short name.
    #[cfg(test)]
    pub const fn reason(&self) -> &'static str {
        self.reason
    }

    fn headers(&self, mut response: Response) -> Response {
        response.extensions_mut().insert(Refused(self.reason));
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Golectra-Signature"));
        }
        if self.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.headers((self.status, Json(Body { error: &self.message, code: self.reason })).into_response())
    }
}

impl IntoResponse for TextError {
    fn into_response(self) -> Response {
        self.0.headers((self.0.status, self.0.message.clone()).into_response())
    }
}

impl<E: Into<ApiError>> From<E> for TextError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl From<DecodeError> for ApiError {
    fn from(error: DecodeError) -> Self {
        let message = error.to_string();
        match error {
            DecodeError::TooMany(_) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_items", message),
            DecodeError::Shape(_) => Self::bad_request("malformed", message),
            DecodeError::Item(_) | DecodeError::ItemAt { .. } | DecodeError::Empty => Self::bad_request("invalid_metric", message),
        }
    }
}

impl From<IngestError> for ApiError {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Overflow { .. } => Self::bad_request("overflow", error.to_string()),
            IngestError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::KeyReused => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "key_reused", message),
            StoreError::Window(WindowError::TooOld) => Self::new(StatusCode::CONFLICT, "too_old", message),
            StoreError::Window(WindowError::TooNew) => Self::new(StatusCode::CONFLICT, "too_new", message),
            StoreError::Overflow { .. } => Self::bad_request("overflow", message),
            StoreError::TooManySeries { .. } | StoreError::TooManySeriesOfSource { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "series_limit", message).retry_after(60)
            }
            StoreError::Overloaded => Self::overloaded("the store's queue is full"),
            StoreError::Unavailable(cause) => {
                REFUSALS.log("store_unavailable", move |count| {
                    tracing::warn!(count, cause, "requests are refused: the store is unavailable");
                });
                Self::unavailable("store_unavailable", "the store is unavailable, try again later")
            }
        }
    }
}

/// The answer to a request whose handler panicked.
pub fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    REFUSALS.log("internal", |count| tracing::error!(count, "a request handler panicked: this is a bug in golectra-server"));
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error").into_response()
}
