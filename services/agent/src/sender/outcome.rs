//! What the answer to a try means for the batch.
//!
//! A batch is dropped only when golectra itself says, by status and code, that it will never accept it. Everything else is
//! kept and tried again: an outage, a wrong key, a wrong address or a proxy in between is repaired sooner or later, and
//! there is no other copy of the batch.

use std::time::Duration;

use golectra_protocol::ErrorCode;
use golectra_protocol::answer::error_code;
use http::StatusCode;

use crate::batch::Failure;
use crate::metrics::DropReason;

/// A server's Retry-After is honoured up to this long.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(5);

/// The longest text of a server in the log, in characters.
const MAX_LOGGED_CHARS: usize = 300;

/// The result of a try.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The server has the batch.
    Acknowledged {
        /// An earlier try had delivered it.
        replayed: bool,
    },
    /// The server will never accept the batch.
    Rejected {
        /// Why, for the metrics.
        reason: DropReason,
        /// The server's answer.
        error: String,
    },
    /// Anything else.
    Retry(Retry),
}

/// A try after which the batch is kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Retry {
    pub(super) reason: RetryReason,
    /// For the log.
    pub(super) error: String,
    pub(super) failure: Failure,
    /// The pause that the server asked for.
    pub(super) after: Option<Duration>,
}

impl Retry {
    /// Nothing was sent.
    pub(super) fn not_sent(reason: RetryReason, error: String) -> Self {
        Self { reason, error, failure: Failure::NotSent, after: None }
    }

    /// The batch was sent, and there is no reliable answer.
    pub(super) fn unknown(reason: RetryReason, error: String) -> Self {
        Self { reason, error, failure: Failure::Unknown, after: None }
    }
}

/// Why a try failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum RetryReason {
    /// No connection.
    Connect,
    /// No answer in time.
    Timeout,
    /// The connection ended before the whole answer.
    Cut,
    /// SIGNING_KEY_ID is not in KEYS_DIR.
    NoSigningKey,
    /// A success that does not say that the whole batch was taken.
    NotAcknowledged,
    /// A success that says that another number of items was taken.
    OtherCount,
    /// A success with a wrong HashSHA256.
    Unverified,
    /// The server has another KEY.
    InvalidHash,
    /// The request arrived damaged or changed.
    Altered,
    /// A counter's total on the server is too large.
    Overflow,
    /// A signature is refused because of the clock.
    ClockSkew,
    /// A key or signature is refused.
    Unauthorized,
    /// The address is wrong.
    NotFound,
    /// The batch is ahead of the server's clock.
    TooNew,
    /// The server limits requests or series.
    Throttled,
    /// A redirect.
    Redirect,
    /// The server or a proxy has an error.
    ServerError,
    /// A refusal without one of golectra's codes, from a proxy or another server.
    NotGolectra,
    /// Any other status.
    UnexpectedStatus,
}

impl RetryReason {
    /// The value of the label `reason`.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Cut => "cut",
            Self::NoSigningKey => "no_signing_key",
            Self::NotAcknowledged | Self::OtherCount => "not_acknowledged",
            Self::Unverified => "unverified",
            Self::InvalidHash => "invalid_hash",
            Self::Altered => "altered",
            Self::Overflow => "overflow",
            Self::ClockSkew => "clock_skew",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not_found",
            Self::TooNew => "too_new",
            Self::Throttled => "throttled",
            Self::Redirect => "redirect",
            Self::ServerError => "server_error",
            Self::NotGolectra => "not_golectra",
            Self::UnexpectedStatus => "unexpected_status",
        }
    }

    /// What an operator can do about it.
    const fn advice(self) -> &'static str {
        match self {
            Self::NotAcknowledged | Self::OtherCount | Self::NotFound | Self::NotGolectra => {
                "; check that ADDRESS leads to a golectra server and what is between"
            }
            Self::InvalidHash => "; check that KEY is the server's",
            Self::Altered => "; check what changes requests between this host and the server",
            Self::Overflow => "; delete the source on the server, or the client that raised the counter",
            Self::ClockSkew | Self::TooNew => "; check the clocks of this host and of the server",
            Self::Unauthorized => "; check KEY, or KEYS_DIR and SIGNING_KEY_ID",
            Self::ServerError => "; the log of the server, or of a proxy before it, says more",
            Self::Redirect => "; redirects are not followed: set ADDRESS to where it leads",
            _ => "",
        }
    }
}

