//! HTTP/1.1 with as little work as a client can do: requests written in one piece, of answers only what is counted.
//!
//! The client shares the machine with what it measures, so whatever it saves is there for the servers.

use std::io::{self, Write as _};
use std::net::SocketAddr;

use golectra_protocol::IdempotencyKey;
use golectra_tests::unix_millis;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::bodies::{Format, Pool};

/// What is counted of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Whether it says when to come back.
    pub retry_after: bool,
    /// Whether the server closes the connection after it.
    pub close: bool,
}

/// Which request it is of a run.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// The body's place in the pool.
    pub index: usize,
    /// The connection's number.
    pub connection: usize,
}

/// Which source a request names.
#[derive(Debug, Clone, Copy)]
pub enum Sources {
    /// One for all.
    One,
    /// Each connection is an agent; two connections that are this far apart are the same one.
    PerConnection(usize),
    /// So many in turn.
    Cycle(usize),
    /// So many bodies in a row are of one source.
    Blocks(usize),
}

impl Sources {
    pub fn of(self, turn: Turn) -> usize {
        match self {
            Self::One => 0,
            Self::PerConnection(agents) => turn.connection % agents,
            Self::Cycle(sources) => turn.index % sources,
            Self::Blocks(bodies) => turn.index / bodies,
        }
    }
}

/// A batch as an agent sends it: with its source, a fresh key, its hash, and open to packed answers.
pub fn golectra(out: &mut Vec<u8>, path: &str, pool: &Pool, sources: Sources, turn: Turn) {
    let payload = &pool.payloads[turn.index];
    let packed = if pool.format.packed() { "content-encoding: gzip\r\n" } else { "" };
    let (source, key) = (sources.of(turn), IdempotencyKey::at(unix_millis()));
    let (hash, length) = (&payload.hash, payload.bytes.len());
    debug_assert_ne!(pool.format, Format::Text);
    write!(
        out,
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{packed}accept-encoding: gzip\r\n\
         golectra-source: node-{source:04}\r\nidempotency-key: {key}\r\nhashsha256: {hash}\r\ncontent-length: {length}\r\n\r\n"
    )
    .expect("memory takes everything");
    out.extend_from_slice(&payload.bytes);
}

/// The same metrics as Prometheus's text, the source in the path.
pub fn prometheus(out: &mut Vec<u8>, path: &str, pool: &Pool, sources: Sources, turn: Turn) {
    let payload = &pool.payloads[turn.index];
    let (source, length) = (sources.of(turn), payload.bytes.len());
    write!(
        out,
        "POST {path}node-{source:04} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: text/plain\r\ncontent-encoding: gzip\r\n\
         accept-encoding: gzip\r\ncontent-length: {length}\r\n\r\n"
    )
    .expect("memory takes everything");
    out.extend_from_slice(&payload.bytes);
}

/// A connection that is made anew when the server has closed it.
pub struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Connection {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, input: Vec::with_capacity(4096), output: Vec::with_capacity(32 << 10) }
    }

    /// Connects, so that the first request does not have to.
    pub async fn open(&mut self) -> io::Result<()> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
        }
        Ok(())
    }

    /// Sends what is written and waits for its answer. After an error the next call connects anew.
    pub async fn exchange(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> io::Result<Answer> {
        self.output.clear();
        write(&mut self.output);
        self.input.clear();
        let answered = self.send_and_receive().await;
        if !matches!(answered, Ok(Answer { close: false, .. })) {
            self.stream = None;
        }
        answered
    }

    async fn send_and_receive(&mut self) -> io::Result<Answer> {
        self.open().await?;
        let stream = self.stream.as_mut().expect("just opened");
        stream.write_all(&self.output).await?;
        loop {
            if stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some((answer, length)) = parse(&self.input)?
                && self.input.len() >= length
            {
                return Ok(answer);
            }
        }
    }
}

/// The answer and its whole length in bytes, once its head is there.
fn parse(bytes: &[u8]) -> io::Result<Option<(Answer, usize)>> {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "an answer that this client does not read");
    let text = std::str::from_utf8(&bytes[..head]).map_err(|_| invalid())?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.get(9..12)?.parse().ok()).ok_or_else(invalid)?;
    let mut answer = Answer { status, retry_after: false, close: false };
    let mut length = (status == 204).then_some(0);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse().map_err(|_| invalid())?);
        } else if name.eq_ignore_ascii_case("retry-after") {
            answer.retry_after = true;
        } else if name.eq_ignore_ascii_case("connection") {
            answer.close = value.trim().eq_ignore_ascii_case("close");
        }
    }
    Ok(Some((answer, head + 4 + length.ok_or_else(invalid)?)))
}
