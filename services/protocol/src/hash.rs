//! The HashSHA256 header: lower-case hex of SHA-256 over the uncompressed body followed by the key.
//!
//! It is a plain hash, not an HMAC, for compatibility with the original Golectra.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The header's value for a body: 64 lower-case hex digits.
pub fn body_hash(body: &[u8], key: &[u8]) -> String {
    hex::encode(BodyHash::of(body).with_key(key))
}

/// Checks the header's value for a body and a key; hex digits may have either case, and are compared in constant time.
pub fn verify(body: &[u8], key: &[u8], header: &[u8]) -> bool {
    BodyHash::of(body).verify(key, header)
}

/// SHA-256 of a body alone: it distinguishes a repeated batch from another one with the same key.
pub fn body_digest(body: &[u8]) -> [u8; 32] {
    BodyHash::of(body).digest()
}

/// The state of a body's hash before the key is added, so that one pass over the body serves both the digest and any number of
/// keys.
#[derive(Clone)]
pub struct BodyHash(Sha256);

impl BodyHash {
    /// Hashes the body.
    pub fn of(body: &[u8]) -> Self {
        Self(Sha256::new().chain_update(body))
    }

    /// SHA-256 of the body alone.
    pub fn digest(&self) -> [u8; 32] {
        self.0.clone().finalize().into()
    }

    /// Like [`verify`], for this body.
    pub fn verify(&self, key: &[u8], header: &[u8]) -> bool {
        let mut claimed = [0; 32];
        hex::decode_to_slice(header, &mut claimed).is_ok() && bool::from(self.with_key(key).as_slice().ct_eq(&claimed))
    }

    fn with_key(&self, key: &[u8]) -> [u8; 32] {
        self.0.clone().chain_update(key).finalize().into()
    }
}

/// Does not show the body's hash.
impl fmt::Debug for BodyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyHash").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_hash_of_an_update() {
        // printf '%s' '[{"id":"a","type":"gauge","value":1.5}]secret' | sha256sum
        let hash = "c4ee5e0a635504894a6a4c3b4a499a613d1b66121f2e2e42a708336fede8ead8";
        let body = br#"[{"id":"a","type":"gauge","value":1.5}]"#;
        assert_eq!(body_hash(body, b"secret"), hash);
        assert!(verify(body, b"secret", hash.to_uppercase().as_bytes()));
    }

    #[test]
    fn another_body_key_or_hash_is_refused() {
        let hash = body_hash(b"body", b"key");
        assert!(!verify(b"bodY", b"key", hash.as_bytes()));
        assert!(!verify(b"body", b"keY", hash.as_bytes()));
        for header in ["", "none", &hash[..62], &format!("{hash}00"), &"zz".repeat(32)] {
            assert!(!verify(b"body", b"key", header.as_bytes()), "{header:?}");
        }
    }
}