/// The outcome of an answer with status 200.
pub(super) fn of_success(body: &[u8], items: u64, replayed: bool) -> Outcome {
    match golectra_protocol::answer::updated(body) {
        Some(updated) if updated == items => Outcome::Acknowledged { replayed },
        updated => {
            let reason = if updated.is_some() { RetryReason::OtherCount } else { RetryReason::NotAcknowledged };
            let error = format!(
                "the answer is not {{\"updated\":{items}}}, so it does not say that the report was taken: {}{}",
                shortened(body),
                reason.advice()
            );
            Outcome::Retry(Retry::unknown(reason, error))
        }
    }
}

/// The outcome of an answer with another status.
pub(super) fn of_failure(status: StatusCode, body: &[u8], retry_after: Option<&str>) -> Outcome {
    let error = format!("{status}: {}", shortened(body));
    let code = error_code(body).filter(|code| code.status() == status.as_u16());
    if let Some(reason) = code.and_then(drop_reason) {
        return Outcome::Rejected { reason, error };
    }
    let (reason, failure) = code.map_or_else(|| of_status(status), of_code);
    // A limit of series refuses this batch alone: others, which have no new series, need not wait.
    let retry_after = retry_after.filter(|_| code != Some(ErrorCode::SeriesLimit));
    let after = retry_after.and_then(|text| text.trim().parse().ok()).map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
    Outcome::Retry(Retry { reason, error: error + reason.advice(), failure, after })
}

/// Why a code drops the batch; none for one that does not.
fn drop_reason(code: ErrorCode) -> Option<DropReason> {
    code.rejects_batch().then_some(match code {
        ErrorCode::TooLarge | ErrorCode::TooManyItems => DropReason::TooLarge,
        ErrorCode::TooOld => DropReason::TooOld,
        ErrorCode::KeyReused => DropReason::KeyReused,
        _ => DropReason::Invalid,
    })
}

/// What a code of golectra means that does not drop the batch.
fn of_code(code: ErrorCode) -> (RetryReason, Failure) {
    use ErrorCode as Code;
    match code {
        Code::TooNew => (RetryReason::TooNew, Failure::TooNew),
        Code::SignatureClock => (RetryReason::ClockSkew, Failure::ClockSkew),
        Code::InvalidHash => (RetryReason::InvalidHash, Failure::Refused),
        Code::CutOff | Code::InvalidGzip | Code::InvalidHeader | Code::InvalidKey | Code::InvalidSource => {
            (RetryReason::Altered, Failure::Refused)
        }
        Code::Overflow => (RetryReason::Overflow, Failure::Refused),
        _ => of_status(StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)),
    }
}

/// What a status means without a code. After a 5xx the batch may have been applied, or be about to be; every other status
/// says that it was not.
fn of_status(status: StatusCode) -> (RetryReason, Failure) {
    let reason = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RetryReason::Unauthorized,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => RetryReason::NotFound,
        StatusCode::TOO_MANY_REQUESTS => RetryReason::Throttled,
        StatusCode::BAD_REQUEST | StatusCode::CONFLICT | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            RetryReason::NotGolectra
        }
        _ if status.is_redirection() => RetryReason::Redirect,
        _ if status.is_server_error() => RetryReason::ServerError,
        _ => RetryReason::UnexpectedStatus,
    };
    let unknown = status.is_server_error() || status.is_success();
    (reason, if unknown { Failure::Unknown } else { Failure::Refused })
}

