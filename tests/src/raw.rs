//! HTTP written by hand, for requests that no HTTP library would send.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream as StdTcpStream};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::overload;

/// How long a server may take to answer or close.
const LIMIT: Duration = Duration::from_secs(30);

/// Whether the server on this port answers this path with 200 within a second.
pub(crate) fn answers(port: u16, path: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = StdTcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(&head == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// A server's answer to raw bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawAnswer {
    /// The status code.
    pub status: u16,
    /// The status line and headers.
    pub head: String,
    /// The body, with chunks joined.
    pub body: Vec<u8>,
}

impl RawAnswer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The pause that the server asks for where it refused the request as overloaded.
    pub fn overloaded_pause(&self) -> Option<Duration> {
        overload::pause(self.status, self.header("retry-after"), &self.body)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A TCP connection to a server.
pub struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    /// Connects to a loopback port.
    pub async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("the server listens");
        stream.set_nodelay(true).expect("a TCP stream");
        Self { stream, buffer: Vec::new() }
    }

    /// Sends bytes. False if the server has closed the connection.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        matches!(timeout(LIMIT, self.stream.write_all(bytes.as_ref())).await, Ok(Ok(())))
    }

    /// Closes the sending side.
    pub async fn finish(&mut self) {
        // The server may have closed the connection already.
        let _ = self.stream.shutdown().await;
    }

    /// The next answer; None if the server closes the connection without one. Panics if neither happens in time. Cancelling it
    /// loses no bytes.
    pub async fn answer(&mut self) -> Option<RawAnswer> {
        let read = async {
            loop {
                if let Some((answer, length)) = parse(&self.buffer) {
                    self.buffer.drain(..length);
                    if answer.status != 100 {
                        return Some(answer);
                    }
                } else if !self.more().await {
                    return None;
                }
            }
        };
        timeout(LIMIT, read).await.unwrap_or_else(|_| panic!("neither an answer nor an end within {LIMIT:?}"))
    }

    /// The status of the next answer; only a few bytes of the answer are read.
    pub async fn status(&mut self) -> u16 {
        let read = async {
            // "HTTP/1.1 200"
            while self.buffer.len() < 12 {
                let mut piece = [0; 64];
                let length = self.stream.read(&mut piece).await.expect("the connection is open");
                assert!(length > 0, "the server closed the connection");
                self.buffer.extend_from_slice(&piece[..length]);
            }
        };
        timeout(LIMIT, read).await.unwrap_or_else(|_| panic!("no answer within {LIMIT:?}"));
        let code = std::str::from_utf8(&self.buffer[9..12]).ok().and_then(|code| code.parse().ok());
        code.unwrap_or_else(|| panic!("no status line: {:?}", String::from_utf8_lossy(&self.buffer)))
    }

    /// Everything until the server closes the connection.
    pub async fn to_the_end(&mut self) -> String {
        let end = timeout(LIMIT, async { while self.more().await {} }).await;
        assert!(end.is_ok(), "the connection was still open after {LIMIT:?}");
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }

    /// Waits until the server closes the connection; panics if it does not in time.
    pub async fn closed(&mut self, limit: Duration) {
        let end = timeout(limit, async { while self.more().await {} }).await;
        assert!(end.is_ok(), "the connection was still open after {limit:?}");
    }

    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..))
    }
}

/// The first answer in the bytes and its length; None while it is incomplete.
fn parse(bytes: &[u8]) -> Option<(RawAnswer, usize)> {
    let (head, mut at) = line(bytes, 0, b"\r\n\r\n")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status line: {head:?}"));
    let mut answer = RawAnswer { status, head, body: Vec::new() };
    if answer.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let (size, start) = line(bytes, at, b"\r\n")?;
            let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("no chunk size: {size:?}"));
            answer.body.extend_from_slice(bytes.get(start..start + size)?);
            at = start + size + 2;
            if size == 0 {
                return (bytes.len() >= at).then_some((answer, at));
            }
        }
    }
    let length: usize = answer.header("content-length").map_or(0, |value| value.parse().expect("a length"));
    answer.body = bytes.get(at..at + length)?.to_vec();
    Some((answer, at + length))
}

/// The text from here to an end mark, and the position after it.
fn line(bytes: &[u8], from: usize, end: &[u8]) -> Option<(String, usize)> {
    let rest = bytes.get(from..)?;
    let length = rest.windows(end.len()).position(|window| window == end)?;
    Some((String::from_utf8_lossy(&rest[..length]).into_owned(), from + length + end.len()))
}

/// Sends bytes on a new connection and returns the first answer; None if the server closes the connection without one.
pub async fn exchange(port: u16, bytes: impl AsRef<[u8]>) -> Option<RawAnswer> {
    let mut raw = Raw::connect(port).await;
    // A server that refuses early may close the connection before it has read everything; its answer still arrives.
    raw.send(bytes).await;
    raw.answer().await
}
