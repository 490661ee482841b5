//! The answer to a client when something is wrong: a status, and one sentence as JSON.

use axum::Json;
use axum::response::{IntoResponse, Response};
use golectra_protocol::webhook::SignatureError;
use http::StatusCode;
use http::header::{CONNECTION, RETRY_AFTER};

/// When a client may try again after the sink could not take an event, in seconds.
const RETRY_AFTER_SECONDS: &str = "5";

/// Why a request is refused or fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("webhook-id is missing or is not 1 to 255 visible ASCII characters")]
    Id,
    #[error("the event must be signed: {0} is missing")]
    Unsigned(&'static str),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("the body is not an audit event: {0}")]
    Event(serde_json::Error),
    #[error("Content-Encoding {0:?} is not supported: send the event uncompressed")]
    Encoding(String),
    #[error("the body was cut off")]
    CutOff,
    #[error("the event is longer than {limit} bytes (MAX_BODY_BYTES)")]
    TooLarge { limit: usize },
    #[error("the body did not come within {seconds} s (BODY_TIMEOUT)")]
    TooSlow { seconds: u64 },
    #[error("limit must be a whole number from 1 to {largest}")]
    Limit { largest: usize },
    #[error("over HTTP/1.0 an answer that was cut off looks complete: use HTTP/1.1 (nginx: proxy_http_version 1.1)")]
    Version,
    #[error("{0}")]
    Unavailable(&'static str),
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Id | Self::Event(_) | Self::CutOff | Self::Limit { .. } => StatusCode::BAD_REQUEST,
            Self::Unsigned(_) | Self::Signature(_) => StatusCode::UNAUTHORIZED,
            Self::Encoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// As a metric's label value.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Unsigned(_) | Self::Signature(_) => "unsigned",
            Self::TooLarge { .. } => "too_large",
            Self::TooSlow { .. } => "too_slow",
            Self::Unavailable(_) => "unavailable",
            Self::Id | Self::Event(_) | Self::Encoding(_) | Self::CutOff | Self::Limit { .. } | Self::Version => "invalid",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = answer(self.status(), &self.to_string());
        match self {
            Self::Unavailable(_) => {
                response.headers_mut().insert(RETRY_AFTER, http::HeaderValue::from_static(RETRY_AFTER_SECONDS));
            }
            // The rest of the body is not read.
            Self::TooLarge { .. } | Self::TooSlow { .. } => {
                response.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

fn answer(status: StatusCode, sentence: &str) -> Response {
    (status, Json(serde_json::json!({ "error": sentence }))).into_response()
}

pub(crate) async fn unknown_route() -> Response {
    answer(StatusCode::NOT_FOUND, "there is nothing here: events are posted to /events and read from /events and /events.ndjson")
}

pub(crate) async fn wrong_method() -> Response {
    answer(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
}