/// A server's text, cut and cleaned for the log.
fn shortened(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_LOGGED_CHARS).collect();
    if text.is_empty() { "no reason given".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, body: &str) -> Outcome {
        of_failure(StatusCode::from_u16(status).unwrap(), body.as_bytes(), None)
    }

    fn coded(code: &str) -> String {
        format!(r#"{{"error":"a sentence","code":"{code}"}}"#)
    }

    #[test]
    fn a_batch_is_acknowledged_by_the_number_of_its_items_only() {
        assert_eq!(of_success(br#"{"updated":5}"#, 5, true), Outcome::Acknowledged { replayed: true });
        for body in ["<html>login</html>", "", "5", "[5]", r#"{"updated":4}"#, r#"{"updated":6}"#, r#"{"updated":"5"}"#, "{}"] {
            let Outcome::Retry(retry) = of_success(body.as_bytes(), 5, false) else { panic!("{body}") };
            let is_count = body.contains(":4") || body.contains(":6");
            let reason = if is_count { RetryReason::OtherCount } else { RetryReason::NotAcknowledged };
            assert_eq!((retry.reason, retry.failure), (reason, Failure::Unknown), "{body}");
            assert_eq!(retry.reason.as_str(), "not_acknowledged");
            assert!(retry.error.contains(body), "{}", retry.error);
        }
    }

    #[test]
    fn only_golectras_own_codes_drop_a_batch() {
        for (status, code, expected) in [
            (413, "too_large", DropReason::TooLarge),
            (413, "too_many_items", DropReason::TooLarge),
            (422, "key_reused", DropReason::KeyReused),
            (409, "too_old", DropReason::TooOld),
            (400, "invalid_metric", DropReason::Invalid),
            (400, "malformed", DropReason::Invalid),
        ] {
            let outcome = failure(status, &coded(code));
            assert!(matches!(outcome, Outcome::Rejected { reason, .. } if reason == expected), "{status} {code}");
            let other = if status == 400 { 413 } else { 400 };
            assert!(matches!(failure(other, &coded(code)), Outcome::Retry(_)), "{code} does not come with {other}");
        }
        let dropping = ErrorCode::ALL.iter().filter(|code| drop_reason(**code).is_some()).count();
        assert_eq!(dropping, 6);
    }

    #[test]
    fn refusals_of_others_are_kept() {
        let proxy = "<html><h1>400 Bad Request</h1>The plain HTTP request was sent to HTTPS port</html>";
        for status in [400, 409, 413, 422] {
            for body in [proxy, "", r#"{"error":"too old"}"#, r#"{"error":"bad","code":"of_another_program"}"#, "too_large"] {
                let Outcome::Retry(retry) = failure(status, body) else { panic!("{status} {body}") };
                assert_eq!((retry.reason, retry.failure), (RetryReason::NotGolectra, Failure::Refused), "{status} {body}");
            }
        }
    }

    #[test]
    fn everything_else_is_tried_again() {
        use RetryReason as Reason;
        for (status, body, reason, failed) in [
            (400, coded("invalid_hash"), Reason::InvalidHash, Failure::Refused),
            (400, coded("cut_off"), Reason::Altered, Failure::Refused),
            (400, coded("overflow"), Reason::Overflow, Failure::Refused),
            (401, String::new(), Reason::Unauthorized, Failure::Refused),
            (401, coded("signature_mismatch"), Reason::Unauthorized, Failure::Refused),
            (401, coded("signature_clock"), Reason::ClockSkew, Failure::ClockSkew),
            (403, String::new(), Reason::Unauthorized, Failure::Refused),
            (404, String::new(), Reason::NotFound, Failure::Refused),
            (405, String::new(), Reason::NotFound, Failure::Refused),
            (409, coded("too_new"), Reason::TooNew, Failure::TooNew),
            (400, coded("too_new"), Reason::NotGolectra, Failure::Refused),
            (429, coded("series_limit"), Reason::Throttled, Failure::Refused),
            (301, String::new(), Reason::Redirect, Failure::Refused),
            (307, String::new(), Reason::Redirect, Failure::Refused),
            (204, String::new(), Reason::UnexpectedStatus, Failure::Unknown),
            (418, String::new(), Reason::UnexpectedStatus, Failure::Refused),
            (500, coded("internal"), Reason::ServerError, Failure::Unknown),
            (502, String::new(), Reason::ServerError, Failure::Unknown),
            (503, coded("store_unavailable"), Reason::ServerError, Failure::Unknown),
        ] {
            let Outcome::Retry(retry) = failure(status, &body) else { panic!("{status} {body}") };
            assert_eq!((retry.reason, retry.failure), (reason, failed), "{status} {body}");
        }
        for code in ErrorCode::ALL.iter().filter(|code| !code.rejects_batch()) {
            assert!(matches!(failure(code.status(), &coded(code.as_str())), Outcome::Retry(_)), "{code:?}");
        }
    }

    #[test]
    fn retry_after_is_in_seconds_and_honoured_up_to_five_minutes() {
        for (header, seconds) in
            [("7", Some(7)), (" 0 ", Some(0)), ("86400", Some(300)), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None)]
        {
            let Outcome::Retry(retry) = of_failure(StatusCode::SERVICE_UNAVAILABLE, b"", Some(header)) else { panic!("{header}") };
            assert_eq!(retry.after, seconds.map(Duration::from_secs), "{header}");
        }
    }

    #[test]
    fn a_limit_of_series_asks_no_other_batch_to_wait() {
        for (code, after) in [("series_limit", None), ("another", Some(Duration::from_mins(1)))] {
            let body = coded(code);
            let Outcome::Retry(retry) = of_failure(StatusCode::TOO_MANY_REQUESTS, body.as_bytes(), Some("60")) else { panic!("{code}") };
            assert_eq!((retry.reason, retry.after), (RetryReason::Throttled, after), "{code}");
        }
    }

    #[test]
    fn a_servers_text_is_cut_and_cleaned() {
        let Outcome::Retry(retry) = failure(400, &format!("bad\n\u{1b}[31m{}", "x".repeat(1000))) else { panic!() };
        assert!(retry.error.starts_with("400 Bad Request: bad  [31mxxx") && retry.error.len() < 450, "{}", retry.error);
    }
}
