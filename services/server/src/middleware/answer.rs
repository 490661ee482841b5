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
use tokio::sync::SemaphorePermit;

/// Marks an answer whose body is generated while it is sent and may be larger than memory: it is packed piece by piece and has
/// no hash.
#[derive(Debug, Clone, Copy)]
pub struct Streamed;

/// Marks an answer that takes much memory: its turn ends when it is sent.
#[derive(Debug, Clone)]
pub struct Held(pub Arc<SemaphorePermit<'static>>);

/// A body with the turn of its answer.
struct HeldBody {
    body: Bytes,
    _turn: Arc<SemaphorePermit<'static>>,
}

impl AsRef<[u8]> for HeldBody {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// Finishes an answer, for a client that accepts gzip or not. With a key it gets the header HashSHA256.
pub async fn finish(answer: Response, takes_gzip: bool, hash_key: Option<&Secret>) -> Response {
    let (mut parts, body) = answer.into_parts();
    if parts.extensions.get::<Streamed>().is_some() {
        return finish_stream(parts, body, takes_gzip);
    }
    // Handlers answer from memory, so a body that fails here is a bug.
    let Ok(body) = body.collect().await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let mut body = body.to_bytes();
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
    if let Some(Held(turn)) = parts.extensions.remove() {
        body = Bytes::from_owner(HeldBody { body, _turn: turn });
    }
    Response::from_parts(parts, Body::from(body))
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
    use tokio::sync::Semaphore;

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
            let answer = finish(streamed(&["[1,", "2,", "3]"], false), takes_gzip, Some(&key)).await;
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
            let answer = finish(streamed(&["[1,"], true), takes_gzip, None).await;
            assert!(answer.into_body().collect().await.is_err(), "with an end the answer would look complete");
        }
    }

    #[tokio::test]
    async fn a_turn_is_held_until_the_body_is_gone() {
        static TURNS: Semaphore = Semaphore::const_new(1);
        for takes_gzip in [true, false] {
            let mut answer = axum::Json("x").into_response();
            answer.extensions_mut().insert(Held(Arc::new(TURNS.try_acquire().unwrap())));
            let (parts, body) = finish(answer, takes_gzip, None).await.into_parts();
            assert_eq!(parts.headers.get(header::CONTENT_ENCODING).is_some(), takes_gzip);
            drop(parts);
            let body = body.collect().await.unwrap().to_bytes();
            assert_eq!(TURNS.available_permits(), 0, "its bytes are still there");
            drop(body);
            assert_eq!(TURNS.available_permits(), 1);
        }
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
