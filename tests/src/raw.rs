//! HTTP written by hand: requests that no HTTP library would send.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream as StdTcpStream};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a server may take to answer or close.
const LIMIT: Duration = Duration::from_secs(30);

/// Whether the server on this port answers the path with 200 within a second.
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

/// What a server did with bytes it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawAnswer {
    /// The status code.
    pub status: u16,
    /// The status line and headers.
    pub head: String,
    /// The body, chunks put together.
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

    /// Sends bytes. False when the server has closed the connection.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        matches!(timeout(LIMIT, self.stream.write_all(bytes.as_ref())).await, Ok(Ok(())))
    }

    /// Says that nothing more will be sent.
    pub async fn finish(&mut self) {
        // The server may have closed it already.
        let _ = self.stream.shutdown().await;
    }

    /// The next answer; none when the server closes the connection without one. Panics when neither happens in time.
    pub async fn answer(&mut self) -> Option<RawAnswer> {
        timeout(LIMIT, self.read_answer()).await.unwrap_or_else(|_| panic!("neither an answer nor an end within {LIMIT:?}"))
    }

    /// Waits until the server closes the connection; panics when it does not in time.
    pub async fn closed(&mut self, limit: Duration) {
        let end = timeout(limit, async { while self.more().await {} }).await;
        assert!(end.is_ok(), "the connection was still open after {limit:?}");
    }

    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..))
    }

    async fn read_answer(&mut self) -> Option<RawAnswer> {
        let head = self.take_until(b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&head).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status line: {head:?}"));
        let mut answer = RawAnswer { status, head, body: Vec::new() };
        if status == 100 {
            return Box::pin(self.read_answer()).await;
        }
        if answer.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            loop {
                let line = self.take_until(b"\r\n").await?;
                let size = String::from_utf8_lossy(&line).trim().to_owned();
                let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("no chunk size: {size:?}"));
                let chunk = self.take(size + 2).await?;
                answer.body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    return Some(answer);
                }
            }
        }
        let length = answer.header("content-length").map_or(0, |value| value.parse().expect("a length"));
        answer.body = self.take(length).await?;
        Some(answer)
    }

    async fn take_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Some(self.buffer.drain(..at + end.len()).collect());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.more().await {
                return None;
            }
        }
        Some(self.buffer.drain(..length).collect())
    }
}

/// Sends bytes on a connection of its own and gives the first answer; none when the server closes without one.
pub async fn exchange(port: u16, bytes: impl AsRef<[u8]>) -> Option<RawAnswer> {
    let mut raw = Raw::connect(port).await;
    // A server that refuses early may close before it has read everything; its answer still comes.
    raw.send(bytes).await;
    raw.answer().await
}
