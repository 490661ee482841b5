//! Request bodies: read within limits, unpacked, and with their signature and hash checked.
//!
//! There are two extractors, for requests that change data and for those that only read, because only the former must be signed
//! if signatures are required.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use golectra_process::Secret;
use golectra_protocol::gzip::{UnpackError, unpack_within};
use golectra_protocol::hash::BodyHash;
use golectra_protocol::remote_write::{UnsnapError, unsnap};
use golectra_protocol::{ErrorCode, header as names};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::signature::Effect;
use crate::access::Caller;
use crate::http::AppState;
use crate::http::error::{ApiError, REFUSALS};

/// The unit of the memory budget: a small request takes one unit.
const UNIT_BYTES: usize = 16 << 10;

/// The most bytes that are reserved because of a Content-Length alone.
const MAX_RESERVED_BYTES: usize = 64 << 10;

/// The limits of bodies.
#[derive(Clone)]
pub struct BodyLimits {
    /// The largest body in bytes, packed or unpacked.
    pub max_bytes: usize,
    /// From the start of reading the body to its end.
    pub timeout: Duration,
    budget: Arc<Budget>,
}

impl BodyLimits {
    /// The limits of one body, and the memory limit of all bodies that are being handled, in bytes.
    pub fn new(max_bytes: usize, timeout: Duration, inflight_bytes: usize) -> Self {
        // The budget must have room for the largest body, packed and unpacked.
        let units = inflight_bytes.max(max_bytes.saturating_mul(2)).div_ceil(UNIT_BYTES) + 1;
        Self { max_bytes, timeout, budget: Arc::new(Budget::new(units)) }
    }
}

/// The body of a request that changes data, of any method: complete, unpacked and verified. It holds its share of the memory
/// budget until it is dropped. A DELETE has an empty body, and uses this extractor for its signature.
pub struct Payload {
    /// The uncompressed bytes.
    pub bytes: Bytes,
    hash: BodyHash,
    share: Share,
}

impl Payload {
    /// SHA-256 of the body, which distinguishes a repeat from another batch with the same key.
    pub fn digest(&self) -> [u8; 32] {
        self.hash.digest()
    }
}

impl FromRequest<AppState> for Payload {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        Self::read(request, state, Effect::Change, Accepts::Gzip, Terms::Write).await
    }
}

/// The body of a remote-write request, which changes something and is packed with snappy. A client that has an API token need not sign it.
pub struct SnappyPayload(pub Payload);

impl FromRequest<AppState> for SnappyPayload {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let effect = if request.extensions().get::<Caller>().is_some() { Effect::None } else { Effect::Change };
        Payload::read(request, state, effect, Accepts::Snappy, Terms::Write).await.map(Self)
    }
}

/// The body of a request to the API that changes something. A client that has an API token, or whom a proxy has signed in, need not sign it. It must be marked as JSON even where it is
/// empty: a page of another site can't make a browser send that without asking.
pub struct JsonChange(pub Payload);

impl FromRequest<AppState> for JsonChange {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
            return Err(ApiError::new(ErrorCode::ContentType, "Content-Type must be application/json, even where the body is empty"));
        }
        let effect = if request.extensions().get::<Caller>().is_some() { Effect::None } else { Effect::Change };
        Payload::read(request, state, effect, Accepts::Gzip, Terms::Write).await.map(Self)
    }
}

/// The body of a request that only reads, of at most `MAX_BYTES`, packed or unpacked. A signature or hash is checked if there is one, but it need not be
/// signed. Anybody may send it, so it is as short as the route allows, and does not take the memory that is kept for writes.
pub struct QueryPayload<const MAX_BYTES: usize>(pub Payload);

impl<const MAX_BYTES: usize> FromRequest<AppState> for QueryPayload<MAX_BYTES> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        Payload::read(request, state, Effect::None, Accepts::Gzip, Terms::Query { max_bytes: MAX_BYTES }).await.map(Self)
    }
}

impl Payload {
    /// Takes room for what the body is decoded to, and says whether there was enough.
    pub fn cover_decoded(&mut self, bytes: usize) -> bool {
        self.share.cover(self.bytes.len() + bytes).is_ok()
    }

