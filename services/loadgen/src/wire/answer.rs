//! What an answer's head says, and where its body ends.

use std::time::Duration;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
    /// Whether the batch had been applied before.
    pub replayed: bool,
    /// Whether the connection ends with this answer.
    pub closes: bool,
    /// The body as it came, where it was wanted.
    pub body: Vec<u8>,
}

/// How the end of a body is known.
pub(super) enum Framing {
    Length(usize),
    Chunked,
    ToTheEnd,
}

/// An answer's head.
pub(super) struct Head {
    pub(super) status: u16,
    /// Its bytes, the empty line included.
    pub(super) length: usize,
    pub(super) framing: Framing,
    pub(super) closes: bool,
    pub(super) retry_after: Option<Duration>,
    pub(super) replayed: bool,
}

impl Head {
    /// The head, once all of it is there.
    pub(super) fn parse(input: &[u8]) -> Result<Option<Self>, ()> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = response.parse(input).map_err(|_| ())? else { return Ok(None) };
        let status = response.code.ok_or(())?;
        let mut head =
            Self { status, length, framing: Framing::ToTheEnd, closes: response.version == Some(0), retry_after: None, replayed: false };
        for header in response.headers.iter() {
            let value = || std::str::from_utf8(header.value).map(str::trim).map_err(|_| ());
            if header.name.eq_ignore_ascii_case("content-length") {
                if !matches!(head.framing, Framing::Chunked) {
                    head.framing = Framing::Length(value()?.parse().map_err(|_| ())?);
                }
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                head.framing = Framing::Chunked;
            } else if header.name.eq_ignore_ascii_case("connection") {
                head.closes = value()?.eq_ignore_ascii_case("close");
            } else if header.name.eq_ignore_ascii_case("retry-after") {
                head.retry_after = value()?.parse().ok().map(Duration::from_secs);
            } else if header.name.eq_ignore_ascii_case(golectra_protocol::header::IDEMPOTENCY_REPLAYED) {
                head.replayed = value()? == "true";
            }
        }
        if matches!(status, 100..200 | 204 | 304) {
            head.framing = Framing::Length(0);
        }
        Ok(Some(head))
    }
}

/// Takes a body out of its chunks while they come, each once.
#[derive(Default)]
pub(super) struct Unchunker {
    /// Where the first chunk stands that was not whole yet.
    at: usize,
    body: Vec<u8>,
}

impl Unchunker {
    /// The body, once its last chunk is there. `input` is all that has come from the body's begin on.
    pub(super) fn read(&mut self, input: &[u8]) -> Result<Option<Vec<u8>>, ()> {
        loop {
            let rest = &input[self.at..];
            let httparse::Status::Complete((start, size)) = httparse::parse_chunk_size(rest).map_err(|_| ())? else { return Ok(None) };
            let size = usize::try_from(size).map_err(|_| ())?;
            let end = start.checked_add(size).ok_or(())?;
            if size == 0 {
                // Trailers, if there are any, end with an empty line as well.
                let rest = &rest[start..];
                let whole = rest.starts_with(b"\r\n") || rest.windows(4).any(|window| window == b"\r\n\r\n");
                return Ok(whole.then(|| std::mem::take(&mut self.body)));
            }
            if rest.len() < end + 2 {
                return Ok(None);
            }
            self.body.extend_from_slice(&rest[start..end]);
            self.at += end + 2;
        }
    }
}
