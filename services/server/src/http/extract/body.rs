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
        Self { max_bytes, timeout, budget: Arc::new(Budget(AtomicUsize::new(units))) }
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
        Self::read(request, state, Effect::Change, Accepts::Gzip).await
    }
}

/// The body of a remote-write request, which changes something and is packed with snappy. A client that has an API token need not sign it.
pub struct SnappyPayload(pub Payload);

impl FromRequest<AppState> for SnappyPayload {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let effect = if request.extensions().get::<Caller>().is_some() { Effect::None } else { Effect::Change };
        Payload::read(request, state, effect, Accepts::Snappy).await.map(Self)
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
        Payload::read(request, state, effect, Accepts::Gzip).await.map(Self)
    }
}

/// The body of a request that only reads. A signature or hash is checked if there is one, but it need not be signed.
pub struct QueryPayload(pub Payload);

impl FromRequest<AppState> for QueryPayload {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        Payload::read(request, state, Effect::None, Accepts::Gzip).await.map(Self)
    }
}

impl Payload {
    /// Takes room for what the body is decoded to, and says whether there was enough.
    pub fn cover_decoded(&mut self, bytes: usize) -> bool {
        self.share.cover(self.bytes.len() + bytes).is_ok()
    }

    async fn read(request: Request, state: &AppState, effect: Effect, accepts: Accepts) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let signature = state.signatures.check_header(&parts.headers, effect).await?;
        let packed = accepts.packing(&parts.headers)?;
        let limits = &state.bodies;
        let declared = parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if declared.is_some_and(|bytes| bytes > limits.max_bytes) {
            return Err(too_large(limits.max_bytes));
        }
        let mut share = Share { budget: Arc::clone(&limits.budget), held: 0 };
        let read = read_within(body, declared.unwrap_or(0), limits, &mut share);
        let mut bytes = timeout_at(Instant::now() + limits.timeout, read).await.map_err(|_| too_slow(limits.timeout))??;
        match packed {
            Packing::None => {}
            Packing::Gzip => bytes = unpack(&bytes, limits, &mut share)?,
            Packing::Snappy => bytes = unpack_snappy(&bytes, limits, &mut share)?,
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
async fn read_within(mut body: axum::body::Body, declared: usize, limits: &BodyLimits, share: &mut Share) -> Result<Bytes, ApiError> {
    share.cover(1)?;
    let (mut whole, mut first) = (Vec::new(), Bytes::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::new(ErrorCode::CutOff, "the body was cut off or is malformed").close())?;
        let Ok(piece) = frame.into_data() else { continue };
        let taken = first.len() + whole.len() + piece.len();
        if taken > limits.max_bytes {
            return Err(too_large(limits.max_bytes));
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
fn unpack(packed: &[u8], limits: &BodyLimits, share: &mut Share) -> Result<Bytes, ApiError> {
    let unpacked = unpack_within(packed, limits.max_bytes, |bytes| share.cover(packed.len() + bytes).is_ok());
    let unpacked = unpacked.map_err(|error| match error {
        UnpackError::Invalid => ApiError::new(ErrorCode::InvalidGzip, error.to_string()),
        UnpackError::TooLarge(_) => ApiError::new(ErrorCode::TooLarge, error.to_string()),
        UnpackError::NoRoom(_) => overloaded(),
    })?;
    Ok(unpacked.into())
}

/// Unpacks a remote-write body, whose size is accounted for as well.
fn unpack_snappy(packed: &[u8], limits: &BodyLimits, share: &mut Share) -> Result<Bytes, ApiError> {
    let unpacked = unsnap(packed, limits.max_bytes, |bytes| share.cover(packed.len() + bytes).is_ok());
    let unpacked = unpacked.map_err(|error| match error {
        UnsnapError::Invalid => ApiError::new(ErrorCode::InvalidSnappy, error.to_string()),
        UnsnapError::TooLarge(_) => ApiError::new(ErrorCode::TooLarge, error.to_string()),
        UnsnapError::NoRoom(_) => overloaded(),
    })?;
    Ok(unpacked.into())
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

/// The free units of the memory that all bodies share.
struct Budget(AtomicUsize);

/// A request's share of the budget. It never waits: two requests that waited for each other's share would wait for ever.
struct Share {
    budget: Arc<Budget>,
    /// In units of the budget.
    held: usize,
}

impl Share {
    /// Extends the share to this many bytes.
    fn cover(&mut self, bytes: usize) -> Result<(), ApiError> {
        let more = bytes.div_ceil(UNIT_BYTES).saturating_sub(self.held);
        if more > 0 {
            let take = |left: usize| left.checked_sub(more);
            self.budget.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map_err(|_| overloaded())?;
            self.held += more;
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.held, Ordering::Relaxed);
    }
}