    async fn read(request: Request, state: &AppState, effect: Effect, accepts: Accepts, terms: Terms) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let signature = state.signatures.check_header(&parts.headers, effect).await?;
        let packed = accepts.packing(&parts.headers)?;
        let limits = &state.bodies;
        let max_bytes = terms.max_bytes(limits);
        let declared = parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if declared.is_some_and(|bytes| bytes > max_bytes) {
            return Err(too_large(max_bytes));
        }
        // hyper holds up to 16 KiB of what follows the last chunk.
        let mut trailers = parts.headers.contains_key(header::TRANSFER_ENCODING).then(|| Share::new(&limits.budget, terms));
        if let Some(trailers) = &mut trailers {
            trailers.cover(UNIT_BYTES)?;
        }
        let mut share = Share::new(&limits.budget, terms);
        let read = read_within(body, declared.unwrap_or(0), max_bytes, &mut share);
        let mut bytes = timeout_at(Instant::now() + limits.timeout, read).await.map_err(|_| too_slow(limits.timeout))??;
        match packed {
            Packing::None => {}
            Packing::Gzip => bytes = unpack(&bytes, max_bytes, &mut share)?,
            Packing::Snappy => bytes = unpack_snappy(&bytes, max_bytes, &mut share)?,
        }
        let hash = BodyHash::of(&bytes);
        if let Some(signature) = signature {
            signature.verify(&parts, &hash.digest())?;
        }
        if let Some(key) = &state.key {
            verify(&parts.headers, &hash, key)?;
        }
        Ok(Self { bytes, hash, share })
    }
}

/// Reads the body as it was sent; `declared` is its Content-Length in bytes.
async fn read_within(mut body: axum::body::Body, declared: usize, max_bytes: usize, share: &mut Share) -> Result<Bytes, ApiError> {
    share.cover(1)?;
    let (mut whole, mut first) = (Vec::new(), Bytes::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::new(ErrorCode::CutOff, "the body was cut off or is malformed").close())?;
        let Ok(piece) = frame.into_data() else { continue };
        let taken = first.len() + whole.len() + piece.len();
        if taken > max_bytes {
            return Err(too_large(max_bytes));
        }
        share.cover(taken)?;
        if taken == piece.len() {
            // Most bodies arrive in one piece, which is not copied.
            first = piece;
            continue;
        }
        if whole.is_empty() {
            // Only a limited size is reserved because of the Content-Length; beyond that, memory grows with the bytes received.
            whole.reserve(declared.min(MAX_RESERVED_BYTES).max(taken));
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(if whole.is_empty() { first } else { whole.into() })
}

/// Unpacks a body. Memory is taken from the budget before it is allocated, so a gzip bomb is never held in memory.
fn unpack(packed: &[u8], max_bytes: usize, share: &mut Share) -> Result<Bytes, ApiError> {
    let unpacked = unpack_within(packed, max_bytes, |bytes| share.cover(packed.len() + bytes).is_ok());
    let unpacked = unpacked.map_err(|error| match error {
        UnpackError::Invalid => ApiError::new(ErrorCode::InvalidGzip, error.to_string()),
        UnpackError::TooLarge(_) => ApiError::new(ErrorCode::TooLarge, error.to_string()),
        UnpackError::NoRoom(_) => overloaded(),
    })?;
    Ok(unpacked.into())
}

/// Unpacks a remote-write body, whose size is accounted for as well.
fn unpack_snappy(packed: &[u8], max_bytes: usize, share: &mut Share) -> Result<Bytes, ApiError> {
    let unpacked = unsnap(packed, max_bytes, |bytes| share.cover(packed.len() + bytes).is_ok());
    let unpacked = unpacked.map_err(|error| match error {
        UnsnapError::Invalid => ApiError::new(ErrorCode::InvalidSnappy, error.to_string()),
        UnsnapError::TooLarge(_) => ApiError::new(ErrorCode::TooLarge, error.to_string()),
        UnsnapError::NoRoom(_) => overloaded(),
    })?;
    Ok(unpacked.into())
}

/// What a body may take.
#[derive(Debug, Clone, Copy)]
enum Terms {
    /// That of a request that changes something: the largest body, and all of the memory.
    Write,
    /// That of a request that only reads: so many bytes, and of the memory what is not kept for writes.
    Query { max_bytes: usize },
}

impl Terms {
    fn max_bytes(self, limits: &BodyLimits) -> usize {
        match self {
            Self::Write => limits.max_bytes,
            Self::Query { max_bytes } => max_bytes.min(limits.max_bytes),
        }
    }
}

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    None,
    Gzip,
    Snappy,
}

/// How a route's bodies may be packed. What else a client may have done to one can't be undone here.
#[derive(Debug, Clone, Copy)]
enum Accepts {
    /// With gzip or not at all.
    Gzip,
    /// With snappy, whether the client says so or not.
    Snappy,
}

impl Accepts {
    fn packing(self, headers: &HeaderMap) -> Result<Packing, ApiError> {
        let mut packing = Packing::None;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            for coding in value.to_str().unwrap_or("?").split(',').map(str::trim) {
                let again = packing != Packing::None;
                packing = match (self, coding.to_ascii_lowercase().as_str()) {
                    (_, "") | (Self::Gzip, "identity") => packing,
                    (Self::Gzip, "gzip" | "x-gzip") if !again => Packing::Gzip,
                    (Self::Snappy, "snappy") if !again => Packing::Snappy,
                    (Self::Gzip, _) => return Err(refused_coding("Content-Encoding must be gzip (once) or absent")),
                    (Self::Snappy, _) => return Err(refused_coding("Content-Encoding must be snappy (once)")),
                };
            }
        }
        Ok(if matches!(self, Self::Snappy) { Packing::Snappy } else { packing })
    }
}

