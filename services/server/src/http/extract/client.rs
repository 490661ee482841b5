//! The address of the client, for audit events.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::HeaderMap;
use axum::http::request::Parts;

use crate::access::Caller;
use crate::config::Networks;
use crate::http::AppState;

/// The client's address: the peer of the connection or, behind trusted proxies, the last address in X-Forwarded-For that is not
/// a trusted proxy's. Addresses to the left of it may be forged by the client and are ignored.
pub struct ClientAddress(pub IpAddr);

impl FromRequestParts<AppState> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip());
        Ok(Self(client(peer, &parts.headers, &state.trusted_proxies)))
    }
}

/// Who sends a request, where that is known: by an API token, or by the proxy that signed them in.
pub struct SentBy(pub Option<Caller>);

impl SentBy {
    /// As the log tells it.
    pub fn as_text(&self) -> String {
        match &self.0 {
            Some(Caller::Token(name)) => format!("the API token {name}"),
            Some(Caller::User(name)) => format!("the user {name}"),
            None => "nobody known".to_owned(),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for SentBy {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get().cloned()))
    }
}

fn client(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> IpAddr {
    let mut address = peer;
    // Each proxy appends the address of its peer to the last line or adds a line.
    let hops = headers.get_all("x-forwarded-for").iter().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    // HTTP allows empty list elements, which are ignored.
    for hop in hops.map(<[u8]>::trim_ascii).filter(|hop| !hop.is_empty()) {
        if !trusted.contains(address) {
            break;
        }
        // An element that can't be parsed ends the search: everything to the left of it may come from the client.
        let Some(before) = parse(hop) else { break };
        address = before;
    }
    address
}

/// Parses an address as proxies write it: with or without a port, IPv6 in brackets or, without a port, bare.
fn parse(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    let address = address.or_else(|| bracketed().map(IpAddr::V6))?;
    // IPv4 networks also match IPv4-mapped IPv6 addresses, as the listener converts peers.
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn seen(peer: &str, forwarded: &[&str], trusted: &str) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        client(peer.parse().unwrap(), &headers, &trusted.parse().unwrap()).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_considered() {
        assert_eq!(seen("192.0.2.1", &["1.1.1.1"], ""), "192.0.2.1");
        assert_eq!(seen("10.0.0.1", &["1.1.1.1"], "10.0.0.0/8"), "1.1.1.1");
        assert_eq!(seen("10.0.0.1", &["6.6.6.6, 1.1.1.1"], "10.0.0.0/8"), "1.1.1.1", "the client's own text is to the left of it");
        assert_eq!(seen("10.0.0.1", &["6.6.6.6", "1.1.1.1, 10.0.0.2"], "10.0.0.0/8"), "1.1.1.1");
        assert_eq!(seen("10.0.0.1", &["6.6.6.6, 1.1.1.1:80, 10.0.0.2:443"], "10.0.0.0/8"), "1.1.1.1");
        assert_eq!(seen("10.0.0.1", &["1.1.1.1, junk"], "10.0.0.0/8"), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["6.6.6.6", "\u{e4}, 10.0.0.2"], "10.0.0.0/8"), "10.0.0.2", "a line that is not ASCII is not skipped");
        assert_eq!(seen("10.0.0.1", &["6.6.6.6", "\u{e4}"], "10.0.0.0/8"), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &[], "10.0.0.0/8"), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["", " , "], "10.0.0.0/8"), "10.0.0.1");
    }

    #[test]
    fn every_form_of_an_address_is_parsed() {
        for (hop, address) in [
            ("203.0.113.9", "203.0.113.9"),
            ("203.0.113.9:51123", "203.0.113.9"),
            ("  203.0.113.9:51123\t", "203.0.113.9"),
            ("203.0.113.9:51123,", "203.0.113.9"),
            ("2001:db8::9", "2001:db8::9"),
            ("[2001:db8::9]", "2001:db8::9"),
            ("[2001:db8::9]:443", "2001:db8::9"),
            (" [2001:DB8:0::9]:443 ", "2001:db8::9"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
            ("[::ffff:203.0.113.9]:443", "203.0.113.9"),
            ("6.6.6.6:1, [::ffff:10.0.0.3]:1 , 10.0.0.2:65535", "6.6.6.6"),
        ] {
            assert_eq!(seen("10.0.0.1", &[hop], "10.0.0.0/8"), address, "{hop:?}");
        }
        for hop in
            ["unknown", "_hidden", "203.0.113.9:", "203.0.113.9:99999", "203.0.113.9:x", "[2001:db8::9", "2001:db8::9]", "[203.0.113.9]"]
        {
            assert_eq!(seen("10.0.0.1", &["6.6.6.6", hop], "10.0.0.0/8"), "10.0.0.1", "{hop:?}");
        }
    }
}
