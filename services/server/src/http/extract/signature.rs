//! Golectra-Signature: proves that the client has a key and that the request was not changed.
//!
//! The header itself is checked before the body is read, so that a client without a key cannot make the server hold a body. The
//! signature is compared with the request when the body's digest is known.

use std::borrow::Cow;

use axum::http::HeaderMap;
use axum::http::request::Parts;
use golectra_process::Keys;
use golectra_process::keys::Key;
use golectra_protocol::signature::{Claim, Request, SignatureError};
use golectra_protocol::{ErrorCode, header as names};

use super::identity::single;
use crate::clock::Clock;
use crate::config::SignatureMode;
use crate::http::error::{ApiError, REFUSALS};
use crate::metrics::ServerMetrics;
use crate::middleware::path::AsReceived;

/// Checks the signatures of requests.
pub struct Signatures {
    keys: Keys,
    /// Whether this server has keys configured, even if the folder is empty right now.
    active: bool,
    mode: SignatureMode,
    clock: Clock,
    metrics: ServerMetrics,
}

/// Whether a request changes data, which determines whether it must be signed if signatures are required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It changes data.
    Change,
    /// It only reads.
    None,
}

/// A signature with a known key and a time within the limits that has not been compared with the request yet.
pub struct UnverifiedSignature<'a> {
    claim: Claim<'a>,
    key: Key,
    metrics: &'a ServerMetrics,
}

impl Signatures {
    /// Checks with these keys. Without keys and without a folder of keys nothing is checked.
    pub fn new(keys: Keys, mode: SignatureMode, clock: Clock, metrics: ServerMetrics) -> Self {
        let active = keys.has_folder() || !keys.ids().is_empty();
        Self { keys, active, mode, clock, metrics }
    }

    /// Whether every request that changes data must be signed.
    pub fn are_required(&self) -> bool {
        self.mode == SignatureMode::Required
    }

    /// Watches the keys; never ends when they come from a folder.
    pub async fn watch_keys(&self) {
        self.keys.clone().watch().await;
    }

    /// Checks the header before the body is read. None: the request is not signed and need not be.
    pub async fn check_header<'a>(&'a self, headers: &'a HeaderMap, effect: Effect) -> Result<Option<UnverifiedSignature<'a>>, ApiError> {
        let mut values = headers.get_all(names::SIGNATURE).iter();
        let (first, second) = (values.next(), values.next());
        let Some(header) = first.filter(|_| self.active) else {
            return if self.are_required() && effect == Effect::Change { Err(missing()) } else { Ok(None) };
        };
        if second.is_some() {
            return Err(refused(ErrorCode::SignatureMalformed, "Golectra-Signature is given more than once"));
        }
        let claim = Claim::parse(header.as_bytes())?;
        claim.check_time(self.clock.unix_millis() / 1000)?;
        let Some(key) = self.keys.find(claim.key_id()).await else {
            let message = format!("Golectra-Signature: the server has no key with the id {}", claim.key_id());
            return Err(refused(ErrorCode::SignatureUnknownKey, message));
        };
        Ok(Some(UnverifiedSignature { claim, key, metrics: &self.metrics }))
    }
}

impl UnverifiedSignature<'_> {
    /// Compares the signature with this request. The digest is the SHA-256 of the unpacked body.
    pub fn verify(&self, parts: &Parts, body_digest: &[u8; 32]) -> Result<(), ApiError> {
        let value = |name| single(&parts.headers, name).map(|value| value.unwrap_or_default().as_bytes());
        let target = target(parts);
        let request = Request {
            method: parts.method.as_str(),
            target: &target,
            source: value(names::SOURCE)?,
            idempotency_key: value(names::IDEMPOTENCY_KEY)?,
            body_digest,
        };
        self.claim.verify(&request, self.key.expose())?;
        self.metrics.signed(self.claim.key_id());
        Ok(())
    }
}

/// The request target as the client sent it: usually a path with a query, a whole URL in a request to a proxy.
fn target(parts: &Parts) -> Cow<'_, str> {
    let uri = parts.extensions.get::<AsReceived>().map_or(&parts.uri, |received| &received.0);
    match uri.path_and_query() {
        Some(path) if uri.authority().is_none() => Cow::Borrowed(path.as_str()),
        _ => Cow::Owned(uri.to_string()),
    }
}

impl From<SignatureError> for ApiError {
    fn from(error: SignatureError) -> Self {
        let code = match error {
            SignatureError::Malformed => ErrorCode::SignatureMalformed,
            SignatureError::Behind { .. } | SignatureError::Ahead { .. } => ErrorCode::SignatureClock,
            SignatureError::Mismatch => ErrorCode::SignatureMismatch,
        };
        refused(code, error.to_string())
    }
}

fn missing() -> ApiError {
    refused(ErrorCode::SignatureMissing, "this server accepts signed requests only: the header Golectra-Signature is missing")
}

fn refused(code: ErrorCode, message: impl Into<String>) -> ApiError {
    let message = message.into();
    let line = message.clone();
    REFUSALS.log(code, move |count| tracing::warn!(count, reason = code.as_str(), "requests are refused: {line}"));
    ApiError::new(code, message)
}

#[cfg(test)]
mod tests;
