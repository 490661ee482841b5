//! A try's signature: made anew for each one, with the time of the try and the key that the folder has now.

use std::time::{SystemTime, UNIX_EPOCH};

use golectra_process::keys::{FolderError, Keys, SigningKeyError};
use golectra_process::{KeyId, Secret};
use golectra_protocol::{gzip, hash, header, signature};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use super::verdict::Retry;
use crate::batch::Batch;
use crate::config::Settings;

/// More than any batch of an agent's has when it is unpacked.
const MAX_BODY_BYTES: usize = 64 << 20;

/// Signs tries, with the keys that the operator gave.
pub struct Signer {
    keys: Keys,
    id: Option<KeyId>,
}

/// Why there is nothing to sign with.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The folder of keys.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The choice of the key.
    #[error(transparent)]
    Choice(#[from] SigningKeyError),
}

impl Signer {
    /// Signs with the key that the settings name, or not at all when they have none. Must be called inside a runtime.
    pub fn new(settings: &Settings) -> Result<Self, SignerError> {
        let keys = Keys::open(settings.key.as_ref(), settings.keys_dir.as_deref())?;
        let id = keys.signing_id(settings.signing_key_id.as_ref())?;
        if let Some(missing) = id.as_ref().filter(|id| keys.get(id.as_str()).is_none()) {
            tracing::warn!("KEYS_DIR has no key {missing}, which SIGNING_KEY_ID names: reports are kept until it has");
        }
        Ok(Self { keys, id })
    }

    /// Signs with this key alone, under the id `default`.
    pub fn with_key(key: Option<&Secret>) -> Self {
        let keys = Keys::open(key, None).expect("only a folder can fail");
        let id = keys.signing_id(None).expect("only a folder needs a choice");
        Self { keys, id }
    }

    /// Adds the signature of a POST to this target to its headers, which must be complete but for this one.
    pub(super) async fn sign(&self, target: &str, batch: &Batch, headers: &mut HeaderMap) -> Result<(), Retry> {
        let Some(id) = &self.id else { return Ok(()) };
        let Some(key) = self.keys.fresh(id.as_str()).await else {
            let error = format!("KEYS_DIR has no key {id}, which SIGNING_KEY_ID names");
            return Err(Retry::unsent("no_signing_key", error));
        };
        // Should it not unpack, the server says so whatever the signature is, and the batch is dropped and counted.
        let body = gzip::unpack(batch.body(), MAX_BODY_BYTES).unwrap_or_default();
        let value = |name| headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
        let request = signature::Request {
            method: "POST",
            target,
            source: value(header::SOURCE),
            idempotency_key: value(header::IDEMPOTENCY_KEY),
            body_digest: &hash::body_digest(&body),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let signature = HeaderValue::from_str(&request.sign(now, id.as_str(), key.expose())).expect("a signature is ASCII");
        headers.insert(HeaderName::from_static(header::SIGNATURE), signature);
        Ok(())
    }
}
