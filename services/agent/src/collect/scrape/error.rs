//! Why a scrape failed.

use golectra_protocol::exposition::{ExpositionError, Reason};

/// Why a scrape failed: one sentence for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScrapeError {
    #[error("no whole answer within {0} seconds: check that the program answers, or set SCRAPE_TIMEOUT")]
    Timeout(f64),
    #[error("{0}")]
    Request(String),
    #[error("the target's certificate is not accepted: {0}; set SCRAPE_CA_FILE to the authority that signed it")]
    Certificate(String),
    #[error("the token {0} cannot be read: {1}; check SCRAPE_TOKEN_FILE")]
    Token(String, String),
    #[error("the answer has the status {status}{}", redirect(.location.as_deref()))]
    Status { status: u16, location: Option<String> },
    #[error("the answer is {0:?}, expected Prometheus's text format or OpenMetrics: check the path")]
    ContentType(String),
    #[error("the answer has the encoding {0:?}, expected gzip or none")]
    Encoding(String),
    #[error("the answer is larger than {0} bytes: raise SCRAPE_MAX_BYTES or let the program expose less")]
    TooLarge(usize),
    #[error("the answer is not valid gzip")]
    Gzip,
    #[error("other targets' answers take all memory for answers: scrape fewer targets")]
    NoMemory,
    #[error("the answer cannot be parsed: {0}")]
    Exposition(#[from] ExpositionError),
    #[error("the answer cannot be parsed: {0} in {1}")]
    Series(Reason, String),
    #[error("the answer is not the JSON object of expvar: {0}")]
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

fn redirect(location: Option<&str>) -> String {
    location.map_or_else(String::new, |location| format!(" to {location:?}: redirects are not followed, so set that URL"))
}

/// The beginning of a text that others wrote, for the log.
pub(super) fn excerpt(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_debug).collect()
}
