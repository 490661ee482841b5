//! Signatures of webhook requests according to the Standard Webhooks specification 1.0: `v1,` and the base64 of HMAC-SHA256
//! over `ID.TIMESTAMP.BODY`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

/// The largest difference between a signature's time and the receiver's clock, in seconds.
pub const TOLERANCE_SECONDS: u64 = 300;

/// The prefix of a secret in base64.
const PREFIX: &str = "whsec_";

/// A signing secret.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

/// The text is not a valid secret. It is not repeated in the error, since most of it may be correct.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The text is empty.
    #[error("expected a key that is not empty")]
    Empty,
    /// The prefix says base64, but the rest is not. Using the text itself would be another key than the one that was meant.
    #[error("expected base64 behind whsec_, padded with = to a multiple of 4 characters, or a text that does not begin with whsec_")]
    NotBase64,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([hidden])")
    }
}

/// Why a webhook request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The timestamp is not a number.
    #[error("webhook-timestamp must be a time in unix seconds")]
    Timestamp,
    /// The timestamp is too long ago or in the future.
    #[error("webhook-timestamp is more than {TOLERANCE_SECONDS} s away from the receiver's clock")]
    Skew,
    /// None of the signatures is valid for the request.
    #[error("webhook-signature has no v1 signature of this request made with the receiver's key")]
    Mismatch,
}

impl Secret {
    /// Parses a secret: `whsec_` and base64 as in the specification, or any other text, whose bytes are the key.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let key = match text.strip_prefix(PREFIX) {
            Some(encoded) => STANDARD.decode(encoded).map_err(|_| SecretError::NotBase64)?,
            None => text.as_bytes().to_vec(),
        };
        if key.is_empty() { Err(SecretError::Empty) } else { Ok(Self(key)) }
    }

    /// The `webhook-signature` header of a request.
    pub fn sign(&self, id: &str, unix_seconds: i64, body: &[u8]) -> String {
        format!("v1,{}", STANDARD.encode(self.mac(id, &unix_seconds.to_string(), body).finalize().into_bytes()))
    }

    /// Checks a request's headers against its body and the receiver's clock, in constant time.
    pub fn verify(&self, id: &str, timestamp: &str, signatures: &str, body: &[u8], now_unix_seconds: i64) -> Result<(), SignatureError> {
        let at: i64 = timestamp.parse().map_err(|_| SignatureError::Timestamp)?;
        if at.abs_diff(now_unix_seconds) > TOLERANCE_SECONDS {
            return Err(SignatureError::Skew);
        }
        let matches = signatures
            .split(' ')
            .filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok())
            .any(|claimed| self.mac(id, timestamp, body).verify_slice(&claimed).is_ok());
        if matches { Ok(()) } else { Err(SignatureError::Mismatch) }
    }

    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_example_has_the_same_signature() {
        // The example in the specification's reference libraries.
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let header = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(header, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_text_with_the_prefix_must_be_base64() {
        for text in ["whsec_", "whsec_not base64!", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", ""]
        {
            let error = Secret::parse(text).unwrap_err();
            assert!(!error.to_string().contains("MfKQ"), "{error}");
        }
        assert_eq!(Secret::parse("whsec_+").unwrap_err(), SecretError::NotBase64);
        assert_eq!(Secret::parse("whsec_").unwrap_err(), SecretError::Empty);
        for text in ["whsec", "WHSEC_+", "my whsec_ key"] {
            assert!(Secret::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn any_change_is_refused() {
        let secret = Secret::parse("plain key").unwrap();
        let (id, at, body) = ("id", 1000, b"body".as_slice());
        let good = secret.sign(id, at, body);
        let several = format!("v1,AAAA v2,zzz {good}");
        assert_eq!(secret.verify(id, "1000", &several, body, 1000 + 300), Ok(()));
        assert_eq!(secret.verify(id, "1000", &good, body, 1301), Err(SignatureError::Skew));
        assert_eq!(secret.verify(id, "1000", &good, body, 699), Err(SignatureError::Skew));
        assert_eq!(secret.verify(id, "x", &good, body, 1000), Err(SignatureError::Timestamp));
        assert_eq!(secret.verify("iD", "1000", &good, body, 1000), Err(SignatureError::Mismatch));
        assert_eq!(secret.verify(id, "1001", &good, body, 1000), Err(SignatureError::Mismatch));
        assert_eq!(secret.verify(id, "1000", &good, b"bodY", 1000), Err(SignatureError::Mismatch));
        assert_eq!(Secret::parse("other").unwrap().verify(id, "1000", &good, body, 1000), Err(SignatureError::Mismatch));
        assert_eq!(secret.verify(id, "1000", "", body, 1000), Err(SignatureError::Mismatch));
        assert_eq!(format!("{secret:?}"), "Secret([hidden])");
    }
}
