//! Why a scrape failed.

use golectra_protocol::exposition::{ExpositionError, Reason};
use reqwest::Url;

/// Why a scrape failed: one sentence for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScrapeError {
    #[error("no whole answer within {0} seconds: check that the program answers, or set SCRAPE_TIMEOUT")]
    Timeout(f64),
    #[error("{0}; check that the program runs and listens there, and that no network policy or firewall is between")]
    Request(String),
    #[error("{0}")]
    Client(String),
    #[error("the target's certificate is not accepted: {0}; set SCRAPE_CA_FILE to the authority that signed it")]
    Certificate(String),
    #[error("the token {0} cannot be read: {1}; check SCRAPE_TOKEN_FILE")]
    Token(String, String),
    #[error("the answer has the status {status}{}", advice(*.status, .location.as_deref()))]
    Status { status: u16, location: Option<String> },
    #[error("the answer is {0:?}, expected Prometheus's text format or OpenMetrics: check the path")]
    ContentType(String),
    #[error("the answer has the encoding {0:?}, expected gzip or none: change that in the program, or in the proxy before it")]
    Encoding(String),
    #[error("the answer is larger than {0} bytes: raise SCRAPE_MAX_BYTES or let the program expose less")]
    TooLarge(usize),
    #[error("the answer is not valid gzip: look for a proxy that changes it")]
    Gzip,
    #[error("other targets' answers take all memory for answers: scrape fewer targets")]
    NoMemory,
    #[error("the answer cannot be parsed: {0}; the program has to write what Prometheus reads")]
    Exposition(#[from] ExpositionError),
    #[error("the answer cannot be parsed: {0} in {1}")]
    Series(Reason, String),
    #[error("the answer is not the JSON object of expvar: {0}; check the path")]
    Json(String),
    #[error("the answer has {found} samples, more than {limit}: raise SCRAPE_MAX_SAMPLES or let the program expose less")]
    TooManySamples { found: usize, limit: usize },
    #[error("a series has {found} labels, more than {limit}: {series}; raise SCRAPE_MAX_LABELS or drop the label in the program")]
    TooManyLabels { found: usize, limit: usize, series: String },
    #[error(
        "a label's name has {found} bytes, more than {limit}: {series}; raise SCRAPE_MAX_LABEL_NAME_BYTES or shorten it in the program"
    )]
    LongLabelName { found: usize, limit: usize, series: String },
    #[error(
        "a label's value has {found} bytes, more than {limit}: {series}; raise SCRAPE_MAX_LABEL_VALUE_BYTES or shorten it in the program"
    )]
    LongLabelValue { found: usize, limit: usize, series: String },
}

fn advice(status: u16, location: Option<&str>) -> String {
    if let Some(location) = location {
        return format!(" to {location:?}: redirects are not followed, so set that URL");
    }
    let advice = match status {
        401 | 403 => "the program wants credentials: a target of SCRAPE gets those in SCRAPE_TOKEN_FILE, a pod none",
        404 => "check the path",
        500.. => "look at the program's log",
        _ => "check the URL",
    };
    format!(": {advice}")
}

/// The URL to which a target redirects, for the log: without what may be a secret, as its query, or a user and a password. None where it is no such URL.
pub(super) fn location_for_log(target: &Url, location: &str) -> Option<String> {
    let mut to = target.join(location).ok().filter(Url::has_host)?;
    // Neither fails where there is a host.
    let _ = to.set_username("");
    let _ = to.set_password(None);
    to.set_query(None);
    to.set_fragment(None);
    Some(excerpt(to.as_str()))
}

/// The beginning of a text that others wrote, for the log.
pub(super) fn excerpt(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_told_without_secrets() {
        let target = Url::parse("http://u:S3CRET@app:8080/metrics?token=S3CRET").unwrap();
        for (location, told) in [
            ("https://app:8443/metrics?token=S3CRET", Some("https://app:8443/metrics")),
            ("https://user:S3CRET@app/metrics#S3CRET", Some("https://app/metrics")),
            ("//u:S3CRET@other/m", Some("http://other/m")),
            ("/login?next=S3CRET", Some("http://app:8080/login")),
            ("/a@b", Some("http://app:8080/a@b")),
            ("?S3CRET", Some("http://app:8080/metrics")),
            ("https://app/a@b", Some("https://app/a@b")),
            ("https://user:S3CRET@[app", None),
            ("mailto:S3CRET", None),
        ] {
            assert_eq!(location_for_log(&target, location).as_deref(), told, "{location}");
        }
    }
}