fn refused_coding(message: &str) -> ApiError {
    ApiError::new(ErrorCode::ContentEncoding, message)
}

/// Checks the hash of a request that has one; a request without a hash is accepted.
fn verify(headers: &HeaderMap, body: &BodyHash, key: &Secret) -> Result<(), ApiError> {
    // A peer that does not trim the line end of the same key uses it in its hashes.
    let keys = [key.expose(), key.expose_untrimmed()];
    let is_right = |claimed: &HeaderValue| keys.iter().any(|key| body.verify(key.as_bytes(), claimed.as_bytes()));
    if headers.get_all(names::HASH_SHA256).iter().all(is_right) {
        return Ok(());
    }
    REFUSALS.log(ErrorCode::InvalidHash, |count| {
        tracing::warn!(
            count,
            "requests are refused: their HashSHA256 does not match this server's KEY; check that the senders have the same KEY"
        );
    });
    Err(ApiError::new(ErrorCode::InvalidHash, "invalid hash"))
}

fn too_large(max_bytes: usize) -> ApiError {
    ApiError::new(ErrorCode::TooLarge, format!("the body is larger than {max_bytes} bytes"))
}

fn too_slow(limit: Duration) -> ApiError {
    let message = format!("the body did not arrive within {} s", limit.as_secs_f64());
    ApiError::new(ErrorCode::TooSlow, message).close()
}

fn overloaded() -> ApiError {
    ApiError::overloaded("MAX_INFLIGHT_BYTES is reached by the bodies that are being handled")
}

/// The memory that all bodies share, in units.
struct Budget {
    free: AtomicUsize,
    /// What only writes may take.
    kept_for_writes: usize,
}

impl Budget {
    fn new(units: usize) -> Self {
        Self { free: AtomicUsize::new(units), kept_for_writes: units / 4 }
    }
}

/// A request's share of the budget. It never waits: two requests that waited for each other's share would wait for ever.
struct Share {
    budget: Arc<Budget>,
    /// In units of the budget, as the next.
    held: usize,
    /// What it must leave to others.
    leaves: usize,
}

impl Share {
    fn new(budget: &Arc<Budget>, terms: Terms) -> Self {
        let leaves = match terms {
            Terms::Write => 0,
            Terms::Query { .. } => budget.kept_for_writes,
        };
        Self { budget: Arc::clone(budget), held: 0, leaves }
    }

    /// Extends the share to this many bytes.
    fn cover(&mut self, bytes: usize) -> Result<(), ApiError> {
        let more = bytes.div_ceil(UNIT_BYTES).saturating_sub(self.held);
        if more > 0 {
            let take = |free: usize| free.checked_sub(more).filter(|rest| *rest >= self.leaves);
            self.budget.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map_err(|_| overloaded())?;
            self.held += more;
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.free.fetch_add(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_leave_a_quarter_of_the_memory_to_writes() {
        const QUERY: Terms = Terms::Query { max_bytes: UNIT_BYTES };
        let budget = Arc::new(Budget::new(8));
        let mut queries: Vec<_> = (0..6).map(|_| Share::new(&budget, QUERY)).collect();
        for query in &mut queries {
            query.cover(1).unwrap();
        }
        assert!(Share::new(&budget, QUERY).cover(1).is_err());
        assert!(queries[0].cover(UNIT_BYTES + 1).is_err(), "nor does one that has a share get more");
        let mut write = Share::new(&budget, Terms::Write);
        write.cover(2 * UNIT_BYTES).unwrap();
        assert!(write.cover(3 * UNIT_BYTES).is_err());
        drop(queries);
        assert!(write.cover(8 * UNIT_BYTES).is_ok(), "writes may take all of it");
        drop(write);
        assert!(Share::new(&budget, QUERY).cover(6 * UNIT_BYTES).is_ok());
    }

    #[test]
    fn a_query_is_no_larger_than_its_route_and_the_server_allow() {
        let max_bytes = |largest| Terms::Query { max_bytes: 1000 }.max_bytes(&BodyLimits::new(largest, Duration::ZERO, 0));
        assert_eq!((max_bytes(16 << 20), max_bytes(512)), (1000, 512));
    }

    #[test]
    fn what_is_unpacked_is_no_larger_either() {
        let budget = Arc::new(Budget::new(100));
        let packed = golectra_protocol::gzip::pack(&[b' '; 1001]);
        let mut share = Share::new(&budget, Terms::Query { max_bytes: 1000 });
        assert_eq!(unpack(&packed, 1000, &mut share).unwrap_err().code(), ErrorCode::TooLarge);
        assert_eq!(unpack(&packed, 1001, &mut share).unwrap().len(), 1001);
    }
}
