//! Values that must never be logged.

use std::fmt;
use std::str::FromStr;

use golectra_protocol::webhook;
use secrecy::{ExposeSecret, SecretString};

/// A key, password or DSN. `Debug` and `Display` show `[hidden]`; the memory is wiped when it is dropped.
///
/// One line end after the value is removed: Secrets and files made by hand often end in one, and with it the key would differ
/// from the other side's.
#[derive(Clone)]
pub struct Secret(SecretString);

/// The value is empty or only a line end. As a key it would let everybody sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a value that is not empty")]
pub struct SecretError;

impl Secret {
    /// The value without the line end. Call it only where it is used.
    pub fn expose(&self) -> &str {
        trimmed(self.0.expose_secret())
    }

    /// The value with its line end, if it had one.
    pub fn expose_untrimmed(&self) -> &str {
        self.0.expose_secret()
    }
}

/// The bytes without one `\n` or `\r\n` at their end.
pub(crate) fn without_line_end(bytes: &[u8]) -> &[u8] {
    bytes.strip_suffix(b"\n").map_or(bytes, |line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// The text without one `\n` or `\r\n` at its end.
fn trimmed(text: &str) -> &str {
    &text[..without_line_end(text.as_bytes()).len()]
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(SecretString::from(value))
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(SecretString::from(value))
    }
}

impl FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        if trimmed(text).is_empty() { Err(SecretError) } else { Ok(Self::from(text)) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The key of signed webhooks in the format of Standard Webhooks: any text, or `whsec_` and base64. Never shown; a line end is
/// removed as in [`Secret`].
#[derive(Clone, Debug)]
pub struct WebhookKey(webhook::Secret);

impl WebhookKey {
    /// The secret for signing and verifying.
    pub const fn secret(&self) -> &webhook::Secret {
        &self.0
    }
}

impl FromStr for WebhookKey {
    type Err = webhook::SecretError;

    fn from_str(text: &str) -> Result<Self, webhook::SecretError> {
        webhook::Secret::parse(trimmed(text)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::{Secret, WebhookKey};

    #[test]
    fn neither_debug_nor_display_shows_the_value() {
        let secret = Secret::from("swordfish");
        assert_eq!(format!("{secret:?} {secret}"), "[hidden] [hidden]");
        assert_eq!(secret.expose(), "swordfish");
        let key: WebhookKey = "swordfish".parse().unwrap();
        assert!(!format!("{key:?}").contains("swordfish"));
    }

    #[test]
    fn one_line_end_is_not_part_of_the_value() {
        for (text, value) in [
            ("key", "key"),
            ("key\n", "key"),
            ("key\r\n", "key"),
            ("key\n\n", "key\n"),
            ("key\r\n\r\n", "key\r\n"),
            ("key\r", "key\r"),
            (" key \n", " key "),
            ("\nkey", "\nkey"),
            ("\n\n", "\n"),
        ] {
            let secret: Secret = text.parse().unwrap();
            assert_eq!((secret.expose(), secret.expose_untrimmed()), (value, text), "{text:?}");
        }
        for text in ["", "\n", "\r\n"] {
            assert!(text.parse::<Secret>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_webhook_key_is_the_same_with_a_line_end() {
        for text in ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "a text"] {
            let sign = |text: String| text.parse::<WebhookKey>().unwrap().secret().sign("id", 1, b"body");
            for end in ["\n", "\r\n"] {
                assert_eq!(sign(format!("{text}{end}")), sign(text.to_owned()), "{text}{end:?}");
            }
        }
        let sign = |text: &str| text.parse::<WebhookKey>().unwrap().secret().sign("id", 1, b"body");
        assert_ne!(sign("a text"), sign("a text "));
        for text in ["whsec_swordfish!", "\n", ""] {
            let error = text.parse::<WebhookKey>().unwrap_err().to_string();
            assert!(error.starts_with("expected") && !error.contains("swordfish"), "{error}");
        }
    }
}
