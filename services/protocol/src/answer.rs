//! A server's answers to a batch: the number of metrics it accepted, or an error with a code.
//!
//! Senders decide by status and code, never by the message, which is for people and may change. An answer without a code of
//! this table comes from another program, such as a proxy, and says nothing reliable about the batch.

use std::fmt::Write as _;

use serde::Deserialize;

/// Declares the codes together with their table, so that every code has a status and a meaning.
macro_rules! error_codes {
    ($($name:ident $text:literal $status:literal $decision:ident $meaning:literal;)+) => {
        /// The `code` of an error on a JSON route. Codes are stable: a code is never renamed and never used for another error.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorCode {
            $(#[doc = $meaning] $name,)+
        }

        impl ErrorCode {
            /// Every code; first those that reject a batch.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The code as text, as in an answer.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// The HTTP status of answers with this code.
            pub const fn status(self) -> u16 {
                match self {
                    $(Self::$name => $status,)+
                }
            }

            /// Whether every later try would be refused too, so that the sender drops the batch.
            pub const fn rejects_batch(self) -> bool {
                match self {
                    $(Self::$name => error_codes!(@ $decision),)+
                }
            }

            /// The meaning of the code, for the documentation.
            const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)+
                }
            }
        }
    };
    (@ drop) => { true };
    (@ keep) => { false };
}

error_codes! {
    Malformed "malformed" 400 drop "The body, the path or the query does not have the expected form.";
    InvalidMetric "invalid_metric" 400 drop "A metric breaks a rule; the sentence names the first one.";
    TooOld "too_old" 409 drop "The batch is older than the oldest time the server still knows keys of.";
    TooLarge "too_large" 413 drop "The body is larger than the server allows.";
    TooManyItems "too_many_items" 413 drop "The batch has more items than the server allows.";
    KeyReused "key_reused" 422 drop "The idempotency key was used with another body.";
    CutOff "cut_off" 400 keep "The body ended early.";
    InvalidGzip "invalid_gzip" 400 keep "The body is marked gzip and is not.";
    InvalidHash "invalid_hash" 400 keep "`HashSHA256` does not match: the keys differ, or the body changed on the way.";
    InvalidHeader "invalid_header" 400 keep "A header stands twice or is not ASCII.";
    InvalidKey "invalid_key" 400 keep "`Idempotency-Key` is not a UUIDv7.";
    BadSelector "bad_selector" 400 keep "A `match[]` is not a series selector, or there are too many conditions; the sentence says where.";
    InvalidSource "invalid_source" 400 keep "`Golectra-Source` or a source in the query is not a valid name.";
    InvalidSnappy "invalid_snappy" 400 keep "The body of a remote-write request is not a snappy block.";
    SamplesRefused "samples_refused" 400 keep "Samples of a remote-write request were refused, as the sentence says; the others are stored.";
    Overflow "overflow" 400 keep "A counter's total would exceed 9223372036854775807.";
    SignatureMissing "signature_missing" 401 keep "The request is not signed, and the server requires signatures.";
    SignatureMalformed "signature_malformed" 401 keep "`Golectra-Signature` does not have the expected form.";
    SignatureUnknownKey "signature_unknown_key" 401 keep "The server does not have the key that signed.";
    SignatureClock "signature_clock" 401 keep "The signature's time is too far from the server's clock.";
    SignatureMismatch "signature_mismatch" 401 keep "The signature does not match the request.";
    TokenMissing "token_missing" 401 keep "The route needs an API token, or a user whom a proxy has signed in.";
    TokenUnknown "token_unknown" 401 keep "The server does not have the API token.";
    TokenScope "token_scope" 403 keep "The API token or the user does not have the scope that the route needs.";
    UnknownMetric "unknown_metric" 404 keep "There is no such metric.";
    UnknownSource "unknown_source" 404 keep "There is no such source.";
    UnknownSilence "unknown_silence" 404 keep "There is no such silence, or it is over.";
    UnknownReceiver "unknown_receiver" 404 keep "There is no such receiver of alerts.";
    TooSlow "too_slow" 408 keep "The body did not arrive in time.";
    TooNew "too_new" 409 keep "The batch is too far ahead of the server's clock. It was not applied.";
    ContentEncoding "content_encoding" 415 keep "The body is compressed with something other than gzip, or snappy for remote-write.";
    ContentType "content_type" 415 keep "The body is no remote-write message of a version that the server knows, or not marked as JSON where it must be.";
    SeriesLimit "series_limit" 429 keep "The batch has new series, and a limit of series is reached.";
    Internal "internal" 500 keep "A bug in the server.";
    ReceiverFailed "receiver_failed" 502 keep "A receiver of alerts did not take the test; the sentence says why.";
    Overloaded "overloaded" 503 keep "The server has no room for the request.";
    StoreUnavailable "store_unavailable" 503 keep "The store does not answer.";
}

