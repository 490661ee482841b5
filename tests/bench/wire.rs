//! Requests as they cross the wire, each in one piece around a body that was made before.

use std::fmt::Display;
use std::io::Write as _;

use golectra_protocol::IdempotencyKey;
use golectra_tests::unix_millis;

use crate::bodies::{Format, Payload, Pool};

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
    let source = sources.of(turn);
    debug_assert_ne!(pool.format, Format::Text);
    let (payload, key) = (&pool.payloads[turn.index], IdempotencyKey::at(unix_millis()));
    batch(out, path, payload, pool.format, format_args!("node-{source:04}"), &key);
}

/// The same of this source, under this key.
pub fn batch(out: &mut Vec<u8>, path: &str, payload: &Payload, format: Format, source: impl Display, key: &IdempotencyKey) {
    let packed = if format.packed() { "content-encoding: gzip\r\n" } else { "" };
    let (hash, length) = (&payload.hash, payload.bytes.len());
    write!(
        out,
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{packed}accept-encoding: gzip\r\n\
         golectra-source: {source}\r\nidempotency-key: {key}\r\nhashsha256: {hash}\r\ncontent-length: {length}\r\n\r\n"
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
