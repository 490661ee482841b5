//! What an answer means for the batch that was sent.
//!
//! A batch is dropped only where the server says that it will never take it. Everything else is kept: an outage,
//! a wrong key or a wrong address is put right by an operator sooner or later, and a batch has no other copy.

use std::time::Duration;

use golectra_protocol::{WindowError, signature};
use http::StatusCode;

use crate::stats::DropReason;

/// The longest that a server's Retry-After is believed.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(5);

/// What became of a try.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The server has the batch.
    Acknowledged {
        /// An earlier try had delivered it.
        replayed: bool,
    },
    /// The server will never take it.
    Refused {
        /// Why, for counting.
        reason: DropReason,
        /// The server's words.
        error: String,
    },
    /// Anything else.
    Retry(Retry),
}

/// A try that settled nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Retry {
    /// As the label `reason` has it.
    pub(super) reason: &'static str,
    /// For the log.
    pub(super) error: String,
    /// Whether the server may have seen the batch at all.
    pub(super) reached: bool,
    /// Whether the server may have applied it.
    pub(super) may_be_applied: bool,
    /// How long the server wants to be left alone.
    pub(super) after: Option<Duration>,
}

impl Retry {
    /// Nothing was sent.
    pub(super) fn unsent(reason: &'static str, error: String) -> Self {
        Self { reason, error, reached: false, may_be_applied: false, after: None }
    }

    /// Sent, without an answer to be sure of.
    pub(super) fn unknown(reason: &'static str, error: String) -> Self {
        Self { reason, error, reached: true, may_be_applied: true, after: None }
    }
}

/// Judges an answer other than 2xx.
pub(super) fn of_failure(status: StatusCode, body: &str, retry_after: Option<&str>) -> Verdict {
    let error = format!("{status}: {}", shortened(body));
    let refused = match status {
        StatusCode::PAYLOAD_TOO_LARGE => Some(DropReason::TooLarge),
        StatusCode::UNPROCESSABLE_ENTITY => Some(DropReason::KeyReused),
        // A batch ahead of the server's clock is taken once that clock has caught up.
        StatusCode::CONFLICT if !body.contains(&WindowError::TooNew.to_string()) => Some(DropReason::TooOld),
        // The key differs, which is no fault of the batch.
        StatusCode::BAD_REQUEST if !body.contains("invalid hash") => Some(DropReason::Invalid),
        _ => None,
    };
    if let Some(reason) = refused {
        return Verdict::Refused { reason, error };
    }
    let (reason, hint) = match status {
        StatusCode::BAD_REQUEST => ("invalid_hash", "; check that KEY is the server's"),
        StatusCode::UNAUTHORIZED if body.contains(signature::SKEW) => ("clock_skew", "; check the clocks of this host and of the server"),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ("unauthorized", "; check KEY, or KEYS_DIR and SIGNING_KEY_ID"),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => ("not_found", "; check that ADDRESS is a golectra server's"),
        StatusCode::CONFLICT => ("ahead_of_clock", "; check the clocks of this host and of the server"),
        StatusCode::TOO_MANY_REQUESTS => ("throttled", ""),
        _ if status.is_redirection() => ("redirect", "; redirects are not followed, set ADDRESS to where it leads"),
        _ if status.is_server_error() => ("server_error", ""),
        _ => ("unexpected_status", ""),
    };
    let after = retry_after.and_then(|text| text.trim().parse().ok()).map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
    // Behind a 5xx the batch may have been applied after all, or be about to; every other status says that it was not.
    let may_be_applied = status.is_server_error();
    Verdict::Retry(Retry { reason, error: error + hint, reached: true, may_be_applied, after })
}

/// A server's words fit for a log line.
fn shortened(body: &str) -> String {
    let text: String = body.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    if text.is_empty() { "no reason given".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(status: u16, body: &str) -> Verdict {
        of_failure(StatusCode::from_u16(status).unwrap(), body, None)
    }

    #[test]
    fn only_four_answers_drop_a_batch() {
        let too_old = format!(r#"{{"error":"{}"}}"#, WindowError::TooOld);
        for (status, body, expected) in [
            (413, "", DropReason::TooLarge),
            (422, "", DropReason::KeyReused),
            (409, too_old.as_str(), DropReason::TooOld),
            (409, "", DropReason::TooOld),
            (400, r#"{"error":"item 3: no"}"#, DropReason::Invalid),
            (400, "", DropReason::Invalid),
        ] {
            assert!(matches!(judge(status, body), Verdict::Refused { reason, .. } if reason == expected), "{status} {body}");
        }
    }

    #[test]
    fn everything_else_is_tried_again() {
        let skewed = signature::SignatureError::Behind { signed: 1, now: 302 }.to_string();
        let too_new = format!(r#"{{"error":"{}"}}"#, WindowError::TooNew);
        for (status, body, reason, may_be_applied) in [
            (400, r#"{"error":"invalid hash"}"#, "invalid_hash", false),
            (401, "", "unauthorized", false),
            (401, &skewed, "clock_skew", false),
            (403, "", "unauthorized", false),
            (404, "", "not_found", false),
            (405, "", "not_found", false),
            (409, &too_new, "ahead_of_clock", false),
            (429, "", "throttled", false),
            (301, "", "redirect", false),
            (307, "", "redirect", false),
            (418, "", "unexpected_status", false),
            (500, "", "server_error", true),
            (502, "", "server_error", true),
            (503, "", "server_error", true),
        ] {
            let Verdict::Retry(retry) = judge(status, body) else { panic!("{status} {body}") };
            assert_eq!((retry.reason, retry.may_be_applied, retry.reached), (reason, may_be_applied, true), "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_and_believed_up_to_five_minutes() {
        for (header, seconds) in
            [("7", Some(7)), (" 0 ", Some(0)), ("86400", Some(300)), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None)]
        {
            let Verdict::Retry(retry) = of_failure(StatusCode::SERVICE_UNAVAILABLE, "", Some(header)) else { panic!("{header}") };
            assert_eq!(retry.after, seconds.map(Duration::from_secs), "{header}");
        }
    }

    #[test]
    fn a_servers_words_are_cut_and_cleaned() {
        let Verdict::Refused { error, .. } = judge(400, &format!("bad\n\u{1b}[31m{}", "x".repeat(1000))) else { panic!() };
        assert!(error.starts_with("400 Bad Request: bad  [31mxxx") && error.len() < 350, "{error}");
    }
}
