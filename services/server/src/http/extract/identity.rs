//! The headers Golectra-Source and Idempotency-Key: the sender of a batch and the batch's key.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use golectra_protocol::{ErrorCode, IdempotencyKey, Source, header};

use crate::http::error::ApiError;

/// The node that sent the metrics; the unnamed source without the header.
pub struct Sender(pub Source);

/// The batch's idempotency key, if the client sent one.
pub struct Key(pub Option<IdempotencyKey>);

impl<S: Sync> FromRequestParts<S> for Sender {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(text) = single(&parts.headers, header::SOURCE)? else { return Ok(Self(Source::unnamed())) };
        let source = Source::parse(text).map_err(|error| ApiError::new(ErrorCode::InvalidSource, format!("Golectra-Source: {error}")))?;
        Ok(Self(source))
    }
}

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let text = single(&parts.headers, header::IDEMPOTENCY_KEY)?;
        let key = text.map(IdempotencyKey::parse).transpose();
        key.map(Self).map_err(|error| ApiError::new(ErrorCode::InvalidKey, error.to_string()))
    }
}

/// The value of a header. A header that is given twice is ambiguous and refused.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(ApiError::new(ErrorCode::InvalidHeader, format!("header {name} is given more than once")));
    }
    let text = first.map(axum::http::HeaderValue::to_str).transpose();
    text.map_err(|_| ApiError::new(ErrorCode::InvalidHeader, format!("header {name} has characters outside of ASCII")))
}
