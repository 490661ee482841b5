//! The server's address as operators write it.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

/// The server's address: `http://host:8080`, `https://host/base`, `host:8080` or `:8080` (this machine).
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    base: Url,
    updates: Url,
}

/// Why a text is not the address of a server. It may contain a password, so it is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither a URL nor host:port.
    #[error("expected a URL such as http://localhost:8080 or host:port")]
    Format,
    /// A name and password, a query or a fragment.
    #[error("expected a URL without user, query and fragment, such as https://metrics.example.org")]
    Extra,
}

impl Address {
    /// Where reports are posted: the address with `/updates` at its end.
    pub const fn updates(&self) -> &Url {
        &self.updates
    }

    /// Where a server says whether it takes reports: the address with `/ping` at its end.
    pub fn ping(&self) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/ping", url.path().trim_end_matches('/')));
        url
    }

    /// Whether it uses TLS.
    pub fn is_https(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// Whether the server is on this host, where it cannot be reached through a proxy.
    pub fn is_loopback(&self) -> bool {
        let host = self.base.host_str().unwrap_or_default();
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        let full = match text {
            _ if text.contains("://") => text.to_owned(),
            _ if text.starts_with(':') => format!("http://localhost{text}"),
            _ => format!("http://{text}"),
        };
        let mut base: Url = full.parse().map_err(|_| AddressError::Format)?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none_or(str::is_empty) {
            return Err(AddressError::Format);
        }
        if !base.username().is_empty() || base.password().is_some() || base.query().is_some() || base.fragment().is_some() {
            return Err(AddressError::Extra);
        }
        let path = base.path().trim_end_matches('/').to_owned();
        base.set_path(&path);
        let mut updates = base.clone();
        updates.set_path(&format!("{path}/updates"));
        Ok(Self { base, updates })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, AddressError};

    #[test]
    fn urls_and_host_port() {
        for (text, updates) in [
            ("http://localhost:8080", "http://localhost:8080/updates"),
            ("http://localhost:8080/", "http://localhost:8080/updates"),
            ("localhost:8080", "http://localhost:8080/updates"),
            (":8080", "http://localhost:8080/updates"),
            ("[::1]:8080", "http://[::1]:8080/updates"),
            ("metrics.example.org", "http://metrics.example.org/updates"),
            ("https://metrics.example.org/base/", "https://metrics.example.org/base/updates"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().updates().as_str(), updates, "{text}");
        }
        assert!("https://x".parse::<Address>().unwrap().is_https());
        for text in ["localhost:1", "127.0.0.2:1", "[::1]:1"] {
            assert!(text.parse::<Address>().unwrap().is_loopback(), "{text}");
        }
        assert!(!"10.0.0.1:1".parse::<Address>().unwrap().is_loopback());
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "http://", "ftp://host", "host:port", "host:99999", "unix:///run/x"] {
            assert_eq!(text.parse::<Address>(), Err(AddressError::Format), "{text}");
        }
        for text in ["http://user:pass@host", "http://host/?a=b", "http://host/#x"] {
            assert_eq!(text.parse::<Address>(), Err(AddressError::Extra), "{text}");
        }
    }
}
