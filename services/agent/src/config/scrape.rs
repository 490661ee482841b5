//! The targets to scrape as operators write them.

use std::str::FromStr;

use golectra_protocol::Source;
use reqwest::Url;

use super::kubelet::parse_url;
use crate::collect::scrape::{Target, is_loopback};

/// The most targets.
const MAX_TARGETS: usize = 100;

/// The targets of `SCRAPE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrapeTargets(Vec<Configured>);

/// A target before it is known on which node it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Configured {
    job: Option<String>,
    url: Url,
}

/// Why a list of targets is refused. A URL may contain a password, so it is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScrapeTargetsError {
    /// An entry is not a URL.
    #[error(
        "entry {0}: expected a URL such as http://localhost:9100/metrics, or one with a job such as node=http://localhost:9100/metrics"
    )]
    Url(usize),
    /// An entry has a user, a password or a fragment.
    #[error("entry {0}: expected a URL without user, password and fragment")]
    Extra(usize),
    /// An entry's job is not a word.
    #[error("entry {0}: expected a job of letters, digits, '.', '-', '_' and '/' before the equals sign, at most 128 characters")]
    Job(usize),
    /// Two targets could not be told apart.
    #[error(
        "entry {0}: an entry before it has the same host, port and job: give one of them another job, such as app=http://localhost:8080/metrics"
    )]
    Twice(usize),
    /// No entry at all.
    #[error("expected at least one URL")]
    Empty,
    /// Too many entries.
    #[error("expected at most {MAX_TARGETS} URLs")]
    TooMany,
}

impl ScrapeTargets {
    /// The targets as this node names them.
    pub fn of_node(&self, node: &Source) -> Vec<Target> {
        self.0.iter().map(|target| Target::new(target.url.clone(), target.job.as_deref(), node)).collect()
    }
}

impl FromStr for ScrapeTargets {
    type Err = ScrapeTargetsError;

    fn from_str(text: &str) -> Result<Self, ScrapeTargetsError> {
        let mut targets = Vec::new();
        let (mut seen, any_node) = (Vec::new(), Source::parse("node").unwrap_or_else(|_| Source::unnamed()));
        for (entry, number) in text.split([',', ' ', '\t', '\r', '\n']).filter(|entry| !entry.is_empty()).zip(1..) {
            if number > MAX_TARGETS {
                return Err(ScrapeTargetsError::TooMany);
            }
            let configured = parse(entry, number)?;
            // On a named node all of its own addresses are written as its name.
            let target = Target::new(configured.url.clone(), configured.job.as_deref(), &any_node);
            let identity = (target.job().to_owned(), target.instance().to_owned(), is_loopback(&configured.url));
            if seen.contains(&identity) {
                return Err(ScrapeTargetsError::Twice(number));
            }
            seen.push(identity);
            targets.push(configured);
        }
        if targets.is_empty() { Err(ScrapeTargetsError::Empty) } else { Ok(Self(targets)) }
    }
}

fn parse(entry: &str, number: usize) -> Result<Configured, ScrapeTargetsError> {
    let scheme = entry.find("://").ok_or(ScrapeTargetsError::Url(number))?;
    let (job, url) = match entry[..scheme].split_once('=') {
        Some((job, _)) => (Some(job), &entry[job.len() + 1..]),
        None => (None, entry),
    };
    let is_word = |job: &str| {
        (1..=128).contains(&job.len()) && job.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'/'))
    };
    if !job.is_none_or(is_word) {
        return Err(ScrapeTargetsError::Job(number));
    }
    let url = parse_url(url).ok_or(ScrapeTargetsError::Url(number))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(ScrapeTargetsError::Url(number));
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(ScrapeTargetsError::Extra(number));
    }
    Ok(Configured { job: job.map(str::to_owned), url })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(text: &str) -> Vec<(String, String, String)> {
        let targets: ScrapeTargets = text.parse().unwrap();
        let node = Source::parse("node-1").unwrap();
        let parts = |target: &Target| (target.job().to_owned(), target.instance().to_owned(), target.url().to_string());
        targets.of_node(&node).iter().map(parts).collect()
    }

    #[test]
    fn entries_are_urls_with_or_without_a_job() {
        let text = "http://localhost:9100/metrics, node=http://10.0.0.1:9100/metrics\n\thttp://app.example.org/debug/vars  a/b=https://[::1]/m?x=y=z,";
        let expected = [
            ("scrape", "node-1:9100", "http://localhost:9100/metrics"),
            ("node", "10.0.0.1:9100", "http://10.0.0.1:9100/metrics"),
            ("expvar", "app.example.org:80", "http://app.example.org/debug/vars"),
            ("a/b", "node-1:443", "https://[::1]/m?x=y=z"),
        ];
        assert_eq!(targets(text), expected.map(|(job, instance, url)| (job.to_owned(), instance.to_owned(), url.to_owned())));
        assert_eq!(targets("http://h:1/metrics http://h:1/debug/vars").len(), 2, "these have different jobs");
        // As Kubernetes writes $(HOST_IP) of an IPv6 node.
        let url = targets("node=http://fd00::1:9100/metrics?a=b").remove(0).2;
        assert_eq!(url, "http://[fd00::1]:9100/metrics?a=b");
    }

    #[test]
    fn other_texts_are_refused() {
        let error = |text: &str| text.parse::<ScrapeTargets>().unwrap_err();
        for text in ["localhost:9100", "http://", "ftp://host/", "node=localhost:9100", "http://h:99999"] {
            assert_eq!(error(text), ScrapeTargetsError::Url(1), "{text}");
        }
        assert_eq!(error("http://a http://u:p@h"), ScrapeTargetsError::Extra(2));
        assert_eq!(error("http://h/#x"), ScrapeTargetsError::Extra(1));
        assert_eq!(error("=http://h"), ScrapeTargetsError::Job(1));
        assert_eq!(error("a\"b=http://h"), ScrapeTargetsError::Job(1));
        assert_eq!(error("http://h/a http://h:80/b"), ScrapeTargetsError::Twice(2));
        assert_eq!(error("http://localhost:8080/metrics http://127.0.0.1:8080/other"), ScrapeTargetsError::Twice(2));
        assert_eq!(error(" , "), ScrapeTargetsError::Empty);
        let many: Vec<_> = (0..=MAX_TARGETS).map(|port| format!("http://h:{}", port + 1)).collect();
        assert_eq!(error(&many.join(",")), ScrapeTargetsError::TooMany);
    }
}
