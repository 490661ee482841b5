//! The Golectra-Signature header, version 1: an HMAC-SHA256 over everything that gives a request its meaning.
//!
//! The header is `t=UNIX,kid=ID,v1=HEX` in exactly that form: no white space, the time without leading zeros, the digits in
//! lower case. What has one spelling can't be changed on its way without being noticed. Signed are seven lines, the last
//! without an end: `v1`, the method, the request target, the time, the source, the idempotency key, and the hex SHA-256 of
//! the unpacked body. No HTTP header or target can hold a line's end, so that no two requests have the same lines.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// How far a signature's time may lie from the receiver's clock, in seconds.
pub const TOLERANCE_SECONDS: u64 = 300;

/// The longest id of a key, in bytes.
pub const MAX_KEY_ID_BYTES: usize = 253;

/// In the words of every refusal because of the time, so that a client can tell it from the others.
pub const SKEW: &str = "the server's clock";

/// The parts of a request that a signature covers, as they stand on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The method, such as `POST`.
    pub method: &'a str,
    /// The request target byte for byte, before anything was decoded or collapsed.
    pub target: &'a str,
    /// The value of Golectra-Source; empty when absent.
    pub source: &'a [u8],
    /// The value of Idempotency-Key; empty when absent.
    pub idempotency_key: &'a [u8],
    /// SHA-256 of the unpacked body.
    pub body_digest: &'a [u8; 32],
}

/// What a header claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim<'a> {
    unix_seconds: u64,
    key_id: &'a str,
    hmac: [u8; 32],
}

/// Why a signature is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The header has another form.
    #[error("Golectra-Signature must be t=UNIX,kid=ID,v1=HEX: unix seconds, the id of a key, 64 lower-case hex digits")]
    Malformed,
    /// Signed too long ago.
    #[error(
        "Golectra-Signature: its time {signed} is more than {TOLERANCE_SECONDS} s behind {SKEW}, which is at {now}: check the sender's clock"
    )]
    Behind {
        /// When the client signed, in unix seconds.
        signed: u64,
        /// The receiver's time, in unix seconds.
        now: u64,
    },
    /// Signed in the future.
    #[error(
        "Golectra-Signature: its time {signed} is more than {TOLERANCE_SECONDS} s ahead of {SKEW}, which is at {now}: check the sender's clock"
    )]
    Ahead {
        /// When the client signed, in unix seconds.
        signed: u64,
        /// The receiver's time, in unix seconds.
        now: u64,
    },
    /// Made with another key, or of another request.
    #[error(
        "Golectra-Signature does not match: it was made with another key than the server has under this id, \
         or the method, target, source, idempotency key, time or body changed on the way"
    )]
    Mismatch,
}

impl Request<'_> {
    /// The header's value: this request, signed at this time with this key. The id must be one (see [`is_key_id`]).
    pub fn sign(&self, unix_seconds: u64, key_id: &str, key: &[u8]) -> String {
        format!("t={unix_seconds},kid={key_id},v1={}", hex::encode(self.hmac(unix_seconds, key)))
    }

    fn hmac(&self, unix_seconds: u64, key: &[u8]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
        let mut digest = [0; 64];
        hex::encode_to_slice(self.body_digest, &mut digest).expect("two digits a byte");
        for line in
            [b"v1", self.method.as_bytes(), self.target.as_bytes(), unix_seconds.to_string().as_bytes(), self.source, self.idempotency_key]
        {
            mac.update(line);
            mac.update(b"\n");
        }
        mac.update(&digest);
        mac.finalize().into_bytes().into()
    }
}

impl<'a> Claim<'a> {
    /// Reads a header's value.
    pub fn parse(header: &'a [u8]) -> Result<Self, SignatureError> {
        Self::read(header).ok_or(SignatureError::Malformed)
    }

    fn read(header: &'a [u8]) -> Option<Self> {
        let (time, rest) = std::str::from_utf8(header).ok()?.strip_prefix("t=")?.split_once(",kid=")?;
        let (key_id, digits) = rest.split_once(",v1=")?;
        let one_spelling = time.bytes().all(|b| b.is_ascii_digit()) && (time == "0" || !time.starts_with('0'));
        let lower_case = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let mut hmac = [0; 32];
        if !(one_spelling && lower_case && is_key_id(key_id)) {
            return None;
        }
        hex::decode_to_slice(digits, &mut hmac).ok()?;
        Some(Self { unix_seconds: time.parse().ok()?, key_id, hmac })
    }

    /// The id of the key that it says it was made with.
    pub const fn key_id(&self) -> &'a str {
        self.key_id
    }

    /// Holds its time against the receiver's clock, in unix seconds.
    pub const fn check_time(&self, now: u64) -> Result<(), SignatureError> {
        let signed = self.unix_seconds;
        if signed.abs_diff(now) <= TOLERANCE_SECONDS {
            Ok(())
        } else if signed < now {
            Err(SignatureError::Behind { signed, now })
        } else {
            Err(SignatureError::Ahead { signed, now })
        }
    }

    /// Holds it against the request, in constant time. The time must be [checked](Self::check_time) as well.
    pub fn verify(&self, request: &Request<'_>, key: &[u8]) -> Result<(), SignatureError> {
        let right = request.hmac(self.unix_seconds, key).ct_eq(&self.hmac);
        if right.into() { Ok(()) } else { Err(SignatureError::Mismatch) }
    }
}

/// Whether a text can be the id of a key: 1-253 of `A-Z a-z 0-9 . - _`, not starting with a dot. Such are the names of the files
/// that a mounted Secret has.
pub fn is_key_id(text: &str) -> bool {
    (1..=MAX_KEY_ID_BYTES).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests;
