//! The address of the peer, for the audit trail.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::HeaderMap;
use axum::http::request::Parts;

use crate::config::Networks;
use crate::http::AppState;

/// Who sent the request: the peer of the connection, or, behind proxies that are trusted, the last address in
/// X-Forwarded-For that is not one of theirs. What a client writes there itself is never believed.
pub struct ClientAddress(pub IpAddr);

impl FromRequestParts<AppState> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip());
        Ok(Self(client(peer, &parts.headers, &state.trusted_proxies)))
    }
}

fn client(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> IpAddr {
    let mut address = peer;
    let hops = headers.get_all("x-forwarded-for").iter().rev().filter_map(|value| value.to_str().ok());
    for hop in hops.flat_map(|list| list.rsplit(',')) {
        if !trusted.contains(address) {
            break;
        }
        let Ok(before) = hop.trim().parse() else { break };
        address = before;
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, forwarded: &[&str], trusted: &str) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        client(peer.parse().unwrap(), &headers, &trusted.parse().unwrap()).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(seen("192.0.2.1", &["1.1.1.1"], ""), "192.0.2.1");
        assert_eq!(seen("10.0.0.1", &["1.1.1.1"], "10.0.0.0/8"), "1.1.1.1");
        assert_eq!(seen("10.0.0.1", &["6.6.6.6, 1.1.1.1"], "10.0.0.0/8"), "1.1.1.1", "what the client wrote is left of it");
        assert_eq!(seen("10.0.0.1", &["6.6.6.6", "1.1.1.1, 10.0.0.2"], "10.0.0.0/8"), "1.1.1.1");
        assert_eq!(seen("10.0.0.1", &["1.1.1.1, junk"], "10.0.0.0/8"), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &[], "10.0.0.0/8"), "10.0.0.1");
    }
}
