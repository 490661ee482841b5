//! The signature of a try, computed for each try with its time and the current key.

use golectra_process::keys::{FolderError, Keys, SigningKeyError};
use golectra_process::{KeyId, Secret};
use golectra_protocol::{gzip, hash, header, signature};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use super::outcome::{Retry, RetryReason};
use crate::batch::{Batch, MAX_BODY_BYTES};
use crate::clock::Clock;
use crate::config::Settings;

/// Signs tries with the configured key.
pub struct Signer {
    keys: Keys,
    id: Option<KeyId>,
    clock: Clock,
}

/// Why tries cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The folder of keys cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// It is not clear which key signs.
    #[error(transparent)]
    Choice(#[from] SigningKeyError),
}

impl Signer {
    /// Signs with the key that the settings name, or not at all when they name none. Must be called inside a runtime.
    pub fn new(settings: &Settings, clock: Clock) -> Result<Self, SignerError> {
        let keys = Keys::open(settings.key.as_ref(), settings.keys_dir.as_deref())?;
        let id = keys.signing_id(settings.signing_key_id.as_ref())?;
        if let Some(missing) = id.as_ref().filter(|id| keys.get(id.as_str()).is_none()) {
            tracing::warn!("KEYS_DIR has no key {missing}, which SIGNING_KEY_ID names: reports are kept until it is there");
        }
        Ok(Self { keys, id, clock })
    }

    /// Signs with this key, whose id is `default`, or not at all.
    pub fn with_key(key: Option<&Secret>, clock: Clock) -> Self {
        let keys = Keys::open(key, None).expect("only a folder can fail");
        let id = keys.signing_id(None).expect("only a folder needs a choice");
        Self { keys, id, clock }
    }

    /// Adds the signature of a POST to this target to its headers, which must be complete otherwise.
    pub(super) async fn sign(&self, target: &str, batch: &Batch, headers: &mut HeaderMap) -> Result<(), Retry> {
        let Some(id) = &self.id else { return Ok(()) };
        let Some(key) = self.keys.fresh(id.as_str()).await else {
            let error = format!("KEYS_DIR has no key {id}, which SIGNING_KEY_ID names");
            return Err(Retry::not_sent(RetryReason::NoSigningKey, error));
        };
        // It was compressed here, or checked when it was read from disk.
        let body = gzip::unpack(batch.body(), MAX_BODY_BYTES).unwrap_or_default();
        let value = |name| headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
        let request = signature::Request {
            method: "POST",
            target,
            source: value(header::SOURCE),
            idempotency_key: value(header::IDEMPOTENCY_KEY),
            body_digest: &hash::body_digest(&body),
        };
        let signature =
            HeaderValue::from_str(&request.sign(self.clock.unix_seconds(), id.as_str(), key.expose())).expect("a signature is ASCII");
        headers.insert(HeaderName::from_static(header::SIGNATURE), signature);
        Ok(())
    }
}
