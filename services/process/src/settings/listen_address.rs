//! Addresses to listen on, in Go's syntax.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use tokio::net::{TcpListener, TcpSocket, lookup_host};

/// The backlog: connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;

/// Where to listen: `:8080` or `8080` (every interface), `localhost:8080`, `0.0.0.0:8080`, `[::1]:8080`, `name:8080`.
/// Port 0 lets the system choose.
#[derive(Clone, PartialEq, Eq)]
pub struct ListenAddress {
    text: String,
    host: Host,
    port: u16,
}

#[derive(Clone, PartialEq, Eq)]
enum Host {
    /// Every interface, IPv4 and IPv6.
    Any,
    Ip(IpAddr),
    Name(String),
}

/// The text is not an address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected host:port, :port or port, such as localhost:8080 or :8080")]
pub struct ListenAddressError;

impl ListenAddress {
    /// The port as written; 0 means that the system chooses.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Listens. The error names the address and what to do about it.
    pub async fn bind(&self) -> io::Result<TcpListener> {
        let mut last = None;
        for address in self.candidates().await.map_err(|error| self.explain(&error))? {
            match listen(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        Err(self.explain(&error))
    }

    /// The addresses to try, in order of preference.
    async fn candidates(&self) -> io::Result<Vec<SocketAddr>> {
        let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port));
        match &self.host {
            // One socket serves both families unless the system separates them; in that case IPv4 is preferred.
            Host::Any if ipv6_only_by_default() => Ok(vec![any_v4]),
            Host::Any => Ok(vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.port)), any_v4]),
            Host::Ip(ip) => Ok(vec![SocketAddr::from((*ip, self.port))]),
            Host::Name(name) => {
                let mut found: Vec<SocketAddr> = lookup_host((name.as_str(), self.port)).await?.collect();
                found.sort_by_key(SocketAddr::is_ipv6);
                Ok(found)
            }
        }
    }

    fn explain(&self, error: &io::Error) -> io::Error {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => "another program has this port: stop it or choose another port",
            io::ErrorKind::PermissionDenied => "this port needs a privilege: choose one above 1023",
            io::ErrorKind::AddrNotAvailable => "no interface of this machine has the address: use :port for all of them",
            _ => "check the address",
        };
        io::Error::new(error.kind(), format!("cannot listen on {self}: {error}; {advice}"))
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A service that restarts can bind its port while old connections are still in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn ipv6_only_by_default() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|text| text.trim() == "1")
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ListenAddressError);
        }
        let port = port.parse().map_err(|_| ListenAddressError)?;
        Ok(Self { text: text.to_owned(), host: parse_host(host)?, port })
    }
}

fn parse_host(host: &str) -> Result<Host, ListenAddressError> {
    if host.is_empty() {
        return Ok(Host::Any);
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().map(|ip| Host::Ip(ip.into())).map_err(|_| ListenAddressError);
    }
    // Resolvers may return ::1 first, which would exclude clients that use only IPv4.
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(Host::Ip(Ipv4Addr::LOCALHOST.into()));
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.len() <= 253 && host.bytes().all(letter) {
        return Ok(Host::Name(host.to_owned()));
    }
    Err(ListenAddressError)
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for ListenAddress {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::Ipv4Addr;

    use tokio::net::TcpStream;

    use super::ListenAddress;

    fn address(text: &str) -> ListenAddress {
        text.parse().unwrap()
    }

    #[test]
    fn every_form_is_parsed() {
        for text in [":8080", "8080", "localhost:8080", "0.0.0.0:8080", "[::1]:8080", "[::]:8080", "my-host.lan:8080"] {
            let address = address(text);
            assert_eq!((address.port(), address.to_string()), (8080, text.to_owned()));
        }
        for text in ["", ":", "localhost", "http://localhost:8080", ":65536", ":-1", "::1:80:", "[::1:80", "a b:80", ":80a"] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn all_forms_listen_on_ipv4() {
        for text in [":0", "0", "localhost:0", "127.0.0.1:0", "0.0.0.0:0"] {
            let listener = address(text).bind().await.unwrap();
            let port = listener.local_addr().unwrap().port();
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_advice() {
        let first = address("127.0.0.1:0").bind().await.unwrap();
        let taken = first.local_addr().unwrap();
        let error = address(&taken.to_string()).bind().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with(&format!("cannot listen on {taken}: ")), "{error}");
        assert!(error.to_string().contains("choose another port"), "{error}");
    }
}