impl ErrorCode {
    /// Parses a code. None if it is not in the table.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }

    /// The table for docs/protocol.md.
    pub fn markdown() -> String {
        let mut table = String::from("| `code` | status | meaning | an agent |\n|---|---|---|---|\n");
        for code in Self::ALL {
            let decision = if code.rejects_batch() { "drops the batch" } else { "keeps it" };
            let _ = writeln!(table, "| `{}` | {} | {} | {decision} |", code.as_str(), code.status(), code.meaning());
        }
        table
    }
}

/// The number of metrics that the server accepted: `updated` of a JSON object. None for any other body.
pub fn updated(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Updated {
        updated: u64,
    }
    object::<Updated>(body).map(|answer| answer.updated)
}

/// The code of an error's body. None if it has none, or one that this version does not know.
pub fn error_code(body: &[u8]) -> Option<ErrorCode> {
    #[derive(Deserialize)]
    struct Error {
        code: String,
    }
    object::<Error>(body).and_then(|error| ErrorCode::parse(&error.code))
}

/// Parses a JSON object. Derived deserializers also accept an array of the fields, which this protocol does not.
fn object<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Option<T> {
    body.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(body).ok())?
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_is_one_word_and_can_be_parsed() {
        let words: BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), ErrorCode::ALL.len(), "codes are unique");
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(*code));
            assert!(code.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code:?}");
        }
        for other in ["", "no_such_code", "TOO_OLD", "too old"] {
            assert_eq!(ErrorCode::parse(other), None);
        }
    }

    #[test]
    fn a_batch_is_rejected_with_four_statuses_only() {
        let rejecting: Vec<_> = ErrorCode::ALL.iter().filter(|code| code.rejects_batch()).map(|code| code.status()).collect();
        assert_eq!(rejecting, [400, 400, 409, 413, 413, 422]);
    }

    #[test]
    fn only_an_object_with_a_number_is_a_count() {
        for (body, taken) in [
            (r#"{"updated":5}"#, Some(5)),
            (" {\"more\":[1], \"updated\" : 0 }\n", Some(0)),
            (r#"{"updated":"5"}"#, None),
            (r#"{"updated":-1}"#, None),
            (r#"{"updated":5.5}"#, None),
            (r#"{"update":5}"#, None),
            ("[5]", None),
            ("5", None),
            (r#"{"updated":5"#, None),
            (r#"{"updated":5}{"updated":5}"#, None),
            ("<html>login</html>", None),
            ("", None),
        ] {
            assert_eq!(updated(body.as_bytes()), taken, "{body}");
        }
    }

    #[test]
    fn only_known_codes_are_parsed() {
        for (body, code) in [
            (r#"{"error":"too old","code":"too_old"}"#, Some(ErrorCode::TooOld)),
            (r#"{"code":"invalid_hash"}"#, Some(ErrorCode::InvalidHash)),
            (r#"{"error":"no","code":"from_a_later_version"}"#, None),
            (r#"{"error":"no"}"#, None),
            (r#"["too_old"]"#, None),
            ("too_old", None),
            ("<html><title>400 Bad Request</title></html>", None),
        ] {
            assert_eq!(error_code(body.as_bytes()), code, "{body}");
        }
    }

    #[test]
    fn the_documentation_has_the_table() {
        let table = ErrorCode::markdown();
        let document = include_str!("../../../docs/protocol.md");
        assert!(document.contains(table.trim()), "docs/protocol.md's table of error codes should be:\n{table}");
    }
}
