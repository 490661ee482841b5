//! Where the server is.

use std::fmt;
use std::str::FromStr;

/// A server's address: `http://host:port` or `host:port`; without a port it is 80 in an URL and 8080 otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

/// The text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected host:port or http://host:port (https is not spoken here: put the load behind what ends TLS)")]
pub struct AddressError;

impl Address {
    /// A port of this machine.
    pub fn local(port: u16) -> Self {
        Self { host: "127.0.0.1".to_owned(), port }
    }

    /// The host's name or address, an IPv6 one without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (rest, default) = text.strip_prefix("http://").map_or((text, 8080), |rest| (rest, 80));
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or(AddressError)?;
                (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or(AddressError)?) })
            }
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(default), |port| port.parse().map_err(|_| AddressError))?;
        // `:8080` is this machine, as listeners write it.
        let host = if host.is_empty() && !rest.is_empty() && !rest.starts_with('[') { "localhost" } else { host };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte);
        if host.is_empty() || port == 0 || !host.bytes().all(plain) {
            return Err(AddressError);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, AddressError};

    #[test]
    fn hosts_and_ports_in_every_spelling() {
        for (text, shown) in [
            ("localhost:9000", "localhost:9000"),
            ("http://golectra-server", "golectra-server:80"),
            ("http://10.0.0.1:8080/", "10.0.0.1:8080"),
            ("node", "node:8080"),
            (":8081", "localhost:8081"),
            ("[::1]:8080", "[::1]:8080"),
            ("http://[fe80::1]", "[fe80::1]:80"),
        ] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()), Ok(shown.to_owned()), "{text}");
        }
        for text in ["", "https://a", "ftp://a", "a:b", "a:0", "a:70000", "http://", "a/b:1", "[::1", "[::1]x", "a b"] {
            assert_eq!(text.parse::<Address>(), Err(AddressError), "{text}");
        }
    }
}
