//! A request's body: read within limits, unpacked, its signature and hash checked.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use golectra_protocol::gzip::{UnpackError, Unpacker};
use golectra_protocol::{hash, header as names};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::http::AppState;
use crate::http::error::ApiError;

/// The unit of the memory budget: small requests take one.
const UNIT_BYTES: usize = 16 << 10;

/// Between two lines of the log about hashes that do not match.
const MISMATCH_SAID_EVERY: Duration = Duration::from_secs(10);

/// What bodies may cost.
#[derive(Clone)]
pub struct BodyLimits {
    /// The largest body in bytes, packed or unpacked.
    pub max_bytes: usize,
    /// From the first look at the body to its end.
    pub timeout: Duration,
    budget: Arc<Semaphore>,
}

impl BodyLimits {
    /// Limits of one body, and how many bytes all bodies under way may take together.
    pub fn new(max_bytes: usize, timeout: Duration, inflight_bytes: usize) -> Self {
        let units = (inflight_bytes.max(max_bytes).div_ceil(UNIT_BYTES) + 1).min(Semaphore::MAX_PERMITS);
        Self { max_bytes, timeout, budget: Arc::new(Semaphore::new(units)) }
    }
}

/// A whole, unpacked, verified body. It holds its share of the memory budget until it is dropped.
pub struct Payload {
    /// The bytes as the client meant them.
    pub bytes: Bytes,
    _share: Share,
}

impl FromRequest<AppState> for Payload {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let signature = state.signatures.begin(&parts.headers).await?;
        let packed = is_gzip(&parts.headers)?;
        let limits = &state.bodies;
        let declared = parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if declared.is_some_and(|bytes| bytes > limits.max_bytes) {
            return Err(too_large(limits.max_bytes));
        }
        let mut share = Share { budget: Arc::clone(&limits.budget), held: None };
        let read = read(body, packed, limits, &mut share);
        let bytes = timeout_at(Instant::now() + limits.timeout, read).await.map_err(|_| too_slow(limits.timeout))??;
        if let Some(signature) = signature {
            signature.verify(&parts, &hash::body_digest(&bytes))?;
        }
        if let Some(key) = &state.key {
            verify(&parts.headers, &bytes, key.as_bytes())?;
        }
        Ok(Self { bytes, _share: share })
    }
}

/// Reads the body piece by piece, so that neither a bomb nor a flood is ever held whole.
async fn read(mut body: axum::body::Body, packed: bool, limits: &BodyLimits, share: &mut Share) -> Result<Bytes, ApiError> {
    share.cover(1)?;
    let mut unpacker = packed.then(|| Unpacker::new(limits.max_bytes));
    let (mut plain, mut first) = (Vec::new(), Bytes::new());
    let mut taken = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::bad_request("cut_off", "the body was cut off or is malformed").close())?;
        let Ok(piece) = frame.into_data() else { continue };
        taken += piece.len();
        if taken > limits.max_bytes {
            return Err(too_large(limits.max_bytes));
        }
        if let Some(unpacker) = &mut unpacker {
            unpacker.push(&piece).map_err(|error| unpack_error(&error))?;
            share.cover(unpacker.unpacked_len())?;
        } else if taken == piece.len() {
            // Most bodies arrive in one piece, which need not be copied.
            share.cover(taken)?;
            first = piece;
        } else {
            share.cover(taken)?;
            if plain.is_empty() {
                plain.extend_from_slice(&first);
            }
            plain.extend_from_slice(&piece);
        }
    }
    match unpacker {
        Some(unpacker) => unpacker.finish().map(Bytes::from).map_err(|error| unpack_error(&error)),
        None if plain.is_empty() => Ok(first),
        None => Ok(plain.into()),
    }
}

/// Whether the body is packed. What else than gzip a client may have done to it can't be undone here.
fn is_gzip(headers: &HeaderMap) -> Result<bool, ApiError> {
    let mut gzip = false;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        for coding in value.to_str().unwrap_or("?").split(',').map(str::trim) {
            let again = gzip;
            match coding.to_ascii_lowercase().as_str() {
                "" | "identity" => {}
                "gzip" | "x-gzip" if !again => gzip = true,
                _ => {
                    let message = "Content-Encoding must be gzip (once) or absent";
                    return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding", message));
                }
            }
        }
    }
    Ok(gzip)
}

/// A request that carries the hash is held to it; one without is taken.
fn verify(headers: &HeaderMap, body: &[u8], key: &[u8]) -> Result<(), ApiError> {
    let right = headers.get_all(names::HASH_SHA256).iter().all(|claimed| hash::verify(body, key, claimed.as_bytes()));
    if right {
        return Ok(());
    }
    say_mismatch();
    Err(ApiError::bad_request("invalid_hash", "invalid hash"))
}

/// Tells the operator, who is the one to put it right. Once in a while: an agent with another key goes on trying, and so may anyone else.
fn say_mismatch() {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_none_or(|at| at.elapsed() >= MISMATCH_SAID_EVERY) {
        *last = Some(Instant::now());
        tracing::warn!("a request's hash does not match: check that its sender, such as an agent, has the same KEY as this server");
    }
}

fn too_large(max_bytes: usize) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("the body is larger than {max_bytes} bytes"))
}

fn too_slow(limit: Duration) -> ApiError {
    let message = format!("the body did not arrive within {} s", limit.as_secs_f64());
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "too_slow", message).close()
}

fn unpack_error(error: &UnpackError) -> ApiError {
    match error {
        UnpackError::Invalid => ApiError::bad_request("invalid_gzip", error.to_string()),
        UnpackError::TooLarge(_) => ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error.to_string()),
    }
}

/// A request's share of the memory that all bodies have together. It never waits: two half-read bodies that waited for
/// each other's share would wait for ever.
struct Share {
    budget: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Share {
    fn cover(&mut self, bytes: usize) -> Result<(), ApiError> {
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(UNIT_BYTES).saturating_sub(held);
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).ok().and_then(|more| Arc::clone(&self.budget).try_acquire_many_owned(more).ok());
        let more = more.ok_or_else(|| ApiError::unavailable("overloaded", "the server is overloaded, try again later"))?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}
