//! Ids of keys.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// The longest id, in bytes: Kubernetes's limit for the name of an entry of a Secret.
const MAX_BYTES: usize = 253;

/// The id of a key, which is also its file's name: 1-253 of `A-Z a-z 0-9 . - _`, not starting with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Box<str>);

/// The text is not a valid key id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a key's id: 1-253 letters, digits, '.', '-' and '_', not starting with a dot")]
pub struct KeyIdError;

impl KeyId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The id of the key in KEY.
impl Default for KeyId {
    fn default() -> Self {
        Self(super::DEFAULT_ID.into())
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let valid = (1..=MAX_BYTES).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if valid { Ok(Self(text.into())) } else { Err(KeyIdError) }
    }
}

impl Borrow<str> for KeyId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
