//! An HTTP/1.1 client that costs little more than its system calls: one write a request, no pool, no copies of answers whose body
//! is not needed.

mod answer;

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub use self::answer::Answer;
use self::answer::{Framing, Head, Unchunker};
use crate::plan::Address;

/// The longest head of an answer.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// A connection that was idle for this long is tested before it is used again: the server may have closed it.
const STALE_AFTER: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Failure {
    /// No connection.
    #[error("not connected")]
    Connect,
    /// The connection ended before the answer did.
    #[error("cut off")]
    Cut,
    /// The connection was reset, or writing to it failed.
    #[error("reset")]
    Reset,
    /// Not within its time.
    #[error("timed out")]
    Timeout,
    /// The answer is not HTTP.
    #[error("malformed answer")]
    Malformed,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Cut } else { Self::Reset }
    }
}

/// A connection with one request under way at a time.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    used: Instant,
    reusable: bool,
}

impl Connection {
    /// Connects within a time.
    pub async fn open(address: &Address, limit: Duration) -> Result<Self, Failure> {
        let connect = TcpStream::connect((address.host(), address.port()));
        let stream = tokio::time::timeout(limit, connect).await.map_err(|_| Failure::Connect)?.map_err(|_| Failure::Connect)?;
        // Without it small requests would wait for the acknowledgement of the one before.
        stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
        Ok(Self { stream, input: Vec::with_capacity(4096), used: Instant::now(), reusable: true })
    }

    /// Whether another request may be sent on it. It is tested only when it was idle for a while.
    pub fn is_open(&self) -> bool {
        let quiet = || matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        self.reusable && (self.used.elapsed() < STALE_AFTER || quiet())
    }

    /// Sends a whole request and reads its answer, with the body where that is wanted. After an error the connection is
    /// to be dropped.
    pub async fn exchange(&mut self, request: &[u8], limit: Duration, keep_body: bool) -> Result<Answer, Failure> {
        let outcome = tokio::time::timeout(limit, self.exchange_whole(request, keep_body)).await.unwrap_or(Err(Failure::Timeout));
        self.used = Instant::now();
        self.reusable = outcome.as_ref().is_ok_and(|answer| !answer.closes);
        outcome
    }

    async fn exchange_whole(&mut self, request: &[u8], keep_body: bool) -> Result<Answer, Failure> {
        let written = self.stream.write_all(request).await;
        self.input.clear();
        let answer = self.read(keep_body).await;
        match (written, answer) {
            // A server that refuses early may close while the body is still on its way; its answer counts.
            (_, Ok(answer)) => Ok(answer),
            (Ok(()), Err(failure)) => Err(failure),
            (Err(error), Err(_)) => Err(error.into()),
        }
    }

    async fn read(&mut self, keep_body: bool) -> Result<Answer, Failure> {
        let head = loop {
            if let Some(head) = Head::parse(&self.input).map_err(|()| Failure::Malformed)? {
                if (100..200).contains(&head.status) {
                    self.input.drain(..head.length);
                    continue;
                }
                break head;
            }
            if self.input.len() > MAX_HEAD_BYTES {
                return Err(Failure::Malformed);
            }
            self.fill().await?;
        };
        let start = head.length;
        let mut answer =
            Answer { status: head.status, retry_after: head.retry_after, replayed: head.replayed, closes: head.closes, body: Vec::new() };
        match head.framing {
            Framing::Length(length) => {
                while self.input.len() < start + length {
                    self.fill().await?;
                }
                // More than was promised: what follows can't be told from the next answer.
                answer.closes |= self.input.len() > start + length;
                if keep_body {
                    answer.body.extend_from_slice(&self.input[start..start + length]);
                }
            }
            Framing::Chunked => {
                let mut chunks = Unchunker::default();
                let body = loop {
                    if let Some(body) = chunks.read(&self.input[start..]).map_err(|()| Failure::Malformed)? {
                        break body;
                    }
                    self.fill().await?;
                };
                if keep_body {
                    answer.body = body;
                }
            }
            Framing::ToTheEnd => {
                while self.stream.read_buf(&mut self.input).await? > 0 {}
                answer.closes = true;
                if keep_body {
                    answer.body.extend_from_slice(&self.input[start..]);
                }
            }
        }
        Ok(answer)
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        if self.input.capacity() == self.input.len() {
            self.input.reserve(self.input.len().max(4096));
        }
        if self.stream.read_buf(&mut self.input).await? == 0 { Err(Failure::Cut) } else { Ok(()) }
    }
}

/// A GET on a connection of its own, with its body.
pub(crate) async fn get(address: &Address, target: &str, limit: Duration) -> Result<Answer, Failure> {
    let mut connection = Connection::open(address, limit).await?;
    let request = format!("GET {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    connection.exchange(request.as_bytes(), limit, true).await
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Answers one connection's requests with these pieces, then closes it.
    async fn server(answers: Vec<Vec<&'static [u8]>>) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            for pieces in answers {
                stream.read_exact(&mut [0; 4]).await.unwrap();
                for piece in pieces {
                    stream.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        Address::local(port)
    }

    #[tokio::test]
    async fn answers_in_every_framing_and_in_pieces() {
        let address = server(vec![
            vec![b"HTTP/1.1 200 OK\r\ncontent-", b"length: 5\r\n\r\nhe", b"llo"],
            vec![b"HTTP/1.1 503 Busy\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n"],
            vec![b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nidempotency-replayed: true\r\n\r\n3\r\nab", b"c\r\n0\r\n\r\n"],
            vec![b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"],
            vec![b"HTTP/1.0 200 OK\r\n\r\nto the", b" end"],
        ])
        .await;
        let mut connection = Connection::open(&address, LIMIT).await.unwrap();
        let mut seen = Vec::new();
        for _ in 0..5 {
            assert!(connection.is_open());
            let answer = connection.exchange(b"ping", LIMIT, true).await.unwrap();
            seen.push((answer.status, answer.retry_after, answer.replayed, String::from_utf8(answer.body).unwrap()));
        }
        let expected = [
            (200, None, false, "hello"),
            (503, Some(Duration::from_secs(2)), false, ""),
            (200, None, true, "abc"),
            (204, None, false, ""),
            (200, None, false, "to the end"),
        ];
        assert_eq!(seen, expected.map(|(status, wait, replayed, body)| (status, wait, replayed, body.to_owned())));
        assert!(!connection.is_open());
    }

    #[tokio::test]
    async fn what_is_no_answer_is_named() {
        for (pieces, failure) in [
            (vec![], Failure::Cut),
            (vec![b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".as_slice()], Failure::Cut),
            (vec![b"SSH-2.0-OpenSSH\r\n\r\n".as_slice()], Failure::Malformed),
        ] {
            let address = server(vec![pieces]).await;
            let mut connection = Connection::open(&address, LIMIT).await.unwrap();
            assert_eq!(connection.exchange(b"ping", LIMIT, false).await, Err(failure));
            assert!(!connection.is_open());
        }
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::local(silent.local_addr().unwrap().port());
        let mut connection = Connection::open(&address, LIMIT).await.unwrap();
        assert_eq!(connection.exchange(b"ping", Duration::from_millis(50), false).await, Err(Failure::Timeout));
        drop((silent, connection));
        assert_eq!(Connection::open(&address, LIMIT).await.unwrap_err(), Failure::Connect);
    }
}
