//! The error type of all routes and its answers: JSON on JSON routes, text on text routes.
//!
//! A 4xx answer says what was wrong with the request. A 5xx answer shows no internals; its cause is logged here.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use golectra_process::LogLimiter;
use golectra_protocol::json::DecodeError;
use golectra_protocol::{ErrorCode, WindowError, remote_write};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde::Serialize;

use crate::ingest::IngestError;
use crate::store::StoreError;

/// Log lines about refused requests, by their codes. Clients retry, so there may be thousands of refusals.
pub static REFUSALS: LogLimiter<ErrorCode> = LogLimiter::new();

/// Why a request is refused. The code determines the status.
#[derive(Debug)]
pub struct ApiError {
    code: ErrorCode,
    message: String,
    retry_after_seconds: Option<u32>,
    date_millis: Option<u64>,
    close: bool,
}

/// The code of a refusal, attached to the answer for the metrics middleware.
#[derive(Debug, Clone, Copy)]
pub struct Refused(pub ErrorCode);

/// An error on a route that answers text.
#[derive(Debug)]
pub struct TextError(pub ApiError);

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    code: &'static str,
}

impl ApiError {
    /// An error with its code and a message for people.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_seconds: None, date_millis: None, close: false }
    }

    /// The metric does not exist.
    pub fn no_such_metric() -> Self {
        Self::new(ErrorCode::UnknownMetric, "metric not found")
    }

    /// An error that is a bug of the server.
    pub fn internal() -> Self {
        Self::new(ErrorCode::Internal, "internal error")
    }

    /// The server can't take the request now. `limit` names the limit that was reached, for the log.
    pub fn overloaded(limit: &'static str) -> Self {
        let code = ErrorCode::Overloaded;
        REFUSALS.log(code, move |count| tracing::warn!(count, limit, "requests are refused: the server is overloaded"));
        Self::new(code, "the server is overloaded, try again later").retry_after(1)
    }

    /// The store is unavailable. The cause is for the log.
    fn store_unavailable(cause: String) -> Self {
        let code = ErrorCode::StoreUnavailable;
        REFUSALS.log(code, move |count| tracing::warn!(count, cause, "requests are refused: the store is unavailable"));
        Self::new(code, "the store is unavailable, try again later").retry_after(1)
    }

    /// Adds the header Retry-After, in seconds.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// The header Date shows this time, in unix milliseconds, instead of this machine's.
    pub fn date(mut self, unix_millis: u64) -> Self {
        self.date_millis = Some(unix_millis);
        self
    }

    /// The connection is closed after the answer.
    pub fn close(mut self) -> Self {
        self.close = true;
        self
    }

    /// The same error with another code, and so with another status.
    pub fn with_code(mut self, code: ErrorCode) -> Self {
        self.code = code;
        self
    }

    /// The error's code.
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// What it says to people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).expect("the table of codes has statuses of HTTP")
    }

    /// The response with the headers that the error has.
    pub fn headers(&self, mut response: Response) -> Response {
        response.extensions_mut().insert(Refused(self.code));
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(date) = self.date_millis.and_then(http_date) {
            headers.insert(header::DATE, date);
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let status = response.status();
        let headers = response.headers_mut();
        if matches!(self.code, ErrorCode::TokenMissing | ErrorCode::TokenUnknown) {
            for scheme in ["Bearer realm=\"golectra\"", "Basic realm=\"golectra\""] {
                headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
            }
        } else if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Golectra-Signature"));
        }
        if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Body { error: &self.message, code: self.code.as_str() };
        self.headers((self.status(), Json(body)).into_response())
    }
}

impl IntoResponse for TextError {
    fn into_response(self) -> Response {
        self.0.headers((self.0.status(), self.0.message.clone()).into_response())
    }
}

impl<E: Into<ApiError>> From<E> for TextError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl From<DecodeError> for ApiError {
    fn from(error: DecodeError) -> Self {
        let code = match error {
            DecodeError::TooMany(_) => ErrorCode::TooManyItems,
            DecodeError::Shape(_) => ErrorCode::Malformed,
            DecodeError::Item(_) | DecodeError::ItemAt { .. } | DecodeError::Empty => ErrorCode::InvalidMetric,
        };
        Self::new(code, error.to_string())
    }
}

impl From<IngestError> for ApiError {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Overflow { .. } => Self::new(ErrorCode::Overflow, error.to_string()),
            // The sender learns by which clock it is too new, and how far its own is off.
            IngestError::TooNew { now_millis } => Self::new(ErrorCode::TooNew, error.to_string()).date(now_millis),
            IngestError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::KeyReused => Self::new(ErrorCode::KeyReused, message),
            StoreError::Window(WindowError::TooOld) => Self::new(ErrorCode::TooOld, message),
            StoreError::Window(WindowError::TooNew) => Self::new(ErrorCode::TooNew, message),
            StoreError::Overflow { .. } => Self::new(ErrorCode::Overflow, message),
            StoreError::TooManySeries { .. } | StoreError::TooManySeriesOfSource { .. } => {
                Self::new(ErrorCode::SeriesLimit, message).retry_after(60)
            }
            StoreError::Overloaded => Self::overloaded("the store's queue is full"),
            StoreError::Unavailable(cause) => Self::store_unavailable(cause),
        }
    }
}

impl From<remote_write::DecodeError> for ApiError {
    fn from(error: remote_write::DecodeError) -> Self {
        match error {
            remote_write::DecodeError::Malformed { .. } => Self::new(ErrorCode::Malformed, error.to_string()),
            remote_write::DecodeError::TooLarge(_) => Self::new(ErrorCode::TooLarge, error.to_string()),
            remote_write::DecodeError::NoRoom(_) => Self::overloaded("MAX_INFLIGHT_BYTES: the bodies under way take all of it"),
        }
    }
}

/// A time as the header Date has it.
fn http_date(unix_millis: u64) -> Option<HeaderValue> {
    let time = Timestamp::from_millisecond(i64::try_from(unix_millis).ok()?).ok()?;
    HeaderValue::from_str(&DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()?).ok()
}

/// The answer to a request whose handler panicked.
pub fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    REFUSALS.log(ErrorCode::Internal, |count| tracing::error!(count, "a request handler panicked: this is a bug in golectra-server"));
    ApiError::internal().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_new_is_answered_with_the_time_of_the_stores_clock() {
        let response = ApiError::from(IngestError::TooNew { now_millis: 1_700_000_000_900 }).into_response();
        assert_eq!(response.status(), StatusCode::CONFLICT);
        assert_eq!(response.headers()[header::DATE], "Tue, 14 Nov 2023 22:13:20 GMT");
        assert!(!ApiError::no_such_metric().into_response().headers().contains_key(header::DATE));
    }
}
