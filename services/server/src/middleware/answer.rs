//! The headers and the encoding of every answer: `nosniff`, the hash of the body, gzip if the client accepts it.
//!
//! docs/protocol.md has the rules: the hash is over the uncompressed body, JSON and HTML are packed however small they are,
//! text is never packed, and an empty body is never marked as packed.

use std::sync::Arc;

use axum::body::Body;
use axum::http::response::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream;
use golectra_process::Secret;
use golectra_protocol::gzip::Packer;
use golectra_protocol::{gzip, hash, header as names};
use http_body_util::BodyExt;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{access, path};
use crate::http::error::ApiError;

/// The memory that answers may take together while clients have not taken them. Streamed answers and those of at most [`SMALL_BYTES`] do not count.
const TOTAL_BYTES: usize = 64 << 20;

/// What an answer may take without a share of that memory.
const SMALL_BYTES: usize = 16 << 10;

/// The unit of that memory.
const UNIT_BYTES: usize = 1 << 10;

static ROOM: Room = Room::new(TOTAL_BYTES);

/// Marks an answer whose body is generated while it is sent and may be larger than memory: it is packed piece by piece and has
/// no hash.
#[derive(Debug, Clone, Copy)]
pub struct Streamed;

/// Marks an answer that takes much memory: its turn ends when it is sent. How many turns there are bounds the memory of such answers.
#[derive(Debug, Clone)]
pub struct Held(pub Arc<SemaphorePermit<'static>>);

/// Marks an answer whose body is in memory for good.
#[derive(Debug, Clone, Copy)]
pub struct Permanent;

/// A body with the turn of its answer, or with its share of the memory.
struct HeldBody {
    body: Bytes,
    _turn: Arc<SemaphorePermit<'static>>,
}

impl AsRef<[u8]> for HeldBody {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// The memory of answers.
struct Room {
    units: usize,
    free: Semaphore,
}

impl Room {
    const fn new(bytes: usize) -> Self {
        Self { units: bytes / UNIT_BYTES, free: Semaphore::const_new(bytes / UNIT_BYTES) }
    }

    /// Takes a share of so many bytes, if there is one: an answer that waited for it would take memory meanwhile. An answer that is larger than all of the
    /// memory takes all of it.
    fn share(&'static self, bytes: usize) -> Option<SemaphorePermit<'static>> {
        let units = u32::try_from(self.needed(bytes)).ok()?;
        self.free.try_acquire_many(units).ok()
    }

    /// Gives back what the answer does not need any more.
    fn shrink(&self, share: &mut SemaphorePermit<'static>, bytes: usize) {
        let unused = share.num_permits().saturating_sub(self.needed(bytes));
        drop(share.split(unused));
    }

    fn needed(&self, bytes: usize) -> usize {
        bytes.div_ceil(UNIT_BYTES).min(self.units)
    }
}

/// Finishes the answer of a route, for a client that accepts gzip or not. With a key it gets the header HashSHA256. One for which there is no memory becomes
/// a refusal.
pub async fn finish(answer: Response, route: Option<&str>, takes_gzip: bool, hash_key: Option<&Secret>) -> Response {
    finish_within(&ROOM, answer, route, takes_gzip, hash_key).await
}

async fn finish_within(
    room: &'static Room,
    answer: Response,
    route: Option<&str>,
    takes_gzip: bool,
    hash_key: Option<&Secret>,
) -> Response {
    let (mut parts, body) = answer.into_parts();
    if parts.extensions.get::<Streamed>().is_some() {
        return finish_stream(parts, body, takes_gzip);
    }
    // Handlers answer from memory, so a body that fails here is a bug.
    let Ok(body) = body.collect().await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let mut body = body.to_bytes();
    let mut share = None;
    if body.len() > SMALL_BYTES && counts(&parts, route) {
        share = room.share(body.len());
        if share.is_none() {
            let refusal = ApiError::overloaded("the memory for answers is taken by those that clients have not taken yet");
            let (refused, text) = path::in_form_of(route, refusal).into_parts();
            let Ok(text) = text.collect().await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
            (parts, body) = (refused, text.to_bytes());
        }
    }
    parts.headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(key) = hash_key.filter(|_| !body.is_empty()) {
        let hash = hash::body_hash(&body, key.expose().as_bytes());
        parts.headers.insert(names::HASH_SHA256, HeaderValue::from_str(&hash).expect("hex is a header's value"));
    }
    if is_packable(&parts.headers) {
        parts.headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if takes_gzip && !body.is_empty() {
            body = gzip::pack(&body).into();
            parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            parts.headers.remove(header::CONTENT_LENGTH);
        }
    }
    let turn = match share {
        Some(mut share) => {
            room.shrink(&mut share, body.len());
            Some(Arc::new(share))
        }
        None => parts.extensions.remove().map(|Held(turn)| turn),
    };
    if let Some(turn) = turn {
        body = Bytes::from_owner(HeldBody { body, _turn: turn });
    }
    Response::from_parts(parts, Body::from(body))
}

/// Whether an answer needs a share of the memory. That to a write does not: what is stored must not be refused, and the answer is not much larger than an id.
fn counts(parts: &Parts, route: Option<&str>) -> bool {
    let is_of_write = route.is_some_and(|route| route.starts_with("/update") || route == access::WRITE);
    !is_of_write && parts.extensions.get::<Held>().is_none() && parts.extensions.get::<Permanent>().is_none()
}

/// Like [`finish`], without waiting for the end of the body.
fn finish_stream(mut parts: Parts, body: Body, takes_gzip: bool) -> Response {
    parts.headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !is_packable(&parts.headers) {
        return Response::from_parts(parts, body);
    }
    parts.headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if !takes_gzip {
        return Response::from_parts(parts, body);
    }
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    Response::from_parts(parts, packed(body))
}

/// Packs the body piece by piece. An error in it becomes an error of the packed body, which then has no end.
fn packed(body: Body) -> Body {
    let begin = (body.into_data_stream(), Some(Packer::new()));
    Body::from_stream(stream::try_unfold(begin, |(mut body, packer)| async move {
        let Some(mut packer) = packer else { return Ok(None) };
        loop {
            match body.try_next().await? {
                Some(piece) => {
                    let bytes = packer.pack(&piece);
                    if !bytes.is_empty() {
                        return Ok::<_, axum::Error>(Some((Bytes::from(bytes), (body, Some(packer)))));
                    }
                }
                None => return Ok(Some((packer.finish().into(), (body, None)))),
            }
        }
    }))
}

fn is_packable(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ["application/json", "text/html", "text/csv"].iter().any(|packable| kind.starts_with(packable))
}

/// Whether the client accepts gzip according to RFC 9110: named (or covered by `*`) with a weight above 0.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let mut star = false;
    for value in headers.get_all(header::ACCEPT_ENCODING) {
        for coding in value.to_str().unwrap_or_default().split(',') {
            let mut parts = coding.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            let wanted = weight.is_none_or(|q| q.trim().parse().is_ok_and(|q: f32| q > 0.0));
            if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
                return wanted;
            }
            star |= name == "*" && wanted;
        }
    }
    star
}

/// The routes that the original Golectra has too: its agents and servers expect HashSHA256 on their answers.
const ORIGINAL: [&str; 11] = [
    "/",
    "/update",
    "/update/{kind}",
    "/update/{kind}/{name}",
    "/update/{kind}/{name}/{value}",
    "/updates",
    "/value",
    "/value/{kind}",
    "/value/{kind}/{name}",
    "/api/v1/snapshot",
    "/ping",
];

/// Whether the answers of this route, errors included, have HashSHA256 if there is a key. None is a path without a route.
pub fn answers_with_hash(route: Option<&str>) -> bool {
    route.is_none_or(|route| ORIGINAL.contains(&route))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer whose body is generated while it is sent: these pieces, optionally followed by an error.
    fn streamed(pieces: &[&'static str], fails: bool) -> Response {
        let pieces = pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes())));
        let end = fails.then(|| Err(std::io::Error::other("the store failed")));
        let mut answer = Body::from_stream(stream::iter(pieces.chain(end).collect::<Vec<_>>())).into_response();
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer.extensions_mut().insert(Streamed);
        answer
    }

    #[tokio::test]
    async fn a_streamed_answer_is_packed_piece_by_piece_and_has_no_hash() {
        let key: Secret = "k".parse().unwrap();
        for takes_gzip in [true, false] {
            let answer = finish(streamed(&["[1,", "2,", "3]"], false), None, takes_gzip, Some(&key)).await;
            assert_eq!(answer.headers().get(header::CONTENT_ENCODING).is_some(), takes_gzip);
            assert_eq!(answer.headers().get(header::VARY).unwrap(), "accept-encoding");
            assert_eq!(answer.headers().get(header::X_CONTENT_TYPE_OPTIONS).unwrap(), "nosniff");
            assert!(answer.headers().get(names::HASH_SHA256).is_none());
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(if takes_gzip { gzip::unpack(&body, 100).unwrap() } else { body.to_vec() }, b"[1,2,3]");
        }
    }

    #[tokio::test]
    async fn an_error_in_a_streamed_answer_is_passed_on() {
        for takes_gzip in [true, false] {
            let answer = finish(streamed(&["[1,"], true), None, takes_gzip, None).await;
            assert!(answer.into_body().collect().await.is_err(), "with an end the answer would look complete");
        }
    }

    #[tokio::test]
    async fn a_turn_is_held_until_the_body_is_gone() {
        static TURNS: Semaphore = Semaphore::const_new(1);
        for takes_gzip in [true, false] {
            let mut answer = axum::Json("x").into_response();
            answer.extensions_mut().insert(Held(Arc::new(TURNS.try_acquire().unwrap())));
            let (parts, body) = finish(answer, None, takes_gzip, None).await.into_parts();
            assert_eq!(parts.headers.get(header::CONTENT_ENCODING).is_some(), takes_gzip);
            drop(parts);
            let body = body.collect().await.unwrap().to_bytes();
            assert_eq!(TURNS.available_permits(), 0, "its bytes are still there");
            drop(body);
            assert_eq!(TURNS.available_permits(), 1);
        }
    }

    #[tokio::test]
    async fn answers_that_clients_do_not_take_are_bounded_in_memory() {
        static SMALL: Room = Room::new(64 << 10);
        const SOURCES: Option<&str> = Some("/api/v1/sources");
        let answer = async |bytes: usize, route: Option<&'static str>, takes_gzip: bool| {
            let answer = axum::Json("x".repeat(bytes)).into_response();
            finish_within(&SMALL, answer, route, takes_gzip, None).await.into_parts()
        };
        let free = || SMALL.free.available_permits();
        let (first, body) = answer(40 << 10, SOURCES, false).await;
        assert_eq!((first.status, free()), (StatusCode::OK, 23), "two quotes more than 40 KiB");
        drop(first);
        let body = body.collect().await.unwrap().to_bytes();
        assert_eq!(free(), 23, "its bytes are still there");

        let (refused, text) = answer(30 << 10, SOURCES, false).await;
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers.get(header::RETRY_AFTER).unwrap(), "1");
        assert!(text.collect().await.unwrap().to_bytes().starts_with(br#"{"error":"#));
        let (refused, text) = answer(30 << 10, Some("/api/v1/query"), false).await;
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.collect().await.unwrap().to_bytes().starts_with(br#"{"status":"error""#));

        // Small answers and those to writes need no share, and one that gets smaller gives back what it does not need.
        for (bytes, route) in [(SMALL_BYTES - 2, SOURCES), (30 << 10, Some("/update"))] {
            let (answered, _body) = answer(bytes, route, false).await;
            assert_eq!((answered.status, free()), (StatusCode::OK, 23), "{route:?}");
        }
        let (packed, packed_body) = answer(20 << 10, SOURCES, true).await;
        assert_eq!((packed.status, free()), (StatusCode::OK, 22), "its body has less than 1 KiB");
        drop(packed_body);

        drop(body);
        assert_eq!(free(), 64);
        let (largest, body) = answer(1 << 20, SOURCES, false).await;
        assert_eq!((largest.status, free()), (StatusCode::OK, 0), "it is the only one");
        drop(body);
        assert_eq!(free(), 64);
    }

    #[test]
    fn gzip_is_sent_to_clients_that_accept_it() {
        for (value, taken) in [
            ("gzip", true),
            ("GZIP", true),
            ("deflate, gzip;q=0.1", true),
            ("identity;q=1, gzip; q=0.5", true),
            ("*", true),
            ("br, *;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("gzip;q=0, *", false),
            ("*;q=0", false),
            ("br", false),
            ("", false),
            ("gzip;q=x", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(accepts_gzip(&headers), taken, "{value:?}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
