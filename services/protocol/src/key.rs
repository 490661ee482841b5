//! Idempotency keys: a UUIDv7 (RFC 9562) whose time is the sampling time of the batch.

use std::fmt;

use uuid::{Builder, NoContext, Timestamp, Uuid, Variant};

/// How far ahead of the server's clock a batch may be, in milliseconds.
pub const MAX_AHEAD_MILLIS: u64 = 10 * 60 * 1000;

/// The key of a batch, the same on every retry. Keys sort by their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(Uuid);

/// The text is not a valid key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Idempotency-Key must be a UUIDv7 such as 0190a5e4-7b60-7c3d-8e2f-1a2b3c4d5e6f")]
pub struct KeyError;

/// A key's time is outside of the range in which the server can recognize repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Sampled before the oldest time of which the server remembers keys.
    #[error("the batch is too old: it was sampled before the history that is kept")]
    TooOld,
    /// Sampled more than [`MAX_AHEAD_MILLIS`] ahead of the server's clock.
    #[error("the batch is more than 10 minutes ahead of the server's clock")]
    TooNew,
}

impl IdempotencyKey {
    /// Parses the hyphenated form, in either case.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if text.len() != 36 {
            return Err(KeyError);
        }
        Uuid::try_parse(text).map_err(|_| KeyError).and_then(Self::from_uuid)
    }

    /// Wraps a UUID, which must be of version 7.
    pub fn from_uuid(uuid: Uuid) -> Result<Self, KeyError> {
        if uuid.get_version_num() == 7 && uuid.get_variant() == Variant::RFC4122 { Ok(Self(uuid)) } else { Err(KeyError) }
    }

    /// A new key of a batch sampled at this time; the other bits are random.
    pub fn at(unix_millis: u64) -> Self {
        let nanos = u32::try_from(unix_millis % 1000).unwrap_or(0) * 1_000_000;
        Self(Uuid::new_v7(Timestamp::from_unix(NoContext, unix_millis / 1000, nanos)))
    }

    /// A key of a batch sampled at this time with these random bits, of which 74 are used.
    pub fn with_random(unix_millis: u64, random: u128) -> Self {
        let [bits @ .., _, _, _, _, _, _] = random.to_le_bytes();
        Self(Builder::from_unix_timestamp_millis(unix_millis, &bits).into_uuid())
    }

    /// The sampling time of the batch, in unix milliseconds (48 bits).
    pub fn unix_millis(&self) -> u64 {
        u64::try_from(self.0.as_u128() >> 80).unwrap_or(u64::MAX)
    }

    /// The UUID.
    pub const fn uuid(&self) -> Uuid {
        self.0
    }

    /// Checks the key's time against the oldest time of which keys are remembered and against the server's clock, all in unix
    /// milliseconds.
    pub fn check_window(&self, oldest_millis: u64, now_millis: u64) -> Result<(), WindowError> {
        let at = self.unix_millis();
        if at < oldest_millis {
            Err(WindowError::TooOld)
        } else if at > now_millis.saturating_add(MAX_AHEAD_MILLIS) {
            Err(WindowError::TooNew)
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";

    #[test]
    fn the_example_of_rfc_9562_round_trips() {
        let key = IdempotencyKey::parse(KEY).unwrap();
        assert_eq!(key.unix_millis(), 1_645_557_742_000);
        assert_eq!(key.to_string(), KEY);
        assert_eq!(IdempotencyKey::parse(&KEY.to_uppercase()).unwrap(), key);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "x",
            "017f22e279b07cc398c4dc0c0c07398f",
            "{017f22e2-79b0-7cc3-98c4-dc0c0c07398f}",
            "017f22e2-79b0-4cc3-98c4-dc0c0c07398f",
            "017f22e2-79b0-7cc3-18c4-dc0c0c07398f",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398g",
            "00000000-0000-0000-0000-000000000000",
        ] {
            assert_eq!(IdempotencyKey::parse(text), Err(KeyError), "{text}");
        }
    }

    #[test]
    fn a_new_key_has_its_time_and_differs_from_the_next() {
        let (a, b) = (IdempotencyKey::at(1_645_557_742_123), IdempotencyKey::at(1_645_557_742_123));
        assert_eq!(a.unix_millis(), 1_645_557_742_123);
        assert_ne!(a, b);
        assert_eq!(IdempotencyKey::from_uuid(a.uuid()), Ok(a));
        let (a, b) = (IdempotencyKey::with_random(1_645_557_742_123, u128::MAX), IdempotencyKey::with_random(1_645_557_742_123, 1));
        assert_eq!(a.unix_millis(), 1_645_557_742_123);
        assert_ne!(a, b);
        assert_eq!((IdempotencyKey::from_uuid(a.uuid()), IdempotencyKey::from_uuid(b.uuid())), (Ok(a), Ok(b)));
    }

    #[test]
    fn both_ends_of_the_window_are_inclusive() {
        let (oldest, now) = (1_000_000, 2_000_000);
        let check = |at| IdempotencyKey::at(at).check_window(oldest, now);
        assert_eq!(check(oldest), Ok(()));
        assert_eq!(check(oldest - 1), Err(WindowError::TooOld));
        assert_eq!(check(now + MAX_AHEAD_MILLIS), Ok(()));
        assert_eq!(check(now + MAX_AHEAD_MILLIS + 1), Err(WindowError::TooNew));
    }
}
