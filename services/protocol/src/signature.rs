//! The Golectra-Signature header, version 1: an HMAC-SHA256 over the parts of a request that determine its meaning.
//!
//! The header is `t=UNIX,kid=ID,v1=HEX` in exactly this form: no white space, the time without leading zeros, the digits in
//! lower case. Because there is only one form, no change of the header goes unnoticed. Seven lines are signed, the last one
//! without a line end: `v1`, the method, the request target, the time, the source, the idempotency key, and the hex SHA-256 of
//! the unpacked body. HTTP headers and targets can't contain a line end, so different requests have different lines.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// The largest difference between a signature's time and the receiver's clock, in seconds.
pub const TOLERANCE_SECONDS: u64 = 300;

/// The longest key id, in bytes.
pub const MAX_KEY_ID_BYTES: usize = 253;

/// Part of every error message about the time, which identifies these errors for clients.
pub const SKEW: &str = "the server's clock";

/// The parts of a request that a signature covers, as sent.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The method, such as `POST`.
    pub method: &'a str,
    /// The request target byte for byte, before decoding and normalization.
    pub target: &'a str,
    /// The value of Golectra-Source; empty when absent.
    pub source: &'a [u8],
    /// The value of Idempotency-Key; empty when absent.
    pub idempotency_key: &'a [u8],
    /// SHA-256 of the unpacked body.
    pub body_digest: &'a [u8; 32],
}

/// The parsed header, not verified yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim<'a> {
    unix_seconds: u64,
    key_id: &'a str,
    hmac: [u8; 32],
}

/// Why a signature is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The header does not have the expected form.
    #[error("Golectra-Signature must be t=UNIX,kid=ID,v1=HEX: unix seconds, the id of a key, 64 lower-case hex digits")]
    Malformed,
    /// The signature's time is too long ago.
    #[error(
        "Golectra-Signature: its time {signed} is more than {TOLERANCE_SECONDS} s behind {SKEW}, which is at {now}: check the sender's clock"
    )]
    Behind {
        /// When the client signed, in unix seconds.
        signed: u64,
        /// The receiver's time, in unix seconds.
        now: u64,
    },
    /// The signature's time is in the future.
    #[error(
        "Golectra-Signature: its time {signed} is more than {TOLERANCE_SECONDS} s ahead of {SKEW}, which is at {now}: check the sender's clock"
    )]
    Ahead {
        /// When the client signed, in unix seconds.
        signed: u64,
        /// The receiver's time, in unix seconds.
        now: u64,
    },
    /// Made with another key, or for another request.
    #[error(
        "Golectra-Signature does not match: it was made with another key than the server has under this id, \
         or the method, target, source, idempotency key, time or body changed on the way"
    )]
    Mismatch,
}

impl Request<'_> {
    /// The header's value: signs this request at this time with this key. The key id must be valid (see [`is_key_id`]).
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
    /// Parses a header's value.
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

    /// The id of the key that the header names.
    pub const fn key_id(&self) -> &'a str {
        self.key_id
    }

    /// Checks the signature's time against the receiver's clock, in unix seconds.
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

    /// Compares the signature with the request, in constant time. The time must be [checked](Self::check_time) as well.
    pub fn verify(&self, request: &Request<'_>, key: &[u8]) -> Result<(), SignatureError> {
        let right = request.hmac(self.unix_seconds, key).ct_eq(&self.hmac);
        if right.into() { Ok(()) } else { Err(SignatureError::Mismatch) }
    }
}

/// Whether a text is a valid key id: 1-253 of `A-Z a-z 0-9 . - _`, not starting with a dot. These are the valid names of files
/// in a mounted Secret, except for hidden ones.
pub fn is_key_id(text: &str) -> bool {
    (1..=MAX_KEY_ID_BYTES).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests;
