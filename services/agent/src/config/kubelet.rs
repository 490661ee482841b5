//! The kubelet's address as operators and the downward API write it.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

use super::limits::LimitError;
use crate::collect::kubelet::TlsMode;

/// A kubelet's address, such as `https://10.0.0.1:10250`. Kubernetes puts an IPv6 address in without brackets, which are added.
#[derive(Clone, PartialEq, Eq)]
pub struct KubeletUrl(Url);

impl KubeletUrl {
    /// As a URL.
    pub const fn url(&self) -> &Url {
        &self.0
    }
}

impl FromStr for KubeletUrl {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let text = text.trim();
        let parsed = parse_url(text);
        let fits = |url: &Url| {
            let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
            plain && matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty())
        };
        parsed.filter(fits).map(Self).ok_or_else(|| LimitError::new("expected a URL such as https://10.0.0.1:10250"))
    }
}

/// A URL in which Kubernetes may have put an IPv6 address without brackets: `https://fd00::1:10250/metrics` is `https://[fd00::1]:10250/metrics`.
pub(super) fn parse_url(text: &str) -> Option<Url> {
    text.parse().ok().or_else(|| with_brackets(text)?.parse().ok())
}

fn with_brackets(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (host, port) = authority.rsplit_once(':')?;
    host.parse::<std::net::Ipv6Addr>().ok().map(|host| format!("{scheme}://[{host}]:{port}{path}"))
}

impl fmt::Debug for KubeletUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl FromStr for TlsMode {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        match text {
            "auto" => Ok(Self::Auto),
            "verify" => Ok(Self::Verify),
            _ => Err(LimitError::new("expected auto or verify")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_with_addresses_of_both_kinds() {
        for (text, url) in [
            ("https://10.0.0.1:10250", "https://10.0.0.1:10250/"),
            ("https://fd00::1:10250", "https://[fd00::1]:10250/"),
            ("https://[fd00::1]:10250/", "https://[fd00::1]:10250/"),
            ("http://node:10255", "http://node:10255/"),
        ] {
            assert_eq!(text.parse::<KubeletUrl>().unwrap().url().as_str(), url, "{text}");
        }
        for text in ["", "10.0.0.1:10250", "ftp://x", "https://user:pass@x", "https://x/?a=b", "https://:10250", "https://fd00::1"] {
            assert!(text.parse::<KubeletUrl>().is_err(), "{text}");
        }
    }
}
